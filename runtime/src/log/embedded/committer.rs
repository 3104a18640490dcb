//! The only writer of the journal: takes everything queued, writes it at once, syncs at once if any of it is durable.
//!
//! **Shown and held.** In one batch a record is *held* when it is durable or stands behind a durable one of its partition; all
//! others are *shown*: resolved and visible as soon as they are written. Shown frames are written before held ones, so at any time
//! one position in the file divides what somebody has seen from what nobody has.
//!
//! **Failure.** When a write or a sync fails, the file is opened anew and cut at that position; shown bytes that were never synced
//! are written again from memory, because after a failed sync the system may have dropped them, and the cut is synced. Only if all
//! that succeeded is it certain that the held records are not there (`Unavailable`); else it is `Unknown`. Nothing is taken until
//! that and a trial write succeed.

mod reopen;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use schemas::time::Timestamp;
use tokio::sync::oneshot;

use super::Shared;
use super::catalog::{Catalog, TopicState};
use super::frame::{self, Commit, Slot};
use super::keeper::Keeper;
use super::open;
use super::queue::{Next, Work};
use super::segment::{self, MAGIC, Noted, Segment};
use super::storage::StorageFile;
use crate::log::{AppendError, Durability, Health, Position, Record};

/// Longest that bytes nobody asked to sync wait for the next sync.
const UNSYNCED_AGE_MAX: Duration = Duration::from_secs(1);
/// Most such bytes; they are kept in memory too.
const UNSYNCED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a record in memory costs beside its bytes.
const RECORD_OVERHEAD: usize = 192;
/// Starts the committer and its keeper; `number` is that of the first segment it makes.
pub(super) fn start(shared: Arc<Shared>, number: u64) -> io::Result<std::thread::JoinHandle<()>> {
    let keeper = Keeper::start(shared.clone())?;
    std::thread::Builder::new()
        .name("log-committer".to_owned())
        .spawn(move || {
            // Also when it panics: whoever waits for the end must not wait for ever.
            let _ended = Ended(shared.clone());
            Committer {
                shared,
                keeper,
                number,
                active: None,
                next: Vec::new(),
                memory: Memory::default(),
                buffer: Vec::new(),
            }
            .run();
        })
}

struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.queue.close();
        self.0.queue.refuse(&"the log is closed".into());
        self.0.health.send_replace(Health::Down {
            reason: "the log is closed".into(),
        });
        self.0.ended.send_replace(true);
    }
}

struct Committer {
    shared: Arc<Shared>,
    keeper: Keeper,
    /// Of the next segment.
    number: u64,
    active: Option<Active>,
    /// Next offset by slot.
    next: Vec<i64>,
    memory: Memory,
    /// The frames of one batch.
    buffer: Vec<u8>,
}

/// The segment in writing.
struct Active {
    segment: Arc<Segment>,
    file: Arc<dyn StorageFile>,
    /// Everything before is shown, or was synced.
    end: u64,
    /// Everything before is synced.
    synced: u64,
    /// The bytes in between.
    unsynced: Vec<u8>,
    unsynced_since: Instant,
}

/// Which records are in memory, oldest first.
#[derive(Default)]
struct Memory {
    order: std::collections::VecDeque<(Slot, usize)>,
    bytes: usize,
}

/// A work with its place in the buffer.
enum Item {
    Record {
        noted: Noted,
        record: Record,
        reply: oneshot::Sender<Result<Position, AppendError>>,
    },
    Commit {
        commit: Commit,
        reply: oneshot::Sender<Result<(), Arc<str>>>,
    },
}

impl Committer {
    fn run(mut self) {
        loop {
            let until = self
                .active
                .as_ref()
                .filter(|active| !active.unsynced.is_empty())
                .map(|active| active.unsynced_since + UNSYNCED_AGE_MAX);
            match self.shared.queue.next(until) {
                Next::Batch(works) => self.commit(works),
                Next::Idle => {
                    if let Err(error) = self.sync() {
                        self.fail(&error, Vec::new(), Instant::now());
                    }
                }
                Next::Closed => break,
            }
        }
        if let Err(error) = self.finish() {
            tracing::error!(%error, "the log could not be closed cleanly");
        }
    }

    fn commit(&mut self, works: Vec<Work>) {
        let began = Instant::now();
        let catalog = self.shared.catalog.load_full();
        let (shown, held) = divide(works, catalog.partitions.len());
        self.follow(&catalog);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut shown = self.encode(&mut buffer, shown);
        let shown_bytes = buffer.len();
        let mut held = self.encode(&mut buffer, held);
        if let Err(error) = self.write(&buffer, shown_bytes, &mut shown, &mut held, &catalog) {
            shown.append(&mut held);
            self.fail(&error, shown, began);
        }
        // A batch of large records must not keep its memory for ever.
        buffer.shrink_to(1024 * 1024);
        self.buffer = buffer;
    }

