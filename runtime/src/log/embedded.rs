//! The log on local disk, for one process: one journal, shared by all partitions.
//!
//! ```text
//! append ──▶ queue ──▶ committer (thread): encode, one write, one fdatasync ──▶ partitions ──▶ consumers, tails
//!                                      │                                          (newest records in memory)
//!                                      ▼
//!                                  segments ◀── keeper (thread): seals, deletes what is past its time
//! ```
//! - `storage`: the seam to the folder. `frame`: a record as bytes. `segment`: a file of frames and its index.
//! - `open`: what is found in the folder, and what an unclean end means for it.
//! - `committer`: the only writer. `keeper`: everything that need not be done before an append resolves.
//! - `partition`, `catalog`: what readers see. `reader`: consumers and tails.
//!
//! Why it is built so, and what happens when a write or a sync fails: `docs/adr/0001-embedded-log-storage.md`.

mod catalog;
mod committer;
#[cfg(test)]
mod faults;
mod frame;
mod keeper;
mod open;
mod partition;
mod queue;
mod reader;
mod segment;
mod storage;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use schemas::topic::Topic;
use tokio::sync::{oneshot, watch};

use super::{
    AppendError, ConsumeOptions, Durability, Health, LogError, Place, Position, Record, Watermarks,
};
use catalog::{Catalog, Stored};
use frame::{Commit, Slot};
use queue::{Queue, Work};
use segment::{Groups, Segment};
use storage::{Disk, Storage};

pub(super) use reader::{Consumer, Tail};

/// Largest frame, as Kafka's `message.max.bytes`.
const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where and how the embedded log keeps its records.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its folder, made when missing, locked against a second process.
    pub folder: PathBuf,
    /// Most bytes kept on disk; appends are refused past it when nothing may be deleted.
    pub bytes_max: u64,
}

/// What tests set smaller.
#[derive(Debug, Clone)]
struct Tuning {
    /// Most bytes kept on disk.
    bytes_max: u64,
    /// A segment is sealed once the next batch would make it larger.
    segment_bytes: u64,
    /// Bytes of the newest records kept in memory for readers at the head.
    memory_bytes: usize,
    /// Counter-proof: resolves and shows durable appends before the sync.
    #[cfg(test)]
    acknowledge_before_sync: bool,
}

impl Tuning {
    fn new(bytes_max: u64) -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            bytes_max,
            // Space comes back a segment at a time, so a small log has small ones.
            segment_bytes: (bytes_max / 16).clamp(MIB, 64 * MIB),
            memory_bytes: 16 * 1024 * 1024,
            #[cfg(test)]
            acknowledge_before_sync: false,
        }
    }
}

/// Handle on an embedded log; clones share it. The last one dropped closes it.
#[derive(Debug, Clone)]
pub(super) struct Embedded {
    owner: Arc<Owner>,
}

/// What committer, keeper and readers share.
#[derive(Debug)]
struct Shared {
    storage: Arc<dyn Storage>,
    tuning: Tuning,
    /// Where partitions made in this incarnation begin.
    first_offset: i64,
    stored: Mutex<Stored>,
    catalog: ArcSwap<Catalog>,
    /// Oldest first; the last one may be in writing.
    segments: RwLock<Vec<Arc<Segment>>>,
    /// Bytes of all segments.
    used: AtomicU64,
    /// Set when an append was refused because of `bytes_max`; the keeper takes it back.
    full: AtomicBool,
    groups: Mutex<Groups>,
    members: Mutex<BTreeSet<(String, String)>>,
    queue: Queue,
    keeper: keeper::Signal,
    health: watch::Sender<Health>,
    /// True once the committer has ended.
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    committer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.queue.close();
        // The folder can be opened again when this returns. It waits for one commit at most.
        if let Some(thread) = self.committer.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the log's committer had panicked");
        }
    }
}

impl Embedded {
    /// Opens the log in the folder of `settings`.
    pub(super) async fn open(settings: &Settings) -> Result<Self, LogError> {
        let settings = settings.clone();
        let open = move || {
            let storage = Disk::open(&settings.folder).map_err(|error| LogError::Fatal {
                reason: format!("folder {}: {error}", settings.folder.display()),
            })?;
            Self::on(Arc::new(storage), Tuning::new(settings.bytes_max))
        };
        tokio::task::spawn_blocking(open).await.unwrap_or_else(|_| {
            Err(LogError::Fatal {
                reason: "the runtime is shutting down".to_owned(),
            })
        })
    }

