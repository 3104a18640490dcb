//! Which topics there are and which slot each partition has; kept in one small file, replaced as a whole.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use schemas::topic::{Cleanup, Topic};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::frame::{POSITIONS, Slot};
use super::partition::Partition;
use super::storage::{self, Storage};
use crate::log::LogError;

const NAME: &str = "catalog.json";

/// The catalog as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    /// Raised by every unclean open.
    pub(super) incarnation: i64,
    /// In order of their slots.
    pub(super) topics: Vec<StoredTopic>,
    /// By slot: one past the newest record that was deleted.
    pub(super) lows: BTreeMap<Slot, i64>,
}

/// A topic as stored. Its slots follow those of the topics before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredTopic {
    pub(super) name: String,
    pub(super) partitions: u16,
    pub(super) retention: Duration,
    /// Whether only the newest of each key counts. Kept for the record: nothing is compacted before its retention.
    pub(super) compact: bool,
}

impl Stored {
    /// Reads it; none when the folder is new.
    pub(super) fn load(storage: &dyn Storage) -> io::Result<Option<Self>> {
        storage::read_all(storage, NAME)?
            .map(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
            .transpose()
    }

    /// Puts it in place of the one stored.
    pub(super) fn save(&self, storage: &dyn Storage) -> io::Result<()> {
        storage::replace(storage, NAME, &serde_json::to_vec_pretty(self)?)
    }

    /// Adds the topics that are missing and takes over changed retentions.
    pub(super) fn merge(&mut self, topics: &[Topic]) -> Result<(), LogError> {
        for topic in topics {
            let partitions = u16::try_from(topic.partitions_embedded).unwrap_or(0);
            let compact = topic.cleanup == Cleanup::CompactDelete;
            match self
                .topics
                .iter_mut()
                .find(|known| known.name == topic.name)
            {
                Some(known) if known.partitions != partitions => {
                    return Err(LogError::TopicDoesNotFit {
                        topic: topic.name.to_owned(),
                        fault: format!(
                            "it has {} partitions, {partitions} are wanted",
                            known.partitions
                        ),
                        remedy: "set the number back, or move the log's folder away".to_owned(),
                    });
                }
                Some(known) => {
                    known.retention = topic.retention;
                    known.compact = compact;
                }
                None => self.topics.push(StoredTopic {
                    name: topic.name.to_owned(),
                    partitions,
                    retention: topic.retention,
                    compact,
                }),
            }
        }
        let slots: usize = self
            .topics
            .iter()
            .map(|topic| usize::from(topic.partitions))
            .sum();
        if slots >= usize::from(POSITIONS) || self.topics.iter().any(|topic| topic.partitions == 0)
        {
            return Err(LogError::Fatal {
                reason: format!(
                    "{slots} partitions: each topic needs one, and all together fewer than {POSITIONS}"
                ),
            });
        }
        Ok(())
    }
}

/// A topic in use.
#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) name: Arc<str>,
    /// Slot of its partition 0; the others follow.
    pub(super) first_slot: Slot,
    pub(super) partitions: u16,
    pub(super) retention: Duration,
    /// Raised when records of any of its partitions become visible.
    pub(super) changed: Arc<Notify>,
}

impl TopicState {
    /// The slot of a partition; none when there is no such partition.
    pub(super) fn slot(&self, partition: i32) -> Option<Slot> {
        let partition = u16::try_from(partition).ok()?;
        (partition < self.partitions).then(|| self.first_slot + partition)
    }
}

/// All topics and partitions in use; replaced as a whole when topics are added.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) topics: HashMap<Arc<str>, Arc<TopicState>>,
    /// By slot.
    pub(super) partitions: Vec<Arc<Partition>>,
}

impl Catalog {
    /// The catalog of what is stored, with the partitions of `before` taken over and new ones beginning at `first_offset`.
    pub(super) fn new(stored: &Stored, before: &Self, first_offset: i64) -> Self {
        let mut catalog = Self::default();
        for topic in &stored.topics {
            let first_slot = catalog.partitions.len() as Slot;
            let changed = before
                .topics
                .get(topic.name.as_str())
                .map_or_else(Arc::default, |known| known.changed.clone());
            let state = Arc::new(TopicState {
                name: topic.name.as_str().into(),
                first_slot,
                partitions: topic.partitions,
                retention: topic.retention,
                changed,
            });
            for number in 0..topic.partitions {
                let slot = usize::from(first_slot + number);
                let partition = before.partitions.get(slot).cloned().unwrap_or_else(|| {
                    Arc::new(Partition::new(
                        state.name.clone(),
                        i32::from(number),
                        first_offset,
                    ))
                });
                catalog.partitions.push(partition);
            }
            catalog.topics.insert(state.name.clone(), state);
        }
        catalog
    }

    /// The topic that a slot belongs to.
    pub(super) fn topic_of(&self, slot: Slot) -> Option<&Arc<TopicState>> {
        self.topics
            .get(&self.partitions.get(usize::from(slot))?.topic)
    }
}
