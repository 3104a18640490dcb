//! One partition as readers see it: its ends and its newest records.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use schemas::time::Timestamp;

use super::open::INCARNATION_SHIFT;
use crate::log::{Delivery, LogError, Position, Record, Watermarks};

/// A partition. Only the committer adds to it, only the keeper raises its low end.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) number: i32,
    ends: Mutex<Ends>,
}

#[derive(Debug)]
struct Ends {
    /// One past the newest deleted record. Not the offset of the oldest kept: after an incarnation's jump that may lie far ahead
    /// of a group's position without anything having been missed.
    low: i64,
    /// One past the newest visible record; below `high` after an incarnation's jump.
    records_end: i64,
    /// Offset of the next record.
    high: i64,
    /// The newest visible records, without gaps, the last at `records_end - 1`.
    newest: VecDeque<(Timestamp, Record)>,
}

/// What a partition has at an offset.
#[derive(Debug)]
pub(super) enum Fetched {
    /// Records from memory; the first may lie beyond the offset asked for.
    Records(Vec<Delivery>),
    /// Nothing until more becomes visible; reading goes on at this offset.
    Nothing(i64),
    /// It is on disk, before this offset.
    OnDisk(i64),
}

impl Partition {
    pub(super) fn new(topic: Arc<str>, number: i32, first_offset: i64) -> Self {
        Self {
            topic,
            number,
            ends: Mutex::new(Ends {
                low: 0,
                records_end: 0,
                high: first_offset,
                newest: VecDeque::new(),
            }),
        }
    }

    /// Sets the ends as found at open.
    pub(super) fn found(&self, low: i64, records_end: i64, high: i64) {
        let mut ends = self.ends.lock();
        ends.low = low;
        ends.records_end = records_end;
        ends.high = high;
    }

    /// Records from `offset` on; of several incarnations only the newest one's.
    pub(super) fn lag(&self, offset: i64) -> i64 {
        let end = self.ends.lock().records_end;
        let first = end >> INCARNATION_SHIFT << INCARNATION_SHIFT;
        (end - offset.max(first)).max(0)
    }

    pub(super) fn watermarks(&self) -> Watermarks {
        let ends = self.ends.lock();
        Watermarks {
            low: ends.low,
            high: ends.high,
        }
    }

    /// Whether a reader may stand at `offset`.
    pub(super) fn check(&self, offset: i64) -> Result<(), LogError> {
        let Watermarks { low, high } = self.watermarks();
        let (topic, partition) = (self.topic.clone(), self.number);
        if offset < low {
            return Err(LogError::BelowStart {
                topic,
                partition,
                offset,
                low,
            });
        }
        if offset > high {
            return Err(LogError::BeyondEnd {
                topic,
                partition,
                offset,
                high,
            });
        }
        Ok(())
    }

    /// Makes the next record visible.
    pub(super) fn publish(&self, offset: i64, timestamp: Timestamp, record: Record) {
        let mut ends = self.ends.lock();
        if ends.records_end != offset {
            // The first record after a jump: memory keeps one run without gaps.
            ends.newest.clear();
        }
        ends.newest.push_back((timestamp, record));
        ends.records_end = offset + 1;
        ends.high = offset + 1;
    }

    /// Drops the oldest record from memory.
    pub(super) fn forget_oldest(&self) {
        self.ends.lock().newest.pop_front();
    }

    /// Raises the low end: what lies before it was deleted.
    pub(super) fn raise_low(&self, low: i64) {
        let mut ends = self.ends.lock();
        ends.low = ends.low.max(low);
    }

    /// Where a reader at `next` stands: at the high end when no record is left.
    pub(super) fn position(&self, next: i64) -> i64 {
        let ends = self.ends.lock();
        if next >= ends.records_end {
            ends.high.max(next)
        } else {
            next
        }
    }

    /// What follows at `from`: at most `count_max` records.
    pub(super) fn fetch(&self, from: i64, count_max: usize) -> Result<Fetched, LogError> {
        let ends = self.ends.lock();
        if from < ends.low {
            return Err(LogError::BelowStart {
                topic: self.topic.clone(),
                partition: self.number,
                offset: from,
                low: ends.low,
            });
        }
        if from >= ends.records_end {
            return Ok(Fetched::Nothing(ends.high.max(from)));
        }
        let first = ends.records_end - ends.newest.len() as i64;
        if from < first {
            return Ok(Fetched::OnDisk(ends.records_end));
        }
        let deliveries = ends
            .newest
            .range((from - first) as usize..)
            .take(count_max)
            .zip(from..)
            .map(|((timestamp, record), offset)| Delivery {
                topic: self.topic.clone(),
                position: Position {
                    partition: self.number,
                    offset,
                },
                timestamp: *timestamp,
                record: record.clone(),
            })
            .collect();
        Ok(Fetched::Records(deliveries))
    }
}
