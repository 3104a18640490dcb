//! Logs, traces, metrics, and the small HTTP server for `/metrics`, `/healthz`, `/readyz`.
//!
//! Without an OTLP endpoint nothing is interested in spans, so `tracing` switches them off at their call sites; a
//! `traceparent` that a client sends is passed on all the same (see [`traceparent_or`]). With one, spans of level info
//! and above of our own crates are exported by a runtime and threads of their own: neither a busy nor a stopping
//! program holds them up, and they hold up nobody.

mod chain;
mod export;
pub mod key;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub use chain::Chain;
use opentelemetry::metrics::{Histogram, Meter, MeterProvider as _};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TraceFlags, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::{Dispatch, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer};

pub use server::{Readiness, serve};

use crate::config::{self, LogFormat, Role};

/// Name of the instrumentation in traces and metrics.
const SCOPE: &str = "lockgate";
/// Longest that [`Telemetry::flush`] takes.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// Length of a `traceparent`, all that fits version 00.
const TRACEPARENT_BYTES: usize = 55;

/// Upper bounds in seconds for histograms of waiting times, from half a millisecond to the longest deadline in use.
pub const SECONDS: [f64; 20] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0,
    40.0, 80.0, 160.0, 320.0, 640.0,
];

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter's settings are refused.
    #[error("telemetry cannot be exported: {reason}")]
    Export {
        /// In words, without secrets.
        reason: String,
    },
    /// There is a subscriber in this process already.
    #[error("logs of this process are taken already")]
    Taken,
}

/// Handle on the telemetry of this process; clones share it.
#[derive(Debug, Clone)]
pub struct Telemetry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: prometheus::Registry,
    meters: SdkMeterProvider,
    /// None: no OTLP endpoint.
    traces: Option<SdkTracerProvider>,
    /// What exporters send on; dropped last and without waiting, since it may be dropped on another runtime.
    _exports: Option<export::Runtime>,
}

/// Sets up logs (on standard error), metrics and, with an endpoint, export for the whole process. Call it once, at the
/// start.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(role: Role, settings: &config::Telemetry) -> Result<Telemetry, TelemetryError> {
    let (dispatch, telemetry) = build(role, settings, std::io::stderr)?;
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| TelemetryError::Taken)?;
    opentelemetry::global::set_meter_provider(telemetry.shared.meters.clone());
    Ok(telemetry)
}

/// [`init`] without its effects on the process.
fn build<W>(
    role: Role,
    settings: &config::Telemetry,
    writer: W,
) -> Result<(Dispatch, Telemetry), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let resource = Resource::builder_empty()
        .with_attributes([
            // Split roles are services of their own, so that a trace shows who called whom.
            KeyValue::new(
                key::SERVICE_NAME,
                match role {
                    Role::Serve => "lockgate",
                    Role::Ingress => "lockgate-ingress",
                    Role::Processors => "lockgate-processors",
                    Role::Sinks => "lockgate-sinks",
                },
            ),
            KeyValue::new(key::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
            KeyValue::new(key::SERVICE_INSTANCE_ID, uuid::Uuid::new_v4().to_string()),
            KeyValue::new(key::ROLE, role.name()),
        ])
        .build();
    let refused = |reason: String| TelemetryError::Export { reason };
    let registry = prometheus::Registry::new();
    let scrape = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .build()
        .map_err(|error| refused(error.to_string()))?;
    let mut meters = SdkMeterProvider::builder()
        .with_resource(resource.clone())
        .with_reader(scrape);
    let mut traces = None;
    let mut exports = None;
    if let Some(endpoint) = &settings.otlp_endpoint {
        let runtime = export::Runtime::start().map_err(|error| refused(error.to_string()))?;
        meters = meters.with_reader(runtime.metrics(endpoint)?);
        traces = Some(
            SdkTracerProvider::builder()
                .with_resource(resource)
                // A client that says that it does not sample is not sampled.
                .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
                .with_batch_exporter(runtime.spans(endpoint)?)
                .build(),
        );
        exports = Some(runtime);
    }

    let filter = EnvFilter::try_new(&settings.log_level)
        .map_err(|error| refused(error.to_string()))?
        // Lines carry their own fields. Were they interested in spans, every span would be formatted.
        .and(filter_fn(|metadata| metadata.is_event()));
    // For all: without it a span costs its place in the registry.
    let no_spans = traces
        .is_none()
        .then(|| filter_fn(|metadata| metadata.is_event()));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match settings.log_format {
        LogFormat::Human => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_ansi(is_terminal).boxed()
        }
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
    };
    let spans = traces.as_ref().map(|traces| {
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer(SCOPE))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| {
                metadata.is_span()
                    && *metadata.level() <= tracing::Level::INFO
                    && !is_foreign(metadata.target())
            }))
    });
    let subscriber = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans)
        .with(no_spans);
    let telemetry = Telemetry {
        shared: Arc::new(Shared {
            registry,
            meters: meters.build(),
            traces,
            _exports: exports,
        }),
    };
    Ok((Dispatch::new(subscriber), telemetry))
}

