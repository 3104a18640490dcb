//! From method and path to the operation, and what every answer has in common.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::http::request::Parts as Head;
use hyper::{HeaderMap, Method, Request, StatusCode};
use runtime::telemetry;
use schemas::event::ErrorBody;
use schemas::header::TRACEPARENT;
use schemas::id::RequestId;
use schemas::topic::ReplyPlace;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field, info_span};

use crate::admission::Admission;
use crate::api::health::Health;
use crate::api::inference::Inference;
use crate::api::keys::Keys;
use crate::api::models::ModelList;
use crate::api::requests::Requests;
use crate::body::{self, Limits};
use crate::call::Call;
use crate::error;
use crate::metrics::Metrics;
use crate::operation::Operation;
use crate::reply::{self, Reply};
use crate::shape::Shape;

/// Largest body of an administrative call.
const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;

/// The operations, and what stands before all of them.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) inference: Inference,
    pub(crate) models: ModelList,
    pub(crate) requests: Requests,
    pub(crate) keys: Keys,
    pub(crate) health: Health,
    pub(crate) admission: Arc<Admission>,
    pub(crate) metrics: Metrics,
    pub(crate) reply_place: ReplyPlace,
    pub(crate) head_bytes_max: usize,
    /// Cancelled when no more requests are taken.
    pub(crate) stop: CancellationToken,
}

/// A known path.
#[derive(Debug, PartialEq, Eq)]
enum Path<'a> {
    Operation(Operation),
    Models,
    Model(Cow<'a, str>),
    Requests,
    Request(&'a str),
    Keys,
    Key(&'a str),
    KeyDisable(&'a str),
    Health,
}

impl Routes {
    /// Answers one call; errors become answers here.
    pub(crate) async fn serve(
        &self,
        request: Request<Incoming>,
        connection: CancellationToken,
    ) -> Reply {
        let (head, mut body) = request.into_parts();
        let call = Call {
            id: RequestId::new(self.reply_place),
            began: Instant::now(),
            shape: Shape::of(head.uri.path()),
            connection,
        };
        let path = Path::of(head.uri.path());
        let endpoint = path.as_ref().map_or("unknown", Path::label);
        let span = span(&call, &head.method, &head.headers, endpoint);

        let mut reply = self
            .checked(&call, &head, path, &mut body)
            .instrument(span.clone())
            .await;
        let status = reply.status();
        if status.as_u16() >= 400 && status != StatusCode::REQUEST_TIMEOUT {
            body::discard(body, &head.headers).await;
        }
        reply::stamp(&mut reply, &call);
        if self.stop.is_cancelled() {
            reply::close(&mut reply);
        }
        let status = status.as_u16();
        span.record("http.response.status_code", status);
        self.metrics
            .answered(endpoint, status, call.began.elapsed());
        reply
    }

    /// A whole HTTP answer for a connection on which no request was read; it closes then.
    pub(crate) fn bare(&self, error: &ErrorBody) -> Vec<u8> {
        let call = Call {
            id: RequestId::new(self.reply_place),
            began: Instant::now(),
            shape: Shape::OpenAi,
            connection: CancellationToken::new(),
        };
        let mut reply = reply::error(error, call.shape, call.id);
        reply::stamp(&mut reply, &call);
        reply::close(&mut reply);
        reply::bytes(reply)
    }

    async fn checked(
        &self,
        call: &Call,
        head: &Head,
        path: Option<Path<'_>>,
        body: &mut Incoming,
    ) -> Reply {
        let bytes_max = self.head_bytes_max;
        let refused = if self.stop.is_cancelled() {
            error::shutting_down()
        } else if head_bytes(head) > bytes_max {
            error::headers_too_large(bytes_max)
        } else if let Some(path) = path {
            let allowed = path.allowed();
            if !allowed.split(", ").any(|name| name == head.method.as_str()) {
                let error = ErrorBody::method_not_allowed();
                let mut reply = reply::error(&error, call.shape, call.id);
                let allowed = HeaderValue::from_static(allowed);
                reply.headers_mut().insert(ALLOW, allowed);
                return reply;
            }
            match self.call(call, head, path, body).await {
                Ok(reply) => return reply,
                Err(error) => error,
            }
        } else {
            error::unknown_route(&head.method, head.uri.path())
        };
        reply::error(&refused, call.shape, call.id)
    }

    /// The operation behind a path, whose method is one of those allowed.
    async fn call(
        &self,
        call: &Call,
        head: &Head,
        path: Path<'_>,
        body: &mut Incoming,
    ) -> Result<Reply, ErrorBody> {
        let headers = &head.headers;
        match path {
            Path::Operation(operation) => {
                self.inference.create(call, operation, headers, body).await
            }
            Path::Models => self.models.list(headers),
            Path::Model(name) => self.models.get(headers, &name),
            Path::Requests => self.requests.list(headers, head.uri.query()).await,
            Path::Request(id) => self.requests.get(headers, id).await,
            Path::Keys if head.method == Method::GET => self.keys.list(headers).await,
            Path::Keys => self.create_key(headers, body).await,
            Path::Key(id) | Path::KeyDisable(id) => self.keys.disable(headers, id).await,
            Path::Health => self.health.get(headers),
        }
    }

    async fn create_key(
        &self,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Reply, ErrorBody> {
        self.keys.authorize(headers)?;
        let limits = Limits {
            bytes_max: ADMIN_BODY_BYTES_MAX,
            ..self.inference.limits
        };
        let (bytes, _held) = body::read(body, limits, &self.admission).await?;
        self.keys.create(&bytes).await
    }
}

impl<'a> Path<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let one = |id: &'a str| (!id.is_empty() && !id.contains('/')).then_some(id);
        if let Some(operation) = Operation::at(path) {
            return Some(Self::Operation(operation));
        }
        match path {
            "/v1/models" => Some(Self::Models),
            "/v1/requests" => Some(Self::Requests),
            "/admin/v1/keys" => Some(Self::Keys),
            "/admin/v1/health" => Some(Self::Health),
            _ => {
                if let Some(name) = path.strip_prefix("/v1/models/") {
                    return percent_decode(name)
                        .filter(|name| !name.is_empty())
                        .map(Self::Model);
                }
                if let Some(id) = path.strip_prefix("/v1/requests/") {
                    return one(id).map(Self::Request);
                }
                let id = path.strip_prefix("/admin/v1/keys/")?;
                match id.strip_suffix("/disable") {
                    Some(id) => one(id).map(Self::KeyDisable),
                    None => one(id).map(Self::Key),
                }
            }
        }
    }

    /// As the header `Allow` has it.
    fn allowed(&self) -> &'static str {
        match self {
            Self::Operation(_) | Self::KeyDisable(_) => "POST",
            Self::Models | Self::Model(_) | Self::Requests | Self::Request(_) | Self::Health => {
                "GET"
            }
            Self::Keys => "GET, POST",
            Self::Key(_) => "DELETE",
        }
    }

    /// The route, for metrics and spans.
    fn label(&self) -> &'static str {
        match self {
            Self::Operation(operation) => operation.path(),
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{id}",
            Self::Requests => "/v1/requests",
            Self::Request(_) => "/v1/requests/{id}",
            Self::Keys => "/admin/v1/keys",
            Self::Key(_) => "/admin/v1/keys/{id}",
            Self::KeyDisable(_) => "/admin/v1/keys/{id}/disable",
            Self::Health => "/admin/v1/health",
        }
    }
}

