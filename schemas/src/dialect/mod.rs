//! Wire types of the dialects that clients speak, and their internal form.

pub mod openai;
