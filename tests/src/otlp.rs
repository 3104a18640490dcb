//! A receiver of OTLP over HTTP with protobuf bodies: keeps the spans and the names of the
//! metrics that Lockgate exports, so that a test can assert one trace over all roles.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// A span as it was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// `service.name` of the process that exported it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// 16 hexadecimal digits, or empty for the root of a trace.
    pub parent_span_id: String,
    /// Attributes of the span; values as text.
    pub attributes: Vec<(String, String)>,
    /// When it began, Unix nanoseconds.
    pub started_at: u64,
    /// When it ended, Unix nanoseconds.
    pub ended_at: u64,
}

impl Span {
    /// The value of an attribute, as text.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct Received {
    spans: Mutex<Vec<Span>>,
    metrics: Mutex<BTreeSet<String>>,
    changed: Notify,
}

/// A running receiver. Dropping it closes its port.
#[derive(Debug)]
pub struct Receiver {
    addr: SocketAddr,
    received: Arc<Received>,
    _tasks: TaskTracker,
    _stop: DropGuard,
}

impl Receiver {
    /// Starts on a free port of the loopback interface, on the caller's runtime.
    ///
    /// # Errors
    /// When no port is to be had.
    pub async fn start() -> io::Result<Self> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let received = Arc::new(Received::default());
        let router = Router::new()
            .route("/v1/traces", post(traces))
            .route("/v1/metrics", post(metrics))
            .with_state(Arc::clone(&received));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn({
            let stop = stop.clone();
            async move {
                let serve = axum::serve(listener, router).into_future();
                tokio::select! {
                    () = stop.cancelled() => {}
                    // Accepting never ends by itself.
                    _ended = serve => {}
                }
            }
        });
        Ok(Self {
            addr,
            received,
            _tasks: tasks,
            _stop: stop.drop_guard(),
        })
    }

    /// `http://ADDR`: what `telemetry.otlp_endpoint` is set to.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Every span received so far, in the order of arrival.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.received.spans.lock().clone()
    }

    /// The names of the metrics received so far.
    #[must_use]
    pub fn metrics(&self) -> BTreeSet<String> {
        self.received.metrics.lock().clone()
    }

    /// Waits until the predicate holds for the spans received so far, at most `patience`; it is
    /// asked again after every export. Returns the spans it held for.
    ///
    /// # Errors
    /// The spans that did come, when patience ran out.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_until(
        &self,
        patience: Duration,
        predicate: impl Fn(&[Span]) -> bool,
    ) -> Result<Vec<Span>, Vec<Span>> {
        let wait = async {
            loop {
                // Registered before looking, so that no export falls between look and wait.
                let mut changed = std::pin::pin!(self.received.changed.notified());
                changed.as_mut().enable();
                let spans = self.spans();
                if predicate(&spans) {
                    return spans;
                }
                changed.await;
            }
        };
        let outcome = tokio::time::timeout(patience, wait).await;
        outcome.map_err(|_| self.spans())
    }

    /// Waits for a span that the predicate holds for, and returns the first.
    ///
    /// # Errors
    /// The spans that did come, when patience ran out.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_for(
        &self,
        patience: Duration,
        predicate: impl Fn(&Span) -> bool,
    ) -> Result<Span, Vec<Span>> {
        let spans = self
            .wait_until(patience, |spans| spans.iter().any(&predicate))
            .await?;
        let found = spans.iter().find(|span| predicate(span)).cloned();
        found.ok_or(spans)
    }
}

async fn traces(State(received): State<Arc<Received>>, body: Bytes) -> Response {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    for resource_spans in request.resource_spans {
        let resource = resource_spans.resource.unwrap_or_default();
        let service = resource
            .attributes
            .iter()
            .find(|attribute| attribute.key == "service.name")
            .map(text_of)
            .unwrap_or_default();
        let spans = resource_spans.scope_spans.into_iter().flat_map(|s| s.spans);
        received.spans.lock().extend(spans.map(|span| {
            Span {
                service: service.clone(),
                name: span.name,
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_span_id: hex(&span.parent_span_id),
                attributes: span
                    .attributes
                    .iter()
                    .map(|attribute| (attribute.key.clone(), text_of(attribute)))
                    .collect(),
                started_at: span.start_time_unix_nano,
                ended_at: span.end_time_unix_nano,
            }
        }));
    }
    received.changed.notify_waiters();
    protobuf(ExportTraceServiceResponse::default().encode_to_vec())
}

async fn metrics(State(received): State<Arc<Received>>, body: Bytes) -> Response {
    let Ok(request) = ExportMetricsServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    for resource_metrics in request.resource_metrics {
        let scopes = resource_metrics.scope_metrics.into_iter();
        let names = scopes
            .flat_map(|scope| scope.metrics)
            .map(|metric| metric.name);
        received.metrics.lock().extend(names);
    }
    received.changed.notify_waiters();
    protobuf(ExportMetricsServiceResponse::default().encode_to_vec())
}

fn protobuf(body: Vec<u8>) -> Response {
    let content_type = HeaderValue::from_static("application/x-protobuf");
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

fn text_of(attribute: &KeyValue) -> String {
    let value = attribute.value.as_ref().and_then(|any| any.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::AnyValue;
    use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::{self, ResourceSpans, ScopeSpans};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn attribute(key: &str, value: Value) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        }
    }

    async fn post(receiver: &Receiver, path: &str, body: Vec<u8>) -> reqwest::StatusCode {
        let url = format!("{}{path}", receiver.endpoint());
        let request = reqwest::Client::new().post(url).body(body);
        request.send().await.unwrap().status()
    }

    #[tokio::test]
    async fn it_keeps_spans_and_names_of_metrics() {
        let receiver = Receiver::start().await.unwrap();
        let export = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes: vec![attribute("service.name", Value::StringValue("door".into()))],
                    ..Resource::default()
                }),
                scope_spans: vec![ScopeSpans {
                    spans: vec![v1::Span {
                        name: "request".into(),
                        trace_id: vec![0xab; 16],
                        span_id: vec![1; 8],
                        attributes: vec![attribute("attempt", Value::IntValue(2))],
                        ..v1::Span::default()
                    }],
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        let waiting = receiver.wait_for(PATIENCE, |span| span.name == "request");
        let posting = post(&receiver, "/v1/traces", export.encode_to_vec());
        let (span, status) = futures::join!(waiting, posting);
        assert_eq!(status, 200);
        let span = span.unwrap();
        assert_eq!(span.service, "door");
        assert_eq!(span.trace_id, "ab".repeat(16));
        assert_eq!(span.parent_span_id, "");
        assert_eq!(span.attribute("attempt"), Some("2"));

        let export = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                scope_metrics: vec![ScopeMetrics {
                    metrics: vec![Metric {
                        name: "lag".into(),
                        ..Metric::default()
                    }],
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        };
        post(&receiver, "/v1/metrics", export.encode_to_vec()).await;
        assert!(receiver.metrics().contains("lag"));
        assert_eq!(post(&receiver, "/v1/traces", vec![0xff]).await, 400);
    }
}
