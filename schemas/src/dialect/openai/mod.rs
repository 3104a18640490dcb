//! OpenAI's chat dialect: validation of requests, errors, chunks and answers.
//!
//! Pure functions over bytes. What is passed on is edited in place, not parsed and printed
//! again: fields that we do not know keep their order, their spelling and their digits.

mod answer;
mod assembler;
mod chunk;
mod error;
mod request;
mod usage;
mod write;

pub use super::is_malformed;
pub use answer::{Answer, render_answer};
pub use assembler::Assembler;
pub use chunk::{Logprobs, UpstreamChunk, read_chunk, render_chunk};
pub use error::{error_json, is_content_policy, is_context_length, read_error};
pub use request::{ChatRequest, upstream_request};
pub use usage::{estimate_tokens, estimate_usage};
pub use write::{completion, finish_chunk, role_chunk, text_chunk, usage_chunk};

/// Tool channels use this index for the legacy `function_call` of a choice.
pub const FUNCTION_CALL: i32 = -1;
