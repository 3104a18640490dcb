//! Consumers and tails: from memory at the head, from segments when behind. Nothing polls: a reader sleeps until the committer
//! has made something visible. After the log was closed nothing does: readers wait until they are dropped, as on Kafka.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::catalog::TopicState;
use super::frame::Slot;
use super::partition::{Fetched, Partition};
use super::{Embedded, Shared, no_such_partition};
use crate::log::{ConsumeOptions, Delivery, LogError, Polled, Position, StartAt};

/// Most records that a tail yields at once.
const TAIL_BATCH_MAX: usize = 500;
/// Pause before a read that failed is tried again.
const READ_PAUSE: Duration = Duration::from_millis(250);

/// A member of a group: the only one for its topic, with all partitions.
#[derive(Debug)]
pub(in crate::log) struct Consumer {
    /// Keeps the log open.
    log: Embedded,
    group: String,
    topic: Arc<TopicState>,
    options: ConsumeOptions,
    /// Whether the assignment was told.
    assigned: bool,
    paused: bool,
    /// By partition; none until it is started.
    next: Vec<Option<i64>>,
    /// Partition to look at first, so that a busy one does not starve the others.
    turn: usize,
}

/// The one assignment there is.
const EPOCH: u64 = 1;

impl Consumer {
    pub(super) async fn join(
        log: &Embedded,
        group: &str,
        topic: &str,
        options: ConsumeOptions,
    ) -> Result<Self, LogError> {
        let shared = log.shared().clone();
        let Some(topic) = shared.catalog.load().topics.get(topic).cloned() else {
            return Err(LogError::Fatal {
                reason: format!("no topic {topic}"),
            });
        };
        let member = (group.to_owned(), topic.name.to_string());
        if !shared.members.lock().insert(member) {
            return Err(LogError::Fatal {
                reason: format!(
                    "group {group} already reads {}: the embedded log has one member per group and topic",
                    topic.name
                ),
            });
        }
        // From here on dropping it leaves the group.
        let consumer = Self {
            log: log.clone(),
            group: group.to_owned(),
            next: vec![None; usize::from(topic.partitions)],
            topic,
            options,
            assigned: false,
            paused: false,
            turn: 0,
        };
        consumer.register().await?;
        Ok(consumer)
    }

