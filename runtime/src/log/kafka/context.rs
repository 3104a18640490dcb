//! What librdkafka tells us outside of calls: log lines, errors, rebalances.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::Notify;

use crate::log::Health;

/// Context of clients without a group.
#[derive(Debug, Clone, Default)]
pub(super) struct Context {
    trouble: Arc<Notify>,
}

impl Context {
    /// Resolves when a client has met an error since the last call.
    pub(super) async fn trouble(&self) {
        self.trouble.notified().await;
    }
}

fn log_line(level: RDKafkaLogLevel, facility: &str, line: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, "librdkafka: {line}");
        }
        // Broker trouble is reported once, by the health of the log; these repeat at every reconnect.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::debug!(facility, "librdkafka: {line}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::trace!(facility, "librdkafka: {line}");
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka reports an error");
        self.trouble.notify_one();
    }
}

impl ConsumerContext for Context {}

/// A rebalance, as the consumer's owner learns of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rebalance {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
}

/// Context of a group member. Callbacks run in whoever polls and must be short: they only leave a note.
#[derive(Debug, Default)]
pub(super) struct MemberContext {
    notes: Mutex<VecDeque<Rebalance>>,
    noted: Notify,
}

impl MemberContext {
    /// The oldest rebalance not yet told.
    pub(super) fn take(&self) -> Option<Rebalance> {
        self.notes.lock().pop_front()
    }

    /// Resolves when there may be a note.
    pub(super) async fn noted(&self) {
        self.noted.notified().await;
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka reports an error");
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions = list
            .elements()
            .iter()
            .map(|element| element.partition())
            .collect();
        let note = if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // Assigned by `Consumer::start`, once its caller knows where to begin.
            Rebalance::Assigned(partitions)
        } else {
            if let Err(error) = consumer.unassign() {
                tracing::warn!(%error, "could not give partitions back");
            }
            Rebalance::Revoked(partitions)
        };
        self.notes.lock().push_back(note);
        self.noted.notify_one();
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        // The next commit covers what this one did not.
        if let Err(error) = result {
            tracing::debug!(%error, "positions were not committed");
        }
    }
}

/// When each consumer was polled last: a loop that stands still is noticed by its age.
#[derive(Debug, Clone, Default)]
pub(super) struct Pollers {
    known: Arc<Mutex<Vec<std::sync::Weak<Poller>>>>,
}

/// The clock of one consumer's polls.
#[derive(Debug)]
pub(super) struct Poller {
    name: String,
    started: Instant,
    /// Milliseconds from `started` to the last poll.
    last: AtomicU64,
}

/// A consumer not polled for so long stands still; half of `max.poll.interval.ms`.
const STANDING_STILL: Duration = Duration::from_secs(60);
/// A consumer not polled for so long has been put out of its group: its next poll would be an error that ends the process.
const LOST: Duration = Duration::from_secs(130);

impl Pollers {
    pub(super) fn register(&self, name: String) -> Arc<Poller> {
        let poller = Arc::new(Poller {
            name,
            started: Instant::now(),
            last: AtomicU64::new(0),
        });
        let mut known = self.known.lock();
        known.retain(|poller| poller.strong_count() > 0);
        known.push(Arc::downgrade(&poller));
        poller
    }

    /// What it means that a consumer's loop has not polled for [`STANDING_STILL`], or [`LOST`]; none: all turn.
    pub(super) fn standing_still(&self) -> Option<Health> {
        let known = self.known.lock();
        let pollers = known.iter().filter_map(std::sync::Weak::upgrade);
        let oldest = pollers
            .map(|poller| {
                let last = Duration::from_millis(poller.last.load(Ordering::Relaxed));
                (poller.started.elapsed().saturating_sub(last), poller)
            })
            .max_by_key(|(age, _)| *age)?;
        verdict(oldest.0, &oldest.1.name)
    }
}

fn verdict(age: Duration, name: &str) -> Option<Health> {
    let reason = || format!("consumer {name} was not polled for {age:?}").into();
    if age > LOST {
        Some(Health::Failed { reason: reason() })
    } else if age > STANDING_STILL {
        Some(Health::Down { reason: reason() })
    } else {
        None
    }
}

impl Poller {
    pub(super) fn polled(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_makes_unready_and_then_ends_the_process() {
        let verdict = |seconds| verdict(Duration::from_secs(seconds), "of a for b");
        assert_eq!(verdict(6), None);
        assert!(matches!(verdict(61), Some(Health::Down { .. })));
        assert!(
            matches!(verdict(131), Some(Health::Failed { reason }) if reason.contains("of a for b"))
        );
    }
}
