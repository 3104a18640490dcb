//! The events of one request on their way to its reply place.
//!
//! At most one append is in flight; what comes meanwhile goes together in the next one.
//! `Started` is held back a moment, so that an instant answer is one record with it. Events
//! are kept until their append is confirmed and go again with the next one when it is not:
//! the fold ignores repeats, so that a reader never sees a gap.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use runtime::codec::Codec;
use runtime::log::{AppendError, Durability, Log, Place, Position, Record};
use schemas::event::{Chunk, Delta, Event, EventRecord, Run, Sign};
use schemas::header;
use schemas::request::Request;
use schemas::time::Timestamp;
use tokio::time::{Instant, Sleep};
use tracing::{debug, error, warn};

use crate::metrics::Metrics;
use crate::pace::Pace;

/// `Started` waits so long for company.
const HELD_BACK: Duration = Duration::from_millis(5);
/// A silent run says so this often.
const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// Text that may wait for the log before the upstream is not read any more.
const WAITING_BYTES_MAX: usize = 512 * 1024;
/// Pauses between two tries to append.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What takes the records: the log, or a test that plays one.
pub(crate) trait Appender: std::fmt::Debug + Send + Sync {
    /// As [`Log::append`].
    fn append(
        &self,
        topic: &'static str,
        place: Place,
        record: Record,
        durability: Durability,
    ) -> Append;
}

impl Appender for Log {
    fn append(
        &self,
        topic: &'static str,
        place: Place,
        record: Record,
        durability: Durability,
    ) -> Append {
        let log = self.clone();
        Box::pin(async move { Self::append(&log, topic, place, record, durability).await })
    }
}

/// An append on its way.
pub(crate) type Append = Pin<Box<dyn Future<Output = Result<Position, AppendError>> + Send>>;

/// Appends the events of one request.
pub(crate) struct Emitter {
    outlet: Outlet,
    /// Everything but the events, which are put in for encoding and taken out again.
    record: EventRecord,
    waiting: Vec<Event>,
    waiting_bytes: usize,
    /// When the oldest of `waiting` came.
    waiting_since: Instant,
    /// Whether something waits that is not to be held back.
    urgent: bool,
    in_flight: Option<InFlight>,
    run: Run,
    attempt: i32,
    /// Number of the next chunk.
    sequence: i64,
    last_append: Instant,
    retry: Option<(Instant, Duration)>,
    refused: bool,
    timer: Pin<Box<Sleep>>,
}

/// Where the records go.
struct Outlet {
    log: Arc<dyn Appender>,
    codec: Codec,
    topic: &'static str,
    place: Place,
    key: Bytes,
    headers: Vec<(Arc<str>, Bytes)>,
    pace: Arc<Pace>,
    metrics: Arc<Metrics>,
}

struct InFlight {
    append: Append,
    events: Vec<Event>,
    since: Instant,
}

/// What all emitters of a process share.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    /// Takes the records.
    pub(crate) log: Arc<dyn Appender>,
    /// Encodes records.
    pub(crate) codec: Codec,
    /// The pace of deltas.
    pub(crate) pace: Arc<Pace>,
    /// Counts retries.
    pub(crate) metrics: Arc<Metrics>,
}

/// The events can never be appended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// They are too large.
    #[error("the events are larger than the log takes")]
    TooLarge,
    /// There is no such place, or the events do not fit their schema.
    #[error("the events cannot be appended: {reason}")]
    Never {
        /// In words.
        reason: String,
    },
}

impl Emitter {
    /// The emitter of a request, whose current run is `run` so far.
    pub(crate) fn new(
        channel: &Channel,
        request: &Request,
        run: Run,
        traceparent: Option<&Bytes>,
    ) -> Self {
        let now = Instant::now();
        Self {
            outlet: Outlet::new(channel, request, traceparent),
            record: EventRecord {
                id: request.id,
                tenant: request.tenant.clone(),
                key_id: request.key_id.clone(),
                endpoint: request.endpoint,
                model: request.model.clone(),
                lane: request.lane,
                accepted_at: request.accepted_at,
                shadow_of: request.shadow_of,
                events: Vec::new(),
            },
            waiting: Vec::new(),
            waiting_bytes: 0,
            waiting_since: now,
            urgent: false,
            in_flight: None,
            run,
            attempt: 0,
            sequence: 0,
            last_append: now,
            retry: None,
            refused: false,
            timer: Box::pin(tokio::time::sleep(ALIVE_EVERY)),
        }
    }

    /// The current run: what the terminal has to name.
    pub(crate) fn run(&self) -> Run {
        self.run
    }

    /// Chunks so far.
    pub(crate) fn chunks(&self) -> i64 {
        self.sequence
    }

    /// Takes an event that may be held back a moment.
    pub(crate) fn event(&mut self, event: Event) {
        if let Event::Started(started) = &event {
            self.run = started.run;
            self.attempt = started.attempt;
        }
        self.wait(event);
    }