    /// Writes the buffer; on success both lists are empty, on failure they hold what nobody has seen.
    fn write(
        &mut self,
        buffer: &[u8],
        shown_bytes: usize,
        shown: &mut Vec<Item>,
        held: &mut Vec<Item>,
        catalog: &Catalog,
    ) -> io::Result<()> {
        if self.is_full(buffer.len() as u64, shown, held) {
            return Ok(());
        }
        let active = self.active_for(buffer.len() as u64)?;
        active.file.write_at(buffer, active.end)?;
        if shown_bytes > 0 {
            if active.unsynced.is_empty() {
                active.unsynced_since = Instant::now();
            }
            let (bytes, _) = buffer.split_at(shown_bytes);
            active.unsynced.extend_from_slice(bytes);
            self.publish(std::mem::take(shown), shown_bytes, catalog);
        }
        #[cfg(test)]
        if self.shared.tuning.acknowledge_before_sync {
            self.publish(std::mem::take(held), buffer.len() - shown_bytes, catalog);
            return self.sync();
        }
        let unsynced = self
            .active
            .as_ref()
            .map_or(0, |active| active.unsynced.len());
        if held.is_empty() && unsynced < UNSYNCED_BYTES_MAX {
            return Ok(());
        }
        self.sync()?;
        if let Some(active) = &mut self.active {
            active.synced += (buffer.len() - shown_bytes) as u64;
        }
        self.publish(std::mem::take(held), buffer.len() - shown_bytes, catalog);
        Ok(())
    }

