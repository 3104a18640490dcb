//! A reader of one partition, by assignment at an explicit offset: no group, no commits.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::consumer::{delivery, within};
use super::context::Context;
use super::{Kafka, PROBE_PERIOD, consumer_config, unavailable};
use crate::log::{Delivery, LogError};

/// Most records of one [`Tail::recv`].
const BATCH_MAX: usize = 500;

pub(in crate::log) struct Tail {
    kafka: Kafka,
    inner: Option<Arc<StreamConsumer<Context>>>,
    topic: Arc<str>,
    partition: i32,
    next: i64,
    /// The broker refused the position, and it is not known yet why.
    is_refused: bool,
    /// Ends the next [`Tail::recv`]: met behind deliveries that go first. librdkafka tells it only once.
    failure: Option<LogError>,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Tail {
    pub(super) async fn open(
        kafka: &Kafka,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<Self, LogError> {
        let marks = kafka.watermarks(topic, partition).await?;
        let topic: Arc<str> = topic.into();
        within(&topic, partition, offset, marks)?;
        // librdkafka wants a group name to hand out messages; without a subscription no broker learns of it.
        let config = consumer_config(
            &kafka.shared.settings,
            &kafka.full_name("tail"),
            Duration::ZERO,
        );
        let inner: StreamConsumer<Context> = config
            .create_with_context(Context::default())
            .map_err(|error: KafkaError| LogError::Fatal {
                reason: error.to_string(),
            })?;
        let tail = Self {
            kafka: kafka.clone(),
            inner: Some(Arc::new(inner)),
            topic,
            partition,
            next: offset,
            is_refused: false,
            failure: None,
        };
        tail.assign()?;
        Ok(tail)
    }

    /// Fetches from the next record on.
    fn assign(&self) -> Result<(), LogError> {
        let Some(inner) = &self.inner else {
            return Ok(());
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(
            &self.kafka.full_name(&self.topic),
            self.partition,
            Offset::Offset(self.next),
        )
        .map_err(|error| unavailable(&error))?;
        inner.assign(&list).map_err(|error| unavailable(&error))
    }

    pub(in crate::log) async fn recv(&mut self) -> Result<Vec<Delivery>, LogError> {
        let Some(inner) = self.inner.clone() else {
            return Err(LogError::Fatal {
                reason: "the tail is closed".into(),
            });
        };
        let first = loop {
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if self.is_refused {
                self.place_anew().await?;
            }
            match inner.recv().await {
                Ok(message) => break delivery(&self.topic, &message),
                Err(error) => self.check(&inner, &error)?,
            }
        };
        let mut deliveries = Vec::with_capacity(16);
        deliveries.push(first);
        while deliveries.len() < BATCH_MAX {
            match inner.recv().now_or_never() {
                Some(Ok(message)) => deliveries.push(delivery(&self.topic, &message)),
                Some(Err(error)) => {
                    self.failure = self.check(&inner, &error).err();
                    break;
                }
                None => break,
            }
        }
        if let Some(last) = deliveries.last() {
            self.next = last.position.offset + 1;
        }
        Ok(deliveries)
    }

    fn check(
        &mut self,
        inner: &StreamConsumer<Context>,
        error: &KafkaError,
    ) -> Result<(), LogError> {
        if let Some((_, reason)) = inner.client().fatal_error() {
            return Err(LogError::Fatal { reason });
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                self.is_refused = true;
            }
            _ => tracing::debug!(%error, topic = %self.topic, "the tail met an error"),
        }
        Ok(())
    }

    /// After a refused position: fetches go on from it when it is there, else it is an error. The broker is asked
    /// until it answers.
    async fn place_anew(&mut self) -> Result<(), LogError> {
        let marks = loop {
            match self.kafka.watermarks(&self.topic, self.partition).await {
                Ok(marks) => break marks,
                Err(error) if error.is_retryable() => {
                    tracing::debug!(%error, topic = %self.topic, "a refused position waits for the broker");
                    tokio::time::sleep(PROBE_PERIOD).await;
                }
                Err(error) => return Err(error),
            }
        };
        within(&self.topic, self.partition, self.next, marks)?;
        self.assign()?;
        self.is_refused = false;
        Ok(())
    }

    pub(in crate::log) fn position(&self) -> i64 {
        self.next
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else {
            return;
        };
        // Closing a client joins its threads, which would block a worker of the runtime.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(inner))),
            Err(_) => drop(inner),
        }
    }
}