fn span(call: &Call, method: &Method, headers: &HeaderMap, endpoint: &'static str) -> Span {
    let span = info_span!(
        "request",
        otel.kind = "server",
        request.id = %call.id,
        http.request.method = %method,
        http.route = endpoint,
        http.response.status_code = field::Empty,
    );
    if let Some(parent) = headers
        .get(TRACEPARENT)
        .and_then(|value| value.to_str().ok())
    {
        telemetry::set_parent(&span, parent);
    }
    span
}

/// Bytes of the request's head, as far as its sender decides on them.
fn head_bytes(head: &Head) -> usize {
    let uri = head
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    let line = |(name, value): (&hyper::header::HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + ": \r\n".len()
    };
    uri + head.headers.iter().map(line).sum::<usize>()
}

/// The text behind `%41`-style escapes; none when they are broken or not UTF-8.
fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        decoded.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_may_contain_slashes_and_escapes() {
        for (path, name) in [
            ("/v1/models/gpt-4o", "gpt-4o"),
            ("/v1/models/meta/llama-3", "meta/llama-3"),
            ("/v1/models/meta%2Fllama-3", "meta/llama-3"),
        ] {
            assert_eq!(Path::of(path), Some(Path::Model(name.into())));
        }
    }

    #[test]
    fn a_path_that_is_none_of_ours_is_unknown() {
        for path in [
            "/",
            "/v1",
            "/v1/models/",
            "/v1/models/%",
            "/v1/models/%ff",
            "/v1/requests/",
            "/v1/requests/a/b",
            "/v1/chat/completions/",
            "/admin/v1/keys/",
            "/admin/v1/keys//disable",
        ] {
            assert_eq!(Path::of(path), None, "{path}");
        }
        assert_eq!(
            Path::of("/admin/v1/keys/k/disable"),
            Some(Path::KeyDisable("k"))
        );
        assert_eq!(Path::of("/admin/v1/keys/k"), Some(Path::Key("k")));
    }
}
