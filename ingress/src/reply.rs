//! HTTP answers: their body, and the headers that each of them carries.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
};
use hyper::http::response::Builder;
use hyper::{HeaderMap, Response, StatusCode};
use schemas::event::{ErrorBody, Event};
use schemas::id::RequestId;
use serde::Serialize;

use crate::call::Call;
use crate::shape::Shape;
use crate::sse::EventStream;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where Anthropic's SDKs look for it.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const DEPLOYMENT: HeaderName = HeaderName::from_static("lockgate-deployment");
const ATTEMPTS: HeaderName = HeaderName::from_static("lockgate-attempts");
const CONFIG_VERSION: HeaderName = HeaderName::from_static("lockgate-config-version");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum ReplyBody {
    /// All of it, until it was taken.
    Whole(Option<Bytes>),
    /// Server-sent events as they come.
    Events(Box<EventStream>),
}

pub(crate) type Reply = Response<ReplyBody>;

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => events
                .poll_frame(cx)
                .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Events(events) => events.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// What is known of who answered.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    deployment: Option<String>,
    config_version: Option<String>,
    /// Begun so far; none while nobody has said anything.
    attempts: Option<i32>,
}

impl Facts {
    /// Takes in an event that counts.
    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Started(started) => {
                self.deployment = Some(started.deployment.clone());
                self.config_version = Some(started.config_version.clone());
                self.attempts = Some(started.attempt);
            }
            Event::Completed(terminal)
            | Event::Failed(terminal)
            | Event::Cancelled(terminal)
            | Event::Expired(terminal) => {
                if terminal.deployment.is_some() {
                    self.deployment.clone_from(&terminal.deployment);
                }
                if terminal.config_version.is_some() {
                    self.config_version.clone_from(&terminal.config_version);
                }
                let attempts = i32::try_from(terminal.attempts.len()).unwrap_or(i32::MAX);
                self.attempts = self.attempts.max(Some(attempts));
            }
            Event::Delta(_)
            | Event::AttemptFailed(_)
            | Event::Deferred(_)
            | Event::Alive(_)
            | Event::Released(_)
            | Event::Abandoned(_) => {}
        }
    }

    /// Writes what is known into the headers of an answer.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let text = |value: &Option<String>| {
            let value = value.as_deref()?;
            HeaderValue::from_str(value).ok()
        };
        if let Some(deployment) = text(&self.deployment) {
            headers.insert(DEPLOYMENT, deployment);
        }
        if let Some(version) = text(&self.config_version) {
            headers.insert(CONFIG_VERSION, version);
        }
        if let Some(attempts) = self.attempts {
            headers.insert(ATTEMPTS, HeaderValue::from(attempts));
        }
    }
}

fn build(builder: Builder, body: ReplyBody) -> Reply {
    // Only invalid header values make a builder fail, and all of ours are constants.
    builder.body(body).unwrap_or_else(|_| {
        let mut reply = Response::new(ReplyBody::Whole(None));
        *reply.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        reply
    })
}

/// JSON bytes as they are.
pub(crate) fn json_bytes(status: StatusCode, bytes: Bytes) -> Reply {
    build(
        Response::builder()
            .status(status)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ReplyBody::Whole(Some(bytes)),
    )
}

/// A value as JSON.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Reply, ErrorBody> {
    match serde_json::to_vec(value) {
        Ok(bytes) => Ok(json_bytes(status, bytes.into())),
        Err(cause) => {
            tracing::error!(error = %cause, "an answer could not be written as JSON");
            Err(ErrorBody::internal())
        }
    }
}

/// Server-sent events.
pub(crate) fn events(events: EventStream) -> Reply {
    let constant = HeaderValue::from_static;
    build(
        Response::builder()
            .header(CONTENT_TYPE, constant("text/event-stream; charset=utf-8"))
            .header(CACHE_CONTROL, constant("no-cache"))
            .header(ACCEL_BUFFERING, constant("no")),
        ReplyBody::Events(Box::new(events)),
    )
}

/// An error in answer to the call `id`, with the headers that tell whether and when to try again.
pub(crate) fn error(error: &ErrorBody, shape: Shape, id: RequestId) -> Reply {
    let status = u16::try_from(error.status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = json_bytes(status, shape.error(error, id));
    let headers = reply.headers_mut();
    if let Some(millis) = error.retry_after_millis {
        let millis = millis.max(0).unsigned_abs();
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis));
        headers.insert(RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000).max(1)));
    }
    if let Some(should_retry) = error.should_retry {
        let value = if should_retry { "true" } else { "false" };
        headers.insert(SHOULD_RETRY, HeaderValue::from_static(value));
    }
    reply
}

/// Writes the headers that every answer carries.
pub(crate) fn stamp(reply: &mut Reply, call: &Call) {
    let headers = reply.headers_mut();
    if let Ok(id) = HeaderValue::from_maybe_shared(Bytes::from(call.id.to_string())) {
        if call.shape == Shape::Anthropic {
            headers.insert(REQUEST_ID, id.clone());
        }
        headers.insert(X_REQUEST_ID, id);
    }
    let millis = u64::try_from(call.began.elapsed().as_millis()).unwrap_or(u64::MAX);
    headers.insert(PROCESSING_MS, HeaderValue::from(millis));
}

/// Asks the client not to use the connection again.
pub(crate) fn close(reply: &mut Reply) {
    reply
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
}

/// A whole answer as HTTP/1.1 writes it.
pub(crate) fn bytes(reply: Reply) -> Vec<u8> {
    let (head, body) = reply.into_parts();
    let body = match body {
        ReplyBody::Whole(bytes) => bytes.unwrap_or_default(),
        ReplyBody::Events(_) => Bytes::new(),
    };
    let mut text = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    text.extend_from_slice(&body);
    text
}

/// Keeps an answer with a secret out of every cache.
pub(crate) fn forbid_caching(reply: &mut Reply) {
    reply
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
