//! How providers are spoken to: one trait, a call that is polled for what came.
//!
//! Providers over HTTP share one call ([`http`]); what differs between them is a [`wire`]. What came is shown to the
//! client by its [`rendering`], whatever the provider speaks.

pub(crate) mod assembly;
pub(crate) mod failure;
pub(crate) mod http;
pub(crate) mod keys;
pub(crate) mod operation;
pub(crate) mod rendering;
pub(crate) mod scripted;
pub(crate) mod sse;
pub(crate) mod told;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::HeaderValue;
use bytes::Bytes;
use futures::future::BoxFuture;
use schemas::event::Chunk;
use schemas::id::RequestId;
use schemas::request::Endpoint;
use tokio::time::Instant;

use crate::router::Readiness;
use assembly::Assembly;
use failure::Failure;
use operation::Operation;

/// A deployment: one model at one provider.
pub(crate) trait Adapter: std::fmt::Debug + Send + Sync {
    /// Whether it can be asked for this at all.
    fn serves(&self, endpoint: Endpoint) -> bool;

    /// Whether it can be called at `now`.
    fn readiness(&self, now: Instant) -> Readiness;

    /// Whether it can go on with a text that another deployment began ([`Ask::prefix`]).
    fn can_continue(&self) -> bool {
        false
    }

    /// Asks the provider for something cheap, to see whether it is there: true when it
    /// answers. None when this kind of provider cannot be asked.
    fn probe(&self) -> Option<BoxFuture<'static, bool>> {
        None
    }

    /// Begins a call; nothing happens until it is polled, and dropping it ends it.
    fn call(&self, ask: &Ask<'_>) -> Box<dyn Calling>;
}

/// What a call needs of a request.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    /// The request.
    pub(crate) id: RequestId,
    /// W3C trace context of the call.
    pub(crate) traceparent: Option<HeaderValue>,
    /// The client's body.
    pub(crate) body: &'a Bytes,
    /// The client's body as validated.
    pub(crate) operation: &'a Operation<'a>,
    /// Further attributes of the request.
    pub(crate) attributes: &'a BTreeMap<String, String>,
    /// The beginning of the answer, to be continued; only for adapters that can.
    pub(crate) prefix: Option<Prefix<'a>>,
}

/// The beginning of an answer that another call goes on with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prefix<'a> {
    /// What the client has.
    pub(crate) text: &'a str,
    /// Tokens of it, as reported or estimated: they are off the client's limit.
    pub(crate) tokens: i64,
}

/// A call in progress.
pub(crate) trait Calling: Send {
    /// What came next; what it adds to the answer is in `assembly` then. Not polled again
    /// after [`Step::Answer`], [`Step::End`] or [`Step::Failed`].
    fn poll_step(&mut self, context: &mut Context<'_>, assembly: &mut Assembly) -> Poll<Step>;

    /// Reads what the provider still sends after [`Step::End`], so that the connection can
    /// serve the next call.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// What is known of the provider's side so far.
    fn trace(&self) -> &Trace;
}

/// What is known of a call besides its answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    /// Name of the key used.
    pub(crate) key_name: Option<Arc<str>>,
    /// HTTP status.
    pub(crate) status: Option<u16>,
    /// The provider's own id of the call.
    pub(crate) upstream_request_id: Option<String>,
    /// Events that were no JSON and were skipped.
    pub(crate) broken_events: u32,
}

/// What a call yields.
#[derive(Debug)]
pub(crate) enum Step {
    /// A chunk of a stream for the client.
    Chunk {
        /// The chunk.
        chunk: Chunk,
        /// Whether the model wrote something with it.
        token: bool,
    },
    /// The provider sent something that the client does not see.
    Sign,
    /// The whole answer of a call that was not streamed.
    Answer {
        /// In the client's rendering.
        body: Bytes,
    },
    /// The stream ended properly.
    End,
    /// The call failed.
    Failed(Failure),
}
