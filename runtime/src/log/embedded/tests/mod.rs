//! The contract on the embedded log, on a folder that fails on demand and on the real disk.

mod contract;
mod failures;
mod retention;

use std::sync::Arc;
use std::time::Duration;

use super::faults::Simulated;
use super::*;
use crate::log::conformance::{self, Bed};
use crate::log::{Backend, Log};

/// Opens the log on a folder in memory.
async fn open_with(folder: &Simulated, tuning: Tuning) -> Log {
    let embedded = Embedded::on(Arc::new(folder.clone()), tuning).unwrap();
    let log = Log {
        backend: Backend::Embedded(embedded),
    };
    log.ensure_topics(&schemas::topic::ALL).await.unwrap();
    log
}

async fn open(folder: &Simulated) -> Log {
    open_with(folder, small()).await
}

/// Segments and memory so small that everything is rolled, sealed and read from disk.
fn small() -> Tuning {
    Tuning {
        segment_bytes: 20_000,
        memory_bytes: 8_000,
        ..Tuning::new(1 << 30)
    }
}

async fn until_up(log: &Log) {
    let mut health = log.health();
    let up = health.wait_for(|health| *health == Health::Up);
    tokio::time::timeout(Duration::from_secs(20), up)
        .await
        .unwrap()
        .unwrap();
}

async fn until_down(log: &Log) {
    let mut health = log.health();
    let down = health.wait_for(|health| matches!(health, Health::Down { .. }));
    tokio::time::timeout(Duration::from_secs(20), down)
        .await
        .unwrap()
        .unwrap();
}

fn shared(log: &Log) -> &Arc<Shared> {
    match &log.backend {
        Backend::Embedded(log) => log.shared(),
        Backend::Kafka(_) => unreachable!("these tests open the embedded log"),
    }
}

/// Waits until every segment but the one in writing is sealed, which happens behind the appends.
async fn sealed(log: &Log) {
    let shared = shared(log).clone();
    let sealed = move || {
        let segments = shared.segments.read();
        segments
            .iter()
            .rev()
            .skip(1)
            .all(|segment| segment.is_sealed())
    };
    let all = async {
        while !sealed() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .unwrap();
}
