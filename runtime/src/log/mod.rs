//! The log, exactly as the product needs it: append, consume in a group, tail one
//! partition, watermarks, create topics. Two backends stand behind one interface, and one
//! conformance suite states the contract for both.

#[cfg(test)]
mod conformance;
pub mod embedded;
pub mod kafka;
mod ledger;
mod place;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use schemas::topic::Topic;

pub use ledger::{Ledger, Ticket};

use embedded::Embedded;
use kafka::Kafka;

/// A record to append.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Decides the partition under [`Place::ByKey`] and what compaction keeps.
    pub key: Bytes,
    /// Few and small; names from `schemas::header`.
    pub headers: Vec<(Arc<str>, Bytes)>,
    /// Framed bytes.
    pub value: Bytes,
}

/// Which partition of a topic a record goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The one that the key's hash (murmur2, as Kafka's Java client) names.
    ByKey,
    /// This one.
    Partition(i32),
}

/// When an append resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Once the record would survive a power cut (embedded: after the sync; Kafka: `acks=all`).
    Durable,
    /// Embedded: once it is handed to the system (survives `kill -9`). Kafka: as `Durable`.
    Buffered,
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
}

/// The ends of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Offset of the oldest record kept.
    pub low: i64,
    /// Offset that the next record will have at least.
    pub high: i64,
}

/// A record as consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Topic without prefix.
    pub topic: Arc<str>,
    /// Where it is.
    pub position: Position,
    /// When it was appended.
    pub timestamp: schemas::time::Timestamp,
    /// The record.
    pub record: Record,
}

impl Delivery {
    /// Value of the header `name`, when there is one.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.record
            .headers
            .iter()
            .find(|(key, _)| &**key == name)
            .map(|(_, value)| value)
    }
}

/// Why an append failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The record is not on the log and never will be; `reason` says why (log known down, disk full, queue full).
    #[error("the log does not take records: {reason}")]
    Unavailable {
        /// In words, without secrets.
        reason: Arc<str>,
    },
    /// The record was sent and no answer came: it may or may not be on the log.
    #[error("no answer from the log within {waited:?}: the record may or may not be there")]
    Unknown {
        /// How long was waited.
        waited: Duration,
    },
    /// The record can never be appended.
    #[error("record of {bytes} bytes is larger than the log's {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// There is no such topic or partition.
    #[error("no partition {partition:?} of topic {topic}")]
    NoSuchPlace {
        /// Topic without prefix.
        topic: Arc<str>,
        /// As asked for.
        partition: Place,
    },
}

/// Why the log could not be opened, read or prepared.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A topic exists with settings that do not fit; `remedy` says what to do.
    #[error("topic {topic} does not fit: {fault}; {remedy}")]
    TopicDoesNotFit {
        /// Topic with prefix.
        topic: String,
        /// What does not fit.
        fault: String,
        /// What to do.
        remedy: String,
    },
    /// The position is below the oldest record kept.
    #[error("offset {offset} of {topic}/{partition} is below the oldest record kept, {low}")]
    BelowStart {
        /// Topic without prefix.
        topic: Arc<str>,
        /// Partition.
        partition: i32,
        /// Asked for.
        offset: i64,
        /// Oldest kept.
        low: i64,
    },
    /// The position is beyond the end: of another log, or of one that lost its tail.
    #[error("offset {offset} of {topic}/{partition} is beyond the end, {high}")]
    BeyondEnd {
        /// Topic without prefix.
        topic: Arc<str>,
        /// Partition.
        partition: i32,
        /// Asked for.
        offset: i64,
        /// The end.
        high: i64,
    },
    /// The backend does not answer; trying again may help.
    #[error("the log does not answer: {reason}")]
    Unavailable {
        /// In words, without secrets.
        reason: String,
    },
    /// The backend reports that it cannot go on; the process must end.
    #[error("the log client failed for good: {reason}")]
    Fatal {
        /// In words, without secrets.
        reason: String,
    },
}

