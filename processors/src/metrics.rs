//! What the processors count.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use runtime::telemetry::{self, key};
use schemas::request::Lane;

use crate::config::Models;
use crate::gate::Gate;
use crate::health::State;
use crate::held::{Held, Over};
use crate::lag::Lag;

/// Instruments of the processors; labels come from closed sets.
#[derive(Debug)]
pub(crate) struct Metrics {
    attempts: Counter<u64>,
    first_token: Histogram<f64>,
    dead_letters: Counter<u64>,
    adoptions: Counter<u64>,
    append_retries: Counter<u64>,
    refusals: Counter<u64>,
    broken_events: Counter<u64>,
    retries_denied: Counter<u64>,
    documents: Counter<u64>,
    lease_failures: Counter<u64>,
    shadows: Counter<u64>,
}

impl Metrics {
    /// Registers the instruments with the process's meter.
    pub(crate) fn new() -> Arc<Self> {
        let meter = telemetry::meter();
        Arc::new(Self {
            attempts: meter
                .u64_counter("lockgate.attempts")
                .with_description("calls to providers by deployment and outcome")
                .build(),
            first_token: telemetry::seconds(
                &meter,
                "lockgate.first_token",
                "from the start of a streamed call to its first token",
            ),
            dead_letters: meter
                .u64_counter("lockgate.dead_letters")
                .with_description("records set aside, by reason")
                .build(),
            adoptions: meter
                .u64_counter("lockgate.adoptions")
                .with_description("requests found open at an assignment, by what became of them")
                .build(),
            append_retries: meter
                .u64_counter("lockgate.append_retries")
                .with_description("appends of events that failed and are tried again")
                .build(),
            refusals: meter
                .u64_counter("lockgate.requests_refused")
                .with_description(
                    "requests refused because too much is held, by whose share is used up",
                )
                .build(),
            broken_events: meter
                .u64_counter("lockgate.broken_events")
                .with_description("events of providers that were no JSON and were skipped")
                .build(),
            documents: meter
                .u64_counter("lockgate.routing_documents")
                .with_description(
                    "routing documents that came while the process worked, by outcome",
                )
                .build(),
            retries_denied: meter
                .u64_counter("lockgate.retries_denied")
                .with_description("calls that were not repeated because too many were already")
                .build(),
            lease_failures: meter
                .u64_counter("lockgate.lease_failures")
                .with_description("times that Redis did not say what part of the limits is ours")
                .build(),
            shadows: meter
                .u64_counter("lockgate.shadows")
                .with_description("requests copied for a shadow model, by outcome")
                .build(),
        })
    }

    /// Shows what is held, what is in flight, and how the deployments are, for as long as the
    /// process lives.
    pub(crate) fn observe(held: &Held, models: &Arc<ArcSwap<Models>>, lag: Lag) {
        let meter = telemetry::meter();
        let deliveries = held.clone();
        meter
            .u64_observable_gauge("lockgate.held_deliveries")
            .with_description("deliveries held in memory")
            .with_callback(move |observer| observer.observe(deliveries.deliveries() as u64, &[]))
            .build();
        let bytes = held.clone();
        meter
            .u64_observable_gauge("lockgate.held")
            .with_description("bytes of deliveries held in memory")
            .with_unit("By")
            .with_callback(move |observer| observer.observe(bytes.bytes() as u64, &[]))
            .build();
        meter
            .u64_observable_gauge("lockgate.lag")
            .with_description(
                "records on the log that are not done, by lane, in the partitions of this process",
            )
            .with_callback(move |observer| {
                for lane in Lane::ALL {
                    observer.observe(lag.records(lane), &[of_lane(lane)]);
                }
            })
            .build();
        Self::observe_gates(&meter, models);
        let models = Arc::clone(models);
        meter
            .u64_observable_gauge("lockgate.deployment_state")
            .with_description("1 for the state that a deployment is in, 0 for the others")
            .with_callback(move |observer| {
                for one in models.load().health() {
                    for state in State::ALL {
                        let labels = [
                            KeyValue::new(key::DEPLOYMENT, Arc::clone(&one.deployment)),
                            KeyValue::new("state", state.name()),
                        ];
                        observer.observe(u64::from(state == one.state), &labels);
                    }
                }
            })
            .build();
    }

