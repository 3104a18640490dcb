//! A reader of one partition, by assignment at an explicit offset: no group, no commits.

use std::sync::Arc;

use futures::FutureExt as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::consumer::delivery;
use super::context::Context;
use super::{Kafka, consumer_config, unavailable};
use crate::log::{Delivery, LogError};

/// Most records of one [`Tail::recv`].
const BATCH_MAX: usize = 500;

pub(in crate::log) struct Tail {
    inner: Option<Arc<StreamConsumer<Context>>>,
    topic: Arc<str>,
    partition: i32,
    next: i64,
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
        if offset < marks.low {
            return Err(LogError::BelowStart {
                topic,
                partition,
                offset,
                low: marks.low,
            });
        }
        if offset > marks.high {
            return Err(LogError::BeyondEnd {
                topic,
                partition,
                offset,
                high: marks.high,
            });
        }
        // librdkafka wants a group name to hand out messages; without a subscription no broker learns of it.
        let config = consumer_config(&kafka.shared.settings, &kafka.full_name("tail"));
        let inner: StreamConsumer<Context> = config
            .create_with_context(Context::default())
            .map_err(|error: KafkaError| LogError::Fatal {
                reason: error.to_string(),
            })?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&kafka.full_name(&topic), partition, Offset::Offset(offset))
            .map_err(|error| unavailable(&error))?;
        inner.assign(&list).map_err(|error| unavailable(&error))?;
        Ok(Self {
            inner: Some(Arc::new(inner)),
            topic,
            partition,
            next: offset,
        })
    }

    pub(in crate::log) async fn recv(&mut self) -> Result<Vec<Delivery>, LogError> {
        let Some(inner) = self.inner.clone() else {
            return Err(LogError::Fatal {
                reason: "the tail is closed".into(),
            });
        };
        let first = loop {
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
                // An error that ends the tail comes again with the next call.
                Some(Err(_)) | None => break,
            }
        }
        if let Some(last) = deliveries.last() {
            self.next = last.position.offset + 1;
        }
        Ok(deliveries)
    }

    fn check(&self, inner: &StreamConsumer<Context>, error: &KafkaError) -> Result<(), LogError> {
        if let Some((_, reason)) = inner.client().fatal_error() {
            return Err(LogError::Fatal { reason });
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Err(LogError::BelowStart {
                    topic: self.topic.clone(),
                    partition: self.partition,
                    offset: self.next,
                    low: self.next + 1,
                })
            }
            _ => {
                tracing::debug!(%error, topic = %self.topic, "the tail met an error");
                Ok(())
            }
        }
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
