//! The one thread that writes: group commit, recovery from failed writes, segments, retention.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use schemas::time::Timestamp;
use tokio::sync::oneshot;

use super::entry::{self, Head};
use super::partition::Partition;
use super::recovery::Journal;
use super::segment::{Chunk, SEGMENT_BYTES, Segment, write_index};
use super::storage::Storage;
use super::{Shared, closed};
use crate::log::{AppendError, Delivery, Durability, Health, Position, Record};

/// Most records waiting for the committer.
const QUEUED_MAX: usize = 50_000;
/// Most bytes waiting for the committer.
const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most bytes written with one call, so that the first of a long queue does not wait for the last.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Recent records kept in memory for readers at the head, by [`cost`].
const RECENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Buffered bytes and their age that are synced without a durable record asking for it.
const UNSYNCED_BYTES_MAX: usize = 8 * 1024 * 1024;
const UNSYNCED_AGE_MAX: Duration = Duration::from_secs(1);
/// How often positions are written and the age of what is unsynced is looked at.
const TICK: Duration = Duration::from_millis(250);
/// How often old segments are looked for.
const RETENTION_PERIOD: Duration = Duration::from_secs(10);
/// A segment that is not full is closed at this age, so that what is in it can grow old.
const SEGMENT_AGE_MAX: Duration = Duration::from_secs(60 * 60);
/// Waits between attempts to open the log for writing again.
const REOPEN_BACKOFF: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// An append on its way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) partition: Arc<Partition>,
    pub(super) record: Record,
    pub(super) durability: Durability,
    pub(super) done: oneshot::Sender<Result<Position, AppendError>>,
}

/// What waits for the committer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    pending: VecDeque<Pending>,
    bytes: usize,
    closed: bool,
    /// Why nothing is taken for now.
    refused: Option<Arc<str>>,
}

impl Queue {
    pub(super) fn push(&self, pending: Pending) -> Result<(), AppendError> {
        let bytes = cost(&pending.record);
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(closed());
        }
        if let Some(reason) = &waiting.refused {
            return Err(AppendError::Unavailable {
                reason: reason.clone(),
            });
        }
        if waiting.pending.len() >= QUEUED_MAX || waiting.bytes + bytes > QUEUED_BYTES_MAX {
            return Err(AppendError::Unavailable {
                reason: "its queue is full".into(),
            });
        }
        waiting.bytes += bytes;
        waiting.pending.push_back(pending);
        // The committer waits only on an empty queue.
        if waiting.pending.len() == 1 {
            self.filled.notify_one();
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.filled.notify_one();
    }

    /// Takes what waits, up to [`GROUP_BYTES_MAX`]; waits for at most [`TICK`]. None when closed and empty.
    fn take(&self) -> Option<Vec<Pending>> {
        let mut waiting = self.waiting.lock();
        if waiting.pending.is_empty() && !waiting.closed {
            self.filled.wait_for(&mut waiting, TICK);
        }
        if waiting.pending.is_empty() {
            return if waiting.closed {
                None
            } else {
                Some(Vec::new())
            };
        }
        let mut taken = Vec::with_capacity(waiting.pending.len());
        let mut bytes = 0;
        while let Some(next) = waiting.pending.pop_front() {
            bytes += cost(&next.record);
            taken.push(next);
            if bytes >= GROUP_BYTES_MAX {
                break;
            }
        }
        waiting.bytes -= bytes;
        Some(taken)
    }

    /// Refuses new appends with `reason`, or takes them again; returns what waited.
    fn refuse(&self, reason: Option<Arc<str>>) -> Vec<Pending> {
        let mut waiting = self.waiting.lock();
        waiting.refused = reason;
        waiting.bytes = 0;
        waiting.pending.drain(..).collect()
    }

    /// Waits for `period`, or until the log is closed; whether it is.
    fn wait_closed(&self, period: Duration) -> bool {
        let mut waiting = self.waiting.lock();
        if !waiting.closed {
            self.filled.wait_for(&mut waiting, period);
        }
        waiting.closed
    }
}

