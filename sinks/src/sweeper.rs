//! The sweeper: forgets requests past their retention, and bodies that nothing refers to any more.

use std::time::Duration;

use runtime::objects::{Objects, ObjectsError};
use runtime::store::{Store, StoreError};
use schemas::time::Timestamp;
use schemas::topic;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use runtime::telemetry::Chain;

/// Time between two sweeps of rows.
const EVERY: Duration = Duration::from_secs(60);
/// Sweeps of rows for one of objects, which lists whole folders.
const OBJECTS_EVERY: u32 = 60;
/// Rows deleted in one transaction, so that others get their turn.
const STEP_ROWS_MAX: u32 = 500;
/// Objects are made before the record that names them and read while that is open: some slack.
const OBJECTS_SLACK: Duration = Duration::from_secs(24 * 60 * 60);

/// Deletes by age.
#[derive(Debug)]
pub(crate) struct Sweeper {
    store: Store,
    objects: Objects,
    retention: Duration,
}

impl Sweeper {
    pub(crate) fn new(store: Store, objects: Objects, retention: Duration) -> Self {
        Self {
            store,
            objects,
            retention,
        }
    }

    /// Sweeps now and then until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        for round in 0_u32.. {
            let sweep = async {
                match self.sweep_rows(Timestamp::now(), &stop).await {
                    Ok(rows) => debug!(rows, "old requests forgotten"),
                    Err(fault) => {
                        warn!(
                            error = %Chain(&fault),
                            "old requests not forgotten, trying again later"
                        );
                    }
                }
                if round % OBJECTS_EVERY == 0 {
                    match self.sweep_objects().await {
                        Ok(objects) => debug!(objects, "old bodies deleted"),
                        Err(fault) => {
                            warn!(
                                error = %Chain(&fault),
                                "old bodies not deleted, trying again later"
                            );
                        }
                    }
                }
                tokio::time::sleep(EVERY).await;
            };
            tokio::select! { biased;
                () = stop.cancelled() => return,
                () = sweep => {}
            }
        }
    }

    /// Deletes, step by step, the rows whose retention is over at `now`; returns how many.
    pub(crate) async fn sweep_rows(
        &self,
        now: Timestamp,
        stop: &CancellationToken,
    ) -> Result<u64, StoreError> {
        let micros = i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp(now.0.saturating_sub(micros));
        let mut total = 0;
        while !stop.is_cancelled() {
            let deleted = self.store.sweep_results(before, STEP_ROWS_MAX).await?;
            total += deleted;
            if deleted < u64::from(STEP_ROWS_MAX) {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(total)
    }

    async fn sweep_objects(&self) -> Result<u64, ObjectsError> {
        self.objects.sweep(objects_age(self.retention)).await
    }
}

/// Past this age neither a row nor a record on the log refers to an object.
fn objects_age(retention: Duration) -> Duration {
    let topics = topic::ALL.iter().map(|topic| topic.retention);
    topics
        .max()
        .unwrap_or_default()
        .max(retention)
        .saturating_add(OBJECTS_SLACK)
}
