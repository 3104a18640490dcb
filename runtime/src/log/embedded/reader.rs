//! Consumers and tails of the embedded log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::partition::{Partition, Read};
use super::{Embedded, TopicState, fatal};
use crate::log::{ConsumeOptions, Delivery, LogError, Polled, StartAt};

/// Most records of one [`Tail::recv`].
const TAIL_BATCH_MAX: usize = 500;

/// The one member of a group for a topic: it has all partitions.
#[derive(Debug)]
pub(in crate::log) struct Consumer {
    log: Embedded,
    group: String,
    topic: TopicState,
    batch_max: usize,
    epoch: u64,
    /// Next offset of each started partition.
    next: BTreeMap<i32, i64>,
    /// The partition to look at first, so that none starves.
    turn: usize,
    paused: bool,
}

impl Consumer {
    pub(super) fn join(
        log: Embedded,
        group: &str,
        topic: &str,
        options: ConsumeOptions,
    ) -> Result<Self, LogError> {
        let state = log
            .topic(topic)
            .ok_or_else(|| fatal(&format!("no topic {topic}")))?;
        if !log
            .shared
            .members
            .lock()
            .insert((group.to_owned(), topic.to_owned()))
        {
            return Err(fatal(&format!(
                "group {group} has a member for {topic} already; the embedded log takes one"
            )));
        }
        let lows = state
            .partitions
            .iter()
            .map(|partition| (i32::from(partition.number), partition.watermarks().low));
        log.shared.state.lock().register(group, topic, lows);
        Ok(Self {
            log,
            group: group.to_owned(),
            topic: state,
            batch_max: options.batch_max.max(1),
            epoch: 0,
            next: BTreeMap::new(),
            turn: 0,
            paused: false,
        })
    }

    pub(in crate::log) async fn recv(&mut self) -> Result<Polled, LogError> {
        if self.epoch == 0 {
            self.epoch = 1;
            let count = i32::try_from(self.topic.partitions.len()).unwrap_or(i32::MAX);
            return Ok(Polled::Assigned {
                epoch: 1,
                partitions: (0..count).collect(),
            });
        }
        let shown = self.topic.shown.clone();
        loop {
            // Registered before looking, so that nothing is missed in between.
            let notified = shown.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if !self.paused {
                let deliveries = self.read().await?;
                if !deliveries.is_empty() {
                    return Ok(Polled::Deliveries(deliveries));
                }
            }
            notified.await;
        }
    }

    /// Reads what is there, each partition in turn.
    async fn read(&mut self) -> Result<Vec<Delivery>, LogError> {
        let count = self.topic.partitions.len();
        let mut all = Vec::new();
        for step in 0..count {
            let partition = &self.topic.partitions[(self.turn + step) % count];
            let number = i32::from(partition.number);
            let Some(next) = self.next.get(&number).copied() else {
                continue;
            };
            if let Some((deliveries, next)) =
                read(partition, next, self.batch_max - all.len()).await?
            {
                self.next.insert(number, next);
                if all.is_empty() {
                    all = deliveries;
                } else {
                    all.extend(deliveries);
                }
            }
            if all.len() >= self.batch_max {
                break;
            }
        }
        self.turn = (self.turn + 1) % count.max(1);
        Ok(all)
    }

    pub(in crate::log) fn start(
        &mut self,
        epoch: u64,
        partitions: &[(i32, StartAt)],
    ) -> Result<(), LogError> {
        if epoch != self.epoch {
            return Ok(());
        }
        for (number, at) in partitions {
            let partition = self.log.partition(&self.topic.name, *number)?;
            let offset = match at {
                StartAt::Offset(offset) => *offset,
                StartAt::Committed => {
                    let state = self.log.shared.state.lock();
                    state
                        .position(&self.group, &self.topic.name, *number)
                        .unwrap_or_else(|| partition.watermarks().low)
                }
            };
            within(&partition, offset)?;
            self.next.insert(*number, offset);
        }
        Ok(())
    }