impl LogError {
    /// Whether trying again may help. A new variant must decide.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::TopicDoesNotFit { .. }
            | Self::BelowStart { .. }
            | Self::BeyondEnd { .. }
            | Self::Fatal { .. } => false,
        }
    }
}

/// Where a consumer begins in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// Where the group committed; at the low watermark when it never did.
    Committed,
    /// Here; below the low watermark is [`LogError::BelowStart`], beyond the end is [`LogError::BeyondEnd`].
    Offset(i64),
}

/// What a consumer yields.
#[derive(Debug)]
pub enum Polled {
    /// Partitions were given to this member. Nothing is delivered from them before
    /// [`Consumer::start`] was called for them with this epoch.
    Assigned {
        /// Raised with every assignment or revocation.
        epoch: u64,
        /// The partitions.
        partitions: Vec<i32>,
    },
    /// Partitions were taken away; commits for them are ignored from now on.
    Revoked {
        /// Raised with every assignment or revocation.
        epoch: u64,
        /// The partitions.
        partitions: Vec<i32>,
    },
    /// Records, in order per partition; at most [`ConsumeOptions::batch_max`].
    Deliveries(Vec<Delivery>),
}

/// Settings of one consumer.
#[derive(Debug, Clone)]
pub struct ConsumeOptions {
    /// Most records in one [`Polled::Deliveries`].
    pub batch_max: usize,
    /// How long a record may wait for others, to be delivered together with them; zero: each comes at once. A consumer that
    /// nobody waits for costs the log and its own process one wake-up per `linger` instead of one per record.
    pub linger: Duration,
}

impl Default for ConsumeOptions {
    fn default() -> Self {
        Self {
            batch_max: 500,
            linger: Duration::ZERO,
        }
    }
}

/// Whether the log takes records, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Up,
    /// It does not; appends fail at once.
    Down {
        /// Why, in words.
        reason: Arc<str>,
    },
    /// It does not, and this process cannot mend it: it must end, so that another takes its place.
    Failed {
        /// Why, in words.
        reason: Arc<str>,
    },
}

/// How to open a log.
#[derive(Debug, Clone)]
pub enum Settings {
    /// A folder on local disk, this process alone.
    Embedded(embedded::Settings),
    /// A Kafka cluster.
    Kafka(kafka::Settings),
}

/// A handle on the log; clones share one log.
#[derive(Debug, Clone)]
pub struct Log {
    backend: Backend,
}

#[derive(Debug, Clone)]
enum Backend {
    Embedded(Embedded),
    Kafka(Kafka),
}

impl Log {
    /// Opens the log. Kafka: returns without waiting for a broker.
    ///
    /// # Errors
    /// [`LogError::Fatal`] when the folder is in use or not writable, or a property is refused.
    pub async fn open(settings: &Settings) -> Result<Self, LogError> {
        let backend = match settings {
            Settings::Embedded(settings) => Backend::Embedded(Embedded::open(settings).await?),
            Settings::Kafka(settings) => Backend::Kafka(Kafka::open(settings)?),
        };
        Ok(Self { backend })
    }

    /// Creates the topics that are missing and checks the others.
    ///
    /// # Errors
    /// [`LogError::TopicDoesNotFit`], or [`LogError::Unavailable`] when no broker answers (call again).
    pub async fn ensure_topics(&self, topics: &[Topic]) -> Result<(), LogError> {
        match &self.backend {
            Backend::Embedded(log) => log.ensure_topics(topics).await,
            Backend::Kafka(log) => log.ensure_topics(topics).await,
        }
    }

    /// Number of partitions of a topic, known once [`Log::ensure_topics`] has succeeded; 0 for an unknown topic.
    #[must_use]
    pub fn partitions(&self, topic: &str) -> i32 {
        match &self.backend {
            Backend::Embedded(log) => log.partitions(topic),
            Backend::Kafka(log) => log.partitions(topic),
        }
    }

