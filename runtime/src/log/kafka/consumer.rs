//! A member of a consumer group for one topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schemas::time::Timestamp;

use super::context::{MemberContext, Poller, Rebalance};
use super::{ANSWER_TIMEOUT, Kafka, blocking, consumer_config, unavailable};
use crate::log::{
    ConsumeOptions, Delivery, LogError, Polled, Position, Record, StartAt, Watermarks,
};

/// Longest that leaving the group may block a thread.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// A member of a group. `StreamConsumer` wakes its task straight from librdkafka's queue, without a thread in between.
pub(in crate::log) struct Consumer {
    kafka: Kafka,
    inner: Arc<StreamConsumer<MemberContext>>,
    topic: Arc<str>,
    full_name: String,
    batch_max: usize,
    epoch: u64,
    /// Partitions of the current assignment, and the next offset of those that were started.
    assigned: BTreeMap<i32, Option<i64>>,
    paused: bool,
    /// Positions to commit again on close.
    committed: BTreeMap<i32, i64>,
    /// The broker refused the position of a partition, and it is not known yet of which.
    is_refused: bool,
    /// Ends the next [`Consumer::recv`]: met behind deliveries that go first. librdkafka tells it only once.
    failure: Option<LogError>,
    poller: Arc<Poller>,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer")
            .field("topic", &self.topic)
            .field("epoch", &self.epoch)
            .field("assigned", &self.assigned)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    pub(super) fn join(
        kafka: &Kafka,
        group: &str,
        topic: &str,
        options: ConsumeOptions,
    ) -> Result<Self, LogError> {
        let fatal = |error: KafkaError| LogError::Fatal {
            reason: error.to_string(),
        };
        let full_name = kafka.full_name(topic);
        let inner: StreamConsumer<MemberContext> = consumer_config(
            &kafka.shared.settings,
            &kafka.full_name(group),
            options.linger,
        )
        .create_with_context(MemberContext::default())
        .map_err(fatal)?;
        inner.subscribe(&[&full_name]).map_err(fatal)?;
        Ok(Self {
            kafka: kafka.clone(),
            inner: Arc::new(inner),
            topic: topic.into(),
            batch_max: options.batch_max.max(1),
            epoch: 0,
            assigned: BTreeMap::new(),
            paused: false,
            committed: BTreeMap::new(),
            is_refused: false,
            failure: None,
            poller: kafka
                .shared
                .pollers
                .register(format!("of {group} for {full_name}")),
            full_name,
        })
    }

    pub(in crate::log) async fn recv(&mut self) -> Result<Polled, LogError> {
        loop {
            self.poller.polled();
            if let Some(rebalance) = self.inner.context().take() {
                return Ok(self.rebalanced(rebalance));
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if self.is_refused {
                match self.out_of_range().await {
                    Ok(Some(lost)) => return Err(lost),
                    // All positions are there (again): fetching goes on.
                    Ok(None) => self.assign_started()?,
                    // Asked again after the next poll, which must not wait.
                    Err(error) => {
                        tracing::debug!(%error, topic = %self.topic, "a refused position waits for the broker");
                    }
                }
            }
            let received = tokio::select! {
                biased;
                () = self.inner.context().noted() => continue,
                received = self.inner.recv() => Some(received.map(|message| delivery(&self.topic, &message))),
                // Wakes a loop with nothing to do, so that its age says whether it still turns.
                () = tokio::time::sleep(Duration::from_secs(5)) => None,
            };
            let first = match received {
                None => continue,
                Some(Ok(first)) => first,
                Some(Err(error)) => {
                    self.check(&error)?;
                    continue;
                }
            };
            let mut deliveries = Vec::with_capacity(16);
            self.take(first, &mut deliveries);
            while deliveries.len() < self.batch_max {
                let Some(received) = self.inner.recv().now_or_never() else {
                    break;
                };
                match received.map(|message| delivery(&self.topic, &message)) {
                    Ok(next) => self.take(next, &mut deliveries),
                    Err(error) => {
                        self.failure = self.check(&error).err();
                        break;
                    }
                }
            }
            if !deliveries.is_empty() {
                return Ok(Polled::Deliveries(deliveries));
            }
        }
    }

    /// Keeps a delivery of a started partition and moves its position.
    fn take(&mut self, delivery: Delivery, deliveries: &mut Vec<Delivery>) {
        let Position { partition, offset } = delivery.position;
        if let Some(Some(next)) = self.assigned.get_mut(&partition) {
            *next = offset + 1;
            deliveries.push(delivery);
        }
    }

    fn rebalanced(&mut self, rebalance: Rebalance) -> Polled {
        self.epoch += 1;
        let epoch = self.epoch;
        match rebalance {
            Rebalance::Assigned(partitions) => {
                self.assigned
                    .extend(partitions.iter().map(|partition| (*partition, None)));
                Polled::Assigned { epoch, partitions }
            }
            Rebalance::Revoked(partitions) => {
                for partition in &partitions {
                    self.assigned.remove(partition);
                    self.committed.remove(partition);
                }
                Polled::Revoked { epoch, partitions }
            }
        }
    }

    /// Broker trouble is waited out by librdkafka; what is left ends the consumer or a partition.
    fn check(&mut self, error: &KafkaError) -> Result<(), LogError> {
        if let Some((_, reason)) = self.inner.client().fatal_error() {
            return Err(LogError::Fatal { reason });
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                self.is_refused = true;
                Ok(())
            }
            Some(RDKafkaErrorCode::PollExceeded) => Err(LogError::Fatal {
                reason: format!("the consumer of {} was not polled in time", self.full_name),
            }),
            _ => {
                tracing::debug!(%error, topic = %self.topic, "the consumer met an error");
                Ok(())
            }
        }
    }

