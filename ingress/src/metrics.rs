//! What the door counts. Labels come from closed sets, never from callers.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};
use runtime::fleet::Fleet;
use runtime::telemetry::{self, key};

use crate::models::InForce;

/// The instruments; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    instruments: Arc<Instruments>,
}

#[derive(Debug)]
struct Instruments {
    requests: Counter<u64>,
    duration: Histogram<f64>,
    append: Histogram<f64>,
    queued: Histogram<f64>,
    first_token: Histogram<f64>,
    waiting: UpDownCounter<i64>,
    streams: Counter<u64>,
    cancels: Counter<u64>,
    connections: UpDownCounter<i64>,
    connections_refused: Counter<u64>,
    refused: Counter<u64>,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    Completed,
    Failed,
    Replaced,
    Deadline,
    Draining,
    SlowClient,
    Client,
}

impl StreamEnd {
    fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Replaced => "replaced",
            Self::Deadline => "deadline",
            Self::Draining => "draining",
            Self::SlowClient => "slow_client",
            Self::Client => "client",
        }
    }
}

/// Counts something as present until dropped.
#[derive(Debug)]
pub(crate) struct Present {
    gauge: UpDownCounter<i64>,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.gauge.add(-1, &[]);
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = telemetry::meter();
        let seconds = |name, description| telemetry::seconds(&meter, name, description);
        Self {
            instruments: Arc::new(Instruments {
                requests: meter
                    .u64_counter("lockgate.ingress.requests")
                    .with_description("Requests answered, by endpoint and class of status")
                    .build(),
                duration: seconds(
                    "lockgate.ingress.request",
                    "From the head of a request to the head of its answer",
                ),
                append: seconds(
                    "lockgate.ingress.append",
                    "Until a request was durable on the log",
                ),
                queued: seconds(
                    "lockgate.ingress.queue",
                    "From the accept of a request to the start of its first run",
                ),
                first_token: seconds(
                    "lockgate.ingress.first_token",
                    "From the accept of a streamed request to its first token",
                ),
                waiting: meter
                    .i64_up_down_counter("lockgate.ingress.waiting")
                    .with_description("Requests that somebody waits for")
                    .build(),
                streams: meter
                    .u64_counter("lockgate.ingress.streams_ended")
                    .with_description("Streams ended, by reason")
                    .build(),
                cancels: meter
                    .u64_counter("lockgate.cancels")
                    .with_description("Orders to cancel a request that are on the log")
                    .build(),
                connections: meter
                    .i64_up_down_counter("lockgate.ingress.connections")
                    .with_description("Open client connections")
                    .build(),
                connections_refused: meter
                    .u64_counter("lockgate.ingress.connections_refused")
                    .with_description("Connections refused because there were too many")
                    .build(),
                refused: meter
                    .u64_counter("lockgate.ingress.refused")
                    .with_description(
                        "Requests refused because they would have waited past their deadline",
                    )
                    .build(),
            }),
        }
    }

    /// A request was answered with this status after this long.
    pub(crate) fn answered(&self, endpoint: &'static str, status: u16, took: Duration) {
        let class = match status / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        let labels = [
            KeyValue::new("endpoint", endpoint),
            KeyValue::new("status", class),
        ];
        self.instruments.requests.add(1, &labels);
        self.instruments
            .duration
            .record(took.as_secs_f64(), &labels[..1]);
    }

    pub(crate) fn appended(&self, took: Duration) {
        self.instruments.append.record(took.as_secs_f64(), &[]);
    }

    pub(crate) fn started(&self, after: Duration) {
        self.instruments.queued.record(after.as_secs_f64(), &[]);
    }

    pub(crate) fn first_token(&self, after: Duration) {
        self.instruments
            .first_token
            .record(after.as_secs_f64(), &[]);
    }

    pub(crate) fn stream_ended(&self, end: StreamEnd) {
        let labels = [KeyValue::new("reason", end.label())];
        self.instruments.streams.add(1, &labels);
    }

    pub(crate) fn cancelled(&self) {
        self.instruments.cancels.add(1, &[]);
    }

    pub(crate) fn waiting(&self) -> Present {
        present(&self.instruments.waiting)
    }

    pub(crate) fn connection(&self) -> Present {
        present(&self.instruments.connections)
    }

    /// A request would have waited past its deadline.
    pub(crate) fn refused(&self) {
        self.instruments.refused.add(1, &[]);
    }

    /// Shows how many processors live and how long requests for each of the models wait, as their heartbeats say.
    pub(crate) fn observe(&self, fleet: Fleet, models: InForce) {
        let meter = telemetry::meter();
        let seen = fleet.clone();
        meter
            .u64_observable_gauge("lockgate.ingress.processors")
            .with_description("Processors whose heartbeats are heard")
            .with_callback(move |observer| {
                observer.observe(seen.view().statuses().len() as u64, &[]);
            })
            .build();
        meter
            .f64_observable_gauge("lockgate.ingress.estimated_wait")
            .with_unit("s")
            .with_description("Estimated wait of a request behind all others, by model")
            .with_callback(move |observer| {
                let view = fleet.view();
                for model in models.load().names() {
                    if let Some(wait) = view.wait(model) {
                        let model = KeyValue::new(key::GEN_AI_REQUEST_MODEL, model.clone());
                        observer.observe(wait.behind_all.as_secs_f64(), &[model]);
                    }
                }
            })
            .build();
    }

    pub(crate) fn connection_refused(&self) {
        self.instruments.connections_refused.add(1, &[]);
    }
}

fn present(gauge: &UpDownCounter<i64>) -> Present {
    gauge.add(1, &[]);
    Present {
        gauge: gauge.clone(),
    }
}
