//! The answer to a request as server-sent events.
//!
//! The head is held back until there is a token or an end, so that an early failure has its
//! true status; after some silence it goes out with a comment, and from then on errors are
//! events. What is ready together goes out together, in one write with the head.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use schemas::event::{Delta, ErrorBody, Event};
use schemas::fold::{End, Step};
use tokio::time::{Instant, Sleep};
use tracing::Span;

use crate::admission::Place;
use crate::answer::{Answer, Lost};
use crate::canceller::HangUp;
use crate::error;
use crate::metrics::{Metrics, StreamEnd};
use crate::reply::Facts;
use crate::resume::{ResumePoint, ResumeTokens};
use crate::shape::Shape;
use crate::waiters::Closed;

/// The frames of one answer, made as its events come.
#[derive(Debug)]
pub(crate) struct EventStream {
    answer: Answer,
    shape: Shape,
    /// Dropped with the stream: cancels the request unless the stream came to its end.
    hang_up: HangUp,
    _place: Place,
    tokens: Arc<OnceLock<ResumeTokens>>,
    partition: i32,
    /// Frames that were not handed out yet.
    out: BytesMut,
    /// Whether a token is in `out` or was handed out; a role alone is none.
    token_seen: bool,
    /// Whether a token was handed out: it cannot be taken back.
    token_sent: bool,
    ending: Option<Result<(), ErrorBody>>,
    over: bool,
    /// The head goes out after silence, with a sign that the client is still served.
    sign_due: bool,
    timer: Pin<Box<Sleep>>,
    last_sign: Instant,
    patience: Patience,
    began: Instant,
    metrics: Metrics,
    stream_end: StreamEnd,
    /// Ends with the stream.
    _span: Span,
}

/// How long a stream waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Longest silence before a sign tells the client that it is still served.
    pub(crate) silence_max: Duration,
    /// Nothing comes after this but an error.
    pub(crate) give_up_at: Instant,
}

/// How the answer begins.
#[derive(Debug)]
pub(crate) enum Begin {
    /// With a 200 and what is ready.
    Stream,
    /// With an error and its status.
    Refused(ErrorBody),
}

impl EventStream {
    pub(crate) fn new(
        answer: Answer,
        shape: Shape,
        hang_up: HangUp,
        place: Place,
        tokens: Arc<OnceLock<ResumeTokens>>,
        patience: Patience,
        metrics: Metrics,
    ) -> Self {
        let now = Instant::now();
        Self {
            partition: answer.id().reply().partition,
            answer,
            shape,
            hang_up,
            _place: place,
            tokens,
            out: BytesMut::new(),
            token_seen: false,
            token_sent: false,
            ending: None,
            over: false,
            sign_due: false,
            timer: Box::pin(tokio::time::sleep_until(
                (now + patience.silence_max).min(patience.give_up_at),
            )),
            last_sign: now,
            patience,
            began: now,
            metrics,
            stream_end: StreamEnd::Client,
            _span: Span::current(),
        }
    }

    /// Who answers, as far as is known.
    pub(crate) fn facts(&self) -> &Facts {
        self.answer.facts()
    }

    /// Whether everything was handed out.
    pub(crate) fn is_over(&self) -> bool {
        self.over && self.out.is_empty()
    }

    /// Waits until the status of the answer is known.
    pub(crate) async fn begin(&mut self) -> Begin {
        std::future::poll_fn(|cx| self.poll_begin(cx)).await
    }

    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Begin> {
        self.collect(cx);
        match &mut self.ending {
            Some(Err(error)) => {
                let error = error.clone();
                self.over = true;
                self.out.clear();
                return Poll::Ready(Begin::Refused(error));
            }
            Some(Ok(())) => return Poll::Ready(Begin::Stream),
            None if self.token_seen => return Poll::Ready(Begin::Stream),
            None => {}
        }
        match std::task::ready!(self.poll_timer(cx)) {
            Timer::Silence => {
                self.sign_due = true;
                Poll::Ready(Begin::Stream)
            }
            Timer::GiveUp => {
                self.give_up();
                self.poll_begin(cx)
            }
        }
    }

