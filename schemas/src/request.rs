//! The request record: what `ingress` writes and `processors` work off.

use std::sync::LazyLock;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::framing::{Format, Record};
use crate::id::RequestId;
use crate::time::Timestamp;

/// A request as accepted: typed fields for what the pipeline decides on, and the
/// client's original body bytes. Topics `requests.*`, keyed by request id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Identifies the request for ever and names its reply place.
    pub id: RequestId,
    /// Who pays; everything of a request is visible to its tenant only.
    pub tenant: String,
    /// Id (not the secret) of the key that authenticated the call.
    pub key_id: String,
    /// The operation asked for.
    pub endpoint: Endpoint,
    /// The wire dialect of `body`, and of the answer.
    pub dialect: Dialect,
    /// The model name as the client wrote it.
    pub model: String,
    /// Which queue the request waits in.
    pub lane: Lane,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// When it was accepted; `created` of every rendering of the answer.
    pub accepted_at: Timestamp,
    /// Past this instant no attempt is started and running ones are ended.
    pub deadline: Timestamp,
    /// What a client's hang-up means.
    pub on_disconnect: OnDisconnect,
    /// What happens to a call that was in flight in a process that died.
    pub on_takeover: OnTakeover,
    /// The request this one mirrors, when it is a shadow whose result goes to analytics only.
    pub shadow_of: Option<RequestId>,
    /// The client's original bytes, or where they are kept.
    pub body: Body,
    /// Further attributes, so that a later writer can say more without a new schema.
    #[serde(default)]
    pub attributes: std::collections::BTreeMap<String, String>,
}

impl Record for Request {
    const SUBJECT: &'static str = "lockgate.request";
    const SCHEMA: &'static str = include_str!("../avro/request.avsc");

    fn format() -> &'static Format {
        static FORMAT: LazyLock<Format> = LazyLock::new(|| Format::of(Request::SCHEMA));
        &FORMAT
    }
}

/// Bytes in the record, or a claim check for bytes in object storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// The bytes themselves.
    Inline(#[serde(with = "crate::framing::avro_bytes")] Bytes),
    /// Where the bytes are kept (bodies over 256 KiB).
    Claim(Claim),
}

/// A body kept in object storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Object name: `tenant/date/request id/kind`.
    pub name: String,
    /// Length in bytes.
    pub length: i64,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
}

/// The operation a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`.
    ChatCompletions,
    /// `POST /v1/completions`.
    Completions,
    /// `POST /v1/embeddings`.
    Embeddings,
    /// `POST /v1/responses`.
    Responses,
    /// `POST /v1/messages`.
    Messages,
    /// `POST /v1/messages/count_tokens`.
    CountTokens,
    /// Written by a newer version; this one cannot serve it.
    #[serde(other)]
    Unknown,
}

/// A wire dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dialect {
    /// OpenAI's API.
    OpenAi,
    /// Anthropic's API.
    Anthropic,
    /// DeepSeek's extension of the OpenAI API.
    DeepSeek,
    /// Written by a newer version; this one cannot serve it.
    #[serde(other)]
    Unknown,
}

/// A queue with its own topics; lanes are served in strict priority, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lane {
    /// Somebody is waiting.
    Interactive,
    /// Asynchronous jobs.
    Background,
    /// Lines of batch files.
    Batch,
}

/// What a client's hang-up means for the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OnDisconnect {
    /// The upstream call is closed; the answer is `Cancelled`.
    Cancel,
    /// The call finishes and its result is stored.
    Drain,
    /// The call finishes and its stream can be resumed.
    Detach,
}

/// What a takeover does with a call that was in flight in a process that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OnTakeover {
    /// Call again; the provider may bill twice.
    Retry,
    /// End the request with an error; the provider is called at most once.
    Fail,
}
