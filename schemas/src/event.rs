//! The events that tell a request's life after it was accepted. A record on
//! `responses` or `responses.background` is a *list* of events of one request.
//!
//! The schema is frozen: it holds every event of the architecture, also those that
//! parts built later will emit.

use std::sync::LazyLock;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::framing::{Format, Record};
use crate::id::RequestId;
use crate::request::{Body, Endpoint, Lane};
use crate::time::Timestamp;

/// Events of one request, appended together and in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// The request the events are about.
    pub id: RequestId,
    /// Tenant of the request.
    pub tenant: String,
    /// Key id of the request.
    pub key_id: String,
    /// Operation of the request.
    pub endpoint: Endpoint,
    /// Model name as the client wrote it.
    pub model: String,
    /// Lane of the request.
    pub lane: Lane,
    /// When the request was accepted.
    pub accepted_at: Timestamp,
    /// The request that this one shadows, if it is a shadow.
    pub shadow_of: Option<RequestId>,
    /// In the order they happened; never empty.
    pub events: Vec<Event>,
}

impl Record for EventRecord {
    const SUBJECT: &'static str = "lockgate.event";
    const SCHEMA: &'static str = include_str!("../avro/event.avsc");

    fn format() -> &'static Format {
        static FORMAT: LazyLock<Format> = LazyLock::new(|| Format::of(EventRecord::SCHEMA));
        &FORMAT
    }
}

/// One thing that happened to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A process began an attempt.
    Started(Started),
    /// Tokens arrived.
    Delta(Delta),
    /// An attempt failed; another may follow.
    AttemptFailed(AttemptFailed),
    /// The request waits for a later time.
    Deferred(Deferred),
    /// The run is silent, but alive.
    Alive(Sign),
    /// The process gives the request back; anyone may take it over at once.
    Released(Sign),
    /// A run was given up by somebody else than its process; follows the death of a process.
    Abandoned(Abandoned),
    /// Terminal: the whole answer.
    Completed(Terminal),
    /// Terminal: an error, perhaps after part of the answer.
    Failed(Terminal),
    /// Terminal: the client gave up.
    Cancelled(Terminal),
    /// Terminal: the deadline passed.
    Expired(Terminal),
}

/// A run: everything one process does for one request from taking it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Run {
    /// 1 for the first, one more for each takeover; 0: no run has begun.
    pub number: i32,
    /// Random, so that two processes that claim one number differ.
    pub nonce: i64,
}

impl Run {
    /// No run has begun: what a terminal names that ends a request which never started.
    pub const NONE: Self = Self {
        number: 0,
        nonce: 0,
    };
}

/// An attempt began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// The run it belongs to.
    pub run: Run,
    /// 1 for the first attempt of the request within this run, counted up.
    pub attempt: i32,
    /// `provider/model` of the deployment called.
    pub deployment: String,
    /// Version of the routing document that chose it.
    pub config_version: String,
    /// When.
    pub at: Timestamp,
    /// Sequence from which this attempt appends to the text so far instead of replacing it
    /// (same process only); none: what came before is replaced.
    pub continues_from: Option<i64>,
}

/// Pieces of an answer that arrived together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The run they belong to.
    pub run: Run,
    /// The attempt they belong to.
    pub attempt: i32,
    /// Number of the first chunk in `chunks` within the run, from 0; without gaps.
    pub sequence: i64,
    /// One or more chunks, in order.
    pub chunks: Vec<Chunk>,
}

/// One chunk of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    /// What the chunk adds to the answer, free of any dialect.
    pub pieces: Vec<Piece>,
    /// The chunk rendered in the client's dialect, ready to be sent as one frame's data.
    #[serde(with = "crate::framing::avro_bytes")]
    pub raw: Bytes,
}

/// An addition to one channel of one choice of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Index of the choice (`n > 1`), from 0.
    pub choice: i32,
    /// Which channel it appends to.
    pub channel: Channel,
    /// For tool channels: index of the call within the choice; else 0.
    pub index: i32,
    /// The text to append; for `Finish` the finish reason.
    pub text: String,
}

/// The channel of a choice that a piece appends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Channel {
    /// The visible answer.
    Text,
    /// Reasoning shown by the model.
    Reasoning,
    /// A refusal.
    Refusal,
    /// Id of a tool call.
    ToolId,
    /// Name of a tool call's function.
    ToolName,
    /// Arguments of a tool call.
    ToolArguments,
    /// Why the choice ended.
    Finish,
    /// Written by a newer version.
    #[serde(other)]
    Unknown,
}

