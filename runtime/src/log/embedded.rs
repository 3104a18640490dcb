//! The log on local disk, for one process.
//!
//! All partitions share one journal in segments; one thread commits. It takes everything that is queued, writes it with
//! one call, shows the *buffered* records, and when any record is *durable* syncs once and shows the rest
//! (group commit). Consumers at the head are served from memory and woken at once; others read segments through an index.
//!
//! # What survives
//! - A durable record is acknowledged and shown after the sync. A buffered one survives `kill -9`, not a power cut.
//! - After an unclean end the next offset of every partition jumps to the next *incarnation*, `incarnation << 40`, so that a
//!   position once handed out is never used for another record. A torn tail is cut off.
//! - When a write or a sync fails, the log closes for writing: waiting appends fail, new ones fail at once. Everything that was shown since
//!   the last good sync is kept in memory and written again to a new segment before the log opens again (a failed sync may have
//!   dropped it from the system's cache); the old segment is cut off at its last good sync.
//! - Nothing is deleted that a registered consumer group has not read. Past `bytes_max` what all have read goes first, whatever its age; when nothing
//!   may go, appends are refused.

mod committer;
mod entry;
mod partition;
mod reader;
mod recovery;
mod segment;
mod state;
pub(in crate::log) mod storage;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use schemas::topic::Topic;
use tokio::sync::{Notify, oneshot, watch};

use super::{
    AppendError, ConsumeOptions, Durability, Health, LogError, Place, Position, Record, Watermarks,
};
use committer::{Committer, Pending, Queue};
use partition::Partition;
use state::State;
use storage::Storage;

pub(super) use reader::{Consumer, Tail};

/// Where and how the embedded log keeps its records.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its folder, made when missing, locked against a second process.
    pub folder: PathBuf,
    /// Most bytes kept on disk; appends are refused past it when nothing may be deleted.
    pub bytes_max: u64,
}

/// Largest record, as on Kafka.
const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Handle on an embedded log.
#[derive(Debug, Clone)]
pub(super) struct Embedded {
    shared: Arc<Shared>,
}

/// What appenders, readers and the committer share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    topics: RwLock<HashMap<String, TopicState>>,
    queue: Queue,
    health: watch::Sender<Health>,
    state: Mutex<State>,
    /// Groups with a live member, by group and topic: one each.
    members: Mutex<std::collections::HashSet<(String, String)>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Held for the life of the log; the lock goes with the file.
    _lock: std::fs::File,
}

/// A topic that is in use.
#[derive(Debug, Clone)]
struct TopicState {
    name: Arc<str>,
    retention: Duration,
    partitions: Vec<Arc<Partition>>,
    /// Notified after records of any partition were shown.
    shown: Arc<Notify>,
}

impl Embedded {
    pub(super) async fn open(settings: &Settings) -> Result<Self, LogError> {
        Self::open_on(settings, Arc::new(storage::Disk)).await
    }

    /// Opens on other storage than the disk: tests inject faults there.
    pub(super) async fn open_on(
        settings: &Settings,
        storage: Arc<dyn Storage>,
    ) -> Result<Self, LogError> {
        let settings = settings.clone();
        let opened =
            tokio::task::spawn_blocking(move || Self::open_blocking(settings, storage)).await;
        opened.unwrap_or_else(|_| Err(fatal("the runtime is shutting down")))
    }

    fn open_blocking(settings: Settings, storage: Arc<dyn Storage>) -> Result<Self, LogError> {
        let folder = settings.folder.clone();
        let cannot =
            |error: std::io::Error| fatal(&format!("folder {}: {error}", folder.display()));
        std::fs::create_dir_all(&settings.folder).map_err(cannot)?;
        let lock = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(settings.folder.join("lock"))
            .map_err(cannot)?;
        if lock.try_lock().is_err() {
            return Err(fatal(&format!(
                "folder {} is in use by another process: stop it, or set another data_dir",
                settings.folder.display()
            )));
        }
        let recovered = recovery::recover(&settings.folder, &*storage).map_err(cannot)?;
        let shared = Arc::new(Shared {
            settings,
            topics: RwLock::default(),
            queue: Queue::default(),
            health: watch::Sender::new(Health::Up),
            state: Mutex::new(recovered.state),
            members: Mutex::default(),
            thread: Mutex::default(),
            _lock: lock,
        });
        let committer =
            Committer::new(shared.clone(), storage, recovered.journal).map_err(cannot)?;
        let thread = std::thread::Builder::new()
            .name("log-committer".into())
            .spawn(move || committer.run())
            .map_err(cannot)?;
        *shared.thread.lock() = Some(thread);
        Ok(Self { shared })
    }

