//! Requests as SQL: statements for many rows at once, values in, rows out.

use std::sync::LazyLock;

use bytes::Bytes;
use schemas::event::Run;
use schemas::id::RequestId;
use schemas::request::{Body, Claim, Endpoint, Lane};
use schemas::time::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, Row};

use super::results::{ResultRow, Status};
use super::{Kind, corrupt, plain};

/// Rows of one statement, largest first. Few sizes, so that the prepared statements stay cached; the largest keeps
/// the number of parameters below what SQLite (32,766) and PostgreSQL (65,535) take.
const CHUNKS: [usize; 3] = [128, 16, 1];

/// Ids asked for in one statement; shorter lists are filled up with repeats.
pub(super) const IDS_MAX: usize = 128;

pub(super) type Statement = Query<'static, Any, AnyArguments>;

/// Columns that both kinds of upsert set when the row is new.
const COMMON: [&str; 7] = [
    "id",
    "tenant",
    "key_id",
    "endpoint",
    "model",
    "lane",
    "accepted_at",
];
const ACCEPTED: [&str; 5] = [
    "stream",
    "deadline",
    "request_body",
    "request_claim",
    "request_bytes",
];
const PROGRESSED: [&str; 19] = [
    "status",
    "started_at",
    "finished_at",
    "run_number",
    "run_nonce",
    "attempt",
    "next_sequence",
    "given_up",
    "http_status",
    "error",
    "usage",
    "cost_nanos",
    "deployment",
    "config_version",
    "attempts",
    "partial",
    "answer",
    "answer_claim",
    "answer_bytes",
];

/// Everything but bodies.
const COLUMNS: &str = "id, tenant, key_id, endpoint, model, lane, accepted_at, stream, deadline, status, started_at, \
    finished_at, run_number, run_nonce, attempt, next_sequence, given_up, http_status, error, usage, cost_nanos, \
    deployment, config_version, attempts, partial, request_bytes, answer_bytes";

pub(super) static SELECT_ONE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {COLUMNS}, answer, answer_claim, request_body, request_claim FROM results WHERE id = $1"
    )
});

pub(super) static SELECT_MANY: LazyLock<String> = LazyLock::new(|| {
    let places: Vec<String> = (1..=IDS_MAX).map(|place| format!("${place}")).collect();
    format!(
        "SELECT {COLUMNS} FROM results WHERE id IN ({})",
        places.join(", ")
    )
});

pub(super) static SELECT_PAGE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {COLUMNS} FROM results WHERE tenant = $1 AND id < $2 \
         AND (CAST($3 AS TEXT) IS NULL OR status = $3) AND (CAST($4 AS TEXT) IS NULL OR model = $4) \
         ORDER BY id DESC LIMIT $5"
    )
});

/// The texts of one statement, by database and chunk.
struct Texts {
    sqlite: [String; CHUNKS.len()],
    postgres: [String; CHUNKS.len()],
}

/// How a database writes the place of the n-th parameter, from 1.
type WritePlace = fn(usize) -> String;

static UPSERT_ACCEPTED: LazyLock<Texts> =
    LazyLock::new(|| Texts::of(|rows, place| upsert(rows, &ACCEPTED, place)));
static UPSERT_PROGRESSED: LazyLock<Texts> =
    LazyLock::new(|| Texts::of(|rows, place| upsert(rows, &PROGRESSED, place)));
static MOVE_SEQUENCES: LazyLock<Texts> = LazyLock::new(|| Texts::of(move_sequences_text));

impl Texts {
    fn of(text: impl Fn(usize, WritePlace) -> String) -> Self {
        Self {
            // SQLite finds the name of a named place (`$n`) by a search among all, at each binding: for thousands of
            // places that is most of the time. It has none for `?`.
            sqlite: CHUNKS.map(|rows| text(rows, |_| "?".to_owned())),
            postgres: CHUNKS.map(|rows| text(rows, |place| format!("${place}"))),
        }
    }

    fn by_chunk(&self, kind: Kind) -> &[String; CHUNKS.len()] {
        match kind {
            Kind::Sqlite => &self.sqlite,
            Kind::Postgres => &self.postgres,
        }
    }
}

fn move_sequences_text(rows: usize, place: WritePlace) -> String {
    let pair = |row: usize| {
        let (id, next) = (place(2 * row + 1), place(2 * row + 2));
        format!("({id}, CAST({next} AS BIGINT))")
    };
    let pairs: Vec<String> = (0..rows).map(pair).collect();
    format!(
        "WITH moved (id, next) AS (VALUES {}) UPDATE results SET next_sequence = moved.next FROM moved \
         WHERE results.id = moved.id",
        pairs.join(", ")
    )
}