/// An attempt failed and is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptFailed {
    /// The run it belonged to.
    pub run: Run,
    /// What it was and how it ended.
    pub attempt: Attempt,
}

/// The request was put aside until a later time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deferred {
    /// The run that put it aside.
    pub run: Run,
    /// Not before this instant.
    pub due: Timestamp,
    /// Why, in words.
    pub reason: String,
    /// When it was put aside.
    pub at: Timestamp,
}

/// A sign of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sign {
    /// The run.
    pub run: Run,
    /// When.
    pub at: Timestamp,
}

/// A run given up on behalf of a process that gave no sign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Abandoned {
    /// The run that was given up.
    pub run: Run,
    /// When.
    pub at: Timestamp,
    /// What it probably cost, always `estimated`.
    pub usage: Usage,
}

/// The end of a request, with everything a sink needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Terminal {
    /// The run that ended; [`Run::NONE`] when none had begun.
    pub run: Run,
    /// When.
    pub at: Timestamp,
    /// HTTP status of the answer in a non-streamed rendering.
    pub status: i32,
    /// The whole answer in the client's dialect (also of a stream), the part that came when it
    /// was cut, or none.
    #[serde(default, with = "content")]
    pub body: Option<Body>,
    /// Whether `body` is only a part.
    #[serde(default)]
    pub partial: bool,
    /// Number of chunks that the run appended before, so that a reader knows it has them all.
    pub chunks: i64,
    /// Why it failed; none for `Completed`.
    pub error: Option<ErrorBody>,
    /// Tokens of the attempt that answered.
    pub usage: Option<Usage>,
    /// Cost of all attempts in nano-dollars; none when no price is configured.
    pub cost_nanos: Option<i64>,
    /// The deployment that answered, `provider/model`; none when none did.
    pub deployment: Option<String>,
    /// Version of the routing document of the last attempt.
    pub config_version: Option<String>,
    /// Every attempt of this run, in order.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
}

/// Serde form of an optional [`Body`]: Avro unions do not nest, so a record stands between.
mod content {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::request::Body;

    #[derive(Serialize)]
    #[serde(rename = "Content")]
    struct Written<'a> {
        body: &'a Body,
    }

    #[derive(Deserialize)]
    #[serde(rename = "Content")]
    struct Read {
        body: Body,
    }

    pub(super) fn serialize<S: Serializer>(
        body: &Option<Body>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        body.as_ref()
            .map(|body| Written { body })
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Body>, D::Error> {
        Ok(Option::<Read>::deserialize(deserializer)?.map(|content| content.body))
    }
}

/// One call to a provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// 1 for the first within the run.
    pub number: i32,
    /// `provider/model`.
    pub deployment: String,
    /// Name of the provider key that was used, never the key.
    pub key_name: Option<String>,
    /// When the call began.
    pub started_at: Timestamp,
    /// From the start to the first token, microseconds; none when none came.
    pub first_token_micros: Option<i64>,
    /// From the start to the end, microseconds.
    pub duration_micros: i64,
    /// HTTP status of the provider; none when none came.
    pub status: Option<i32>,
    /// The provider's own id of the call.
    pub upstream_request_id: Option<String>,
    /// Tokens, as reported or estimated.
    pub usage: Option<Usage>,
    /// Cost in nano-dollars; none when no price is configured.
    pub cost_nanos: Option<i64>,
    /// Why it failed; none when it answered.
    pub error: Option<ErrorBody>,
}

/// Tokens of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: i64,
    /// Tokens of the answer, reasoning included.
    pub completion_tokens: i64,
    /// Prompt tokens served from the provider's cache.
    #[serde(default)]
    pub cached_tokens: i64,
    /// Answer tokens spent on reasoning.
    #[serde(default)]
    pub reasoning_tokens: i64,
    /// Whether the numbers are estimated by us, not reported by the provider.
    #[serde(default)]
    pub estimated: bool,
}

/// An error as clients see it, free of any dialect and of secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// HTTP status to answer with.
    pub status: i32,
    /// `type` of the wire format, e.g. `upstream_error`.
    pub kind: String,
    /// `code` of the wire format, e.g. `upstream_failed`.
    pub code: Option<String>,
    /// What happened and what to do.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
    /// When to try again, milliseconds.
    pub retry_after_millis: Option<i64>,
    /// Value of `x-should-retry`; none: not sent.
    pub should_retry: Option<bool>,
}