/// Memory that a record takes, roughly.
fn cost(record: &Record) -> usize {
    const OVERHEAD: usize = 200;
    record.key.len() + record.value.len() + OVERHEAD
}

/// A record that was shown and may not survive a power cut yet.
#[derive(Debug)]
struct Unsynced {
    partition: Arc<Partition>,
    delivery: Delivery,
}

/// An append that has its offset and its place in the group's bytes.
struct Placed {
    pending: Pending,
    delivery: Delivery,
    position: u32,
    length: u32,
}

pub(super) struct Committer {
    shared: Arc<Shared>,
    storage: Arc<dyn Storage>,
    active: Arc<Segment>,
    active_since: Instant,
    written: u64,
    /// Length of the active segment that survives a power cut.
    synced: u64,
    unsynced: Vec<Unsynced>,
    unsynced_bytes: usize,
    unsynced_since: Instant,
    finished: VecDeque<(Arc<Segment>, u64)>,
    /// One entry for each record in memory, oldest first.
    recent: VecDeque<(Arc<Partition>, usize)>,
    recent_bytes: usize,
    buffer: Vec<u8>,
    retention_at: Instant,
}

impl Committer {
    pub(super) fn new(
        shared: Arc<Shared>,
        storage: Arc<dyn Storage>,
        journal: Journal,
    ) -> io::Result<Self> {
        let active = Segment::open(&shared.settings.folder, journal.next_number, &*storage)?;
        Ok(Self {
            shared,
            storage,
            active,
            active_since: Instant::now(),
            written: 0,
            synced: 0,
            unsynced: Vec::new(),
            unsynced_bytes: 0,
            unsynced_since: Instant::now(),
            finished: journal.finished.into(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            buffer: Vec::new(),
            retention_at: Instant::now(),
        })
    }

    /// Commits until the log is closed.
    pub(super) fn run(mut self) {
        let mut ticked = Instant::now();
        while let Some(group) = self.shared.queue.take() {
            if !group.is_empty() {
                self.commit(group);
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick();
            }
        }
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the log was not closed cleanly; it will be recovered at the next start");
        }
    }

    fn commit(&mut self, group: Vec<Pending>) {
        if !self.has_room() {
            let reason: Arc<str> = format!(
                "it holds its most of {} bytes and nothing may be deleted that a consumer has not read",
                self.shared.settings.bytes_max
            )
            .into();
            return fail(group, |_| AppendError::Unavailable {
                reason: reason.clone(),
            });
        }
        let timestamp = Timestamp::now();
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut placed = Vec::with_capacity(group.len());
        for pending in group {
            let partition = &pending.partition;
            let offset = partition.take_offset();
            let head = Head {
                topic: partition.topic_id,
                partition: partition.number,
                offset,
                timestamp,
            };
            let position = self.written + buffer.len() as u64;
            let length = entry::encode(head, &pending.record, &mut buffer);
            let delivery = Delivery {
                topic: partition.topic.clone(),
                position: Position {
                    partition: i32::from(partition.number),
                    offset,
                },
                timestamp,
                record: pending.record.clone(),
            };
            let position = u32::try_from(position).unwrap_or(u32::MAX);
            placed.push(Placed {
                pending,
                delivery,
                position,
                length,
            });
        }
        let outcome = self.write_group(&buffer, placed);
        self.buffer = buffer;
        if let Err(error) = outcome {
            self.reopen(&error);
        } else if self.written >= SEGMENT_BYTES
            && let Err(error) = self.roll()
        {
            self.reopen(&error);
        }
    }