    /// A started partition whose position is not on the log (the error of librdkafka names none); it counts as not
    /// started from then on. None: all positions are there.
    async fn out_of_range(&mut self) -> Result<Option<LogError>, LogError> {
        let started = self.assigned.iter();
        let started: Vec<(i32, i64)> = started
            .filter_map(|(partition, next)| next.map(|next| (*partition, next)))
            .collect();
        for (partition, next) in started {
            let marks = self.kafka.watermarks(&self.topic, partition).await?;
            if let Err(lost) = within(&self.topic, partition, next, marks) {
                self.assigned.insert(partition, None);
                // Others may be out of range as well: all are looked at once more.
                return Ok(Some(lost));
            }
        }
        self.is_refused = false;
        Ok(None)
    }

    pub(in crate::log) async fn start(
        &mut self,
        epoch: u64,
        partitions: &[(i32, StartAt)],
    ) -> Result<(), LogError> {
        if epoch != self.epoch {
            return Ok(());
        }
        let mut starts = Vec::with_capacity(partitions.len());
        for (partition, at) in partitions {
            let marks = self.kafka.watermarks(&self.topic, *partition).await?;
            let offset = match at {
                StartAt::Offset(offset) => *offset,
                StartAt::Committed => self
                    .committed_offset(*partition)
                    .await?
                    .unwrap_or(marks.low),
            };
            within(&self.topic, *partition, offset, marks)?;
            starts.push((*partition, offset));
        }
        for (partition, offset) in starts {
            if let Some(next) = self.assigned.get_mut(&partition) {
                *next = Some(offset);
            }
        }
        self.assign_started()
    }

    pub(in crate::log) async fn seek(
        &mut self,
        partition: i32,
        offset: i64,
    ) -> Result<(), LogError> {
        let marks = self.kafka.watermarks(&self.topic, partition).await?;
        within(&self.topic, partition, offset, marks)?;
        match self.assigned.get_mut(&partition) {
            Some(next) => *next = Some(offset),
            None => return Ok(()),
        }
        // Assigning anew drops what was fetched ahead; a seek right after an assignment may be refused.
        self.assign_started()
    }

    async fn committed_offset(&self, partition: i32) -> Result<Option<i64>, LogError> {
        let inner = self.inner.clone();
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.full_name, partition);
        blocking(move || {
            let committed = inner
                .committed_offsets(list, ANSWER_TIMEOUT)
                .map_err(|error| unavailable(&error))?;
            Ok(committed
                .elements()
                .first()
                .and_then(|element| match element.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                }))
        })
        .await
    }

    fn assign_started(&self) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        for (partition, next) in &self.assigned {
            if let Some(next) = next {
                list.add_partition_offset(&self.full_name, *partition, Offset::Offset(*next))
                    .map_err(|error| unavailable(&error))?;
            }
        }
        self.inner
            .assign(&list)
            .map_err(|error| unavailable(&error))?;
        // An assignment forgets what was paused.
        if self.paused {
            self.set_paused(true);
        }
        Ok(())
    }

    pub(in crate::log) fn pause(&mut self) {
        if !self.paused {
            self.paused = true;
            self.set_paused(true);
        }
    }

    pub(in crate::log) fn resume(&mut self) {
        if self.paused {
            self.paused = false;
            self.set_paused(false);
        }
    }

    fn set_paused(&self, paused: bool) {
        let mut list = TopicPartitionList::new();
        for (partition, next) in &self.assigned {
            if next.is_some() {
                list.add_partition(&self.full_name, *partition);
            }
        }
        let outcome = if paused {
            self.inner.pause(&list)
        } else {
            self.inner.resume(&list)
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, topic = %self.topic, paused, "could not pause or resume");
        }
    }

    pub(in crate::log) fn commit(&mut self, next: &[(i32, i64)]) -> Result<(), LogError> {
        let positions: Vec<(i32, i64)> = next
            .iter()
            .copied()
            .filter(|(partition, _)| matches!(self.assigned.get(partition), Some(Some(_))))
            .collect();
        if positions.is_empty() {
            return Ok(());
        }
        self.committed.extend(positions.iter().copied());
        let list = positions_list(&self.full_name, &positions)?;
        // Not waited for: a position that is not stored is stored with the next one, or on close.
        self.inner
            .commit(&list, CommitMode::Async)
            .map_err(|error| unavailable(&error))
    }

    pub(in crate::log) async fn close(self, grace: Duration) {
        let positions: Vec<(i32, i64)> = self
            .committed
            .iter()
            .map(|(partition, next)| (*partition, *next))
            .collect();
        let (inner, full_name) = (self.inner, self.full_name);
        let left = blocking(move || {
            if !positions.is_empty() {
                let list = positions_list(&full_name, &positions)?;
                if let Err(error) = inner.commit(&list, CommitMode::Sync) {
                    tracing::warn!(%error, topic = full_name, "last positions were not committed");
                }
            }
            inner.unsubscribe();
            // Blocks until the group was left.
            drop(inner);
            Ok(())
        });
        if tokio::time::timeout(grace.min(DROP_TIMEOUT), left)
            .await
            .is_err()
        {
            tracing::warn!(
                "a consumer did not leave its group in time; the group's time-out will do it"
            );
        }
    }
}