    pub(in crate::log) fn seek(&mut self, number: i32, offset: i64) -> Result<(), LogError> {
        within(&*self.log.partition(&self.topic.name, number)?, offset)?;
        self.next.entry(number).and_modify(|next| *next = offset);
        Ok(())
    }

    pub(in crate::log) fn pause(&mut self) {
        self.paused = true;
    }

    pub(in crate::log) fn resume(&mut self) {
        self.paused = false;
    }

    pub(in crate::log) fn commit(&mut self, next: &[(i32, i64)]) {
        self.log
            .shared
            .state
            .lock()
            .commit(&self.group, &self.topic.name, next);
    }

    pub(in crate::log) fn close(self) {}
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let member = (self.group.clone(), self.topic.name.to_string());
        self.log.shared.members.lock().remove(&member);
    }
}

/// A reader of one partition.
#[derive(Debug)]
pub(in crate::log) struct Tail {
    partition: Arc<Partition>,
    next: i64,
}

impl Tail {
    pub(super) fn open(partition: Arc<Partition>, offset: i64) -> Result<Self, LogError> {
        within(&partition, offset)?;
        Ok(Self {
            partition,
            next: offset,
        })
    }

    pub(in crate::log) async fn recv(&mut self) -> Result<Vec<Delivery>, LogError> {
        let partition = self.partition.clone();
        loop {
            let notified = partition.shown();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if let Some((deliveries, next)) = read(&partition, self.next, TAIL_BATCH_MAX).await? {
                self.next = next;
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
            }
            notified.await;
        }
    }

    /// Jumps over a gap before the high watermark, where there is nothing to be read.
    pub(in crate::log) fn position(&self) -> i64 {
        match self.partition.read(self.next, 1) {
            Read::Gap(next) => next,
            Read::Nothing | Read::Deliveries(..) | Read::Below(_) | Read::OnDisk(_) => self.next,
        }
    }
}

fn within(partition: &Partition, offset: i64) -> Result<(), LogError> {
    let marks = partition.watermarks();
    let topic = partition.topic.clone();
    let number = i32::from(partition.number);
    if offset < marks.low {
        return Err(LogError::BelowStart {
            topic,
            partition: number,
            offset,
            low: marks.low,
        });
    }
    if offset > marks.high {
        return Err(LogError::BeyondEnd {
            topic,
            partition: number,
            offset,
            high: marks.high,
        });
    }
    Ok(())
}

/// Records from `offset` on and where to go on; none when there is nothing yet.
async fn read(
    partition: &Arc<Partition>,
    offset: i64,
    max: usize,
) -> Result<Option<(Vec<Delivery>, i64)>, LogError> {
    let mut offset = offset;
    let mut moved = false;
    loop {
        match partition.read(offset, max) {
            Read::Nothing => return Ok(moved.then(|| (Vec::new(), offset))),
            Read::Deliveries(deliveries, next) => return Ok(Some((deliveries, next))),
            Read::Gap(next) => {
                offset = next;
                moved = true;
            }
            Read::Below(low) => {
                let number = i32::from(partition.number);
                return Err(LogError::BelowStart {
                    topic: partition.topic.clone(),
                    partition: number,
                    offset,
                    low,
                });
            }
            Read::OnDisk(chunk) => {
                let reader = partition.clone();
                let wanted = chunk.clone();
                let read =
                    tokio::task::spawn_blocking(move || reader.read_disk(&wanted, offset, max))
                        .await;
                match read {
                    Ok(Ok(deliveries)) => match deliveries.last() {
                        Some(last) => {
                            let next = last.position.offset + 1;
                            return Ok(Some((deliveries, next)));
                        }
                        None => offset = chunk.last + 1,
                    },
                    // Written again elsewhere, or deleted, while we read: look again.
                    Ok(Err(_)) if partition.moved(&chunk) => {
                        tokio::time::sleep(Duration::from_millis(1)).await
                    }
                    Ok(Err(error)) => {
                        return Err(fatal(&format!("a segment cannot be read: {error}")));
                    }
                    Err(_) => return Err(fatal("the runtime is shutting down")),
                }
            }
        }
    }
}