    /// Refuses the records of the batch when they would not fit; positions are always taken, because they let space be freed.
    fn is_full(&mut self, bytes: u64, shown: &mut Vec<Item>, held: &mut Vec<Item>) -> bool {
        let used = self.shared.used.load(Ordering::Relaxed);
        let bytes_max = self.shared.tuning.bytes_max;
        let mut items = shown.iter().chain(held.iter());
        if used + bytes <= bytes_max || !items.any(|item| matches!(item, Item::Record { .. })) {
            return false;
        }
        let reason: Arc<str> =
            format!("the log is full: {used} of {bytes_max} bytes, and nothing may be deleted")
                .into();
        if !self.shared.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(%reason, "the log refuses records");
        }
        self.shared.health.send_replace(Health::Down {
            reason: reason.clone(),
        });
        let mut commits = Vec::new();
        for item in shown.drain(..).chain(held.drain(..)) {
            match item {
                Item::Record { reply, .. } => drop(reply.send(Err(AppendError::Unavailable {
                    reason: reason.clone(),
                }))),
                Item::Commit { commit, reply } => commits.push(Work::Commit { commit, reply }),
            }
        }
        self.rewind();
        if !commits.is_empty() {
            self.commit(commits);
        }
        self.shared.keeper.poke();
        true
    }

    /// The segment that takes `bytes` more.
    fn active_for(&mut self, bytes: u64) -> io::Result<&mut Active> {
        let roll = self.active.as_ref().is_some_and(|active| {
            active.end > MAGIC.len() as u64 && active.end + bytes > self.shared.tuning.segment_bytes
        });
        if roll {
            // Only the newest segment may have a torn tail.
            self.sync()?;
            if let Some(active) = self.active.take() {
                self.shared.keeper.seal(active.segment);
            }
        }
        let active = match self.active.take() {
            Some(active) => active,
            None => self.new_segment()?,
        };
        Ok(self.active.insert(active))
    }

    fn new_segment(&mut self) -> io::Result<Active> {
        let file = self
            .shared
            .storage
            .create(&segment::file_name(self.number))?;
        file.write_at(MAGIC, 0)?;
        self.shared.storage.sync_names()?;
        let end = MAGIC.len() as u64;
        let segment = Arc::new(Segment::new(self.number, Default::default(), end));
        self.shared.segments.write().push(segment.clone());
        self.shared.used.fetch_add(end, Ordering::Relaxed);
        self.number += 1;
        Ok(Active {
            segment,
            file,
            end,
            synced: 0,
            unsynced: MAGIC.to_vec(),
            unsynced_since: Instant::now(),
        })
    }

    /// Syncs the active segment: everything written to it becomes durable.
    fn sync(&mut self) -> io::Result<()> {
        if let Some(active) = &mut self.active {
            active.file.sync()?;
            active.synced = active.end;
            active.unsynced.clear();
            active.unsynced.shrink_to(64 * 1024);
        }
        Ok(())
    }

    /// Makes items visible that follow in the file, `bytes` in all, and answers them.
    fn publish(&mut self, items: Vec<Item>, bytes: usize, catalog: &Catalog) {
        let Some(active) = &mut self.active else {
            return;
        };
        active
            .segment
            .note(items.iter().filter_map(|item| match item {
                Item::Record { noted, .. } => Some(Noted {
                    at: active.end + noted.at,
                    ..*noted
                }),
                Item::Commit { .. } => None,
            }));
        active.end += bytes as u64;
        active.segment.set_bytes(active.end);
        self.shared.used.fetch_add(bytes as u64, Ordering::Relaxed);
        let mut changed: Vec<&Arc<TopicState>> = Vec::new();
        let mut replies = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Item::Record {
                    noted,
                    record,
                    reply,
                } => {
                    let Some(partition) = catalog.partitions.get(usize::from(noted.slot)) else {
                        continue;
                    };
                    self.memory.add(noted.slot, noted.bytes as usize);
                    partition.publish(noted.offset, noted.timestamp, record);
                    let position = Position {
                        partition: partition.number,
                        offset: noted.offset,
                    };
                    replies.push((reply, position));
                    if !changed.iter().any(|topic| topic.name == partition.topic)
                        && let Some(topic) = catalog.topic_of(noted.slot)
                    {
                        changed.push(topic);
                    }
                }
                Item::Commit { commit, reply } => {
                    open::apply(&mut self.shared.groups.lock(), commit);
                    drop(reply.send(Ok(())));
                }
            }
        }
        for topic in changed {
            topic.changed.notify_waiters();
        }
        for (reply, position) in replies {
            drop(reply.send(Ok(position)));
        }
        self.memory.shrink(self.shared.tuning.memory_bytes, catalog);
    }

    /// Gives the works their offsets and appends their frames; `at` counts from where the list begins.
    fn encode(&mut self, buffer: &mut Vec<u8>, works: Vec<Work>) -> Vec<Item> {
        let start = buffer.len();
        let timestamp = Timestamp::now();
        let mut items = Vec::with_capacity(works.len());
        for work in works {
            let at = buffer.len();
            match work {
                Work::Append {
                    slot,
                    record,
                    reply,
                    ..
                } => {
                    let Some(next) = self.next.get_mut(usize::from(slot)) else {
                        continue;
                    };
                    let offset = *next;
                    *next += 1;
                    frame::encode(buffer, slot, offset, timestamp, &record);
                    let noted = Noted {
                        slot,
                        offset,
                        timestamp,
                        at: (at - start) as u64,
                        bytes: (buffer.len() - at) as u64,
                    };
                    items.push(Item::Record {
                        noted,
                        record,
                        reply,
                    });
                }
                Work::Commit { commit, reply } => match frame::encode_commit(buffer, &commit) {
                    Ok(()) => items.push(Item::Commit { commit, reply }),
                    Err(error) => drop(reply.send(Err(error.to_string().into()))),
                },
            }
        }
        items
    }

    /// Takes up partitions that were made since the last batch.
    fn follow(&mut self, catalog: &Catalog) {
        for partition in catalog.partitions.iter().skip(self.next.len()) {
            self.next.push(partition.watermarks().high);
        }
    }

    /// Takes back the offsets given to records that nobody will see.
    fn rewind(&mut self) {
        self.next.clear();
        self.follow(&self.shared.catalog.load_full());
    }

    /// Syncs, seals, and leaves the mark of a clean end.
    fn finish(&mut self) -> io::Result<()> {
        self.keeper.stop();
        self.restore()?;
        self.active = None;
        for segment in self.shared.segments.read().iter() {
            segment.seal(&*self.shared.storage, self.shared.snapshot())?;
        }
        open::leave_mark(&*self.shared.storage)
    }
}

/// Divides a batch into what is shown once written and what is held until the sync; order per partition is kept.
fn divide(works: Vec<Work>, slots: usize) -> (Vec<Work>, Vec<Work>) {
    let mut behind_durable = vec![false; slots];
    works.into_iter().partition(|work| match work {
        Work::Append {
            slot, durability, ..
        } => match behind_durable.get_mut(usize::from(*slot)) {
            Some(held) => {
                *held |= *durability == Durability::Durable;
                !*held
            }
            None => true,
        },
        Work::Commit { .. } => true,
    })
}

impl Memory {
    fn add(&mut self, slot: Slot, bytes: usize) {
        let bytes = bytes + RECORD_OVERHEAD;
        self.order.push_back((slot, bytes));
        self.bytes += bytes;
    }

    fn shrink(&mut self, bytes_max: usize, catalog: &Catalog) {
        while self.bytes > bytes_max {
            let Some((slot, bytes)) = self.order.pop_front() else {
                return;
            };
            self.bytes -= bytes;
            if let Some(partition) = catalog.partitions.get(usize::from(slot)) {
                partition.forget_oldest();
            }
        }
    }
}
