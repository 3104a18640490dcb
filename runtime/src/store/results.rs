//! Requests as rows: written by the results sink, read by the API and by adoption.

use std::time::Duration;

use schemas::event::{Attempt, ErrorBody, Run, Usage};
use schemas::id::RequestId;
use schemas::request::{Body, Endpoint, Lane};
use schemas::time::Timestamp;

use sqlx::Row;

use super::{BATCH_TIMEOUT, STATEMENT_TIMEOUT, Store, StoreError, plain, rows, within};

/// Longest that a request may run: the shortest retention among its topics, which the configuration holds it to.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// Length of the request body in bytes; none: not known, or not kept.
    pub request_bytes: Option<i64>,
    /// Length of the answer in bytes; none: no answer, or not kept.
    pub answer_bytes: Option<i64>,
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

/// What a batch of records changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes<'a> {
    /// What request records say.
    pub accepted: &'a [ResultRow],
    /// What events say.
    pub progressed: &'a [ResultRow],
    /// Of requests that are stored and only gained text: the sequence of the next chunk. Sorted by id, each id once.
    pub sequences: &'a [(RequestId, i64)],
}

impl Store {
    /// The row of a request; with bodies.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn result(&self, id: RequestId) -> Result<Option<ResultRow>, StoreError> {
        within(STATEMENT_TIMEOUT, async {
            let row = sqlx::query(rows::SELECT_ONE.as_str())
                .bind(id.to_string())
                .fetch_optional(self.pool().await?)
                .await?;
            Ok(row.as_ref().map(rows::read_with_bodies).transpose()?)
        })
        .await
    }

    /// The rows of these requests, in any order, without bodies; unknown ids are left out.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn results(&self, ids: &[RequestId]) -> Result<Vec<ResultRow>, StoreError> {
        within(BATCH_TIMEOUT, async {
            let pool = self.pool().await?;
            let mut found = Vec::with_capacity(ids.len());
            for chunk in ids.chunks(rows::IDS_MAX) {
                let mut query = sqlx::query(rows::SELECT_MANY.as_str());
                for place in 0..rows::IDS_MAX {
                    // One statement for all lengths stays prepared; the last id stands in for those that are not there.
                    let id = chunk[place.min(chunk.len() - 1)];
                    query = query.bind(id.to_string());
                }
                for row in query.fetch_all(pool).await? {
                    found.push(rows::read(&row)?);
                }
            }
            Ok(found)
        })
        .await
    }

    /// A page of requests, newest first, without bodies.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn list_results(&self, filter: &Filter) -> Result<Vec<ResultRow>, StoreError> {
        within(STATEMENT_TIMEOUT, async {
            // Sorts after every id.
            let end = || "req_~".to_owned();
            let before = filter.after.map_or_else(end, |id| id.to_string());
            let found = sqlx::query(rows::SELECT_PAGE.as_str())
                .bind(plain(&filter.tenant))
                .bind(before)
                .bind(
                    filter
                        .status
                        .map(|status| rows::status_word(status).to_owned()),
                )
                .bind(filter.model.as_deref().map(plain))
                .bind(i64::from(filter.limit.clamp(1, 100)))
                .fetch_all(self.pool().await?)
                .await?;
            Ok(found.iter().map(rows::read).collect::<Result<_, _>>()?)
        })
        .await
    }

    /// [`Store::apply_changes`] without sequences.
    ///
    /// # Errors
    /// As there.
    pub async fn apply_results(
        &self,
        sink: &str,
        accepted: &[ResultRow],
        progressed: &[ResultRow],
        advances: &[Advance],
    ) -> Result<(), StoreError> {
        let changes = Changes {
            accepted,
            progressed,
            sequences: &[],
        };
        self.apply_changes(sink, changes, advances).await
    }

    /// Writes rows (whole, by id; of several with one id the last) and moves the positions, in one transaction.
    ///
    /// The caller has folded the rows from what was stored before; fencing guarantees that nobody else did meanwhile for the
    /// same partition. Columns that come from the request record and those that come from events are upserted apart,
    /// since the two arrive on different partitions in any order. A body that is none leaves the one that is stored,
    /// since rows are read without bodies to be folded.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] (nothing was written), [`StoreError::Unavailable`] (it may have been written: read the
    /// positions again, or repeat and be fenced).
    pub async fn apply_changes(
        &self,
        sink: &str,
        changes: Changes<'_>,
        advances: &[Advance],
    ) -> Result<(), StoreError> {
        within(BATCH_TIMEOUT, async {
            let mut write = self.begin().await?;
            // In the same order everywhere, so that two sinks never wait for each other in a circle.
            let mut advances: Vec<&Advance> = advances.iter().collect();
            advances.sort_by_key(|advance| (&advance.topic, advance.partition));
            for advance in advances {
                if !step(&mut write, sink, advance).await? {
                    return Err(StoreError::Fenced {
                        sink: sink.to_owned(),
                        topic: advance.topic.clone(),
                        partition: advance.partition,
                    });
                }
            }
            for statement in rows::upsert_accepted(self.kind, &newest_by_id(changes.accepted)) {
                statement?.execute(&mut *write.transaction).await?;
            }
            for statement in rows::upsert_progressed(self.kind, &newest_by_id(changes.progressed)) {
                statement?.execute(&mut *write.transaction).await?;
            }
            for statement in rows::move_sequences(self.kind, changes.sequences) {
                statement.execute(&mut *write.transaction).await?;
            }
            self.commit(write).await
        })
        .await
    }

    /// The sink's positions on a topic: partition and offset of the next record to read.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn positions(&self, sink: &str, topic: &str) -> Result<Vec<(i32, i64)>, StoreError> {
        const SELECT: &str = "SELECT partition_number, next FROM positions \
             WHERE sink = $1 AND topic = $2 ORDER BY partition_number";
        within(STATEMENT_TIMEOUT, async {
            let found = sqlx::query(SELECT)
                .bind(sink.to_owned())
                .bind(topic.to_owned())
                .fetch_all(self.pool().await?)
                .await?;
            let position = |row: &sqlx::any::AnyRow| -> Result<(i32, i64), sqlx::Error> {
                let partition: i64 = row.try_get("partition_number")?;
                let partition =
                    i32::try_from(partition).map_err(|_| super::corrupt("no such partition"))?;
                Ok((partition, row.try_get("next")?))
            };
            Ok(found.iter().map(position).collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Deletes requests accepted before `before` that have ended, and any accepted before `before` minus the longest deadline
    /// (one day), oldest first; at most `limit`; returns how many.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn sweep_results(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        const DELETE: &str = "DELETE FROM results WHERE id IN (SELECT id FROM results WHERE accepted_at < $1 \
             AND (accepted_at < $2 OR status IN ('completed', 'failed', 'cancelled', 'expired')) \
             ORDER BY accepted_at LIMIT $3)";
        within(BATCH_TIMEOUT, async {
            let longest = i64::try_from(DEADLINE_MAX.as_micros()).unwrap_or(i64::MAX);
            let mut write = self.begin().await?;
            let done = sqlx::query(DELETE)
                .bind(before.0)
                .bind(before.0.saturating_sub(longest))
                .bind(i64::from(limit))
                .execute(&mut *write.transaction)
                .await?;
            self.commit(write).await?;
            Ok(done.rows_affected())
        })
        .await
    }
}

