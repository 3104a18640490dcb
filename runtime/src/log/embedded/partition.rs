//! One partition as readers see it: recent records in memory, older ones through the index.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use schemas::time::Timestamp;
use tokio::sync::Notify;

use super::entry::{self, Names};
use super::segment::{Chunk, Location, Locations, Segment};
use crate::log::{Delivery, Watermarks};

/// Most records that one read takes from disk.
const DISK_BATCH_MAX: usize = 256;

/// What recovery found of a partition.
#[derive(Debug, Clone, Default)]
pub(super) struct Recovered {
    pub(super) next: i64,
    pub(super) chunks: VecDeque<Chunk>,
}

/// A partition.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: u16,
    pub(super) number: u16,
    /// Next offset to give out; the committer alone moves it.
    next: AtomicI64,
    view: Mutex<View>,
    /// Notified after records were shown.
    shown: Notify,
    /// The same for any partition of the topic.
    topic_shown: Arc<Notify>,
}

#[derive(Debug)]
struct View {
    low: i64,
    /// One past the last record shown.
    high: i64,
    chunks: VecDeque<Chunk>,
    /// The newest records, without a hole before `high`.
    recent: VecDeque<Delivery>,
}

/// What a read found.
pub(super) enum Read {
    /// Nothing at or after the offset yet.
    Nothing,
    /// Records, at least one, and the offset to go on from.
    Deliveries(Vec<Delivery>, i64),
    /// No record before this offset: go on from there.
    Gap(i64),
    /// The offset is below the oldest record kept.
    Below(i64),
    /// On disk: call [`Partition::read_disk`] where blocking is allowed.
    OnDisk(Chunk),
}

impl Partition {
    pub(super) fn new(
        topic: &Arc<str>,
        topic_id: u16,
        number: i32,
        recovered: Recovered,
        topic_shown: Arc<Notify>,
    ) -> Self {
        let low = recovered
            .chunks
            .front()
            .map_or(recovered.next, |chunk| chunk.first);
        Self {
            topic: topic.clone(),
            topic_id,
            number: u16::try_from(number).unwrap_or(u16::MAX),
            next: AtomicI64::new(recovered.next),
            view: Mutex::new(View {
                low,
                high: recovered.next,
                chunks: recovered.chunks,
                recent: VecDeque::new(),
            }),
            shown: Notify::new(),
            topic_shown,
        }
    }

    /// Gives out the next offset.
    pub(super) fn take_offset(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The next offset that will be given out.
    pub(super) fn next_offset(&self) -> i64 {
        self.next.load(Ordering::Relaxed)
    }

    pub(super) fn watermarks(&self) -> Watermarks {
        let view = self.view.lock();
        Watermarks {
            low: view.low,
            high: view.high,
        }
    }

    /// A future that resolves when records were shown after its creation.
    pub(super) fn shown(&self) -> tokio::sync::futures::Notified<'_> {
        self.shown.notified()
    }

    /// Shows a record to readers; its location becomes part of the index.
    pub(super) fn show(
        &self,
        delivery: Delivery,
        segment: &Arc<Segment>,
        position: u32,
        length: u32,
    ) {
        let offset = delivery.position.offset;
        let mut view = self.view.lock();
        index(
            &mut view.chunks,
            segment,
            offset,
            delivery.timestamp,
            position,
            length,
        );
        view.high = offset + 1;
        view.recent.push_back(delivery);
    }

    /// Wakes whoever waits for records.
    pub(super) fn wake(&self) {
        self.shown.notify_waiters();
        self.topic_shown.notify_waiters();
    }

    /// Forgets the oldest record in memory.
    pub(super) fn forget_oldest(&self) {
        self.view.lock().recent.pop_front();
    }

    /// Takes the locations at or after `position` of `segment` out of the index: they are about to be written again elsewhere.
    pub(super) fn unindex(&self, segment: u64, position: u32) {
        let mut view = self.view.lock();
        let Some(chunk) = view
            .chunks
            .back_mut()
            .filter(|chunk| chunk.segment.number == segment)
        else {
            return;
        };
        let Locations::Resident(locations) = &mut chunk.locations else {
            return;
        };
        locations.retain(|location| location.position < position);
        match locations.last() {
            Some(last) => chunk.last = chunk.first + i64::from(last.relative),
            None => drop(view.chunks.pop_back()),
        }
    }

    /// Adds the location of a record that was shown before and written again.
    pub(super) fn reindex(
        &self,
        offset: i64,
        timestamp: Timestamp,
        segment: &Arc<Segment>,
        position: u32,
        length: u32,
    ) {
        index(
            &mut self.view.lock().chunks,
            segment,
            offset,
            timestamp,
            position,
            length,
        );
    }

    /// The chunk of `segment`, when there is one.
    pub(super) fn chunk_of(&self, segment: u64) -> Option<Chunk> {
        self.view
            .lock()
            .chunks
            .iter()
            .rev()
            .find(|chunk| chunk.segment.number == segment)
            .cloned()
    }

