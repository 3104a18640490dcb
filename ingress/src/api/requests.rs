//! `GET /v1/requests` and `GET /v1/requests/{id}`: what became of a request.

use hyper::{HeaderMap, StatusCode};
use runtime::objects::Objects;
use runtime::store::Store;
use runtime::store::keys::KeySnapshot;
use runtime::store::results::{Filter, ResultRow, Status};
use schemas::event::{Attempt, ErrorBody, Usage};
use schemas::id::RequestId;
use schemas::request::{Endpoint, Lane};
use serde::Serialize;
use serde_json::value::RawValue;
use tracing::warn;

use super::{List, rfc3339};
use crate::reply::{self, Reply};
use crate::{auth, error};

const LIMIT_MAX: u32 = 100;
const LIMIT_DEFAULT: u32 = 20;

/// Reads requests from the store.
#[derive(Debug)]
pub(crate) struct Requests {
    pub(crate) keys: KeySnapshot,
    pub(crate) store: Store,
    pub(crate) objects: Objects,
}

/// A request as clients see it.
#[derive(Debug, Serialize)]
struct View {
    id: RequestId,
    object: &'static str,
    status: &'static str,
    endpoint: &'static str,
    model: String,
    lane: &'static str,
    stream: Option<bool>,
    key_id: String,
    created_at: i64,
    accepted_at: Option<String>,
    started_at: Option<String>,
    finished_at: Option<String>,
    deadline: Option<String>,
    http_status: Option<i32>,
    deployment: Option<String>,
    config_version: Option<String>,
    attempts: Vec<AttemptView>,
    usage: Option<UsageView>,
    /// Nano-dollars; exact, unlike a fraction.
    cost_nanos: Option<i64>,
    error: Option<ErrorView>,
    request_bytes: Option<i64>,
    answer_bytes: Option<i64>,
    /// Whether `answer` is only the part that came.
    partial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize)]
struct AttemptView {
    number: i32,
    deployment: String,
    key_name: Option<String>,
    started_at: Option<String>,
    first_token_ms: Option<f64>,
    duration_ms: f64,
    http_status: Option<i32>,
    upstream_request_id: Option<String>,
    usage: Option<UsageView>,
    cost_nanos: Option<i64>,
    error: Option<ErrorView>,
}

#[derive(Debug, Serialize)]
struct UsageView {
    prompt_tokens: i64,
    completion_tokens: i64,
    total_tokens: i64,
    cached_tokens: i64,
    reasoning_tokens: i64,
    estimated: bool,
}

#[derive(Debug, Serialize)]
struct ErrorView {
    message: String,
    r#type: String,
    param: Option<String>,
    code: Option<String>,
}

impl Requests {
    /// A page of the caller's tenant's requests, newest first.
    pub(crate) async fn list(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<Reply, ErrorBody> {
        let key = auth::caller(headers, &self.keys)?;
        let filter = filter(&key.tenant, query.unwrap_or_default())?;
        auth::needs_store(&self.keys)?;
        let rows = self.page(&filter).await?;
        let has_more = match rows.last() {
            Some(last) if rows.len() >= filter.limit as usize => {
                let beyond = Filter {
                    after: Some(last.id),
                    limit: 1,
                    ..filter
                };
                !self.page(&beyond).await?.is_empty()
            }
            _ => false,
        };
        let views = rows.into_iter().map(|row| view(row, None)).collect();
        let list = List::new(views, has_more, |view: &View| view.id.to_string());
        reply::json(StatusCode::OK, &list)
    }

    /// One request with its answer. Another tenant's does not exist for the caller.
    pub(crate) async fn get(&self, headers: &HeaderMap, name: &str) -> Result<Reply, ErrorBody> {
        let key = auth::caller(headers, &self.keys)?;
        let unknown = || error::unknown_request(name);
        let id: RequestId = name.parse().map_err(|_| unknown())?;
        auth::needs_store(&self.keys)?;
        let mut row = self
            .store
            .result(id)
            .await
            .map_err(|cause| unavailable(&cause))?
            .filter(|row| row.tenant == key.tenant)
            .ok_or_else(unknown)?;
        let answer = match row.answer.take() {
            None => None,
            Some(body) => match self.objects.load(&body).await {
                Ok(bytes) => as_json(&bytes),
                Err(cause) => {
                    warn!(request.id = %id, error = %cause, "answer could not be fetched");
                    return Err(error::objects(&cause));
                }
            },
        };
        reply::json(StatusCode::OK, &view(row, answer))
    }

    async fn page(&self, filter: &Filter) -> Result<Vec<ResultRow>, ErrorBody> {
        let rows = self.store.list_results(filter).await;
        rows.map_err(|cause| unavailable(&cause))
    }
}

fn unavailable(cause: &runtime::store::StoreError) -> ErrorBody {
    warn!(error = %cause, "requests could not be read");
    error::store(cause)
}

/// JSON as it is; anything else as a JSON string.
fn as_json(bytes: &[u8]) -> Option<Box<RawValue>> {
    match serde_json::from_slice::<Box<RawValue>>(bytes) {
        Ok(raw) => Some(raw),
        Err(_) => {
            let text = serde_json::to_string(&String::from_utf8_lossy(bytes)).ok()?;
            RawValue::from_string(text).ok()
        }
    }
}

fn filter(tenant: &str, query: &str) -> Result<Filter, ErrorBody> {
    let mut filter = Filter {
        tenant: tenant.to_owned(),
        status: None,
        model: None,
        after: None,
        limit: LIMIT_DEFAULT,
    };
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "after" => filter.after = Some(after(&value)?),
            "limit" => filter.limit = limit(&value)?,
            "status" => filter.status = Some(status(&value)?),
            "model" => filter.model = Some(value.into_owned()),
            _ => {
                let message = format!("Unknown query parameter `{name}`.");
                return Err(ErrorBody::invalid_request(Some(&name), message));
            }
        }
    }
    Ok(filter)
}

