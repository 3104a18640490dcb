//! OpenAI's dialects: chat, legacy completions and embeddings, and DeepSeek's extension of chat.
//!
//! Pure functions over bytes. What is passed on is edited in place, not parsed and printed
//! again: fields that we do not know keep their order, their spelling and their digits. What
//! goes to or comes from a provider of another dialect is read into the form of
//! [`crate::model`], and written out of it.

mod answer;
mod assembler;
mod chunk;
mod completion;
mod deepseek;
mod embeddings;
mod error;
mod finish;
mod inputs;
mod message;
mod read;
mod request;
mod send;
mod stream;
mod turn;
mod usage;
mod write;

pub use super::is_malformed;
pub use answer::{Answer, read_answer, render_answer};
pub use assembler::{Assembler, write_answer};
pub use chunk::{Logprobs, UpstreamChunk, read_chunk, render_chunk};
pub use completion::{
    CompletionRequest, CompletionWriter, read_completion, read_completion_chunk, render_completion,
    render_completion_chunk, upstream_completion, write_completion,
};
pub use deepseek::deepseek_request;
pub use embeddings::{
    EmbeddingsRequest, read_embeddings, read_embeddings_request, render_embeddings,
    upstream_embeddings, write_embeddings,
};
pub use error::{error_json, is_content_policy, is_context_length, read_error};
pub use finish::read_event;
pub use read::{read_request, wants_function_calls};
pub use request::{ChatRequest, upstream_request};
pub use send::{write_deepseek_request, write_request};
pub use stream::{StreamWriter, as_function_call};
pub use usage::{estimate_tokens, estimate_usage};
pub use write::{completion, finish_chunk, role_chunk, text_chunk, usage_chunk};

/// Tool channels use this index for the legacy `function_call` of a choice.
pub const FUNCTION_CALL: i32 = -1;