/// Whether spans of this target are about somebody else's inner life, or about exporting spans.
fn is_foreign(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or(target);
    [
        "h2",
        "hyper",
        "hyper_util",
        "reqwest",
        "rustls",
        "sqlx",
        "tower",
        "opentelemetry_sdk",
    ]
    .contains(&name)
}

impl Telemetry {
    /// The meter to build instruments from: once, at the start, to be kept. See [`meter`].
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.shared.meters.meter(SCOPE)
    }

    /// Sends what is left and ends the export; waits at most 5 s. `/metrics` goes on as it was.
    ///
    /// Waits for threads and a runtime of its own, so that it may be called anywhere, also on a runtime's only thread.
    pub fn flush(&self) {
        if self.shared.traces.is_none() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let (done, wait) = std::sync::mpsc::sync_channel(1);
        let flush = move || {
            let traces = shared
                .traces
                .as_ref()
                .map(|traces| traces.shutdown_with_timeout(FLUSH_MAX));
            let outcome = traces
                .unwrap_or(Ok(()))
                .and(shared.meters.shutdown_with_timeout(FLUSH_MAX));
            // Nobody waits any more.
            drop(done.send(outcome));
        };
        let started = std::thread::Builder::new()
            .name("telemetry-flush".to_owned())
            .spawn(flush);
        let problem = match started {
            Err(error) => error.to_string(),
            Ok(_) => match wait.recv_timeout(FLUSH_MAX) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("not done within {FLUSH_MAX:?}"),
            },
        };
        tracing::warn!(
            problem,
            "the last traces and metrics may not have been sent"
        );
    }
}

/// The process's meter, for those that are not handed a [`Telemetry`]; before [`init`] its instruments measure nothing.
///
/// Build each instrument once and keep it; the attributes of each use are from closed sets, never ids. Names are
/// `lockgate.noun`, with the unit apart: Prometheus sees `lockgate_noun_seconds`, and counters with `_total`.
#[must_use]
pub fn meter() -> Meter {
    opentelemetry::global::meter(SCOPE)
}

/// A histogram of waiting times with the bounds of [`SECONDS`].
#[must_use]
pub fn seconds(meter: &Meter, name: &'static str, description: &'static str) -> Histogram<f64> {
    meter
        .f64_histogram(name)
        .with_unit("s")
        .with_description(description)
        .with_boundaries(SECONDS.to_vec())
        .build()
}

/// The W3C trace context of the current span; none when spans are not exported or there is no span.
#[must_use]
pub fn traceparent() -> Option<String> {
    traceparent_of(&Span::current())
}

/// The W3C trace context of a span; none when it is not exported.
#[must_use]
pub fn traceparent_of(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| {
        let flags = span.trace_flags() & TraceFlags::SAMPLED;
        format!(
            "00-{}-{}-{:02x}",
            span.trace_id(),
            span.span_id(),
            flags.to_u8()
        )
    })
}

/// What goes into a record or an outgoing request: the current span's trace context, else the one that came in, if it
/// is well formed. So a client's trace goes on behind Lockgate also when Lockgate itself exports nothing.
#[must_use]
pub fn traceparent_or(incoming: Option<&str>) -> Option<String> {
    traceparent().or_else(|| {
        let incoming = incoming?;
        parse(incoming).map(|_| incoming.to_owned())
    })
}

/// Makes `span` a child of the span that `traceparent` names. Before anything is done in the span; what is not well
/// formed is passed over, as the W3C says.
pub fn set_parent(span: &Span, traceparent: &str) {
    if span.is_disabled() {
        return;
    }
    if let Some(context) = parse(traceparent)
        && let Err(error) = span.set_parent(context)
    {
        tracing::debug!(%error, "span has no place for a parent");
    }
}

fn parse(traceparent: &str) -> Option<Context> {
    /// The one header there is.
    struct Header<'h>(&'h str);

    impl Extractor for Header<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            (key == "traceparent").then_some(self.0)
        }

        fn keys(&self) -> Vec<&str> {
            vec!["traceparent"]
        }
    }

    if traceparent.len() != TRACEPARENT_BYTES {
        return None;
    }
    let none = Context::new();
    let context = TraceContextPropagator::new().extract_with_context(&none, &Header(traceparent));
    context.span().span_context().is_valid().then_some(context)
}