fn after(value: &str) -> Result<RequestId, ErrorBody> {
    value
        .parse()
        .map_err(|_| ErrorBody::invalid_request(Some("after"), "`after` must be a request id."))
}

fn limit(value: &str) -> Result<u32, ErrorBody> {
    value
        .parse()
        .ok()
        .filter(|limit| (1..=LIMIT_MAX).contains(limit))
        .ok_or_else(|| {
            ErrorBody::invalid_request(
                Some("limit"),
                format!("`limit` must be a number from 1 to {LIMIT_MAX}."),
            )
        })
}

const STATUSES: [(Status, &str); 7] = [
    (Status::Accepted, "accepted"),
    (Status::Running, "running"),
    (Status::Deferred, "deferred"),
    (Status::Completed, "completed"),
    (Status::Failed, "failed"),
    (Status::Cancelled, "cancelled"),
    (Status::Expired, "expired"),
];

fn status(value: &str) -> Result<Status, ErrorBody> {
    let found = STATUSES.iter().find(|(_, name)| *name == value);
    found.map(|(status, _)| *status).ok_or_else(|| {
        let names: Vec<_> = STATUSES.iter().map(|(_, name)| *name).collect();
        let message = format!("`status` must be one of {}.", names.join(", "));
        ErrorBody::invalid_request(Some("status"), message)
    })
}

fn status_name(status: Status) -> &'static str {
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

fn endpoint_name(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::ChatCompletions => "/v1/chat/completions",
        Endpoint::Completions => "/v1/completions",
        Endpoint::Embeddings => "/v1/embeddings",
        Endpoint::Responses => "/v1/responses",
        Endpoint::Messages => "/v1/messages",
        Endpoint::CountTokens => "/v1/messages/count_tokens",
        Endpoint::Unknown => "unknown",
    }
}

fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Interactive => "interactive",
        Lane::Background => "background",
        Lane::Batch => "batch",
    }
}

fn view(row: ResultRow, answer: Option<Box<RawValue>>) -> View {
    View {
        id: row.id,
        object: "request",
        status: status_name(row.status),
        endpoint: endpoint_name(row.endpoint),
        model: row.model,
        lane: lane_name(row.lane),
        stream: row.stream,
        key_id: row.key_id,
        created_at: row.accepted_at.seconds(),
        accepted_at: rfc3339(row.accepted_at),
        started_at: row.started_at.and_then(rfc3339),
        finished_at: row.finished_at.and_then(rfc3339),
        deadline: row.deadline.and_then(rfc3339),
        http_status: row.http_status,
        deployment: row.deployment,
        config_version: row.config_version,
        attempts: row.attempts.into_iter().map(attempt_view).collect(),
        usage: row.usage.map(usage_view),
        cost_nanos: row.cost_nanos,
        error: row.error.map(error_view),
        request_bytes: row.request_bytes,
        answer_bytes: row.answer_bytes,
        partial: row.partial,
        answer,
    }
}

fn attempt_view(attempt: Attempt) -> AttemptView {
    let millis = |micros: i64| micros as f64 / 1_000.0;
    AttemptView {
        number: attempt.number,
        deployment: attempt.deployment,
        key_name: attempt.key_name,
        started_at: rfc3339(attempt.started_at),
        first_token_ms: attempt.first_token_micros.map(millis),
        duration_ms: millis(attempt.duration_micros),
        http_status: attempt.status,
        upstream_request_id: attempt.upstream_request_id,
        usage: attempt.usage.map(usage_view),
        cost_nanos: attempt.cost_nanos,
        error: attempt.error.map(error_view),
    }
}

fn usage_view(usage: Usage) -> UsageView {
    UsageView {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
        cached_tokens: usage.cached_tokens,
        reasoning_tokens: usage.reasoning_tokens,
        estimated: usage.estimated,
    }
}

fn error_view(error: ErrorBody) -> ErrorView {
    ErrorView {
        message: error.message,
        r#type: error.kind,
        param: error.param,
        code: error.code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_a_whole() {
        let read = filter("t", "limit=5&status=failed&model=a%2Fb").unwrap();
        assert_eq!(read.limit, 5);
        assert_eq!(read.status, Some(Status::Failed));
        assert_eq!(read.model.as_deref(), Some("a/b"));
        assert_eq!(read.tenant, "t");
    }

    #[test]
    fn a_bad_query_names_the_parameter_at_fault() {
        for (query, param) in [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=x", "limit"),
            ("after=x", "after"),
            ("status=done", "status"),
            ("colour=red", "colour"),
        ] {
            let error = filter("t", query).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{query}");
            assert_eq!(error.status, 400);
        }
    }

    #[test]
    fn every_status_reads_as_it_is_written() {
        for (known, name) in STATUSES {
            assert_eq!(status(name), Ok(known));
            assert_eq!(status_name(known), name);
        }
    }

    #[test]
    fn an_answer_that_is_no_json_is_shown_as_text() {
        assert_eq!(as_json(b"{\"a\":1}").unwrap().get(), "{\"a\":1}");
        assert_eq!(as_json(b"plain").unwrap().get(), "\"plain\"");
    }
}
