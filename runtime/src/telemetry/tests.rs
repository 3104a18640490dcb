use std::io::Write;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span as ExportedSpan;
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, info_span};

use super::*;

const INCOMING: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn settings(endpoint: Option<SocketAddr>, log_format: LogFormat) -> config::Telemetry {
    config::Telemetry {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        log_format,
        otlp_endpoint: endpoint.map(|address| format!("http://{address}/").parse().unwrap()),
        log_level: "info".to_owned(),
    }
}

/// What was written, for all to see.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn start(settings: &config::Telemetry) -> (Dispatch, Telemetry, Lines) {
    let lines = Lines::default();
    let writer = lines.clone();
    let (dispatch, telemetry) = build(Role::Serve, settings, move || writer.clone()).unwrap();
    (dispatch, telemetry, lines)
}

#[derive(Default)]
struct Collector {
    spans: Mutex<Vec<ExportedSpan>>,
    metrics: Mutex<Vec<String>>,
}

async fn take_spans(State(collector): State<Arc<Collector>>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let spans = request
        .resource_spans
        .into_iter()
        .flat_map(|it| it.scope_spans);
    collector
        .spans
        .lock()
        .unwrap()
        .extend(spans.flat_map(|it| it.spans));
}

async fn take_metrics(State(collector): State<Arc<Collector>>, body: Bytes) {
    let request = ExportMetricsServiceRequest::decode(body).unwrap();
    let metrics = request
        .resource_metrics
        .into_iter()
        .flat_map(|it| it.scope_metrics);
    let names = metrics.flat_map(|it| it.metrics).map(|it| it.name);
    collector.metrics.lock().unwrap().extend(names);
}

/// A collector that answers on a runtime of its own, so that the test's may block.
fn collector() -> (tokio::runtime::Runtime, Arc<Collector>, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let collector = Arc::new(Collector::default());
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new()
        .route("/v1/traces", post(take_spans))
        .route("/v1/metrics", post(take_metrics))
        .with_state(Arc::clone(&collector));
    runtime.spawn(async move { axum::serve(listener, routes).await });
    (runtime, collector, address)
}

fn one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn spans_and_metrics_reach_the_collector_by_a_flush_on_the_only_thread() {
    let (runtime, collector, address) = collector();
    let (dispatch, telemetry, lines) = start(&settings(Some(address), LogFormat::Human));
    let traceparent = tracing::dispatcher::with_default(&dispatch, || {
        one_thread().block_on(async {
            let outer = info_span!("request", { key::REQUEST_ID } = "req_1");
            set_parent(&outer, INCOMING);
            let made = outer.in_scope(|| {
                let made = traceparent();
                assert_eq!(traceparent_or(Some("nonsense")), made);
                info_span!("call").in_scope(|| info!("inside"));
                made
            });
            drop(outer);
            telemetry
                .meter()
                .u64_counter("lockgate.requests")
                .build()
                .add(1, &[]);
            telemetry.flush();
            made
        })
    });
    let spans = collector.spans.lock().unwrap();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["call", "request"]);
    let (inner, outer) = (&spans[0], &spans[1]);
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    assert_eq!(hex(&outer.parent_span_id), "b7ad6b7169203331");
    assert_eq!(inner.parent_span_id, outer.span_id);
    assert_eq!(outer.attributes[0].key, "request.id");
    let expected = format!(
        "00-0af7651916cd43dd8448eb211c80319c-{}-01",
        hex(&outer.span_id)
    );
    assert_eq!(traceparent, Some(expected));
    assert_eq!(*collector.metrics.lock().unwrap(), ["lockgate.requests"]);
    assert!(lines.text().contains("inside"));
    runtime.shutdown_background();
}

#[test]
fn a_flush_ends_also_when_nobody_answers() {
    // A listener that accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let (dispatch, telemetry, _) = start(&settings(Some(address), LogFormat::Human));
    tracing::dispatcher::with_default(&dispatch, || {
        one_thread().block_on(async {
            info_span!("request").in_scope(|| {});
            let start = Instant::now();
            telemetry.flush();
            assert!(start.elapsed() < FLUSH_MAX + Duration::from_secs(2));
            // Its runtime may be dropped on another one.
            drop(telemetry);
        });
    });
}

#[test]
fn without_an_endpoint_spans_are_off_and_the_incoming_trace_is_passed_on() {
    let (dispatch, telemetry, lines) = start(&settings(None, LogFormat::Human));
    tracing::dispatcher::with_default(&dispatch, || {
        let span = info_span!("request");
        assert!(span.is_disabled());
        set_parent(&span, INCOMING);
        span.in_scope(|| {
            assert_eq!(traceparent(), None);
            assert_eq!(traceparent_or(Some(INCOMING)).as_deref(), Some(INCOMING));
            for bad in [
                "",
                "00-x",
                "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                &"0".repeat(55),
            ] {
                assert_eq!(traceparent_or(Some(bad)), None, "{bad}");
            }
            assert_eq!(traceparent_or(None), None);
            info!("line");
        });
        telemetry.flush();
    });
    assert!(lines.text().contains("line"), "{}", lines.text());
}

#[test]
fn json_lines_have_one_object_each_with_flat_fields() {
    let (dispatch, _telemetry, lines) = start(&settings(None, LogFormat::Json));
    tracing::dispatcher::with_default(&dispatch, || {
        info!({ key::REQUEST_ID } = "req_1", "request completed");
        tracing::debug!("too fine");
    });
    let text = lines.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["request.id"], "req_1");
    assert_eq!(line["message"], "request completed");
    assert_eq!(line["level"], "INFO");
}

#[tokio::test]
async fn the_server_tells_metrics_health_and_what_is_missing() {
    let (_, telemetry, _) = start(&settings(None, LogFormat::Human));
    let meter = telemetry.meter();
    let accepted = meter.u64_counter("lockgate.requests").build();
    accepted.add(2, &[KeyValue::new(key::LANE, "interactive")]);
    seconds(&meter, "lockgate.first_token", "Until the first token").record(0.02, &[]);
    let readiness = Readiness::new(["log", "store"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    tasks.spawn(serve(listener, telemetry, readiness.clone(), stop.clone()));
    let get = async |path: &str| {
        let answer = reqwest::get(format!("http://{address}{path}"))
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, text) = get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "lockgate_requests_total{lane=\"interactive\"} 2",
        "lockgate_first_token_seconds_bucket{le=\"0.025\"} 1",
        "lockgate_first_token_seconds_bucket{le=\"0.01\"} 0",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    assert_eq!(get("/healthz").await.0, 200);
    assert_eq!(
        get("/readyz").await,
        (503, "not ready:\nlog\nstore\n".to_owned())
    );
    readiness.set("store", true);
    assert_eq!(get("/readyz").await, (503, "not ready:\nlog\n".to_owned()));
    readiness.set("log", true);
    assert!(readiness.is_ready());
    assert_eq!(get("/readyz").await.0, 200);
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
