//! Which deliveries are done: completion in any order in, contiguous prefix out. Pure.
//!
//! Offsets may have gaps (incarnations, compaction): what counts is the order in which deliveries were begun.

use std::collections::{BTreeMap, BTreeSet};

/// Most deliveries of one partition that are begun and not yet behind the committed prefix. Past it [`Ledger::begin`] refuses:
/// one delivery that never ends must not let the ledger grow for ever.
const TRACKED_MAX: usize = 1_000_000;

/// A delivery that was begun; given back to [`Ledger::complete`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Assignment epoch under which it was begun.
    pub epoch: u64,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

/// The ledger of one consumer.
#[derive(Debug, Default)]
pub struct Ledger {
    partitions: BTreeMap<i32, Partition>,
}

#[derive(Debug)]
struct Partition {
    epoch: u64,
    /// Begun and not complete.
    open: BTreeSet<i64>,
    /// Number of completions above the lowest open offset.
    ahead: usize,
    /// One past the highest offset begun.
    end: Option<i64>,
    /// What [`Ledger::committable`] returned last.
    committed: Option<i64>,
}

impl Ledger {
    /// Takes up `partition` under `epoch`, without any delivery; the first one decides where it begins.
    pub fn assign(&mut self, epoch: u64, partition: i32) {
        let fresh = Partition {
            epoch,
            open: BTreeSet::new(),
            ahead: 0,
            end: None,
            committed: None,
        };
        self.partitions.insert(partition, fresh);
    }

    /// Forgets `partition`; tickets of it are ignored from now on.
    pub fn revoke(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// Begins a delivery; none when the partition is not assigned, the offset was begun before, or `TRACKED_MAX` is reached.
    pub fn begin(&mut self, partition: i32, offset: i64) -> Option<Ticket> {
        let state = self.partitions.get_mut(&partition)?;
        if state.end.is_some_and(|end| offset < end)
            || state.open.len() + state.ahead >= TRACKED_MAX
        {
            return None;
        }
        state.open.insert(offset);
        state.end = Some(offset + 1);
        Some(Ticket {
            epoch: state.epoch,
            partition,
            offset,
        })
    }

    /// Completes a delivery; false when its assignment is over or it was complete already.
    pub fn complete(&mut self, ticket: Ticket) -> bool {
        let Some(state) = self.partitions.get_mut(&ticket.partition) else {
            return false;
        };
        if state.epoch != ticket.epoch || !state.open.remove(&ticket.offset) {
            return false;
        }
        // Completions below the lowest open one are part of the prefix and need no room.
        state.ahead = match state.open.first() {
            Some(lowest) if *lowest < ticket.offset => state.ahead + 1,
            Some(_) | None => 0,
        };
        true
    }

    /// For each partition whose prefix grew since the last call: the offset to commit (one past the last of the prefix).
    pub fn committable(&mut self) -> Vec<(i32, i64)> {
        let mut next = Vec::new();
        for (partition, state) in &mut self.partitions {
            let prefix = state.open.first().copied().or(state.end);
            if let Some(prefix) = prefix
                && state.committed.is_none_or(|committed| committed < prefix)
            {
                state.committed = Some(prefix);
                next.push((*partition, prefix));
            }
        }
        next
    }

    /// For each partition of which anything was delivered: where its completed prefix ends, committed or not.
    #[must_use]
    pub fn positions(&self) -> Vec<(i32, i64)> {
        let position = |(partition, state): (&i32, &Partition)| {
            let prefix = state.open.first().copied().or(state.end)?;
            Some((*partition, prefix))
        };
        self.partitions.iter().filter_map(position).collect()
    }

    /// Deliveries begun and not complete.
    #[must_use]
    pub fn open(&self) -> usize {
        self.partitions.values().map(|state| state.open.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Random interleavings of deliveries with gaps, completions and rebalances, against the definition.
        #[test]
        fn what_is_committable_is_exactly_the_completed_prefix(
            steps in prop::collection::vec((0..4_u8, any::<u16>(), 1..5_i64), 1..200),
        ) {
            let mut ledger = Ledger::default();
            let mut epoch = 1;
            ledger.assign(epoch, 0);
            let mut offset = 0;
            // The model: every delivery of this assignment in order, and whether it is complete.
            let mut model: Vec<(Ticket, bool)> = Vec::new();
            let mut stale: Vec<Ticket> = Vec::new();
            let mut committed = None;
            for (kind, pick, gap) in steps {
                match kind {
                    0 | 1 => {
                        offset += gap;
                        let ticket = ledger.begin(0, offset).unwrap();
                        prop_assert_eq!(ledger.begin(0, offset), None, "twice");
                        model.push((ticket, false));
                    }
                    2 if !model.is_empty() => {
                        let index = usize::from(pick) % model.len();
                        let (ticket, done) = model[index];
                        prop_assert_eq!(ledger.complete(ticket), !done);
                        model[index].1 = true;
                    }
                    3 if pick % 8 == 0 => {
                        ledger.revoke(0);
                        stale.extend(model.drain(..).map(|(ticket, _)| ticket));
                        epoch += 1;
                        ledger.assign(epoch, 0);
                        committed = None;
                        offset -= gap.min(offset);
                    }
                    _ => {
                        for ticket in stale.drain(..) {
                            prop_assert!(!ledger.complete(ticket), "of a former assignment");
                        }
                    }
                }
                let prefix = match model.iter().find(|(_, done)| !done) {
                    Some((open, _)) => Some(open.offset),
                    None => model.last().map(|(last, _)| last.offset + 1),
                };
                let expected = if prefix > committed { prefix } else { None };
                prop_assert_eq!(ledger.committable(), expected.map(|next| (0, next)).into_iter().collect::<Vec<_>>());
                let position = prefix.map(|prefix| (0, prefix));
                prop_assert_eq!(ledger.positions(), position.into_iter().collect::<Vec<_>>());
                committed = committed.max(prefix);
                prop_assert_eq!(ledger.open(), model.iter().filter(|(_, done)| !done).count());
            }
        }
    }

    #[test]
    fn a_delivery_that_never_ends_stops_the_partition_at_the_bound() {
        let mut ledger = Ledger::default();
        ledger.assign(1, 0);
        ledger.begin(0, 0).unwrap();
        for offset in 1..TRACKED_MAX as i64 {
            let ticket = ledger.begin(0, offset).unwrap();
            assert!(ledger.complete(ticket));
        }
        assert_eq!(ledger.begin(0, TRACKED_MAX as i64), None);
        assert_eq!(ledger.committable(), [(0, 0)]);
    }
}
