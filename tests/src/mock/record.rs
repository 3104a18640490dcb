use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::asked::Asked;
use super::connection::{self, RawRequest};

/// How a call ended, seen from the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer was written.
    Answered,
    /// The caller closed the connection first.
    ClosedByPeer,
    /// The mock itself broke off, as told.
    BrokenOff,
}

/// One call of an operation of a model, in any dialect.
#[derive(Debug, Clone)]
pub struct Call {
    /// The forwarded request id: the header `x-request-id`, else `metadata.id` of the body, else
    /// empty.
    pub id: String,
    /// The path that was called, with its query.
    pub path: String,
    /// The model that was asked for, wherever the dialect names it.
    pub model: String,
    /// The text of the last message of the user that has text; of a prompt, or of what is to become
    /// vectors. Empty when the body was longer than what is kept.
    pub prompt: String,
    /// When the request had been read.
    pub started: Instant,
    /// How and when it ended; `None` while it is in flight.
    pub ended: Option<(Outcome, Instant)>,
    /// The head of the request as it came.
    pub head: Bytes,
    /// The body of the request as it came; empty when it was longer than what is kept.
    pub body: Bytes,
    started_nanos: u64,
    ended_nanos: u64,
}

impl Call {
    /// The value of a header of the request, white space trimmed.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        connection::header(&self.head, name)
    }

    /// The body read as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// The calls of one forwarded request id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsOfId {
    /// How often it was called.
    pub count: u64,
    /// Calls without an end yet.
    pub in_flight: u64,
    /// Calls whose answer was written whole.
    pub answered: u64,
    /// When calls began, Unix nanoseconds.
    pub started_at: Vec<u64>,
    /// When the caller closed the connection of an unfinished call, Unix nanoseconds.
    pub closed_by_peer_at: Vec<u64>,
}

/// Counts over all calls so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// All calls, also those not remembered one by one.
    pub total: u64,
    /// Calls without an end yet.
    pub in_flight: u64,
    /// In-flight calls that wait to be released.
    pub held: u64,
    /// Calls whose answer was written whole.
    pub answered: u64,
    /// Calls whose caller closed the connection first.
    pub closed_by_peer: u64,
    /// Calls that the mock broke off, as told.
    pub broken_off: u64,
    /// Connections accepted so far.
    pub connections: u64,
    /// Remembered calls by forwarded request id; those without one are under the empty id.
    pub ids: BTreeMap<String, CallsOfId>,
}

/// A snapshot is what a wait in vain ends with.
impl std::fmt::Display for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the mock has {} calls: {} in flight ({} held), {} answered, {} closed by their caller",
            self.total, self.in_flight, self.held, self.answered, self.closed_by_peer
        )
    }
}

impl std::error::Error for Snapshot {}

/// The memory of the mock.
#[derive(Debug)]
pub(crate) struct Record {
    calls_max: usize,
    body_bytes_kept_max: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    counts: Snapshot,
    calls: Vec<Call>,
    by_id: HashMap<String, Vec<usize>>,
}

/// A call in flight; index of the remembered call, if it is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket(Option<usize>);

impl Record {
    pub(crate) fn new(calls_max: usize, body_bytes_kept_max: usize) -> Self {
        Self {
            calls_max,
            body_bytes_kept_max,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(crate) fn connected(&self) {
        self.state.lock().counts.connections += 1;
        self.changed.notify_waiters();
    }

    pub(crate) fn begin(&self, id: &str, request: &RawRequest, asked: &Asked<'_>) -> Ticket {
        let mut state = self.state.lock();
        state.counts.total += 1;
        state.counts.in_flight += 1;
        let index = state.calls.len();
        let ticket = Ticket((index < self.calls_max).then_some(index));
        if ticket.0.is_some() {
            let is_kept = request.body.len() <= self.body_bytes_kept_max;
            state.calls.push(Call {
                id: id.into(),
                path: request.line().1.into(),
                model: asked.model(),
                prompt: if is_kept {
                    asked.last_user_text()
                } else {
                    String::new()
                },
                started: Instant::now(),
                ended: None,
                head: request.head.clone(),
                body: if is_kept {
                    request.body.clone()
                } else {
                    Bytes::new()
                },
                started_nanos: crate::unix_nanos(),
                ended_nanos: 0,
            });
            state.by_id.entry(id.into()).or_default().push(index);
        }
        drop(state);
        self.changed.notify_waiters();
        ticket
    }

    pub(crate) fn held(&self, held: bool) {
        let mut state = self.state.lock();
        if held {
            state.counts.held += 1;
        } else {
            state.counts.held -= 1;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn end(&self, ticket: Ticket, outcome: Outcome) {
        let mut state = self.state.lock();
        state.counts.in_flight -= 1;
        match outcome {
            Outcome::Answered => state.counts.answered += 1,
            Outcome::ClosedByPeer => state.counts.closed_by_peer += 1,
            Outcome::BrokenOff => state.counts.broken_off += 1,
        }
        if let Some(call) = ticket.0.and_then(|index| state.calls.get_mut(index)) {
            call.ended = Some((outcome, Instant::now()));
            call.ended_nanos = crate::unix_nanos();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state.lock().calls.clone()
    }

    pub(crate) fn calls_of(&self, id: &str) -> Vec<Call> {
        let state = self.state.lock();
        let indices = state.by_id.get(id).map_or(&[][..], Vec::as_slice);
        indices.iter().map(|&at| state.calls[at].clone()).collect()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.state.lock();
        let mut snapshot = state.counts.clone();
        for call in &state.calls {
            let of_id = snapshot.ids.entry(call.id.clone()).or_default();
            of_id.count += 1;
            of_id.started_at.push(call.started_nanos);
            match call.ended {
                None => of_id.in_flight += 1,
                Some((Outcome::Answered, _)) => of_id.answered += 1,
                Some((Outcome::ClosedByPeer, _)) => of_id.closed_by_peer_at.push(call.ended_nanos),
                Some((Outcome::BrokenOff, _)) => {}
            }
        }
        snapshot
    }

    pub(crate) async fn wait_until(
        &self,
        patience: Duration,
        predicate: impl Fn(&Snapshot) -> bool,
    ) -> Result<Snapshot, Box<Snapshot>> {
        let wait = async {
            loop {
                // Registered before looking, so that no event falls between look and wait.
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                let snapshot = self.snapshot();
                if predicate(&snapshot) {
                    return snapshot;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(patience, wait).await {
            Ok(snapshot) => Ok(snapshot),
            Err(_) => Err(Box::new(self.snapshot())),
        }
    }
}
