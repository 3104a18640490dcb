//! What is found in a folder, and what an unclean end means for it.
//!
//! - Sealed segments are known from their index files; one without is scanned. Only the newest may end in a torn frame: it is cut
//!   there. A damaged frame anywhere else is an error, never a silent gap.
//! - Without the mark of a clean end the *incarnation* is raised and every partition goes on at `incarnation << 40`: offsets that
//!   were handed out for records which did not survive are not used a second time.
//! - Each open begins a new segment with its first record, so that offsets have no gaps inside a segment.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::catalog::{Catalog, Stored};
use super::frame::Commit;
use super::segment::{self, Groups, Segment, Snapshot};
use super::storage::{self, Storage};
use super::{Shared, Tuning};
use crate::log::Health;

/// An incarnation has room for 2^40 records in a partition; there may be 2^23 of them.
pub(super) const INCARNATION_SHIFT: u32 = 40;
const CLEAN: &str = "clean";

/// Opens what `storage` holds; also the number of the first segment to be made.
pub(super) fn open(storage: Arc<dyn Storage>, tuning: Tuning) -> io::Result<(Shared, u64)> {
    let stored = take_up(&*storage)?;
    let first_offset = stored.incarnation << INCARNATION_SHIFT;
    let (segments, snapshot) = load_segments(&*storage)?;
    let catalog = Catalog::new(&stored, &Catalog::default(), first_offset);
    for (slot, partition) in (0..).zip(&catalog.partitions) {
        let known = snapshot.next.get(usize::from(slot)).copied().unwrap_or(0);
        let low = stored.lows.get(&slot).copied().unwrap_or(0);
        let records_end = segments.iter().rev().find_map(|segment| segment.end(slot));
        let high = known.max(records_end.unwrap_or(0)).max(first_offset);
        partition.found(low, records_end.unwrap_or(low), high);
    }
    let number = segments.last().map_or(0, |segment| segment.number + 1);
    let used = segments.iter().map(|segment| segment.bytes()).sum::<u64>();
    let shared = Shared {
        storage,
        tuning,
        first_offset,
        stored: Mutex::new(stored),
        catalog: ArcSwap::from_pointee(catalog),
        segments: RwLock::new(segments),
        used: used.into(),
        full: AtomicBool::new(false),
        groups: Mutex::new(snapshot.groups),
        members: Mutex::default(),
        queue: Default::default(),
        keeper: Default::default(),
        health: watch::channel(Health::Up).0,
        ended: watch::channel(false).0,
    };
    Ok((shared, number))
}

/// The catalog, in the incarnation that begins now.
fn take_up(storage: &dyn Storage) -> io::Result<Stored> {
    let Some(mut stored) = Stored::load(storage)? else {
        let stored = Stored::default();
        stored.save(storage)?;
        return Ok(stored);
    };
    match storage.remove(CLEAN) {
        Ok(()) => storage.sync_names()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            stored.incarnation += 1;
            stored.save(storage)?;
            tracing::warn!(
                incarnation = stored.incarnation,
                "the log was not closed cleanly: offsets jump ahead"
            );
        }
        Err(error) => return Err(error),
    }
    Ok(stored)
}

/// Leaves the mark of a clean end.
pub(super) fn leave_mark(storage: &dyn Storage) -> io::Result<()> {
    storage::replace(storage, CLEAN, b"")
}

/// Notes positions of a group; they are never taken back.
pub(super) fn apply(groups: &mut Groups, commit: Commit) {
    groups.entry(commit.group).or_default().extend(commit.next);
}

fn load_segments(storage: &dyn Storage) -> io::Result<(Vec<Arc<Segment>>, Snapshot)> {
    let mut numbers = Vec::new();
    for name in storage.list()? {
        if name.ends_with(".new") {
            storage.remove(&name)?;
        }
        numbers.extend(segment::number_of(&name));
    }
    numbers.sort_unstable();
    let mut segments = Vec::with_capacity(numbers.len());
    let mut snapshot = Snapshot::default();
    for number in &numbers {
        if let Some((segment, state)) = Segment::load(storage, *number)? {
            segments.push(Arc::new(segment));
            snapshot = state;
            continue;
        }
        let is_newest = Some(number) == numbers.last();
        if let Some(segment) = recover(storage, *number, is_newest, &mut snapshot)? {
            segments.push(Arc::new(segment));
        }
    }
    Ok((segments, snapshot))
}

/// Scans a segment that was not sealed, cuts its torn tail and seals it; none when it holds nothing.
fn recover(
    storage: &dyn Storage,
    number: u64,
    is_newest: bool,
    snapshot: &mut Snapshot,
) -> io::Result<Option<Segment>> {
    let name = segment::file_name(number);
    let scanned = segment::scan(storage, number)?;
    if scanned.end < scanned.len {
        if !is_newest {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{name} is damaged at byte {} of {}",
                    scanned.end, scanned.len
                ),
            ));
        }
        tracing::warn!(
            segment = number,
            bytes = scanned.len - scanned.end,
            "the torn tail of the log was cut off"
        );
    }
    if scanned.runs.is_empty() && scanned.commits.is_empty() {
        storage.remove(&name)?;
        storage.sync_names()?;
        return Ok(None);
    }
    let file = storage.open(&name)?;
    file.set_len(scanned.end)?;
    // What `kill -9` left may never have been synced.
    file.sync()?;
    for commit in scanned.commits {
        apply(&mut snapshot.groups, commit);
    }
    let next: BTreeMap<_, _> = scanned
        .runs
        .iter()
        .map(|(slot, run)| (*slot, run.base + run.at.len() as i64))
        .collect();
    if let Some(last) = next.keys().next_back() {
        let slots = snapshot.next.len().max(usize::from(*last) + 1);
        snapshot.next.resize(slots, 0);
    }
    for (slot, end) in next {
        if let Some(known) = snapshot.next.get_mut(usize::from(slot)) {
            *known = end.max(*known);
        }
    }
    let segment = Segment::new(number, scanned.runs, scanned.end);
    segment.seal(storage, snapshot.clone())?;
    Ok(Some(segment))
}