    /// Replaces the locations of `segment` by those in its index file.
    pub(super) fn seal(&self, segment: u64, at: u64, count: u32) {
        let mut view = self.view.lock();
        if let Some(chunk) = view
            .chunks
            .iter_mut()
            .rev()
            .find(|chunk| chunk.segment.number == segment)
        {
            chunk.locations = Locations::Sealed { at, count };
        }
    }

    /// Forgets all chunks up to and with `segment`, which is being deleted.
    pub(super) fn delete_through(&self, segment: u64) {
        let mut view = self.view.lock();
        while view
            .chunks
            .front()
            .is_some_and(|chunk| chunk.segment.number <= segment)
        {
            view.chunks.pop_front();
        }
        let low = view.chunks.front().map_or(view.high, |chunk| chunk.first);
        view.low = low;
        while view
            .recent
            .front()
            .is_some_and(|delivery| delivery.position.offset < low)
        {
            view.recent.pop_front();
        }
    }

    /// Reads up to `max` records from `offset` on, from memory.
    pub(super) fn read(&self, offset: i64, max: usize) -> Read {
        let view = self.view.lock();
        if offset < view.low {
            return Read::Below(view.low);
        }
        if offset >= view.high {
            return Read::Nothing;
        }
        if let Some(first) = view.recent.front()
            && offset >= first.position.offset
        {
            let from = view
                .recent
                .partition_point(|delivery| delivery.position.offset < offset);
            let deliveries: Vec<Delivery> = view.recent.range(from..).take(max).cloned().collect();
            return match deliveries.last() {
                Some(last) => {
                    let next = last.position.offset + 1;
                    Read::Deliveries(deliveries, next)
                }
                None => Read::Gap(view.high),
            };
        }
        match view.chunks.iter().find(|chunk| chunk.last >= offset) {
            Some(chunk) => Read::OnDisk(chunk.clone()),
            None => Read::Gap(view.high),
        }
    }

    /// Reads up to `max` records from `offset` on out of a chunk; blocks on the disk.
    pub(super) fn read_disk(
        &self,
        chunk: &Chunk,
        offset: i64,
        max: usize,
    ) -> io::Result<Vec<Delivery>> {
        let mut names = Names::default();
        let mut deliveries = Vec::new();
        for (offset, location) in chunk.locate(offset, max.min(DISK_BATCH_MAX))? {
            let mut bytes = vec![0; location.length as usize];
            let read = chunk
                .segment
                .file
                .read_at(&mut bytes, u64::from(location.position))?;
            bytes.truncate(read);
            let delivery = entry::decode(&Bytes::from(bytes), &self.topic, &mut names)
                .filter(|delivery| delivery.position.offset == offset)
                .ok_or_else(|| {
                    let place = format!("{}/{} offset {offset}", self.topic, self.number);
                    let file = chunk.segment.path.display();
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{place} is damaged in {file}"),
                    )
                })?;
            deliveries.push(delivery);
        }
        Ok(deliveries)
    }

    /// Records in memory.
    pub(super) fn recent_len(&self) -> usize {
        self.view.lock().recent.len()
    }

    /// Whether the index names other places than `chunk` did.
    pub(super) fn moved(&self, chunk: &Chunk) -> bool {
        let now = self.chunk_of(chunk.segment.number);
        now.is_none_or(|now| {
            now.last != chunk.last
                || matches!(
                    (&now.locations, &chunk.locations),
                    (Locations::Sealed { .. }, Locations::Resident(_))
                )
        })
    }

    /// Segment, last offset and newest record time of the oldest chunk; for retention.
    pub(super) fn oldest_chunk(&self) -> Option<(u64, i64, Timestamp)> {
        let view = self.view.lock();
        view.chunks
            .front()
            .map(|chunk| (chunk.segment.number, chunk.last, chunk.last_timestamp))
    }
}

/// Adds a location at the end of the index.
pub(super) fn index(
    chunks: &mut VecDeque<Chunk>,
    segment: &Arc<Segment>,
    offset: i64,
    timestamp: Timestamp,
    position: u32,
    length: u32,
) {
    if let Some(chunk) = chunks.back_mut()
        && chunk.segment.number == segment.number
        && let Locations::Resident(locations) = &mut chunk.locations
        && let Ok(relative) = u32::try_from(offset - chunk.first)
    {
        locations.push(Location {
            relative,
            position,
            length,
        });
        chunk.last = offset;
        chunk.last_timestamp = chunk.last_timestamp.max(timestamp);
        return;
    }
    chunks.push_back(Chunk {
        segment: segment.clone(),
        first: offset,
        last: offset,
        last_timestamp: timestamp,
        locations: Locations::Resident(vec![Location {
            relative: 0,
            position,
            length,
        }]),
    });
}
