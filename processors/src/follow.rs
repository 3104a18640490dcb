//! Watching requests that another process runs, until they end, are given back, or fall silent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use runtime::log::{LogError, Tail};
use schemas::id::RequestId;
use schemas::topic::ReplyPlace;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::adopter::{Lot, event_of, take_over};
use crate::signal::FENCED;
use crate::work::Work;

/// A run that gave no sign for so long is taken over.
pub(crate) const SILENT_MAX: Duration = Duration::from_secs(6);
/// How often silence is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Before the partition is opened again after an error.
const REOPEN: Duration = Duration::from_millis(500);

/// Watches the requests of one reply place from offset `next` on; one that is silent for
/// `silent_max` is taken over.
pub(crate) async fn follow(
    work: Arc<Work>,
    tasks: TaskTracker,
    place: ReplyPlace,
    mut next: i64,
    mut lot: Lot,
    silent_max: Duration,
) {
    while !lot.is_empty() {
        match watch(&work, &tasks, place, &mut next, &mut lot, silent_max).await {
            Ok(()) => return,
            Err(error) => {
                warn!(%error, "requests of other processes cannot be followed");
                tokio::time::sleep(REOPEN).await;
            }
        }
    }
}

async fn watch(
    work: &Arc<Work>,
    tasks: &TaskTracker,
    place: ReplyPlace,
    next: &mut i64,
    lot: &mut Lot,
    silent_max: Duration,
) -> Result<(), LogError> {
    let topic = place.topic.topic();
    let log = &work.log;
    let ends = log.watermarks(topic, place.partition).await?;
    *next = (*next).clamp(ends.low, ends.high);
    let mut tail = log.tail(topic, place.partition, *next).await?;
    // Silence counts from here: while the log was not read, nobody could be heard.
    let now = Instant::now();
    let mut signs: HashMap<RequestId, Instant> = lot.keys().map(|id| (*id, now)).collect();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !lot.is_empty() {
        let deliveries = tokio::select! {
            biased;
            deliveries = tail.recv() => deliveries?,
            _ = look.tick() => {
                lot.retain(|_, open| !open.hold.signal().is_raised(FENCED));
                let silent = silent(lot, &signs, silent_max);
                if !silent.is_empty() && has_read_all(work, place, &tail).await {
                    for id in silent {
                        if let Some(open) = lot.remove(&id) {
                            info!(request.id = %id, run = open.fold.run.number, "run is silent and taken over");
                            take_over(work, tasks, open);
                        }
                    }
                }
                continue;
            }
        };
        for delivery in &deliveries {
            let Some((open, record)) = event_of(work, lot, delivery).await else {
                continue;
            };
            for event in &record.events {
                open.fold.apply(event);
            }
            signs.insert(record.id, Instant::now());
            let (ended, given_up) = (open.fold.end.is_some(), open.fold.given_up);
            if (ended || given_up)
                && let Some(open) = lot.remove(&record.id)
            {
                if ended {
                    work.metrics.adopted("ended_elsewhere");
                    open.hold.finish();
                } else {
                    take_over(work, tasks, open);
                }
            }
        }
        *next = tail.position();
    }
    Ok(())
}

fn silent(lot: &Lot, signs: &HashMap<RequestId, Instant>, silent_max: Duration) -> Vec<RequestId> {
    let silent = |id: &&RequestId| {
        signs
            .get(id)
            .is_none_or(|last| last.elapsed() >= silent_max)
    };
    lot.keys().filter(silent).copied().collect()
}

/// Whether nothing is left to read: a log that does not answer is no silence of a run.
async fn has_read_all(work: &Work, place: ReplyPlace, tail: &Tail) -> bool {
    let ends = work
        .log
        .watermarks(place.topic.topic(), place.partition)
        .await;
    ends.is_ok_and(|ends| tail.position() >= ends.high)
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
