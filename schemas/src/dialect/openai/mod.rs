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

pub use answer::{Answer, render_answer};
pub use assembler::Assembler;
pub use chunk::{Logprobs, UpstreamChunk, read_chunk, render_chunk};
pub use error::{error_json, is_content_policy, is_context_length, is_malformed, read_error};
pub use request::{ChatRequest, upstream_request};
pub use usage::{estimate_tokens, estimate_usage};
pub use write::{completion, finish_chunk, role_chunk, text_chunk, usage_chunk};

use crate::id::RequestId;
use crate::time::Timestamp;

/// Tool channels use this index for the legacy `function_call` of a choice.
pub const FUNCTION_CALL: i32 = -1;

/// What names an answer: the same in every rendering, since it derives from the request record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `chatcmpl-` and the random part of the request id.
    pub id: String,
    /// When the request was accepted, in seconds since the Unix epoch.
    pub created: i64,
}

impl Identity {
    /// The identity of the answer to request `id`, accepted at `accepted_at`.
    #[must_use]
    pub fn new(id: RequestId, accepted_at: Timestamp) -> Self {
        Self {
            id: format!("chatcmpl-{}", id.suffix()),
            created: accepted_at.seconds(),
        }
    }
}