    /// Appends and resolves with the position as `durability` says. Order among appends to one partition is the order of
    /// the calls (the first poll of each future).
    ///
    /// # Errors
    /// [`AppendError`]; only `Unknown` leaves open whether the record is there.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the record back.
    pub async fn append(
        &self,
        topic: &str,
        place: Place,
        record: Record,
        durability: Durability,
    ) -> Result<Position, AppendError> {
        match &self.backend {
            Backend::Embedded(log) => log.append(topic, place, record, durability).await,
            Backend::Kafka(log) => log.append(topic, place, record).await,
        }
    }

    /// Whether the log takes records.
    #[must_use]
    pub fn health(&self) -> tokio::sync::watch::Receiver<Health> {
        match &self.backend {
            Backend::Embedded(log) => log.health(),
            Backend::Kafka(log) => log.health(),
        }
    }

    /// Joins `group` for `topic`.
    ///
    /// # Errors
    /// [`LogError::Fatal`] when the settings are refused, or (embedded) the group has a member already.
    pub async fn consume(
        &self,
        group: &str,
        topic: &str,
        options: ConsumeOptions,
    ) -> Result<Consumer, LogError> {
        let backend = match &self.backend {
            Backend::Embedded(log) => {
                ConsumerBackend::Embedded(log.consume(group, topic, options).await?)
            }
            Backend::Kafka(log) => ConsumerBackend::Kafka(log.consume(group, topic, options)?),
        };
        Ok(Consumer { backend })
    }

    /// Follows one partition from `offset` on, without a group.
    ///
    /// # Errors
    /// [`LogError::BelowStart`], [`LogError::BeyondEnd`], [`LogError::Unavailable`].
    pub async fn tail(&self, topic: &str, partition: i32, offset: i64) -> Result<Tail, LogError> {
        let backend = match &self.backend {
            Backend::Embedded(log) => TailBackend::Embedded(log.tail(topic, partition, offset)?),
            Backend::Kafka(log) => TailBackend::Kafka(log.tail(topic, partition, offset).await?),
        };
        Ok(Tail { backend })
    }

    /// The ends of a partition.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when no broker answers in time.
    pub async fn watermarks(&self, topic: &str, partition: i32) -> Result<Watermarks, LogError> {
        match &self.backend {
            Backend::Embedded(log) => log.watermarks(topic, partition),
            Backend::Kafka(log) => log.watermarks(topic, partition).await,
        }
    }

    /// About how many records lie from `offset` on: what a consumer at that position has before it. On the embedded log, of what
    /// was appended before an unclean end, nothing counts.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when no broker answers in time.
    pub async fn lag(&self, topic: &str, partition: i32, offset: i64) -> Result<u64, LogError> {
        let lag = match &self.backend {
            Backend::Embedded(log) => log.lag(topic, partition, offset)?,
            Backend::Kafka(log) => log.watermarks(topic, partition).await?.high - offset,
        };
        Ok(u64::try_from(lag).unwrap_or(0))
    }

    /// Whether a new process means that every older one is gone (the embedded log).
    #[must_use]
    pub fn is_single_process(&self) -> bool {
        matches!(self.backend, Backend::Embedded(_))
    }

    /// Flushes what is queued, for at most `grace`, and closes.
    pub async fn close(&self, grace: Duration) {
        match &self.backend {
            Backend::Embedded(log) => log.close(grace).await,
            Backend::Kafka(log) => log.close(grace).await,
        }
    }
}

/// A member of a consumer group for one topic. Dropping it without [`Consumer::close`] leaves the group by time-out.
#[derive(Debug)]
pub struct Consumer {
    backend: ConsumerBackend,
}

#[derive(Debug)]
enum ConsumerBackend {
    Embedded(embedded::Consumer),
    Kafka(kafka::Consumer),
}

