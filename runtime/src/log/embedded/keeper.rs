//! What need not be done before an append resolves: sealing segments and deleting what may be deleted.
//!
//! Space comes back by slot and segment, oldest first. The records of a partition in a segment may go when every group that ever
//! joined the topic has read past them, and either they are past the topic's retention, or the log is over nine tenths of
//! `bytes_max`, somebody reads the topic, and so the bound is stronger than the retention. A segment whose records may all go is
//! removed; one of which at least half may go is written anew, so that a few dead letters do not keep gigabytes for a month.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use schemas::time::Timestamp;

use super::Shared;
use super::frame::Slot;
use super::segment::{Line, Segment};
use crate::log::Health;

/// How often retention is looked at, and how often while the log is full.
const PERIOD: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(250));

#[derive(Debug, Default)]
struct State {
    poked: bool,
    stop: bool,
    seal: Vec<Arc<Segment>>,
}

/// How the keeper is told that there is something to do.
#[derive(Debug, Default)]
pub(super) struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

impl Signal {
    /// Hands over a segment that is written no more.
    pub(super) fn seal(&self, segment: Arc<Segment>) {
        self.state.lock().seal.push(segment);
        self.changed.notify_one();
    }

    /// Lets it look at retention now.
    pub(super) fn poke(&self) {
        self.state.lock().poked = true;
        self.changed.notify_one();
    }
}

/// The keeper's thread.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Keeper {
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let own = shared.clone();
        let thread = std::thread::Builder::new()
            .name("log-keeper".to_owned())
            .spawn(move || run(&own))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Ends it and waits for what it is doing.
    pub(super) fn stop(&mut self) {
        self.shared.keeper.state.lock().stop = true;
        self.shared.keeper.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's keeper had panicked");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Shared) {
    loop {
        let full = shared.full.load(Ordering::Relaxed);
        let period = if full { PERIOD.1 } else { PERIOD.0 };
        let mut seal = {
            let mut state = shared.keeper.state.lock();
            let until = Instant::now() + period;
            while !state.stop && !state.poked && state.seal.is_empty() {
                if shared
                    .keeper
                    .changed
                    .wait_until(&mut state, until)
                    .timed_out()
                {
                    break;
                }
            }
            if state.stop {
                return;
            }
            state.poked = false;
            std::mem::take(&mut state.seal)
        };
        seal.retain(|segment| match segment.seal(&*shared.storage, shared.snapshot()) {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(%error, segment = segment.number, "a segment could not be sealed");
                true
            }
        });
        if !seal.is_empty() {
            // Again at the next turn, not at once: the disk is in trouble.
            shared.keeper.state.lock().poked = false;
            let retry = Instant::now() + PERIOD.1;
            let mut state = shared.keeper.state.lock();
            while !state.stop
                && !shared
                    .keeper
                    .changed
                    .wait_until(&mut state, retry)
                    .timed_out()
            {}
            state.seal.append(&mut seal);
        }
        if let Err(error) = shared.retain(Timestamp::now()) {
            tracing::warn!(%error, "old records could not be deleted");
        }
    }
}

impl Shared {
    /// Deletes what may be deleted.
    pub(super) fn retain(&self, now: Timestamp) -> io::Result<()> {
        let segments = self.segments.read().clone();
        // The newest sealed one carries the positions of groups, the one after it is in writing.
        let newest_sealed = segments.iter().rposition(|segment| segment.is_sealed());
        let mut kept_slots = BTreeSet::new();
        for segment in segments.iter().take(newest_sealed.unwrap_or(0)) {
            let used = self.used.load(Ordering::Relaxed);
            let crowded = used > self.tuning.bytes_max / 10 * 9;
            let (gone, kept): (Vec<Line>, Vec<Line>) =
                segment.lines().into_iter().partition(|line| {
                    !kept_slots.contains(&line.slot) && self.may_go(line, now, crowded)
                });
            let gone_bytes: u64 = gone.iter().map(|line| line.bytes).sum();
            let removed = kept.is_empty() || gone_bytes * 2 >= segment.bytes();
            if removed {
                // First the lows, durably: a reader must never take a deletion for a gap.
                self.raise_lows(&gone)?;
                if kept.is_empty() {
                    self.remove(segment)?;
                } else {
                    let slots: Vec<Slot> = kept.iter().map(|line| line.slot).collect();
                    let before = segment.bytes();
                    segment.rewrite(&*self.storage, &slots, self.snapshot())?;
                    let freed = before - segment.bytes();
                    self.used.fetch_sub(freed, Ordering::Relaxed);
                }
            }
            kept_slots.extend(kept.iter().map(|line| line.slot));
            if !removed {
                kept_slots.extend(gone.iter().map(|line| line.slot));
            }
        }
        let used = self.used.load(Ordering::Relaxed);
        if used < self.tuning.bytes_max / 20 * 19 && self.full.swap(false, Ordering::Relaxed) {
            tracing::info!(used, "the log has space again");
            self.health.send_if_modified(|health| {
                let up = !self.queue.is_refusing();
                if up {
                    *health = Health::Up;
                }
                up
            });
        }
        Ok(())
    }

    fn may_go(&self, line: &Line, now: Timestamp, crowded: bool) -> bool {
        let catalog = self.catalog.load();
        let Some(topic) = catalog.topic_of(line.slot) else {
            return true;
        };
        let groups = self.groups.lock();
        let mut positions = groups
            .values()
            .filter_map(|slots| slots.get(&line.slot))
            .peekable();
        let has_readers = positions.peek().is_some();
        let is_read = positions.all(|next| *next >= line.end());
        let is_old = now.since(line.newest) > topic.retention;
        is_read && (is_old || (crowded && has_readers))
    }

    fn remove(&self, segment: &Arc<Segment>) -> io::Result<()> {
        self.segments
            .write()
            .retain(|other| other.number != segment.number);
        self.used.fetch_sub(segment.bytes(), Ordering::Relaxed);
        tracing::debug!(segment = segment.number, "segment deleted");
        segment.remove(&*self.storage)
    }

    fn raise_lows(&self, gone: &[Line]) -> io::Result<()> {
        let mut stored = self.stored.lock();
        let mut raised = stored.clone();
        raised
            .lows
            .extend(gone.iter().map(|line| (line.slot, line.end())));
        if raised != *stored {
            raised.save(&*self.storage)?;
            *stored = raised;
        }
        let catalog = self.catalog.load();
        for line in gone {
            if let Some(partition) = catalog.partitions.get(usize::from(line.slot)) {
                partition.raise_low(line.end());
            }
        }
        Ok(())
    }
}
