//! The results sink: makes every request readable by its id, from its accept to its end.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use runtime::config::Bodies;
use runtime::store::Store;
use runtime::store::results::{Advance, Changes, ResultRow, Status};
use schemas::event::{Event, EventRecord, Run};
use schemas::fold::{End, Fold, Step};
use schemas::id::RequestId;
use schemas::request::{Body, Request};
use schemas::time::Timestamp;
use schemas::topic;

use crate::memory::{Known, Memory};
use crate::sink::{Input, Refused, Sink};

/// Requests remembered, at least: some seconds of full load, a few MiB.
const REMEMBERED_MIN: usize = 8_192;
/// How far the clocks of two machines may differ before a request of an earlier reader could be taken for new.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// Rows of requests in the store.
#[derive(Debug)]
pub(crate) struct Results {
    store: Store,
    bodies: Bodies,
    memory: Memory,
}

impl Results {
    pub(crate) fn new(store: Store, bodies: Bodies) -> Self {
        Self {
            store,
            bodies,
            memory: fresh(),
        }
    }

    /// What the store knows of the requests of `inputs` that are neither remembered nor certainly new.
    async fn look_up(&self, inputs: &[Input]) -> Result<BTreeMap<RequestId, Known>, Refused> {
        let mut ids = HashSet::new();
        for input in inputs {
            if let Input::Events(events) = input
                && !self.memory.is_new(events.id)
                && self.memory.get(events.id).is_none()
            {
                ids.insert(events.id);
            }
        }
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let ids: Vec<RequestId> = ids.into_iter().collect();
        let rows = self.store.results(&ids).await?;
        Ok(rows.into_iter().map(|row| (row.id, known(row))).collect())
    }
}

impl Sink for Results {
    const NAME: &'static str = "results";
    const TOPICS: &'static [&'static str] = &[
        topic::REQUESTS_INTERACTIVE,
        topic::REQUESTS_BACKGROUND,
        topic::REQUESTS_BATCH,
        topic::RESPONSES,
        topic::RESPONSES_BACKGROUND,
    ];

    async fn positions(&mut self, topic: &'static str) -> Result<Vec<(i32, i64)>, Refused> {
        Ok(self.store.positions(Self::NAME, topic).await?)
    }

    async fn write(&mut self, inputs: &[Input], advances: &[Advance]) -> Result<(), Refused> {
        let mut stored = self.look_up(inputs).await?;
        // By id, so that concurrent writers lock rows in one order.
        let mut accepted = BTreeMap::new();
        let mut touched: BTreeMap<RequestId, Touched> = BTreeMap::new();
        for input in inputs {
            match input {
                // A shadow's result goes to analytics only.
                Input::Request(request) if request.shadow_of.is_some() => {}
                Input::Events(events) if events.shadow_of.is_some() => {}
                Input::Request(request) => {
                    accepted.insert(request.id, accepted_row(request, self.bodies));
                }
                Input::Events(events) => {
                    let entry = touched.entry(events.id).or_insert_with(|| {
                        let remembered = self.memory.get(events.id).cloned();
                        let known = remembered.or_else(|| stored.remove(&events.id));
                        Touched::from(
                            known.unwrap_or_else(|| Known::Open(Box::new(row_of(events)))),
                        )
                    });
                    entry.apply(&events.events, self.bodies);
                }
            }
        }
        let accepted: Vec<ResultRow> = accepted.into_values().collect();
        let mut progressed = Vec::with_capacity(touched.len());
        let mut sequences = Vec::new();
        let mut remembered = Vec::with_capacity(touched.len());
        for (id, touched) in touched {
            let Some(row) = touched.row else {
                remembered.push((id, Known::Ended));
                continue;
            };
            remembered.push((id, known_of(&row)));
            if touched.is_changed {
                progressed.push(*row);
            } else if touched.is_longer {
                sequences.push((id, row.next_sequence));
            }
        }
        let changes = Changes {
            accepted: &accepted,
            progressed: &progressed,
            sequences: &sequences,
        };
        self.store
            .apply_changes(Self::NAME, changes, advances)
            .await?;
        for (id, known) in remembered {
            self.memory.insert(id, known);
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.memory = fresh();
    }
}

fn fresh() -> Memory {
    Memory::new(REMEMBERED_MIN, Timestamp::now().plus(CLOCK_SKEW_MAX))
}

fn known(row: ResultRow) -> Known {
    if is_end(row.status) {
        Known::Ended
    } else {
        Known::Open(Box::new(row))
    }
}

fn known_of(row: &ResultRow) -> Known {
    if is_end(row.status) {
        Known::Ended
    } else {
        Known::Open(Box::new(row.clone()))
    }
}

fn is_end(status: Status) -> bool {
    end_of(status).is_some()
}

fn end_of(status: Status) -> Option<End> {
    match status {
        Status::Accepted | Status::Running | Status::Deferred => None,
        Status::Completed => Some(End::Completed),
        Status::Failed => Some(End::Failed),
        Status::Cancelled => Some(End::Cancelled),
        Status::Expired => Some(End::Expired),
    }
}

/// A request that a batch has events of.
struct Touched {
    /// None: it had ended before.
    row: Option<Box<ResultRow>>,
    fold: Fold,
    is_changed: bool,
    /// Chunks came; nothing else need have.
    is_longer: bool,
}