    pub(super) fn ensure_topics(&self, topics: &[Topic]) -> Result<(), LogError> {
        let shared = &self.shared;
        let mut known = shared.topics.write();
        let mut state = shared.state.lock();
        for topic in topics {
            if known.contains_key(topic.name) {
                continue;
            }
            let kept = state.topic(topic.name, topic.partitions_embedded);
            if kept.partitions != topic.partitions_embedded {
                return Err(LogError::TopicDoesNotFit {
                    topic: topic.name.to_owned(),
                    fault: format!(
                        "it has {} partitions, this program wants {}",
                        kept.partitions, topic.partitions_embedded
                    ),
                    remedy: "start with an empty data_dir".to_owned(),
                });
            }
            let id = kept.id;
            let name: Arc<str> = topic.name.into();
            let shown = Arc::new(Notify::new());
            let partitions = (0..topic.partitions_embedded)
                .map(|number| {
                    let recovered = state.take_recovered(id, number);
                    Arc::new(Partition::new(&name, id, number, recovered, shown.clone()))
                })
                .collect();
            let topic_state = TopicState {
                name,
                retention: topic.retention,
                partitions,
                shown,
            };
            known.insert(topic.name.to_owned(), topic_state);
        }
        state
            .save_topics(&shared.settings.folder)
            .map_err(|error| fatal(&format!("the list of topics cannot be written: {error}")))
    }

    fn topic(&self, topic: &str) -> Option<TopicState> {
        self.shared.topics.read().get(topic).cloned()
    }

    fn partition(&self, topic: &str, partition: i32) -> Result<Arc<Partition>, LogError> {
        let topics = self.shared.topics.read();
        usize::try_from(partition)
            .ok()
            .and_then(|number| topics.get(topic)?.partitions.get(number).cloned())
            .ok_or_else(|| fatal(&format!("no partition {partition} of topic {topic}")))
    }

    pub(super) fn partitions(&self, topic: &str) -> i32 {
        let topics = self.shared.topics.read();
        topics.get(topic).map_or(0, |topic| {
            i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX)
        })
    }

    pub(super) async fn append(
        &self,
        topic: &str,
        place: Place,
        record: Record,
        durability: Durability,
    ) -> Result<Position, AppendError> {
        let bytes = record.key.len() + record.value.len();
        if bytes > RECORD_BYTES_MAX {
            return Err(AppendError::TooLarge {
                bytes,
                bytes_max: RECORD_BYTES_MAX,
            });
        }
        let partition = {
            let topics = self.shared.topics.read();
            let partitions = topics.get(topic).map(|topic| topic.partitions.as_slice());
            let partitions = partitions.unwrap_or_default();
            let number = match place {
                Place::ByKey if partitions.is_empty() => None,
                Place::ByKey => Some(partition_of(&record.key, partitions.len())),
                Place::Partition(number) => usize::try_from(number).ok(),
            };
            number
                .and_then(|number| partitions.get(number).cloned())
                .ok_or_else(|| AppendError::NoSuchPlace {
                    topic: topic.into(),
                    partition: place,
                })?
        };
        let (done, waiting) = oneshot::channel();
        self.shared.queue.push(Pending {
            partition,
            record,
            durability,
            done,
        })?;
        waiting.await.unwrap_or_else(|_| Err(closed()))
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    pub(super) fn consume(
        &self,
        group: &str,
        topic: &str,
        options: ConsumeOptions,
    ) -> Result<Consumer, LogError> {
        Consumer::join(self.clone(), group, topic, options)
    }

    pub(super) fn tail(&self, topic: &str, partition: i32, offset: i64) -> Result<Tail, LogError> {
        Tail::open(self.partition(topic, partition)?, offset)
    }

    pub(super) fn watermarks(&self, topic: &str, partition: i32) -> Result<Watermarks, LogError> {
        Ok(self.partition(topic, partition)?.watermarks())
    }

    pub(super) async fn close(&self, grace: Duration) {
        self.shared.queue.close();
        let Some(thread) = self.shared.thread.lock().take() else {
            return;
        };
        let joined = tokio::task::spawn_blocking(move || thread.join().is_ok());
        if !matches!(tokio::time::timeout(grace, joined).await, Ok(Ok(true))) {
            tracing::warn!(
                "the log was not closed cleanly; it will be recovered at the next start"
            );
        }
    }
}

/// The partition that Kafka's Java client would choose: murmur2 of the key.
fn partition_of(key: &[u8], partitions: usize) -> usize {
    let positive = usize::try_from(murmur2(key) & 0x7fff_ffff).unwrap_or(0);
    positive % partitions.max(1)
}

/// Austin Appleby's MurmurHash2 with Kafka's seed (`org.apache.kafka.common.utils.Utils#murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    for (place, byte) in rest.iter().enumerate().rev() {
        hash ^= u32::from(*byte) << (8 * place);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

fn closed() -> AppendError {
    AppendError::Unavailable {
        reason: "it is closed".into(),
    }
}

fn fatal(reason: &str) -> LogError {
    LogError::Fatal {
        reason: reason.to_owned(),
    }
}