fn upsert(rows: usize, own: &[&str], place: WritePlace) -> String {
    let columns = [&COMMON, own].concat();
    let width = columns.len();
    let tuple = |row: usize| {
        let places: Vec<String> = (1..=width)
            .map(|column| place(row * width + column))
            .collect();
        format!("({})", places.join(", "))
    };
    let tuples: Vec<String> = (0..rows).map(tuple).collect();
    let updates: Vec<String> = own.iter().map(|column| update(column)).collect();
    format!(
        "INSERT INTO results ({}) VALUES {} ON CONFLICT (id) DO UPDATE SET {}",
        columns.join(", "),
        tuples.join(", "),
        updates.join(", ")
    )
}

/// Rows are folded without their bodies, so a body that is not given leaves the one that is there.
fn update(column: &str) -> String {
    let pair = match column {
        "answer" | "answer_claim" => ["answer", "answer_claim"],
        "request_body" | "request_claim" => ["request_body", "request_claim"],
        _ => return format!("{column} = excluded.{column}"),
    };
    let [body, claim] = pair;
    format!(
        "{column} = CASE WHEN excluded.{body} IS NULL AND excluded.{claim} IS NULL \
         THEN results.{column} ELSE excluded.{column} END"
    )
}

/// The statements that upsert what is known from request records.
pub(super) fn upsert_accepted(
    kind: Kind,
    rows: &[&ResultRow],
) -> impl Iterator<Item = Result<Statement, sqlx::Error>> {
    statements(rows, UPSERT_ACCEPTED.by_chunk(kind), |query, row| {
        let (body, claim) = body_columns(row.request_body.as_ref())?;
        Ok(common(query, row)
            .bind(row.stream.map(i64::from))
            .bind(row.deadline.map(|at| at.0))
            .bind(body)
            .bind(claim)
            .bind(row.request_bytes))
    })
}

/// The statements that upsert what is known from events.
pub(super) fn upsert_progressed(
    kind: Kind,
    rows: &[&ResultRow],
) -> impl Iterator<Item = Result<Statement, sqlx::Error>> {
    statements(rows, UPSERT_PROGRESSED.by_chunk(kind), |query, row| {
        let (body, claim) = body_columns(row.answer.as_ref())?;
        Ok(common(query, row)
            .bind(status_word(row.status))
            .bind(row.started_at.map(|at| at.0))
            .bind(row.finished_at.map(|at| at.0))
            .bind(i64::from(row.run.number))
            .bind(row.run.nonce)
            .bind(i64::from(row.attempt))
            .bind(row.next_sequence)
            .bind(i64::from(row.given_up))
            .bind(row.http_status.map(i64::from))
            .bind(row.error.as_ref().map(json).transpose()?)
            .bind(row.usage.as_ref().map(json).transpose()?)
            .bind(row.cost_nanos)
            .bind(row.deployment.as_deref().map(plain))
            .bind(row.config_version.as_deref().map(plain))
            .bind(json(&row.attempts)?)
            .bind(i64::from(row.partial))
            .bind(body)
            .bind(claim)
            .bind(row.answer_bytes))
    })
}

/// The statements that set the sequence of the next chunk alone.
pub(super) fn move_sequences(
    kind: Kind,
    sequences: &[(RequestId, i64)],
) -> impl Iterator<Item = Statement> {
    let texts = MOVE_SEQUENCES.by_chunk(kind);
    chunks(sequences).map(move |(size, chunk)| {
        let query = sqlx::query(texts[size].as_str());
        chunk.iter().fold(query, |query, (id, next)| {
            query.bind(id.to_string()).bind(*next)
        })
    })
}

fn statements(
    rows: &[&ResultRow],
    texts: &'static [String; CHUNKS.len()],
    bind: fn(Statement, &ResultRow) -> Result<Statement, sqlx::Error>,
) -> impl Iterator<Item = Result<Statement, sqlx::Error>> {
    chunks(rows).map(move |(size, chunk)| {
        let query = sqlx::query(texts[size].as_str());
        chunk.iter().try_fold(query, |query, row| bind(query, row))
    })
}

/// The items in pieces of the [`CHUNKS`], each with the index of its size.
fn chunks<T>(items: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let size = CHUNKS.iter().position(|size| *size <= rest.len())?;
        let (chunk, tail) = rest.split_at(CHUNKS[size]);
        rest = tail;
        Some((size, chunk))
    })
}

fn common(query: Statement, row: &ResultRow) -> Statement {
    query
        .bind(row.id.to_string())
        .bind(plain(&row.tenant))
        .bind(plain(&row.key_id))
        .bind(endpoint_word(row.endpoint))
        .bind(plain(&row.model))
        .bind(lane_word(row.lane))
        .bind(row.accepted_at.0)
}

/// Bytes and claim: one of them, or neither.
fn body_columns(body: Option<&Body>) -> Result<(Option<Vec<u8>>, Option<String>), sqlx::Error> {
    Ok(match body {
        None => (None, None),
        Some(Body::Inline(bytes)) => (Some(bytes.to_vec()), None),
        Some(Body::Claim(claim)) => (None, Some(json(claim)?)),
    })
}