    /// Stores a position where the group has none: from now on nothing is deleted before the group has read it.
    async fn register(&self) -> Result<(), LogError> {
        let missing: BTreeMap<Slot, i64> = {
            let groups = self.shared().groups.lock();
            let known = groups.get(&self.group);
            (0..i32::from(self.topic.partitions))
                .filter_map(|number| self.partition(number).ok())
                .filter(|(slot, _)| known.is_none_or(|slots| !slots.contains_key(slot)))
                .map(|(slot, partition)| (slot, partition.watermarks().low))
                .collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        self.shared().commit(&self.group, missing).await
    }

    fn shared(&self) -> &Arc<Shared> {
        self.log.shared()
    }

    fn partition(&self, number: i32) -> Result<(Slot, Arc<Partition>), LogError> {
        find(self.shared(), &self.topic, number)
    }

    pub(in crate::log) async fn recv(&mut self) -> Result<Polled, LogError> {
        if !self.assigned {
            self.assigned = true;
            return Ok(Polled::Assigned {
                epoch: EPOCH,
                partitions: (0..i32::from(self.topic.partitions)).collect(),
            });
        }
        let changed = self.topic.changed.clone();
        loop {
            let mut changed = std::pin::pin!(changed.notified());
            changed.as_mut().enable();
            if !self.paused
                && let Some(deliveries) = self.fetch().await?
            {
                return Ok(Polled::Deliveries(deliveries));
            }
            changed.await;
            if !self.options.linger.is_zero() {
                tokio::time::sleep(self.options.linger).await;
            }
        }
    }

    async fn fetch(&mut self) -> Result<Option<Vec<Delivery>>, LogError> {
        let count = self.next.len();
        for index in (0..count).map(|index| (self.turn + index) % count) {
            let Some(Some(next)) = self.next.get(index).copied() else {
                continue;
            };
            let (slot, partition) = self.partition(index as i32)?;
            let batch_max = self.options.batch_max.max(1);
            let (deliveries, after) =
                read(self.shared(), slot, &partition, next, batch_max).await?;
            if let Some(next) = self.next.get_mut(index) {
                *next = Some(after);
            }
            if !deliveries.is_empty() {
                self.turn = index + 1;
                return Ok(Some(deliveries));
            }
        }
        Ok(None)
    }

    pub(in crate::log) fn start(
        &mut self,
        epoch: u64,
        partitions: &[(i32, StartAt)],
    ) -> Result<(), LogError> {
        if epoch != EPOCH {
            return Ok(());
        }
        let mut started = self.next.clone();
        for (number, at) in partitions {
            let (slot, partition) = self.partition(*number)?;
            let offset = match at {
                StartAt::Offset(offset) => *offset,
                StartAt::Committed => self
                    .shared()
                    .groups
                    .lock()
                    .get(&self.group)
                    .and_then(|slots| slots.get(&slot).copied())
                    .unwrap_or_else(|| partition.watermarks().low),
            };
            partition.check(offset)?;
            if let Some(next) = started.get_mut(*number as usize) {
                *next = Some(offset);
            }
        }
        self.next = started;
        Ok(())
    }

    pub(in crate::log) fn seek(&mut self, partition: i32, offset: i64) -> Result<(), LogError> {
        let (_, state) = self.partition(partition)?;
        state.check(offset)?;
        if let Some(next @ Some(_)) = self.next.get_mut(partition as usize) {
            *next = Some(offset);
        }
        Ok(())
    }

    pub(in crate::log) fn pause(&mut self) {
        self.paused = true;
    }

    pub(in crate::log) fn resume(&mut self) {
        self.paused = false;
    }

    pub(in crate::log) async fn commit(&mut self, next: &[(i32, i64)]) -> Result<(), LogError> {
        let slots: BTreeMap<Slot, i64> = next
            .iter()
            .filter_map(|(number, next)| Some((self.topic.slot(*number)?, *next)))
            .collect();
        if slots.is_empty() {
            return Ok(());
        }
        self.shared().commit(&self.group, slots).await
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let member = (std::mem::take(&mut self.group), self.topic.name.to_string());
        self.shared().members.lock().remove(&member);
    }
}

/// A reader of one partition, without a group.
#[derive(Debug)]
pub(in crate::log) struct Tail {
    /// Keeps the log open.
    log: Embedded,
    topic: Arc<TopicState>,
    slot: Slot,
    partition: Arc<Partition>,
    next: i64,
}

impl Tail {
    pub(super) fn open(
        log: &Embedded,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<Self, LogError> {
        let Some(state) = log.shared().catalog.load().topics.get(topic).cloned() else {
            return Err(no_such_partition(topic, partition));
        };
        let (slot, partition) = find(log.shared(), &state, partition)?;
        partition.check(offset)?;
        Ok(Self {
            log: log.clone(),
            topic: state,
            slot,
            partition,
            next: offset,
        })
    }

    pub(in crate::log) async fn recv(&mut self) -> Result<Vec<Delivery>, LogError> {
        let changed = self.topic.changed.clone();
        loop {
            let mut changed = std::pin::pin!(changed.notified());
            changed.as_mut().enable();
            let shared = self.log.shared();
            let (deliveries, after) = read(
                shared,
                self.slot,
                &self.partition,
                self.next,
                TAIL_BATCH_MAX,
            )
            .await?;
            self.next = after;
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            changed.await;
        }
    }

    pub(in crate::log) fn position(&self) -> i64 {
        // With no record left the offset of the next one is the high watermark, also across a gap.
        self.partition.position(self.next)
    }
}

fn find(
    shared: &Shared,
    topic: &TopicState,
    number: i32,
) -> Result<(Slot, Arc<Partition>), LogError> {
    let catalog = shared.catalog.load();
    topic
        .slot(number)
        .and_then(|slot| Some((slot, catalog.partitions.get(usize::from(slot))?.clone())))
        .ok_or_else(|| no_such_partition(&topic.name, number))
}

/// Records of a partition from `from` on, and where reading goes on; no records when there are none yet.
async fn read(
    shared: &Arc<Shared>,
    slot: Slot,
    partition: &Arc<Partition>,
    from: i64,
    count_max: usize,
) -> Result<(Vec<Delivery>, i64), LogError> {
    loop {
        let deliveries = match partition.fetch(from, count_max)? {
            Fetched::Nothing(next) => return Ok((Vec::new(), next)),
            Fetched::Records(deliveries) => deliveries,
            Fetched::OnDisk(end) => {
                let (own, own_partition) = (shared.clone(), partition.clone());
                let read = tokio::task::spawn_blocking(move || {
                    own.read_disk(slot, &own_partition, from, end, count_max)
                });
                match read.await {
                    Ok(Ok(deliveries)) => deliveries,
                    Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                        return Err(LogError::Fatal {
                            reason: error.to_string(),
                        });
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(%error, topic = %partition.topic, "the log could not be read");
                        tokio::time::sleep(READ_PAUSE).await;
                        continue;
                    }
                    Err(_) => {
                        return Err(LogError::Fatal {
                            reason: "the runtime is shutting down".to_owned(),
                        });
                    }
                }
            }
        };
        // Empty when the segment went away in between: look again.
        if let Some(last) = deliveries.last() {
            let next = last.position.offset + 1;
            return Ok((deliveries, next));
        }
    }
}

impl Shared {
    fn read_disk(
        &self,
        slot: Slot,
        partition: &Partition,
        from: i64,
        end: i64,
        count_max: usize,
    ) -> io::Result<Vec<Delivery>> {
        let find = || {
            let segments = self.segments.read();
            let mut holding = segments.iter();
            holding
                .find(|segment| segment.end(slot).is_some_and(|end| end > from))
                .cloned()
        };
        let Some(segment) = find() else {
            return Ok(Vec::new());
        };
        let rewrites = segment.rewrites();
        let frames = match segment.read(&*self.storage, slot, from, end, count_max) {
            Ok(frames) => frames,
            // Deleted or written anew while it was read: look again.
            Err(_) if partition.check(from).is_err() || segment.rewrites() != rewrites => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        Ok(frames
            .into_iter()
            .map(|frame| Delivery {
                topic: partition.topic.clone(),
                position: Position {
                    partition: partition.number,
                    offset: frame.offset,
                },
                timestamp: frame.timestamp,
                record: frame.record,
            })
            .collect())
    }
}
