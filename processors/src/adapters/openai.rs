//! Any server that speaks OpenAI's chat API.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use runtime::config::Timeouts;
use schemas::dialect::openai;
use schemas::header;
use tokio::time::Instant;
use url::Url;

use super::assembly::Assembly;
use super::failure::{Failure, KeyFault};
use super::keys::{Chosen, Keys};
use super::sse::Reader;
use super::{Adapter, Ask, Calling, Step, Trace};
use crate::router::Readiness;

/// Largest answer, streamed or not.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest event of a stream.
const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// As much of an error's body as is read.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// So many events in a row that are no JSON are a cut.
const BROKEN_EVENTS_MAX: u32 = 3;
/// Idle connections are closed before the usual servers and proxies do.
const IDLE: Duration = Duration::from_secs(55);
const REQUEST_ID: &str = "x-request-id";
const EVENT_STREAM: &str = "text/event-stream";

/// One model at one OpenAI-like server.
#[derive(Debug, Clone)]
pub(crate) struct OpenAi {
    client: reqwest::Client,
    url: Url,
    model: Arc<str>,
    keys: Keys,
    timeouts: Timeouts,
}

/// A pooled client for one provider.
///
/// # Errors
/// When the TLS backend cannot be set up.
pub(crate) fn client(timeouts: &Timeouts) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .connect_timeout(timeouts.connect)
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .tcp_nodelay(true)
        .pool_idle_timeout(IDLE)
        .user_agent(concat!("lockgate/", env!("CARGO_PKG_VERSION")))
        .build()
}

impl OpenAi {
    /// The deployment of `model` under `base_url`.
    pub(crate) fn new(
        client: reqwest::Client,
        base_url: &Url,
        model: &str,
        keys: Keys,
        timeouts: Timeouts,
    ) -> Self {
        let mut url = base_url.clone();
        let path = format!("{}/chat/completions", base_url.path().trim_end_matches('/'));
        url.set_path(&path);
        Self {
            client,
            url,
            model: model.into(),
            keys,
            timeouts,
        }
    }
}

impl Adapter for OpenAi {
    fn readiness(&self, now: Instant) -> Readiness {
        self.keys.readiness(now)
    }

    fn timeouts(&self) -> Option<Timeouts> {
        Some(self.timeouts)
    }

    fn call(&self, ask: &Ask<'_>) -> Box<dyn Calling> {
        let chosen = self.keys.choose(Instant::now());
        let stream = ask.chat.stream;
        let body = openai::upstream_request(ask.body, &self.model, stream);
        let mut request = reqwest::Request::new(http::Method::POST, self.url.clone());
        *request.body_mut() = Some(body.into());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let accept = if stream {
            EVENT_STREAM
        } else {
            "application/json"
        };
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if let Ok(id) = HeaderValue::try_from(ask.id.to_string()) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(traceparent) = &ask.traceparent {
            headers.insert(header::TRACEPARENT, traceparent.clone());
        }
        let mut trace = Trace::default();
        if let Some(credential) = &chosen.credential {
            headers.insert(AUTHORIZATION, credential.authorization.clone());
        }
        trace.key_name = chosen.key.as_ref().map(|key| Arc::clone(&key.name));
        let state = if chosen.is_missing() {
            State::Keyless
        } else {
            State::Waiting(Box::pin(self.client.execute(request)))
        };
        Box::new(Call {
            state,
            stream,
            model: Arc::clone(&self.model),
            keys: self.keys.clone(),
            chosen,
            trace,
        })
    }
}

type Sending = Pin<Box<dyn Future<Output = reqwest::Result<reqwest::Response>> + Send>>;
type Incoming = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

struct Call {
    state: State,
    stream: bool,
    model: Arc<str>,
    keys: Keys,
    chosen: Chosen,
    trace: Trace,
}

enum State {
    /// The key was deleted; nothing is sent.
    Keyless,
    Waiting(Sending),
    /// An error's body, as far as it is of use.
    Refused {
        status: u16,
        headers: HeaderMap,
        body: Incoming,
        read: BytesMut,
    },
    Whole {
        body: Incoming,
        read: BytesMut,
    },
    Streaming {
        body: Incoming,
        reader: Reader,
        bytes: usize,
        /// Events that were no JSON since the last that was.
        broken: u32,
        /// The body has ended; what the reader holds is all there is.
        ended: bool,
    },
    /// `[DONE]` came; the end of the body may not have.
    Rest(Incoming),
    Over,
}

