//! How far the consumers are behind the log: sampled now and then, away from the hot path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use runtime::log::{Ledger, Log, LogError};
use schemas::request::Lane;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How often it is measured.
const EVERY: Duration = Duration::from_secs(5);

/// Records of each lane that are on the log and not done, in the partitions of this process; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lag {
    records: Arc<[AtomicU64; 3]>,
}

impl Lag {
    /// As last measured.
    pub(crate) fn records(&self, lane: Lane) -> u64 {
        self.records[lane as usize].load(Ordering::Relaxed)
    }

    /// Measures until `stop`.
    pub(crate) async fn measure(
        self,
        log: Log,
        ledgers: Vec<(Lane, Arc<Mutex<Ledger>>)>,
        stop: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            for (lane, ledger) in &ledgers {
                // A partition of which nothing came has nothing before the consumer.
                let positions = ledger.lock().positions();
                match lag(&log, *lane, &positions).await {
                    Ok(records) => self.records[*lane as usize].store(records, Ordering::Relaxed),
                    Err(error) => debug!(%error, ?lane, "the lag is not known"),
                }
            }
        }
    }
}

/// The records from these positions on.
async fn lag(log: &Log, lane: Lane, positions: &[(i32, i64)]) -> Result<u64, LogError> {
    let mut records = 0;
    for (partition, position) in positions {
        records += log.lag(lane.topic(), *partition, *position).await?;
    }
    Ok(records)
}
