//! One call over HTTP, from the head of the response to the end of its body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use ::http::{HeaderMap, StatusCode};
use bytes::{Bytes, BytesMut};
use futures::Stream;
use schemas::dialect::openai;
use tokio::time::Instant;

use super::connections::Place;
use super::{EVENT_STREAM, Http, JSON, REQUEST_ID};
use crate::adapters::assembly::Assembly;
use crate::adapters::failure::{Failure, KeyFault};
use crate::adapters::keys::{Chosen, Keys};
use crate::adapters::sse::{Reader, TooLarge};
use crate::adapters::wire::{self, Wire};
use crate::adapters::{Calling, Step, Trace};

/// Largest answer, streamed or not.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest event of a stream.
const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// As much of an error's body as is read.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// So many events in a row that are no JSON are a cut.
const BROKEN_EVENTS_MAX: u32 = 3;
/// What Anthropic calls its id of a call.
const ANTHROPICS_ID: &str = "request-id";

type Sending = Pin<Box<dyn Future<Output = reqwest::Result<reqwest::Response>> + Send>>;
type Incoming = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

/// A call in progress.
pub(super) struct Call {
    state: State,
    /// Held for as long as its connection may be in use.
    _place: Place,
    stream: bool,
    wire: Arc<dyn Wire>,
    /// None: the answer is in the client's dialect.
    reader: Option<Box<dyn wire::Reader>>,
    keys: Keys,
    chosen: Chosen,
    trace: Trace,
}

enum State {
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
        /// The provider said that nothing more comes.
        done: bool,
    },
    /// The last word came; the end of the body may not have.
    Rest(Incoming),
    Over,
}

impl Calling for Call {
    fn poll_step(&mut self, context: &mut Context<'_>, assembly: &mut Assembly) -> Poll<Step> {
        loop {
            if let Some((chunk, token)) = assembly.chunk() {
                return Poll::Ready(Step::Chunk { chunk, token });
            }
            let step = match &mut self.state {
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
    /// The call that sends `request` with the key that was chosen; nothing happens until it is polled.
    pub(super) fn begin(
        deployment: &Http,
        request: reqwest::Request,
        stream: bool,
        reader: Option<Box<dyn wire::Reader>>,
        chosen: Chosen,
    ) -> Self {
        let (client, place) = deployment.connections.enter();
        let trace = Trace {
            key_name: chosen.key.as_ref().map(|key| Arc::clone(&key.name)),
            ..Trace::default()
        };
        Self {
            state: State::Waiting(Box::pin(client.execute(request))),
            _place: place,
            stream,
            wire: Arc::clone(&deployment.wire),
            reader,
            keys: deployment.keys.clone(),
            chosen,
            trace,
        }
    }

    /// The head of the response: where its body leads.
    fn head(&mut self, response: reqwest::Response) -> Option<Step> {
        let status = response.status();
        self.trace.status = Some(status.as_u16());
        self.trace.upstream_request_id = response
            .headers()
            .get(REQUEST_ID)
            .or_else(|| response.headers().get(ANTHROPICS_ID))
            .and_then(|id| id.to_str().ok())
            .map(|id| id.chars().take(200).collect());
        if status != StatusCode::OK {
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
                done: false,
            };
            return None;
        }
        if content_type.is_some() && !expected(JSON) {
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
        let error = self.wire.error(status, &read);
        self.failed(Failure::status(status, error), Some(&headers))
    }

    fn whole(&mut self, assembly: &mut Assembly) -> Step {
        let State::Whole { read, .. } = std::mem::replace(&mut self.state, State::Over) else {
            return Step::Failed(Failure::passing("the provider's answer broke off"));
        };
        let body = read.freeze();
        let answer = match &mut self.reader {
            None => assembly.whole(&body),
            Some(reader) => reader.whole(&body).and_then(|whole| assembly.told(whole)),
        };
        match answer {
            Ok(body) => Step::Answer { body },
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
            done,
        } = &mut self.state
        else {
            return Poll::Ready(None);
        };
        if *done {
            return Poll::Ready(Some(self.done(assembly)));
        }
        let data = match reader.next() {
            Ok(Some(data)) => data,
            Err(TooLarge) => return Poll::Ready(Some(self.failed(too_large(), None))),
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
        if data.is_empty() {
            return Poll::Ready(None);
        }
        if data.trim_ascii() == b"[DONE]" {
            *done = true;
            return Poll::Ready(None);
        }
        let heard = match &mut self.reader {
            None => assembly.event(&data),
            Some(reader) => reader.event(&data).map(|said| assembly.said(said)),
        };
        let step = match heard {
            Ok(is_last) => {
                *broken = 0;
                *done = is_last;
                match assembly.chunk() {
                    Some((chunk, token)) => Step::Chunk { chunk, token },
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

    /// The body ended without a last word.
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

    /// The provider said its last word.
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