    /// The next bytes of the body: everything that is ready.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.collect(cx);
        // A role alone is held back: until there is a token, another run may still take over.
        let nothing_to_say = self.out.is_empty() || !self.token_seen;
        if self.ending.is_none() && nothing_to_say {
            let timer = if std::mem::take(&mut self.sign_due) {
                Timer::Silence
            } else {
                std::task::ready!(self.poll_timer(cx))
            };
            match timer {
                Timer::Silence => {
                    self.last_sign = Instant::now();
                    return Poll::Ready(Some(Bytes::from_static(self.shape.sign())));
                }
                Timer::GiveUp => self.give_up(),
            }
        }
        self.close();
        if self.out.is_empty() {
            return Poll::Ready(None);
        }
        self.last_sign = Instant::now();
        if self.token_seen && !self.token_sent {
            self.token_sent = true;
            self.metrics.first_token(self.began.elapsed());
        }
        Poll::Ready(Some(self.out.split().freeze()))
    }

    /// Turns every record that is there into frames.
    fn collect(&mut self, cx: &mut Context<'_>) {
        while self.ending.is_none() {
            match self.answer.poll_record(cx) {
                Poll::Ready(Ok((offset, record))) => {
                    for event in &record.events {
                        self.take(offset, event);
                    }
                }
                Poll::Ready(Err(lost)) => {
                    let error = self.answer.lost(lost);
                    let why = match lost {
                        Lost::Closed(Closed::TooSlow) => StreamEnd::SlowClient,
                        Lost::Closed(Closed::Draining) => StreamEnd::Draining,
                        Lost::Closed(Closed::TailFailed) | Lost::Unreadable => StreamEnd::Failed,
                    };
                    self.end(Err(error), why);
                }
                Poll::Pending => return,
            }
        }
    }

    fn take(&mut self, offset: i64, event: &Event) {
        if self.ending.is_some() {
            return;
        }
        let id = self.answer.id();
        match self.answer.take(event) {
            Step::Started { replaces: true, .. } if self.token_sent => {
                // Text that was sent belongs to a run that was replaced: there is no honest way to go on.
                self.end(Err(ErrorBody::run_replaced(id)), StreamEnd::Replaced);
            }
            Step::Started { replaces: true, .. } => {
                self.out.clear();
                self.token_seen = false;
            }
            Step::Delta { delta, from } => self.frame(offset, delta, from),
            Step::Ended { end, terminal } => match end {
                End::Completed if terminal.chunks == self.answer.fold().next_sequence => {
                    self.end(Ok(()), StreamEnd::Completed);
                }
                End::Completed => {
                    self.end(Err(error::stream_incomplete(id)), StreamEnd::Failed);
                }
                End::Failed | End::Cancelled | End::Expired => {
                    self.end(Err(error::ended(end, terminal)), StreamEnd::Failed);
                }
            },
            Step::Started { .. }
            | Step::Sign
            | Step::Deferred(_)
            | Step::GivenUp
            | Step::Ignored => {}
        }
    }

    /// Frames the chunks of a delta from index `from` on.
    fn frame(&mut self, offset: i64, delta: &Delta, from: usize) {
        for (sequence, chunk) in (delta.sequence..).zip(&delta.chunks).skip(from) {
            if let Some(tokens) = self.tokens.get() {
                let point = ResumePoint {
                    id: self.answer.id(),
                    run: delta.run.number,
                    partition: self.partition,
                    offset,
                    sequence,
                };
                self.out.put_slice(b"id: ");
                tokens.seal_into(&point, &mut self.out);
                self.out.put_u8(b'\n');
            }
            self.shape.put_chunk(&mut self.out, &chunk.raw);
            self.token_seen |= !chunk.pieces.is_empty();
        }
    }

    fn give_up(&mut self) {
        let error = ErrorBody::expired();
        self.end(Err(error), StreamEnd::Deadline);
    }

    /// The stream ends on our side, so that its drop is not a hang-up, unless the client is at fault.
    fn end(&mut self, ending: Result<(), ErrorBody>, why: StreamEnd) {
        if why != StreamEnd::SlowClient {
            self.hang_up.disarm();
        }
        self.ending = Some(ending);
        self.stream_end = why;
    }

    /// Writes the last frame, once there is an ending.
    fn close(&mut self) {
        match &self.ending {
            None => return,
            Some(Ok(())) => self.shape.put_end(&mut self.out),
            Some(Err(error)) => {
                if !self.token_seen {
                    self.out.clear();
                }
                self.shape.put_error(&mut self.out, error, self.answer.id());
            }
        }
        self.over = true;
    }

    /// One timer serves both the silence and the deadline; it is moved only when it fires.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Timer> {
        loop {
            std::task::ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if now >= self.patience.give_up_at {
                return Poll::Ready(Timer::GiveUp);
            }
            let silent_at = self.last_sign + self.patience.silence_max;
            if now >= silent_at {
                let next = (now + self.patience.silence_max).min(self.patience.give_up_at);
                self.timer.as_mut().reset(next);
                return Poll::Ready(Timer::Silence);
            }
            self.timer
                .as_mut()
                .reset(silent_at.min(self.patience.give_up_at));
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        // A connection that is closed for slowness is dropped before anybody asks for its next frame.
        let end = match self.stream_end {
            StreamEnd::Client if self.answer.is_too_slow() => StreamEnd::SlowClient,
            end => end,
        };
        self.metrics.stream_ended(end);
    }
}

enum Timer {
    Silence,
    GiveUp,
}

#[cfg(test)]
mod tests;