/// Sorted, so that two transactions lock rows in the same order; one row for an id, since PostgreSQL refuses to touch a
/// row twice in one statement.
fn newest_by_id(rows: &[ResultRow]) -> Vec<&ResultRow> {
    let mut newest: Vec<&ResultRow> = rows.iter().rev().collect();
    newest.sort_by_key(|row| row.id);
    newest.dedup_by_key(|row| row.id);
    newest
}

/// Moves a position; false when it is not where it is expected.
async fn step(write: &mut super::Write, sink: &str, advance: &Advance) -> Result<bool, StoreError> {
    const UPDATE: &str = "UPDATE positions SET next = $1 \
         WHERE sink = $2 AND topic = $3 AND partition_number = $4 AND next = $5";
    const INSERT: &str = "INSERT INTO positions (next, sink, topic, partition_number) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (sink, topic, partition_number) DO NOTHING";
    let statement = if advance.expected.is_some() {
        UPDATE
    } else {
        INSERT
    };
    let mut query = sqlx::query(statement)
        .bind(advance.next)
        .bind(sink.to_owned())
        .bind(advance.topic.clone())
        .bind(i64::from(advance.partition));
    if let Some(expected) = advance.expected {
        query = query.bind(expected);
    }
    let done = query.execute(&mut *write.transaction).await?;
    Ok(done.rows_affected() == 1)
}