    fn on(storage: Arc<dyn Storage>, tuning: Tuning) -> Result<Self, LogError> {
        let (shared, number) = open::open(storage, tuning).map_err(|error| LogError::Fatal {
            reason: format!("log folder: {error}"),
        })?;
        let shared = Arc::new(shared);
        let committer =
            committer::start(shared.clone(), number).map_err(|error| LogError::Fatal {
                reason: format!("no thread for the log: {error}"),
            })?;
        Ok(Self {
            owner: Arc::new(Owner {
                shared,
                committer: Mutex::new(Some(committer)),
            }),
        })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// Creates missing topics and takes over changed retentions.
    pub(super) async fn ensure_topics(&self, topics: &[Topic]) -> Result<(), LogError> {
        let (shared, topics) = (self.shared().clone(), topics.to_vec());
        let ensure = move || shared.ensure_topics(&topics);
        tokio::task::spawn_blocking(ensure)
            .await
            .unwrap_or_else(|_| {
                Err(LogError::Fatal {
                    reason: "the runtime is shutting down".to_owned(),
                })
            })
    }

    pub(super) fn partitions(&self, topic: &str) -> i32 {
        self.shared()
            .catalog
            .load()
            .topics
            .get(topic)
            .map_or(0, |topic| i32::from(topic.partitions))
    }

    pub(super) async fn append(
        &self,
        topic: &str,
        place: Place,
        record: Record,
        durability: Durability,
    ) -> Result<Position, AppendError> {
        let slot = self.place(topic, place, &record.key)?;
        let bytes = frame::size(&record);
        if bytes > RECORD_BYTES_MAX || !frame::fits(&record) {
            return Err(AppendError::TooLarge {
                bytes,
                bytes_max: RECORD_BYTES_MAX,
            });
        }
        let (reply, answer) = oneshot::channel();
        let work = Work::Append {
            slot,
            record,
            durability,
            reply,
        };
        let queued = std::time::Instant::now();
        self.shared()
            .queue
            .push(work, bytes)
            .map_err(|reason| AppendError::Unavailable { reason })?;
        answer.await.unwrap_or_else(|_| {
            Err(AppendError::Unknown {
                waited: queued.elapsed(),
            })
        })
    }

    fn place(&self, topic: &str, place: Place, key: &[u8]) -> Result<Slot, AppendError> {
        let catalog = self.shared().catalog.load();
        let slot = catalog.topics.get(topic).and_then(|topic| match place {
            Place::ByKey => topic.slot(super::place::by_key(key, i32::from(topic.partitions))),
            Place::Partition(partition) => topic.slot(partition),
        });
        slot.ok_or_else(|| AppendError::NoSuchPlace {
            topic: topic.into(),
            partition: place,
        })
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.shared().health.subscribe()
    }

    pub(super) async fn consume(
        &self,
        group: &str,
        topic: &str,
        options: ConsumeOptions,
    ) -> Result<Consumer, LogError> {
        Consumer::join(self, group, topic, options).await
    }

    pub(super) fn tail(&self, topic: &str, partition: i32, offset: i64) -> Result<Tail, LogError> {
        Tail::open(self, topic, partition, offset)
    }

    pub(super) fn watermarks(&self, topic: &str, partition: i32) -> Result<Watermarks, LogError> {
        self.of_partition(topic, partition, |found| found.watermarks())
    }

    /// Records from `offset` on, of the newest incarnation if they reach over several.
    pub(super) fn lag(&self, topic: &str, partition: i32, offset: i64) -> Result<i64, LogError> {
        self.of_partition(topic, partition, |found| found.lag(offset))
    }

    fn of_partition<T>(
        &self,
        topic: &str,
        partition: i32,
        ask: impl Fn(&partition::Partition) -> T,
    ) -> Result<T, LogError> {
        let catalog = self.shared().catalog.load();
        let slot = catalog
            .topics
            .get(topic)
            .and_then(|topic| topic.slot(partition));
        slot.and_then(|slot| catalog.partitions.get(usize::from(slot)))
            .map(|found| ask(found))
            .ok_or_else(|| no_such_partition(topic, partition))
    }

    pub(super) async fn close(&self, grace: Duration) {
        let shared = self.shared();
        let mut ended = shared.ended.subscribe();
        shared.queue.close();
        match tokio::time::timeout(grace, ended.wait_for(|ended| *ended)).await {
            Ok(_) => {}
            Err(_) => tracing::warn!("the log was still writing when the grace period ended"),
        }
    }
}

impl Shared {
    fn ensure_topics(&self, topics: &[Topic]) -> Result<(), LogError> {
        let mut stored = self.stored.lock();
        let mut wanted = stored.clone();
        wanted.merge(topics)?;
        if wanted != *stored {
            wanted
                .save(&*self.storage)
                .map_err(|error| LogError::Unavailable {
                    reason: format!("the catalog could not be written: {error}"),
                })?;
            let catalog = Catalog::new(&wanted, &self.catalog.load(), self.first_offset);
            self.catalog.store(Arc::new(catalog));
            *stored = wanted;
        }
        Ok(())
    }

    /// Stores positions of a group; resolves once they survive `kill -9`.
    async fn commit(&self, group: &str, next: BTreeMap<Slot, i64>) -> Result<(), LogError> {
        let (reply, answer) = oneshot::channel();
        let work = Work::Commit {
            commit: Commit {
                group: group.to_owned(),
                next,
            },
            reply,
        };
        let unavailable = |reason: &str| LogError::Unavailable {
            reason: reason.to_owned(),
        };
        self.queue
            .push(work, 256)
            .map_err(|reason| unavailable(&reason))?;
        match answer.await {
            Ok(outcome) => outcome.map_err(|reason| unavailable(&reason)),
            Err(_) => Err(unavailable("the log was closed")),
        }
    }

    /// State of all slots and groups now.
    fn snapshot(&self) -> segment::Snapshot {
        let catalog = self.catalog.load();
        segment::Snapshot {
            next: catalog
                .partitions
                .iter()
                .map(|partition| partition.watermarks().high)
                .collect(),
            groups: self.groups.lock().clone(),
        }
    }
}

fn no_such_partition(topic: &str, partition: i32) -> LogError {
    LogError::Fatal {
        reason: format!("no partition {partition} of topic {topic}"),
    }
}
