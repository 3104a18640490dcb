//! Wire types of the dialects that clients speak, and their internal form.

mod json;
pub mod openai;