/// Text in JSON escapes NUL by itself.
fn json<T: Serialize>(value: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A row of [`SELECT_MANY`] or [`SELECT_PAGE`].
pub(super) fn read(row: &AnyRow) -> Result<ResultRow, sqlx::Error> {
    let id: String = row.try_get("id")?;
    let id = id.parse().map_err(|_| corrupt("not a request id"))?;
    let error: Option<String> = row.try_get("error")?;
    let usage: Option<String> = row.try_get("usage")?;
    let attempts: String = row.try_get("attempts")?;
    let time = |name: &str| -> Result<Option<Timestamp>, sqlx::Error> {
        Ok(row.try_get::<Option<i64>, _>(name)?.map(Timestamp))
    };
    let small = |name: &str| -> Result<i32, sqlx::Error> {
        i32::try_from(row.try_get::<i64, _>(name)?).map_err(|_| corrupt("a number is too large"))
    };
    let http_status: Option<i64> = row.try_get("http_status")?;
    Ok(ResultRow {
        id,
        tenant: row.try_get("tenant")?,
        key_id: row.try_get("key_id")?,
        endpoint: word(row, "endpoint", &ENDPOINTS)?,
        model: row.try_get("model")?,
        lane: word(row, "lane", &LANES)?,
        stream: row
            .try_get::<Option<i64>, _>("stream")?
            .map(|stream| stream != 0),
        status: word(row, "status", &STATUSES)?,
        accepted_at: Timestamp(row.try_get("accepted_at")?),
        deadline: time("deadline")?,
        started_at: time("started_at")?,
        finished_at: time("finished_at")?,
        run: Run {
            number: small("run_number")?,
            nonce: row.try_get("run_nonce")?,
        },
        attempt: small("attempt")?,
        next_sequence: row.try_get("next_sequence")?,
        given_up: row.try_get::<i64, _>("given_up")? != 0,
        http_status: http_status.and_then(|status| i32::try_from(status).ok()),
        error: error.as_deref().map(from_json).transpose()?,
        usage: usage.as_deref().map(from_json).transpose()?,
        cost_nanos: row.try_get("cost_nanos")?,
        deployment: row.try_get("deployment")?,
        config_version: row.try_get("config_version")?,
        attempts: from_json(&attempts)?,
        answer: None,
        partial: row.try_get::<i64, _>("partial")? != 0,
        request_body: None,
        request_bytes: row.try_get("request_bytes")?,
        answer_bytes: row.try_get("answer_bytes")?,
    })
}

/// A row of [`SELECT_ONE`].
pub(super) fn read_with_bodies(row: &AnyRow) -> Result<ResultRow, sqlx::Error> {
    Ok(ResultRow {
        answer: body(row, "answer", "answer_claim")?,
        request_body: body(row, "request_body", "request_claim")?,
        ..read(row)?
    })
}

fn body(row: &AnyRow, bytes: &str, claim: &str) -> Result<Option<Body>, sqlx::Error> {
    let bytes: Option<Vec<u8>> = row.try_get(bytes)?;
    let claim: Option<String> = row.try_get(claim)?;
    let claim: Option<Claim> = claim.as_deref().map(from_json).transpose()?;
    Ok(match (bytes, claim) {
        (Some(bytes), _) => Some(Body::Inline(Bytes::from(bytes))),
        (None, claim) => claim.map(Body::Claim),
    })
}

const ENDPOINTS: [(&str, Endpoint); 7] = [
    ("chat_completions", Endpoint::ChatCompletions),
    ("completions", Endpoint::Completions),
    ("embeddings", Endpoint::Embeddings),
    ("responses", Endpoint::Responses),
    ("messages", Endpoint::Messages),
    ("count_tokens", Endpoint::CountTokens),
    ("unknown", Endpoint::Unknown),
];

const LANES: [(&str, Lane); 3] = [
    ("interactive", Lane::Interactive),
    ("background", Lane::Background),
    ("batch", Lane::Batch),
];

const STATUSES: [(&str, Status); 7] = [
    ("accepted", Status::Accepted),
    ("running", Status::Running),
    ("deferred", Status::Deferred),
    ("completed", Status::Completed),
    ("failed", Status::Failed),
    ("cancelled", Status::Cancelled),
    ("expired", Status::Expired),
];

fn word<T: Copy>(row: &AnyRow, column: &str, words: &[(&str, T)]) -> Result<T, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    let found = words.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| corrupt("a word of a newer program"))
}

pub(super) fn status_word(status: Status) -> &'static str {
    match status {
        Status::Accepted => "accepted",
        Status::Running => "running",
        Status::Deferred => "deferred",
        Status::Completed => "completed",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
        Status::Expired => "expired",
    }
}

fn endpoint_word(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::ChatCompletions => "chat_completions",
        Endpoint::Completions => "completions",
        Endpoint::Embeddings => "embeddings",
        Endpoint::Responses => "responses",
        Endpoint::Messages => "messages",
        Endpoint::CountTokens => "count_tokens",
        Endpoint::Unknown => "unknown",
    }
}

fn lane_word(lane: Lane) -> &'static str {
    match lane {
        Lane::Interactive => "interactive",
        Lane::Background => "background",
        Lane::Batch => "batch",
    }
}