    /// Writes, shows, syncs, shows the rest. On error the appends that are not acknowledged have been failed.
    fn write_group(&mut self, bytes: &[u8], placed: Vec<Placed>) -> io::Result<()> {
        if let Err(error) = self.active.file.write_at(bytes, self.written) {
            let reason: Arc<str> = format!("a write failed: {error}").into();
            // Certain only once what was written is cut off again.
            let gone = self.active.file.truncate(self.written).is_ok();
            fail(placed.into_iter().map(|placed| placed.pending), |_| {
                if gone {
                    AppendError::Unavailable {
                        reason: reason.clone(),
                    }
                } else {
                    AppendError::Unknown {
                        waited: Duration::ZERO,
                    }
                }
            });
            return Err(error);
        }
        self.written += bytes.len() as u64;
        let any_durable = placed
            .iter()
            .any(|placed| placed.pending.durability == Durability::Durable);
        if !any_durable {
            self.show(placed);
            return Ok(());
        }
        // Buffered records are shown before the sync, unless a durable one of their partition goes first.
        let mut held: Vec<Placed> = Vec::with_capacity(placed.len());
        let mut early = Vec::new();
        for next in placed {
            let behind =
                |held: &Placed| Arc::ptr_eq(&held.pending.partition, &next.pending.partition);
            if next.pending.durability == Durability::Buffered && !held.iter().any(behind) {
                early.push(next);
            } else {
                held.push(next);
            }
        }
        self.show(early);
        if let Err(error) = self.active.file.sync() {
            fail(held.into_iter().map(|held| held.pending), |_| {
                AppendError::Unknown {
                    waited: Duration::ZERO,
                }
            });
            return Err(error);
        }
        self.show(held);
        self.all_synced();
        Ok(())
    }

    fn all_synced(&mut self) {
        self.synced = self.written;
        self.unsynced.clear();
        self.unsynced_bytes = 0;
    }

    /// Shows records to readers and acknowledges them, in order.
    fn show(&mut self, placed: Vec<Placed>) {
        if self.unsynced.is_empty() {
            self.unsynced_since = Instant::now();
        }
        let mut touched: Vec<Arc<Partition>> = Vec::new();
        for Placed {
            pending,
            delivery,
            position,
            length,
        } in placed
        {
            let Pending {
                partition, done, ..
            } = pending;
            let bytes = cost(&delivery.record);
            self.recent.push_back((partition.clone(), bytes));
            self.recent_bytes += bytes;
            self.unsynced_bytes += bytes;
            self.unsynced.push(Unsynced {
                partition: partition.clone(),
                delivery: delivery.clone(),
            });
            let at = delivery.position;
            partition.show(delivery, &self.active, position, length);
            if !touched
                .iter()
                .any(|touched| Arc::ptr_eq(touched, &partition))
            {
                touched.push(partition);
            }
            // An appender that went away does not need its position.
            drop(done.send(Ok(at)));
        }
        for partition in touched {
            partition.wake();
        }
        while self.recent_bytes > RECENT_BYTES_MAX {
            let Some((partition, bytes)) = self.recent.pop_front() else {
                break;
            };
            self.recent_bytes -= bytes;
            partition.forget_oldest();
        }
    }

