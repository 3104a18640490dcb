//! Which deliveries are done: completion in any order in, contiguous prefix out. Pure.

use std::collections::BTreeMap;

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

/// The ledger of one consumer: per assigned partition the completed offsets as ranges.
#[derive(Debug, Default)]
pub struct Ledger {
    partitions: BTreeMap<i32, ()>,
}

impl Ledger {
    /// Takes up `partition` under `epoch`; the first delivery decides where it begins.
    pub fn assign(&mut self, epoch: u64, partition: i32) {
        todo!()
    }

    /// Forgets `partition`; tickets of it are ignored from now on.
    pub fn revoke(&mut self, partition: i32) {
        todo!()
    }

    /// Begins a delivery; none when the partition is not assigned.
    pub fn begin(&mut self, partition: i32, offset: i64) -> Option<Ticket> {
        todo!()
    }

    /// Completes a delivery; false when its assignment is over or it was complete already.
    pub fn complete(&mut self, ticket: Ticket) -> bool {
        todo!()
    }

    /// For each partition whose prefix grew since the last call: the offset to commit (one past the last complete).
    pub fn committable(&mut self) -> Vec<(i32, i64)> {
        todo!()
    }

    /// Deliveries begun and not complete.
    #[must_use]
    pub fn open(&self) -> usize {
        todo!()
    }
}