impl Calling for Call {
    fn poll_step(&mut self, context: &mut Context<'_>, assembly: &mut Assembly) -> Poll<Step> {
        loop {
            let step = match &mut self.state {
                State::Keyless => Some(self.failed(Failure::keyless(), None)),
                State::Waiting(sending) => match ready!(sending.as_mut().poll(context)) {
                    Ok(response) => self.head(response),
                    Err(error) => Some(self.failed(Failure::transport(&error), None)),
                },
                State::Refused { body, read, .. } => {
                    match ready!(body.as_mut().poll_next(context)) {
                        Some(Ok(bytes)) if read.len() + bytes.len() <= ERROR_BYTES_MAX => {
                            read.extend_from_slice(&bytes);
                            None
                        }
                        // What was read of it until it broke or became too long may do.
                        Some(_) | None => Some(self.refused()),
                    }
                }
                State::Whole { body, read } => match ready!(body.as_mut().poll_next(context)) {
                    Some(Ok(bytes)) if read.len() + bytes.len() <= ANSWER_BYTES_MAX => {
                        read.extend_from_slice(&bytes);
                        None
                    }
                    Some(Ok(_)) => Some(self.failed(too_large(), None)),
                    Some(Err(error)) => Some(self.failed(Failure::transport(&error), None)),
                    None => Some(self.whole(assembly)),
                },
                State::Streaming { .. } => ready!(self.stream(context, assembly)),
                State::Rest(_) | State::Over => return Poll::Pending,
            };
            if let Some(step) = step {
                return Poll::Ready(step);
            }
        }
    }

    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let State::Rest(body) = &mut self.state {
            match ready!(body.as_mut().poll_next(context)) {
                // Nothing is due after the end; a server that goes on loses its connection.
                Some(Ok(bytes)) if bytes.iter().all(u8::is_ascii_whitespace) => {}
                Some(_) | None => self.state = State::Over,
            }
        }
        Poll::Ready(())
    }

    fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl Call {
    /// The head of the response: where its body leads.
    fn head(&mut self, response: reqwest::Response) -> Option<Step> {
        let status = response.status();
        self.trace.status = Some(status.as_u16());
        self.trace.upstream_request_id = response
            .headers()
            .get(REQUEST_ID)
            .and_then(|id| id.to_str().ok())
            .map(|id| id.chars().take(200).collect());
        if status != http::StatusCode::OK {
            self.state = State::Refused {
                status: status.as_u16(),
                headers: response.headers().clone(),
                body: Box::pin(response.bytes_stream()),
                read: BytesMut::new(),
            };
            return None;
        }
        let headers = response.headers();
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let content_type = content_type.map(|text| text.split(';').next().unwrap_or(text).trim());
        let expected = |expected: &str| {
            content_type.is_some_and(|content_type| content_type.eq_ignore_ascii_case(expected))
        };
        // No compression was asked for: what comes compressed could grow without bound.
        let encoded = headers
            .get(CONTENT_ENCODING)
            .is_some_and(|encoding| encoding != "identity");
        if encoded {
            let failure = Failure::passing("the provider's answer is compressed, unasked");
            return Some(self.failed(failure, None));
        }
        if self.stream {
            if !expected(EVENT_STREAM) {
                let failure = Failure::passing("the provider's answer is not an event stream");
                return Some(self.failed(failure, None));
            }
            self.state = State::Streaming {
                body: Box::pin(response.bytes_stream()),
                reader: Reader::new(EVENT_BYTES_MAX),
                bytes: 0,
                broken: 0,
                ended: false,
            };
            return None;
        }
        if content_type.is_some() && !expected("application/json") {
            let failure = Failure::passing("the provider's answer is not JSON");
            return Some(self.failed(failure, None));
        }
        let length = response.content_length().unwrap_or(0);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > ANSWER_BYTES_MAX {
            return Some(self.failed(too_large(), None));
        }
        self.state = State::Whole {
            body: Box::pin(response.bytes_stream()),
            // A length that is only claimed reserves little.
            read: BytesMut::with_capacity(length.min(64 * 1024)),
        };
        None
    }

    fn refused(&mut self) -> Step {
        let State::Refused {
            status,
            headers,
            read,
            ..
        } = std::mem::replace(&mut self.state, State::Over)
        else {
            return Step::Failed(Failure::passing("the provider's answer broke off"));
        };
        self.failed(Failure::status(status, &read), Some(&headers))
    }

    fn whole(&mut self, assembly: &mut Assembly) -> Step {
        let State::Whole { read, .. } = std::mem::replace(&mut self.state, State::Over) else {
            return Step::Failed(Failure::passing("the provider's answer broke off"));
        };
        match assembly.answer(&read, &self.model) {
            Ok(answer) => Step::Answer {
                body: answer.body,
                usage: answer.usage,
            },
            Err(error) => self.failed(Failure::reported(error), None),
        }
    }

    /// The next event of the stream; `None` inside: nothing to tell, go on.
    fn stream(&mut self, context: &mut Context<'_>, assembly: &mut Assembly) -> Poll<Option<Step>> {
        let State::Streaming {
            body,
            reader,
            bytes: bytes_so_far,
            broken,
            ended,
        } = &mut self.state
        else {
            return Poll::Ready(None);
        };
        let data = match reader.next() {
            Ok(Some(data)) => data,
            Err(super::sse::TooLarge) => return Poll::Ready(Some(self.failed(too_large(), None))),
            Ok(None) if *ended => return Poll::Ready(Some(self.end(assembly))),
            Ok(None) => match ready!(body.as_mut().poll_next(context)) {
                Some(Ok(bytes)) => {
                    *bytes_so_far += bytes.len();
                    if *bytes_so_far > ANSWER_BYTES_MAX {
                        return Poll::Ready(Some(self.failed(too_large(), None)));
                    }
                    reader.push(&bytes);
                    return Poll::Ready(None);
                }
                // A connection that breaks after the last word is an end like any other.
                Some(Err(_)) => return Poll::Ready(Some(self.end(assembly))),
                None => {
                    *ended = true;
                    match reader.finish() {
                        Some(data) => data,
                        None => return Poll::Ready(None),
                    }
                }
            },
        };
        if data.trim_ascii() == b"[DONE]" {
            return Poll::Ready(Some(self.done(assembly)));
        }
        if data.is_empty() {
            return Poll::Ready(None);
        }
        let step = match assembly.event(&data, &self.model) {
            Ok(added) => {
                *broken = 0;
                match added.chunk {
                    Some(chunk) => Step::Chunk {
                        chunk,
                        token: added.token,
                    },
                    None => Step::Sign,
                }
            }
            Err(error) if openai::is_malformed(&error) => {
                *broken += 1;
                self.trace.broken_events += 1;
                if *broken < BROKEN_EVENTS_MAX {
                    Step::Sign
                } else {
                    self.failed(Failure::cut(), None)
                }
            }
            Err(error) => self.failed(Failure::reported(error), None),
        };
        Poll::Ready(Some(step))
    }

    /// The body ended without `[DONE]`.
    fn end(&mut self, assembly: &Assembly) -> Step {
        self.state = State::Over;
        if assembly.is_finished() {
            Step::End
        } else if assembly.is_empty() {
            Step::Failed(Failure::passing(
                "the provider's stream ended before any text",
            ))
        } else {
            Step::Failed(Failure::cut())
        }
    }

    /// `[DONE]` came.
    fn done(&mut self, assembly: &Assembly) -> Step {
        if assembly.is_empty() {
            self.state = State::Over;
            return Step::Failed(Failure::passing("the provider's stream held no answer"));
        }
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Streaming { body, ended, .. } if !ended => State::Rest(body),
            _ => State::Over,
        };
        Step::End
    }

    /// Ends the call, tells the key and makes the text safe.
    fn failed(&mut self, mut failure: Failure, headers: Option<&HeaderMap>) -> Step {
        self.state = State::Over;
        let now = Instant::now();
        match failure.key_fault(headers) {
            Some(KeyFault::Rests(rest)) => self.keys.rest(&self.chosen, now + rest),
            Some(KeyFault::LockedOut) => self.keys.lock_out(&self.chosen, now),
            None => {}
        }
        failure.error.message = self.keys.strike_out(&self.chosen, &failure.error.message);
        Step::Failed(failure)
    }
}

fn too_large() -> Failure {
    Failure::passing("the provider's answer is larger than the gateway takes")
}
