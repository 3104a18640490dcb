//! Wire types of the dialects that clients and providers speak: what is read and written, and what passes between two of the
//! same dialect byte for byte. Between different ones the form of [`crate::model`] stands.

pub mod anthropic;
mod check;
mod fault;
pub mod gemini;
mod json;
pub mod openai;

pub use fault::is_malformed;

use crate::id::RequestId;
use crate::request::Endpoint;
use crate::time::Timestamp;

/// What an end is between dialects when its word is not known, or says that the answer waits for something: OpenAI's `length`.
/// Providers add words, most of them for answers that are cut off, blocked or to be gone on with. So the client keeps what came,
/// and reads that it may not be whole.
const INCOMPLETE: &str = "length";

/// What names an answer: the same in every rendering, since it derives from the request record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// A prefix by the operation (`chatcmpl-`, `cmpl-`, `msg_`, …) and the random part of the request id.
    pub id: String,
    /// When the request was accepted, in seconds since the Unix epoch.
    pub created: i64,
}

impl Identity {
    /// The identity of the answer to request `id` for `endpoint`, accepted at `accepted_at`.
    #[must_use]
    pub fn new(endpoint: Endpoint, id: RequestId, accepted_at: Timestamp) -> Self {
        let prefix = match endpoint {
            Endpoint::ChatCompletions => "chatcmpl-",
            Endpoint::Completions => "cmpl-",
            Endpoint::Embeddings => "emb-",
            Endpoint::Responses => "resp_",
            Endpoint::Messages | Endpoint::CountTokens => "msg_",
            Endpoint::Unknown => "ans-",
        };
        Self {
            id: format!("{prefix}{}", id.suffix()),
            created: accepted_at.seconds(),
        }
    }
}