impl From<Known> for Touched {
    fn from(known: Known) -> Self {
        match known {
            Known::Ended => Self {
                row: None,
                fold: Fold::default(),
                is_changed: false,
                is_longer: false,
            },
            Known::Open(row) => Self {
                fold: Fold {
                    run: row.run,
                    attempt: row.attempt,
                    next_sequence: row.next_sequence,
                    given_up: row.given_up,
                    last_sign: None,
                    end: end_of(row.status),
                },
                row: Some(row),
                is_changed: false,
                is_longer: false,
            },
        }
    }
}

impl Touched {
    fn apply(&mut self, events: &[Event], bodies: Bodies) {
        let Some(row) = &mut self.row else { return };
        for event in events {
            let step = self.fold.apply(event);
            self.is_longer |= matches!(step, Step::Delta { .. });
            self.is_changed |= apply(row, event, step, bodies);
        }
        row.run = self.fold.run;
        row.attempt = self.fold.attempt;
        row.next_sequence = self.fold.next_sequence;
        row.given_up = self.fold.given_up;
    }
}

/// Brings the row up to an event; whether it changed, but for what [`Fold`] holds. Signs of life change nothing: who
/// waits for them reads the log.
fn apply(row: &mut ResultRow, event: &Event, step: Step<'_>, bodies: Bodies) -> bool {
    match step {
        Step::Started { started, .. } => {
            if row.run != started.run || row.started_at.is_none() {
                row.started_at = Some(started.at);
                row.attempts.clear();
            }
            // The next event may be of the same record.
            row.run = started.run;
            row.status = Status::Running;
            row.deployment = Some(started.deployment.clone());
            row.config_version = Some(started.config_version.clone());
            true
        }
        Step::Sign => {
            let Event::AttemptFailed(failed) = event else {
                return false;
            };
            let number = failed.attempt.number;
            if row.attempts.iter().any(|attempt| attempt.number == number) {
                return false;
            }
            row.attempts.push(failed.attempt.clone());
            true
        }
        Step::Deferred(_) => {
            row.status = Status::Deferred;
            true
        }
        Step::GivenUp => true,
        Step::Ended { end, terminal } => {
            row.status = match end {
                End::Completed => Status::Completed,
                End::Failed => Status::Failed,
                End::Cancelled => Status::Cancelled,
                End::Expired => Status::Expired,
            };
            row.finished_at = Some(terminal.at);
            row.http_status = Some(terminal.status);
            row.error = terminal.error.clone();
            row.usage = terminal.usage;
            row.cost_nanos = terminal.cost_nanos;
            row.deployment = terminal.deployment.clone();
            if terminal.config_version.is_some() {
                row.config_version = terminal.config_version.clone();
            }
            row.attempts = terminal.attempts.clone();
            row.partial = terminal.partial;
            (row.answer, row.answer_bytes) = kept(terminal.body.as_ref(), bodies);
            true
        }
        Step::Delta { .. } | Step::Ignored => false,
    }
}

/// What is kept of a body: itself and its length, the length, or nothing.
fn kept(body: Option<&Body>, bodies: Bodies) -> (Option<Body>, Option<i64>) {
    let length = body.map(|body| match body {
        Body::Inline(bytes) => i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        Body::Claim(claim) => claim.length,
    });
    match bodies {
        Bodies::Full => (body.cloned(), length),
        Bodies::Metadata => (None, length),
        Bodies::None => (None, None),
    }
}

/// The row of a request of which only the request record was seen.
fn accepted_row(request: &Request, bodies: Bodies) -> ResultRow {
    let (request_body, request_bytes) = kept(Some(&request.body), bodies);
    ResultRow {
        id: request.id,
        tenant: request.tenant.clone(),
        key_id: request.key_id.clone(),
        endpoint: request.endpoint,
        model: request.model.clone(),
        lane: request.lane,
        stream: Some(request.stream),
        status: Status::Accepted,
        accepted_at: request.accepted_at,
        deadline: Some(request.deadline),
        started_at: None,
        finished_at: None,
        run: Run::NONE,
        attempt: 0,
        next_sequence: 0,
        given_up: false,
        http_status: None,
        error: None,
        usage: None,
        cost_nanos: None,
        deployment: None,
        config_version: None,
        attempts: Vec::new(),
        answer: None,
        partial: false,
        request_body,
        request_bytes,
        answer_bytes: None,
    }
}

/// The row of a request of which only events were seen, before the first of them.
fn row_of(events: &EventRecord) -> ResultRow {
    ResultRow {
        id: events.id,
        tenant: events.tenant.clone(),
        key_id: events.key_id.clone(),
        endpoint: events.endpoint,
        model: events.model.clone(),
        lane: events.lane,
        stream: None,
        status: Status::Accepted,
        accepted_at: events.accepted_at,
        deadline: None,
        started_at: None,
        finished_at: None,
        run: Run::NONE,
        attempt: 0,
        next_sequence: 0,
        given_up: false,
        http_status: None,
        error: None,
        usage: None,
        cost_nanos: None,
        deployment: None,
        config_version: None,
        attempts: Vec::new(),
        answer: None,
        partial: false,
        request_body: None,
        request_bytes: None,
        answer_bytes: None,
    }
}
