//! The small files beside the journal: topics, incarnation, positions of groups.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::partition::Recovered;
use super::segment::{replace_file, replace_file_durably};

/// A topic as kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptTopic {
    pub(super) id: u16,
    pub(super) partitions: i32,
}

/// How the log ended last time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Ending {
    /// Raised at every opening after an unclean end.
    pub(super) incarnation: i64,
    /// Whether it was closed in good order.
    pub(super) clean: bool,
    /// Next offsets by `topic id/partition`, after a clean end.
    pub(super) next: BTreeMap<String, i64>,
}

/// Next offset to read by group, topic and partition.
pub(super) type Positions = BTreeMap<String, BTreeMap<String, BTreeMap<i32, i64>>>;

/// Everything kept beside the journal.
#[derive(Debug, Default)]
pub(super) struct State {
    topics: BTreeMap<String, KeptTopic>,
    topics_changed: bool,
    recovered: HashMap<(u16, u16), Recovered>,
    pub(super) ending: Ending,
    positions: Positions,
    positions_changed: bool,
}

const TOPICS: &str = "topics.json";
const ENDING: &str = "ending.json";
const POSITIONS: &str = "positions.json";

fn read<T: Default + serde::de::DeserializeOwned>(folder: &Path, name: &str) -> io::Result<T> {
    match std::fs::read(folder.join(name)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {error}"))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(error),
    }
}

impl State {
    pub(super) fn load(folder: &Path) -> io::Result<Self> {
        Ok(Self {
            topics: read(folder, TOPICS)?,
            ending: read(folder, ENDING)?,
            positions: read(folder, POSITIONS)?,
            ..Self::default()
        })
    }

    pub(super) fn set_recovered(&mut self, recovered: HashMap<(u16, u16), Recovered>) {
        self.recovered = recovered;
    }

    /// The kept form of a topic, made when it is new.
    pub(super) fn topic(&mut self, name: &str, partitions: i32) -> KeptTopic {
        if let Some(kept) = self.topics.get(name) {
            return *kept;
        }
        let id = self
            .topics
            .values()
            .map(|topic| topic.id + 1)
            .max()
            .unwrap_or(1);
        let kept = KeptTopic { id, partitions };
        self.topics.insert(name.to_owned(), kept);
        self.topics_changed = true;
        kept
    }

    /// What recovery found of a partition; the first offset of the incarnation when nothing.
    pub(super) fn take_recovered(&mut self, topic: u16, partition: i32) -> Recovered {
        let number = u16::try_from(partition).unwrap_or(u16::MAX);
        let next = self.first_offset(topic, number);
        let mut recovered = self.recovered.remove(&(topic, number)).unwrap_or_default();
        recovered.next = next;
        recovered
    }

    fn first_offset(&self, topic: u16, partition: u16) -> i64 {
        let kept = self
            .ending
            .next
            .get(&format!("{topic}/{partition}"))
            .copied()
            .unwrap_or(0);
        kept.max(self.ending.incarnation << 40)
    }

    /// Writes the list of topics if it has grown; durable on return, since records name topics by id.
    pub(super) fn save_topics(&mut self, folder: &Path) -> io::Result<()> {
        if self.topics_changed {
            replace_file_durably(
                &folder.join(TOPICS),
                &serde_json::to_vec_pretty(&self.topics)?,
            )?;
            self.topics_changed = false;
        }
        Ok(())
    }

    pub(super) fn save_ending(&self, folder: &Path) -> io::Result<()> {
        replace_file_durably(
            &folder.join(ENDING),
            &serde_json::to_vec_pretty(&self.ending)?,
        )
    }

    /// Where a group goes on reading.
    pub(super) fn position(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        self.positions
            .get(group)?
            .get(topic)?
            .get(&partition)
            .copied()
    }

    /// Registers a group for a topic: from now on nothing is deleted that it has not read.
    pub(super) fn register(
        &mut self,
        group: &str,
        topic: &str,
        lows: impl Iterator<Item = (i32, i64)>,
    ) {
        let positions = self
            .positions
            .entry(group.to_owned())
            .or_default()
            .entry(topic.to_owned())
            .or_default();
        for (partition, low) in lows {
            if let std::collections::btree_map::Entry::Vacant(place) = positions.entry(partition) {
                place.insert(low);
                self.positions_changed = true;
            }
        }
    }

    pub(super) fn commit(&mut self, group: &str, topic: &str, next: &[(i32, i64)]) {
        let positions = self
            .positions
            .entry(group.to_owned())
            .or_default()
            .entry(topic.to_owned())
            .or_default();
        positions.extend(next.iter().copied());
        self.positions_changed = true;
    }

    /// The least position of all groups registered for a partition; none when there is no group.
    pub(super) fn least_position(&self, topic: &str, partition: i32) -> Option<i64> {
        self.positions
            .values()
            .filter_map(|topics| topics.get(topic)?.get(&partition).copied())
            .min()
    }

    /// Writes the positions if they have moved. Not synced: after a power cut older ones mean redelivery, no loss.
    pub(super) fn save_positions(&mut self, folder: &Path) -> io::Result<()> {
        if self.positions_changed {
            replace_file(
                &folder.join(POSITIONS),
                &serde_json::to_vec(&self.positions)?,
            )?;
            self.positions_changed = false;
        }
        Ok(())
    }
}