    /// Takes a chunk of the current attempt; it goes as soon as it can.
    pub(crate) fn chunk(&mut self, chunk: Chunk) {
        let text: usize = chunk.pieces.iter().map(|piece| piece.text.len() + 16).sum();
        self.waiting_bytes += chunk.raw.len() + text;
        self.urgent = true;
        let sequence = self.sequence;
        self.sequence += 1;
        if let Some(Event::Delta(delta)) = self.waiting.last_mut()
            && delta.attempt == self.attempt
        {
            delta.chunks.push(chunk);
            return;
        }
        self.wait(Event::Delta(Delta {
            run: self.run,
            attempt: self.attempt,
            sequence,
            chunks: vec![chunk],
        }));
    }

    /// What is held back goes now.
    pub(crate) fn hurry(&mut self) {
        self.urgent |= !self.waiting.is_empty();
    }

    /// Whether more text can be taken; if not, the upstream has to wait for the log.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting_bytes < WAITING_BYTES_MAX
    }

    /// Whether the log refused a part of the answer for good.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    /// Appends what is due, and says that the run is alive when it is silent; for ever.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn pump(&mut self) -> Infallible {
        loop {
            self.turn().await;
        }
    }

    /// As [`Emitter::pump`], until more text can be taken.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn make_room(&mut self) {
        while !self.has_room() {
            self.turn().await;
        }
    }

    /// One step of the pump: an append ends, becomes due, or begins.
    async fn turn(&mut self) {
        if let Some(flight) = &mut self.in_flight {
            let result = flight.append.as_mut().await;
            self.settle(result);
            return;
        }
        let now = Instant::now();
        let due = self.due(now);
        if due > now {
            // A timer that is early costs one turn more; moving it each time costs more.
            if self.timer.deadline() > due || self.timer.is_elapsed() {
                self.timer.as_mut().reset(due);
            }
            self.timer.as_mut().await;
            return;
        }
        if self.waiting.is_empty() {
            self.wait(Event::Alive(Sign {
                run: self.run,
                at: Timestamp::now(),
            }));
        }
        self.begin(Durability::Buffered).await;
    }

    /// Appends everything that waits, durably, and resolves once it is there.
    ///
    /// # Errors
    /// [`Unfit`] when it never can be.
    ///
    /// # Cancel safety
    /// The events are kept when the future is dropped.
    pub(crate) async fn flush(&mut self) -> Result<(), Unfit> {
        loop {
            // What is in flight was asked for with less; it goes again, durably.
            self.recall();
            if self.waiting.is_empty() {
                return Ok(());
            }
            let result = {
                let value = self.encode().map_err(|reason| Unfit::Never { reason })?;
                self.outlet.append(value, Durability::Durable).await
            };
            let reason = match result {
                Ok(_) => {
                    self.waiting.clear();
                    self.landed();
                    return Ok(());
                }
                Err(AppendError::TooLarge { .. }) => return Err(Unfit::TooLarge),
                Err(error @ AppendError::NoSuchPlace { .. }) => {
                    return Err(Unfit::Never {
                        reason: error.to_string(),
                    });
                }
                Err(error @ (AppendError::Unavailable { .. } | AppendError::Unknown { .. })) => {
                    error
                }
            };
            self.put_off(&reason);
            if let Some((at, _)) = self.retry {
                tokio::time::sleep_until(at).await;
            }
        }
    }

    /// Chunks that are known to be on the log.
    pub(crate) fn appended_chunks(&self) -> i64 {
        self.sequence - self.waiting_chunks()
    }

    /// Drops what waits but for the beginnings that a terminal needs before it.
    pub(crate) fn keep_beginnings(&mut self) {
        self.waiting
            .retain(|event| matches!(event, Event::Started(_) | Event::Abandoned(_)));
        self.waiting_bytes = 0;
    }

    fn wait(&mut self, event: Event) {
        if self.waiting.is_empty() {
            self.waiting_since = Instant::now();
        }
        self.waiting.push(event);
    }

    /// When the next append should begin.
    fn due(&self, now: Instant) -> Instant {
        if let Some((at, _)) = self.retry {
            return at;
        }
        if self.waiting.is_empty() {
            return if self.run == Run::NONE {
                now + ALIVE_EVERY
            } else {
                self.last_append + ALIVE_EVERY
            };
        }
        if !self.urgent {
            return self.waiting_since + HELD_BACK;
        }
        // Until the first append of the request nothing has to be waited for.
        if self.sequence == self.waiting_chunks() {
            return now;
        }
        self.last_append + self.outlet.pace.window()
    }

    fn waiting_chunks(&self) -> i64 {
        let chunks = self.waiting.iter().map(|event| match event {
            Event::Delta(delta) => delta.chunks.len(),
            _ => 0,
        });
        i64::try_from(chunks.sum::<usize>()).unwrap_or(i64::MAX)
    }

    /// Begins an append of everything that waits: polled once, so that its place in the
    /// order is taken.
    async fn begin(&mut self, durability: Durability) {
        let value = match self.encode() {
            Ok(value) => value,
            Err(reason) => {
                error!(request.id = %self.record.id, reason, "events do not fit their schema");
                self.waiting.clear();
                self.waiting_bytes = 0;
                self.refused = true;
                return;
            }
        };
        let since = Instant::now();
        let mut append = self.outlet.append(value, durability);
        let events = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        self.urgent = false;
        self.retry = self.retry.map(|(_, pause)| (since, pause));
        self.last_append = since;
        let first =
            std::future::poll_fn(|context| std::task::Poll::Ready(append.as_mut().poll(context)))
                .await;
        self.in_flight = Some(InFlight {
            append,
            events,
            since,
        });
        if let std::task::Poll::Ready(result) = first {
            self.settle(result);
        }
    }

    fn settle(&mut self, result: Result<Position, AppendError>) {
        let Some(flight) = self.in_flight.take() else {
            return;
        };
        match result {
            Ok(_) => {
                self.outlet.pace.appended(flight.since.elapsed());
                self.landed();
            }
            Err(error @ (AppendError::Unavailable { .. } | AppendError::Unknown { .. })) => {
                self.put_back(flight.events);
                self.put_off(&error);
            }
            Err(error @ (AppendError::TooLarge { .. } | AppendError::NoSuchPlace { .. })) => {
                warn!(request.id = %self.record.id, %error, "the log refuses a part of an answer");
                self.refused = true;
            }
        }
    }

    fn landed(&mut self) {
        if self.retry.take().is_some() {
            debug!(request.id = %self.record.id, "the log takes events again");
        }
    }

    /// Takes back what is in flight, to append it again.
    fn recall(&mut self) {
        if let Some(flight) = self.in_flight.take() {
            self.put_back(flight.events);
        }
    }

    fn put_back(&mut self, mut events: Vec<Event>) {
        self.urgent = true;
        events.retain(|event| !matches!(event, Event::Alive(_)));
        for event in &events {
            if let Event::Delta(delta) = event {
                let bytes = delta.chunks.iter().map(|chunk| chunk.raw.len() * 2);
                self.waiting_bytes += bytes.sum::<usize>();
            }
        }
        events.append(&mut self.waiting);
        self.waiting = events;
    }

    fn put_off(&mut self, error: &AppendError) {
        let pause = match self.retry {
            Some((_, pause)) => (pause * 2).min(RETRY_MAX),
            None => {
                warn!(request.id = %self.record.id, %error, "events wait for the log");
                RETRY
            }
        };
        self.outlet.metrics.append_retried();
        self.retry = Some((Instant::now() + pause, pause));
    }

    fn encode(&mut self) -> Result<Bytes, String> {
        std::mem::swap(&mut self.record.events, &mut self.waiting);
        let value = self.outlet.codec.encode(&self.record);
        std::mem::swap(&mut self.record.events, &mut self.waiting);
        value.map_err(|error| error.to_string())
    }
}

