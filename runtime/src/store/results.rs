//! Requests as rows: written by the results sink, read by the API and by adoption.

use bytes::Bytes;
use schemas::event::{Attempt, ErrorBody, Run, Usage};
use schemas::id::RequestId;
use schemas::request::{Body, Endpoint, Lane};
use schemas::time::Timestamp;

use super::{Store, StoreError};

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// On the log, nothing more is known.
    Accepted,
    /// A run has begun.
    Running,
    /// Put aside until later.
    Deferred,
    /// Answered.
    Completed,
    /// Ended with an error.
    Failed,
    /// Ended by the client's wish.
    Cancelled,
    /// Ended at its deadline.
    Expired,
}

/// A request with everything that is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultRow {
    /// The request.
    pub id: RequestId,
    /// Its tenant.
    pub tenant: String,
    /// The key that sent it.
    pub key_id: String,
    /// The operation.
    pub endpoint: Endpoint,
    /// Model as the client wrote it.
    pub model: String,
    /// Its lane.
    pub lane: Lane,
    /// Whether a stream was asked for; none until the request record was seen.
    pub stream: Option<bool>,
    /// Where it stands.
    pub status: Status,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Its deadline; none until the request record was seen.
    pub deadline: Option<Timestamp>,
    /// First attempt of the current run.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Current run.
    pub run: Run,
    /// Current attempt of the run.
    pub attempt: i32,
    /// Sequence of the next chunk (see `schemas::fold`).
    pub next_sequence: i64,
    /// The current run was given up.
    pub given_up: bool,
    /// HTTP status of the answer.
    pub http_status: Option<i32>,
    /// Why it failed.
    pub error: Option<ErrorBody>,
    /// Tokens.
    pub usage: Option<Usage>,
    /// Cost in nano-dollars.
    pub cost_nanos: Option<i64>,
    /// Deployment that answered or answers.
    pub deployment: Option<String>,
    /// Version of the routing document.
    pub config_version: Option<String>,
    /// Every attempt.
    pub attempts: Vec<Attempt>,
    /// The answer (bodies: full), whole or the part that came.
    pub answer: Option<Body>,
    /// Whether `answer` is only a part.
    pub partial: bool,
    /// The request body (bodies: full).
    pub request_body: Option<Body>,
}

/// What `GET /v1/requests` asks for, newest first.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Only this tenant's.
    pub tenant: String,
    /// Only with this status.
    pub status: Option<Status>,
    /// Only for this model.
    pub model: Option<String>,
    /// Only older than this request.
    pub after: Option<RequestId>,
    /// At most so many, 1..=100.
    pub limit: u32,
}

/// A step of a sink's position on one partition: stored with the effect, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// Topic without prefix.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// What the store must hold for the step to count; none: no position yet.
    pub expected: Option<i64>,
    /// Offset of the next record to read.
    pub next: i64,
}

impl Store {
    /// The row of a request; with bodies.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn result(&self, id: RequestId) -> Result<Option<ResultRow>, StoreError> {
        todo!()
    }

    /// The rows of these requests, in any order, without bodies; unknown ids are left out.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn results(&self, ids: &[RequestId]) -> Result<Vec<ResultRow>, StoreError> {
        todo!()
    }

    /// A page of requests, newest first, without bodies.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn list_results(&self, filter: &Filter) -> Result<Vec<ResultRow>, StoreError> {
        todo!()
    }

    /// Writes rows (whole, by id) and moves the positions, in one transaction.
    ///
    /// The caller has folded the rows from what was stored before; fencing guarantees that nobody else did meanwhile for the
    /// same partition. Columns that come from the request record and those that come from events are upserted
    /// apart, since the two arrive on different partitions in any order.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] (nothing was written), [`StoreError::Unavailable`].
    pub async fn apply_results(
        &self,
        sink: &str,
        accepted: &[ResultRow],
        progressed: &[ResultRow],
        advances: &[Advance],
    ) -> Result<(), StoreError> {
        todo!()
    }

    /// The sink's positions on a topic: partition and offset of the next record to read.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn positions(&self, sink: &str, topic: &str) -> Result<Vec<(i32, i64)>, StoreError> {
        todo!()
    }

    /// Deletes requests accepted before `before` that have ended, and any accepted before `before` minus the longest deadline; at most `limit`; returns how many.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn sweep_results(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let _: Option<Bytes> = None;
        todo!()
    }
}
