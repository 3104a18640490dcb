//! Where a sink stands: per partition what the store holds, what was taken since, what the group was told. Pure.

use std::collections::BTreeMap;

use runtime::store::results::Advance;

/// The partitions of one topic that a sink reads. Partitions that are not in here are ignored.
#[derive(Debug)]
pub(crate) struct Positions {
    topic: &'static str,
    partitions: BTreeMap<i32, Standing>,
}

/// Offsets of the next record, as different parties see it; none before the first record.
#[derive(Debug, Clone, Copy)]
struct Standing {
    stored: Option<i64>,
    taken: Option<i64>,
    committed: Option<i64>,
}

impl Positions {
    pub(crate) fn new(topic: &'static str) -> Self {
        Self {
            topic,
            partitions: BTreeMap::new(),
        }
    }

    /// Begins `partition`, or begins it anew, at what the store holds; what was taken beyond that is forgotten.
    pub(crate) fn begin(&mut self, partition: i32, stored: Option<i64>) {
        let standing = Standing {
            stored,
            taken: stored,
            committed: None,
        };
        self.partitions.insert(partition, standing);
    }

    /// Ends `partition`: its records are ignored from now on.
    pub(crate) fn end(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// Whether a record is to be taken; else it is ignored, because the partition is not read or it is a repeat.
    pub(crate) fn expects(&self, partition: i32, offset: i64) -> bool {
        let standing = self.partitions.get(&partition);
        standing.is_some_and(|standing| standing.taken.is_none_or(|next| next <= offset))
    }

    /// Takes a record that was expected.
    pub(crate) fn take(&mut self, partition: i32, offset: i64) {
        if let Some(standing) = self.partitions.get_mut(&partition) {
            standing.taken = Some(offset + 1);
        }
    }

    /// The steps to store together with the effect of what was taken.
    pub(crate) fn advances(&self) -> impl Iterator<Item = Advance> {
        self.partitions
            .iter()
            .filter_map(|(&partition, standing)| match standing.taken {
                Some(next) if standing.taken != standing.stored => Some(Advance {
                    topic: self.topic.to_owned(),
                    partition,
                    expected: standing.stored,
                    next,
                }),
                _ => None,
            })
    }

    /// The steps of [`Positions::advances`] are stored.
    pub(crate) fn settle(&mut self) {
        for standing in self.partitions.values_mut() {
            standing.stored = standing.taken;
        }
    }

    /// What the store holds and the group was not told yet.
    pub(crate) fn uncommitted(&self) -> Vec<(i32, i64)> {
        self.partitions
            .iter()
            .filter(|(_, standing)| standing.stored != standing.committed)
            .filter_map(|(&partition, standing)| Some((partition, standing.stored?)))
            .collect()
    }

    /// The group was told `next`.
    pub(crate) fn committed(&mut self, next: &[(i32, i64)]) {
        for (partition, offset) in next {
            if let Some(standing) = self.partitions.get_mut(partition) {
                standing.committed = Some(*offset);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(positions: &Positions) -> Vec<(i32, Option<i64>, i64)> {
        positions
            .advances()
            .map(|step| (step.partition, step.expected, step.next))
            .collect()
    }

    #[test]
    fn a_step_goes_from_what_is_stored_to_the_last_record_taken() {
        let mut positions = Positions::new("responses");
        positions.begin(0, None);
        positions.begin(1, Some(40));
        assert!(steps(&positions).is_empty());
        positions.take(0, 7);
        positions.take(0, 8);
        positions.take(1, 1_000);
        assert_eq!(steps(&positions), [(0, None, 9), (1, Some(40), 1_001)]);
        positions.settle();
        assert!(steps(&positions).is_empty());
        positions.take(0, 9);
        assert_eq!(steps(&positions), [(0, Some(9), 10)]);
    }

    #[test]
    fn repeats_and_partitions_of_others_are_ignored() {
        let mut positions = Positions::new("responses");
        positions.begin(0, Some(5));
        assert!(!positions.expects(0, 4) && !positions.expects(1, 9) && positions.expects(0, 5));
        positions.take(0, 5);
        assert!(!positions.expects(0, 5) && positions.expects(0, 9));
        positions.end(0);
        assert!(!positions.expects(0, 9));
        positions.take(0, 9);
        assert!(steps(&positions).is_empty());
    }

    #[test]
    fn a_partition_begun_anew_forgets_what_was_taken() {
        let mut positions = Positions::new("responses");
        positions.begin(0, Some(5));
        positions.take(0, 5);
        positions.begin(0, Some(3));
        assert!(steps(&positions).is_empty());
        assert!(positions.expects(0, 3));
        positions.take(0, 3);
        assert_eq!(steps(&positions), [(0, Some(3), 4)]);
    }

    #[test]
    fn the_group_is_told_what_is_stored_once() {
        let mut positions = Positions::new("responses");
        positions.begin(0, None);
        positions.take(0, 0);
        assert!(positions.uncommitted().is_empty());
        positions.settle();
        assert_eq!(positions.uncommitted(), [(0, 1)]);
        positions.committed(&[(0, 1)]);
        assert!(positions.uncommitted().is_empty());
    }
}