impl Consumer {
    /// The next assignment, revocation or records; waits while there is nothing or while paused.
    ///
    /// # Errors
    /// [`LogError::BelowStart`] when retention overtook the position; [`LogError::Fatal`]. Passing broker trouble is waited out.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Result<Polled, LogError> {
        match &mut self.backend {
            ConsumerBackend::Embedded(consumer) => consumer.recv().await,
            ConsumerBackend::Kafka(consumer) => consumer.recv().await,
        }
    }

    /// Begins delivery from partitions assigned in `epoch`; ignored when the epoch is over.
    ///
    /// # Errors
    /// [`LogError::BelowStart`], [`LogError::BeyondEnd`], [`LogError::Unavailable`].
    pub async fn start(
        &mut self,
        epoch: u64,
        partitions: &[(i32, StartAt)],
    ) -> Result<(), LogError> {
        match &mut self.backend {
            ConsumerBackend::Embedded(consumer) => consumer.start(epoch, partitions),
            ConsumerBackend::Kafka(consumer) => consumer.start(epoch, partitions).await,
        }
    }

    /// Moves the position of a started partition, dropping what was fetched ahead.
    ///
    /// # Errors
    /// As [`Consumer::start`].
    pub async fn seek(&mut self, partition: i32, offset: i64) -> Result<(), LogError> {
        match &mut self.backend {
            ConsumerBackend::Embedded(consumer) => consumer.seek(partition, offset),
            ConsumerBackend::Kafka(consumer) => consumer.seek(partition, offset).await,
        }
    }

    /// Stops deliveries of all partitions, also of ones assigned later, until [`Consumer::resume`].
    pub fn pause(&mut self) {
        match &mut self.backend {
            ConsumerBackend::Embedded(consumer) => consumer.pause(),
            ConsumerBackend::Kafka(consumer) => consumer.pause(),
        }
    }

    /// Ends [`Consumer::pause`].
    pub fn resume(&mut self) {
        match &mut self.backend {
            ConsumerBackend::Embedded(consumer) => consumer.resume(),
            ConsumerBackend::Kafka(consumer) => consumer.resume(),
        }
    }

    /// Stores, for each partition, the offset of the next record to read. Partitions not assigned any more are left out.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]; the positions can be committed again later.
    pub async fn commit(&mut self, next: &[(i32, i64)]) -> Result<(), LogError> {
        match &mut self.backend {
            ConsumerBackend::Embedded(consumer) => consumer.commit(next).await,
            ConsumerBackend::Kafka(consumer) => consumer.commit(next),
        }
    }

    /// Leaves the group, waiting at most `grace`.
    pub async fn close(self, grace: Duration) {
        match self.backend {
            ConsumerBackend::Embedded(consumer) => drop(consumer),
            ConsumerBackend::Kafka(consumer) => consumer.close(grace).await,
        }
    }
}

/// A reader of one partition.
#[derive(Debug)]
pub struct Tail {
    backend: TailBackend,
}

#[derive(Debug)]
enum TailBackend {
    Embedded(embedded::Tail),
    Kafka(kafka::Tail),
}

impl Tail {
    /// The next records, at least one; waits while there are none.
    ///
    /// # Errors
    /// [`LogError::BelowStart`] when retention overtook the position; [`LogError::Fatal`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Result<Vec<Delivery>, LogError> {
        match &mut self.backend {
            TailBackend::Embedded(tail) => tail.recv().await,
            TailBackend::Kafka(tail) => tail.recv().await,
        }
    }

    /// Offset of the record that [`Tail::recv`] yields next; the high watermark once everything was read, also where no
    /// record lies right before it, so that "read until the position reaches the high watermark" always ends.
    #[must_use]
    pub fn position(&self) -> i64 {
        match &self.backend {
            TailBackend::Embedded(tail) => tail.position(),
            TailBackend::Kafka(tail) => tail.position(),
        }
    }
}
