//! The topics, by their names without prefix, and their settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::request::Lane;

/// Requests of the interactive lane.
pub const REQUESTS_INTERACTIVE: &str = "requests.interactive";
/// Requests of the background lane.
pub const REQUESTS_BACKGROUND: &str = "requests.background";
/// Requests of the batch lane.
pub const REQUESTS_BATCH: &str = "requests.batch";
/// Events of interactive requests.
pub const RESPONSES: &str = "responses";
/// Events of all other requests.
pub const RESPONSES_BACKGROUND: &str = "responses.background";
/// Life cycle of batches.
pub const BATCHES: &str = "batches";
/// Orders such as cancel; one partition.
pub const CONTROL: &str = "control";
/// Heartbeats of processors.
pub const STATUS: &str = "status";
/// What nobody could read or finish.
pub const DEAD_LETTERS: &str = "dead-letters";
/// Requests that wait for a later time, by the step they wait.
pub const REQUESTS_DELAYED: [&str; 3] = [
    "requests.delayed.10s",
    "requests.delayed.1m",
    "requests.delayed.10m",
];

impl Lane {
    /// All lanes, most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Background, Self::Batch];

    /// The topic that requests of this lane wait in.
    #[must_use]
    pub fn topic(self) -> &'static str {
        match self {
            Self::Interactive => REQUESTS_INTERACTIVE,
            Self::Background => REQUESTS_BACKGROUND,
            Self::Batch => REQUESTS_BATCH,
        }
    }
}

/// Which of the two reply topics carries the events of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReplyTopic {
    /// [`RESPONSES`].
    Responses,
    /// [`RESPONSES_BACKGROUND`].
    Background,
}

impl ReplyTopic {
    /// The topic's name without prefix.
    #[must_use]
    pub fn topic(self) -> &'static str {
        match self {
            Self::Responses => RESPONSES,
            Self::Background => RESPONSES_BACKGROUND,
        }
    }
}

/// The partition that all events of a request go to; chosen once, at accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReplyPlace {
    /// The reply topic.
    pub topic: ReplyTopic,
    /// Its partition.
    pub partition: i32,
}

/// What happens to old records of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Deleted after the retention.
    Delete,
    /// Only the newest of each key is kept, and deleted after the retention.
    CompactDelete,
}

/// A topic as it is created and checked at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    /// Name without prefix.
    pub name: &'static str,
    /// Partitions on Kafka.
    pub partitions_kafka: i32,
    /// Partitions on the embedded log.
    pub partitions_embedded: i32,
    /// How long records are kept at least.
    pub retention: Duration,
    /// What happens to records past it.
    pub cleanup: Cleanup,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Every topic of the product.
pub const ALL: [Topic; 12] = [
    topic(REQUESTS_INTERACTIVE, 24, 2, DAY),
    topic(
        REQUESTS_BACKGROUND,
        24,
        2,
        Duration::from_secs(7 * DAY.as_secs()),
    ),
    topic(
        REQUESTS_BATCH,
        24,
        2,
        Duration::from_secs(7 * DAY.as_secs()),
    ),
    topic(
        REQUESTS_DELAYED[0],
        6,
        1,
        Duration::from_secs(7 * DAY.as_secs()),
    ),
    topic(
        REQUESTS_DELAYED[1],
        6,
        1,
        Duration::from_secs(7 * DAY.as_secs()),
    ),
    topic(
        REQUESTS_DELAYED[2],
        6,
        1,
        Duration::from_secs(7 * DAY.as_secs()),
    ),
    topic(RESPONSES, 48, 2, Duration::from_secs(7 * DAY.as_secs())),
    topic(
        RESPONSES_BACKGROUND,
        24,
        2,
        Duration::from_secs(7 * DAY.as_secs()),
    ),
    topic(BATCHES, 6, 1, Duration::from_secs(30 * DAY.as_secs())),
    Topic {
        cleanup: Cleanup::CompactDelete,
        ..topic(CONTROL, 1, 1, DAY)
    },
    topic(STATUS, 1, 1, Duration::from_secs(10 * MINUTE.as_secs())),
    topic(DEAD_LETTERS, 6, 1, Duration::from_secs(30 * DAY.as_secs())),
];

const fn topic(name: &'static str, kafka: i32, embedded: i32, retention: Duration) -> Topic {
    Topic {
        name,
        partitions_kafka: kafka,
        partitions_embedded: embedded,
        retention,
        cleanup: Cleanup::Delete,
    }
}