    fn tick(&mut self) {
        let old = !self.unsynced.is_empty() && self.unsynced_since.elapsed() >= UNSYNCED_AGE_MAX;
        let aged = self.written > 0 && self.active_since.elapsed() >= SEGMENT_AGE_MAX;
        let outcome = if aged {
            self.roll()
        } else if old || self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            self.active.file.sync().map(|()| self.all_synced())
        } else {
            Ok(())
        };
        if let Err(error) = outcome {
            self.reopen(&error);
        }
        let saved = self
            .shared
            .state
            .lock()
            .save_positions(&self.shared.settings.folder);
        if let Err(error) = saved {
            tracing::warn!(%error, "positions of consumer groups were not written; they are written again");
        }
        if self.retention_at.elapsed() >= RETENTION_PERIOD {
            self.retention_at = Instant::now();
            self.delete_old(Timestamp::now());
        }
    }

    // ------------------------------------------------------------ segments

    /// Finishes the active segment and begins the next.
    fn roll(&mut self) -> io::Result<()> {
        self.active.file.sync()?;
        self.all_synced();
        let next = Segment::open(
            &self.shared.settings.folder,
            self.active.number + 1,
            &*self.storage,
        )?;
        self.begin(next);
        Ok(())
    }

    /// Makes `next` the active segment; the one before is indexed and finished.
    fn begin(&mut self, next: Arc<Segment>) {
        let before = std::mem::replace(&mut self.active, next);
        let length = self.synced;
        self.active_since = Instant::now();
        self.written = 0;
        self.synced = 0;
        self.seal(&before, length);
        self.finished.push_back((before, length));
    }

    fn seal(&self, segment: &Segment, length: u64) {
        let partitions = self.partitions();
        let chunks: Vec<(u16, u16, Chunk)> = partitions
            .iter()
            .filter_map(|partition| {
                let chunk = partition.chunk_of(segment.number)?;
                Some((partition.topic_id, partition.number, chunk))
            })
            .collect();
        match write_index(segment, length, &chunks) {
            Ok(listed) => {
                for chunk in listed {
                    let partition = partitions.iter().find(|partition| {
                        partition.topic_id == chunk.topic && partition.number == chunk.partition
                    });
                    if let Some(partition) = partition {
                        partition.seal(segment.number, chunk.at, chunk.count);
                    }
                }
            }
            // The locations stay in memory, and the next start scans the segment.
            Err(error) => tracing::warn!(%error, "a segment of the log has no index"),
        }
    }

    fn partitions(&self) -> Vec<Arc<Partition>> {
        let topics = self.shared.topics.read();
        topics
            .values()
            .flat_map(|topic| topic.partitions.iter().cloned())
            .collect()
    }

    fn has_room(&mut self) -> bool {
        loop {
            let total = self.finished.iter().map(|(_, length)| length).sum::<u64>() + self.written;
            if total < self.shared.settings.bytes_max {
                return true;
            }
            if !self.delete_oldest(None) {
                return false;
            }
        }
    }

    fn delete_old(&mut self, now: Timestamp) {
        while self.delete_oldest(Some(now)) {}
    }

    /// Deletes the oldest finished segment if every registered group has read it and, with `now`, every record in it is past
    /// its topic's retention.
    fn delete_oldest(&mut self, now: Option<Timestamp>) -> bool {
        let Some((segment, _)) = self.finished.front() else {
            return false;
        };
        let topics: Vec<super::TopicState> = self.shared.topics.read().values().cloned().collect();
        {
            let state = self.shared.state.lock();
            for topic in &topics {
                for partition in &topic.partitions {
                    let Some((number, last, newest)) = partition.oldest_chunk() else {
                        continue;
                    };
                    if number > segment.number {
                        continue;
                    }
                    let read = state.least_position(&topic.name, i32::from(partition.number));
                    if read.is_some_and(|read| read <= last) {
                        return false;
                    }
                    if now.is_some_and(|now| now.since(newest) < topic.retention) {
                        return false;
                    }
                }
            }
        }
        let Some((segment, _)) = self.finished.pop_front() else {
            return false;
        };
        for topic in &topics {
            for partition in &topic.partitions {
                partition.delete_through(segment.number);
            }
        }
        // What `delete_through` took out of memory is still counted here; rebuilt from what is there.
        self.recount_recent();
        if let Err(error) = segment.delete() {
            tracing::warn!(%error, segment = segment.number, "an old segment could not be deleted");
        }
        true
    }

    fn recount_recent(&mut self) {
        let mut keep: std::collections::HashMap<*const Partition, usize> = self
            .partitions()
            .iter()
            .map(|partition| (Arc::as_ptr(partition), partition.recent_len()))
            .collect();
        // The newest entries of each partition are those still in memory.
        let mut kept = VecDeque::with_capacity(self.recent.len());
        let mut bytes_kept = 0;
        while let Some((partition, bytes)) = self.recent.pop_back() {
            match keep.get_mut(&Arc::as_ptr(&partition)) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    bytes_kept += bytes;
                    kept.push_front((partition, bytes));
                }
                _ => {}
            }
        }
        self.recent = kept;
        self.recent_bytes = bytes_kept;
    }

    // ------------------------------------------------------ after a failure

    /// Closes the log for writing until everything shown is safe in a new segment.
    fn reopen(&mut self, error: &io::Error) {
        let reason: Arc<str> = format!("it is closed for writing after an error: {error}").into();
        tracing::error!(%error, "the log is closed for writing");
        self.shared.health.send_replace(Health::Down {
            reason: reason.clone(),
        });
        let mut attempt = 0;
        loop {
            let waited = self.shared.queue.refuse(Some(reason.clone()));
            fail(waited, |_| AppendError::Unavailable {
                reason: reason.clone(),
            });
            let backoff = REOPEN_BACKOFF[attempt.min(REOPEN_BACKOFF.len() - 1)];
            attempt += 1;
            if self.shared.queue.wait_closed(backoff) {
                return;
            }
            match self.try_reopen() {
                Ok(()) => break,
                Err(error) => tracing::debug!(%error, "the log cannot be written yet"),
            }
        }
        fail(self.shared.queue.refuse(None), |_| closed());
        self.shared.health.send_replace(Health::Up);
        tracing::info!("the log is open for writing again");
    }

    /// Writes what was shown since the last good sync to a new segment, then cuts the old one off there.
    fn try_reopen(&mut self) -> io::Result<()> {
        let number = self.active.number + 1;
        let next = Segment::open(&self.shared.settings.folder, number, &*self.storage)?;
        next.file.truncate(0)?;
        let mut buffer = Vec::new();
        let mut places = Vec::with_capacity(self.unsynced.len());
        for Unsynced {
            partition,
            delivery,
        } in &self.unsynced
        {
            let head = Head {
                topic: partition.topic_id,
                partition: partition.number,
                offset: delivery.position.offset,
                timestamp: delivery.timestamp,
            };
            let position = buffer.len();
            let length = entry::encode(head, &delivery.record, &mut buffer);
            places.push((u32::try_from(position).unwrap_or(u32::MAX), length));
        }
        next.file.write_at(&buffer, 0)?;
        next.file.sync()?;
        // Also proves that the disk takes a whole group again.
        self.active.file.truncate(self.synced)?;
        self.active.file.sync()?;

        let cut = u32::try_from(self.synced).unwrap_or(u32::MAX);
        for partition in self.partitions() {
            partition.unindex(self.active.number, cut);
        }
        for (
            Unsynced {
                partition,
                delivery,
            },
            (position, length),
        ) in self.unsynced.iter().zip(&places)
        {
            partition.reindex(
                delivery.position.offset,
                delivery.timestamp,
                &next,
                *position,
                *length,
            );
        }
        self.begin(next);
        self.written = buffer.len() as u64;
        self.all_synced();
        Ok(())
    }

    fn close(mut self) -> io::Result<()> {
        self.active.file.sync()?;
        self.all_synced();
        let length = self.synced;
        if length == 0 {
            self.active.delete()?;
        } else {
            self.seal(&self.active.clone(), length);
        }
        let next = self
            .partitions()
            .iter()
            .map(|partition| {
                (
                    format!("{}/{}", partition.topic_id, partition.number),
                    partition.next_offset(),
                )
            })
            .collect::<Vec<_>>();
        let mut state = self.shared.state.lock();
        state.save_positions(&self.shared.settings.folder)?;
        state.ending.next.extend(next);
        state.ending.clean = true;
        state.save_ending(&self.shared.settings.folder)
    }
}

/// Fails appends; an appender that went away does not need to know.
fn fail(pending: impl IntoIterator<Item = Pending>, error: impl Fn(&Pending) -> AppendError) {
    for pending in pending {
        let error = error(&pending);
        drop(pending.done.send(Err(error)));
    }
}