impl Outlet {
    fn new(channel: &Channel, request: &Request, traceparent: Option<&Bytes>) -> Self {
        static REQUEST_ID: LazyLock<Arc<str>> = LazyLock::new(|| header::REQUEST_ID.into());
        static TRACEPARENT: LazyLock<Arc<str>> = LazyLock::new(|| header::TRACEPARENT.into());
        static CONTENT_TYPE: LazyLock<Arc<str>> = LazyLock::new(|| header::CONTENT_TYPE.into());
        let reply = request.id.reply();
        let key = Bytes::from(request.id.to_string());
        let mut headers = Vec::with_capacity(3);
        headers.push((Arc::clone(&REQUEST_ID), key.clone()));
        headers.push((
            Arc::clone(&CONTENT_TYPE),
            Bytes::from_static(header::AVRO.as_bytes()),
        ));
        if let Some(traceparent) = traceparent {
            headers.push((Arc::clone(&TRACEPARENT), traceparent.clone()));
        }
        Self {
            log: Arc::clone(&channel.log),
            codec: channel.codec.clone(),
            topic: reply.topic.topic(),
            place: Place::Partition(reply.partition),
            key,
            headers,
            pace: Arc::clone(&channel.pace),
            metrics: Arc::clone(&channel.metrics),
        }
    }

    fn append(&self, value: Bytes, durability: Durability) -> Append {
        let record = Record {
            key: self.key.clone(),
            headers: self.headers.clone(),
            value,
        };
        self.log.append(self.topic, self.place, record, durability)
    }
}

#[cfg(test)]
#[path = "emitter_tests.rs"]
mod tests;