    fn observe_gates(meter: &Meter, models: &Arc<ArcSwap<Models>>) {
        let own = Arc::clone(models);
        meter
            .u64_observable_gauge("lockgate.calls_in_flight")
            .with_description("calls in progress by deployment")
            .with_callback(move |observer| {
                for gate in own.load().gates() {
                    observer.observe(gate.snapshot().in_flight as u64, &[of_gate(gate)]);
                }
            })
            .build();
        let own = Arc::clone(models);
        meter
            .u64_observable_gauge("lockgate.gate_capacity")
            .with_description("calls that a deployment takes at once, as of now")
            .with_callback(move |observer| {
                for gate in own.load().gates() {
                    observer.observe(gate.snapshot().capacity as u64, &[of_gate(gate)]);
                }
            })
            .build();
        let own = Arc::clone(models);
        meter
            .u64_observable_gauge("lockgate.calls_waiting")
            .with_description("calls that wait before the gate of a deployment, by lane")
            .with_callback(move |observer| {
                for gate in own.load().gates() {
                    let lanes = gate.snapshot().lanes;
                    for (lane, status) in Lane::ALL.into_iter().zip(lanes) {
                        let waiting = u64::from(status.waiting.max(0).unsigned_abs());
                        observer.observe(waiting, &[of_gate(gate), of_lane(lane)]);
                    }
                }
            })
            .build();
    }

    /// A request could not be held.
    pub(crate) fn refused(&self, over: Over) {
        let reason = match over {
            Over::Tenant => "tenant",
            Over::Model => "model",
        };
        self.refusals.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// A routing document was `applied` or `refused`.
    pub(crate) fn routed(&self, outcome: &'static str) {
        self.documents
            .add(1, &[KeyValue::new(key::OUTCOME, outcome)]);
    }

    /// A call was not repeated for want of budget.
    pub(crate) fn retry_denied(&self) {
        self.retries_denied.add(1, &[]);
    }

    /// Redis did not say what part of the limits is ours.
    pub(crate) fn lease_failed(&self) {
        self.lease_failures.add(1, &[]);
    }

    /// A request was copied for a shadow, or could not be.
    pub(crate) fn mirrored(&self, appended: bool) {
        let outcome = if appended { "appended" } else { "failed" };
        self.shadows.add(1, &[KeyValue::new(key::OUTCOME, outcome)]);
    }

    /// A call ended.
    pub(crate) fn attempted(&self, deployment: &Arc<str>, outcome: &'static str) {
        self.attempts.add(
            1,
            &[
                KeyValue::new(key::DEPLOYMENT, Arc::clone(deployment)),
                KeyValue::new(key::OUTCOME, outcome),
            ],
        );
    }

    /// The first token of a streamed call came.
    pub(crate) fn first_token(&self, deployment: &Arc<str>, after: Duration) {
        let deployment = KeyValue::new(key::DEPLOYMENT, Arc::clone(deployment));
        self.first_token.record(after.as_secs_f64(), &[deployment]);
    }

    /// A record was set aside.
    pub(crate) fn dead_lettered(&self, reason: &'static str) {
        self.dead_letters.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// An open request was looked into at an assignment.
    pub(crate) fn adopted(&self, outcome: &'static str) {
        self.adoptions
            .add(1, &[KeyValue::new(key::OUTCOME, outcome)]);
    }

    /// An append is tried again.
    pub(crate) fn append_retried(&self) {
        self.append_retries.add(1, &[]);
    }

    /// Events of a provider were skipped.
    pub(crate) fn events_broken(&self, count: u32) {
        if count > 0 {
            self.broken_events.add(u64::from(count), &[]);
        }
    }
}

fn of_gate(gate: &Gate) -> KeyValue {
    KeyValue::new(key::DEPLOYMENT, Arc::clone(gate.name()))
}

fn of_lane(lane: Lane) -> KeyValue {
    let name = match lane {
        Lane::Interactive => "interactive",
        Lane::Background => "background",
        Lane::Batch => "batch",
    };
    KeyValue::new(key::LANE, name)
}