/// Whether records can be read from `offset` on.
pub(super) fn within(
    topic: &Arc<str>,
    partition: i32,
    offset: i64,
    Watermarks { low, high }: Watermarks,
) -> Result<(), LogError> {
    let topic = Arc::clone(topic);
    if offset < low {
        return Err(LogError::BelowStart {
            topic,
            partition,
            offset,
            low,
        });
    }
    if offset > high {
        return Err(LogError::BeyondEnd {
            topic,
            partition,
            offset,
            high,
        });
    }
    Ok(())
}

/// The one place of commit arithmetic: our positions are the *next* offset to read, and so are those of a list
/// (`commit_message` and `store_offset` would add one).
fn positions_list(full_name: &str, next: &[(i32, i64)]) -> Result<TopicPartitionList, LogError> {
    let mut list = TopicPartitionList::new();
    for (partition, next) in next {
        list.add_partition_offset(full_name, *partition, Offset::Offset(*next))
            .map_err(|error| unavailable(&error))?;
    }
    Ok(list)
}

/// Copies a message out of librdkafka's memory.
pub(super) fn delivery(topic: &Arc<str>, message: &BorrowedMessage<'_>) -> Delivery {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| {
                (
                    header.key.into(),
                    Bytes::copy_from_slice(header.value.unwrap_or_default()),
                )
            })
            .collect()
    });
    Delivery {
        topic: topic.clone(),
        position: Position {
            partition: message.partition(),
            offset: message.offset(),
        },
        timestamp: Timestamp(
            message
                .timestamp()
                .to_millis()
                .unwrap_or(0)
                .saturating_mul(1_000),
        ),
        record: Record {
            key: Bytes::copy_from_slice(message.key().unwrap_or_default()),
            headers,
            value: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_position_is_the_next_offset_to_read() {
        let list = positions_list("t", &[(3, 42)]).unwrap();
        let element = list.find_partition("t", 3).unwrap();
        assert_eq!(element.offset(), Offset::Offset(42));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_partition_whose_position_is_gone_is_named_and_the_others_go_on() {
        let Some(broker) = crate::log::kafka::tests::Broker::new() else {
            return;
        };
        let topic = schemas::topic::REQUESTS_INTERACTIVE;
        let kafka = Kafka::open(&broker.settings).unwrap();
        kafka
            .ensure_topics(&crate::log::kafka::tests::topics())
            .await
            .unwrap();
        let mut consumer = kafka
            .consume("lost", topic, ConsumeOptions::default())
            .unwrap();
        let Polled::Assigned { epoch, partitions } = consumer.recv().await.unwrap() else {
            panic!("nothing is delivered before a start");
        };
        assert_eq!(partitions, [0, 1]);
        let starts = partitions
            .iter()
            .map(|partition| (*partition, StartAt::Committed))
            .collect::<Vec<_>>();
        consumer.start(epoch, &starts).await.unwrap();
        // As if the log had lost its tail while it was read.
        consumer.assigned.insert(1, Some(100));
        consumer.assign_started().unwrap();
        let lost = consumer.recv().await.unwrap_err();
        assert!(
            matches!(
                lost,
                LogError::BeyondEnd {
                    partition: 1,
                    offset: 100,
                    high: 0,
                    ..
                }
            ),
            "{lost:?}"
        );
        kafka
            .health()
            .wait_for(|health| *health == crate::log::Health::Up)
            .await
            .unwrap();
        let record = crate::log::conformance::record("a");
        kafka
            .append(topic, crate::log::Place::Partition(0), record)
            .await
            .unwrap();
        let polled = consumer.recv().await.unwrap();
        let Polled::Deliveries(deliveries) = polled else {
            panic!("{polled:?}");
        };
        assert_eq!(deliveries[0].position.partition, 0);
        consumer.close(Duration::from_secs(5)).await;
    }
}
