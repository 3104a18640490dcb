//! What a sink tells about itself: metrics, log lines when its state changes, readiness.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};
use runtime::log::LogError;
use runtime::telemetry::{self, Readiness};
use tracing::{error, info, warn};

use runtime::telemetry::Chain;

/// The condition that the sinks set.
const READY: &str = "sinks";

/// The state of one sink.
#[derive(Debug)]
pub(crate) struct Status {
    sink: &'static str,
    label: KeyValue,
    readiness: Readiness,
    waits: AtomicBool,
    lost: AtomicBool,
    records: Counter<u64>,
    writes: Histogram<f64>,
    retries: Counter<u64>,
    dead_letters: Counter<u64>,
    partitions_lost: Counter<u64>,
}

impl Status {
    pub(crate) fn new(sink: &'static str, readiness: Readiness) -> Self {
        let meter = telemetry::meter();
        Self {
            sink,
            label: KeyValue::new("sink", sink),
            readiness,
            waits: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            records: meter
                .u64_counter("lockgate.sink.records")
                .with_description("Records whose effect was written")
                .build(),
            writes: telemetry::seconds(
                &meter,
                "lockgate.sink.write",
                "Time to write the effect of a batch",
            ),
            retries: meter
                .u64_counter("lockgate.sink.retries")
                .with_description(
                    "Times that a store, registry or log made the sink wait and try again",
                )
                .build(),
            dead_letters: meter
                .u64_counter("lockgate.sink.dead_letters")
                .with_description("Records set aside because nobody can read them")
                .build(),
            partitions_lost: meter
                .u64_counter("lockgate.sink.partitions_lost")
                .with_description("Partitions given up because their next record is gone")
                .build(),
        }
    }

    /// Something makes the sink wait; said once, until it flows again.
    pub(crate) fn waits(&self, reason: &str) {
        self.retries.add(1, self.labels());
        if !self.waits.swap(true, Ordering::Relaxed) {
            warn!(sink = self.sink, reason, "sink waits and tries again");
        }
        self.tell();
    }

    /// Nothing makes the sink wait any more.
    pub(crate) fn flows(&self) {
        if self.waits.swap(false, Ordering::Relaxed) {
            info!(sink = self.sink, "sink goes on");
        }
        self.tell();
    }

    /// A partition is given up, for as long as the process lives.
    pub(crate) fn lost(&self, topic: &str, partition: i32, fault: &LogError) {
        self.partitions_lost.add(1, self.labels());
        self.lost.store(true, Ordering::Relaxed);
        error!(
            sink = self.sink,
            topic,
            partition,
            error = Chain(fault).to_string(),
            "partition given up: its next record is gone"
        );
        self.tell();
    }

    /// A record was set aside.
    pub(crate) fn set_aside(&self) {
        self.dead_letters.add(1, self.labels());
    }

    /// A batch was written.
    pub(crate) fn wrote(&self, records: usize, took: Duration) {
        let records = u64::try_from(records).unwrap_or(u64::MAX);
        self.records.add(records, self.labels());
        self.writes.record(took.as_secs_f64(), self.labels());
    }

    fn labels(&self) -> &[KeyValue] {
        std::slice::from_ref(&self.label)
    }

    /// Ready is who neither waits nor has lost anything.
    fn tell(&self) {
        let is_ready = !self.waits.load(Ordering::Relaxed) && !self.lost.load(Ordering::Relaxed);
        self.readiness.set(READY, is_ready);
    }
}
