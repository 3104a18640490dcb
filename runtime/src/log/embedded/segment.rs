//! One segment of the journal: a file of frames and where the records of each slot lie in it.
//!
//! While it is written, its index is in memory: four bytes a record. Sealed, the index is a file beside it and only one line per
//! slot stays in memory, so that a long log costs little memory and opens without being read.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::frame::{Commit, Frame, POSITIONS, Slot};
use super::storage::{self, Storage};
use super::window::Reader;

/// First bytes of every segment.
pub(super) const MAGIC: &[u8; 8] = b"LGLOG\0\0\x01";
const INDEX_MAGIC: &[u8; 8] = b"LGIDX\0\0\x01";
/// Magic, length and sum of the head.
const INDEX_PREFIX: usize = 16;
/// Most bytes that one read for a consumer yields, unless a single record is larger.
const FETCH_BYTES_MAX: usize = 1024 * 1024;

/// Where the records of one slot lie in the segment that is being written.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// Offset of the first.
    pub(super) base: i64,
    /// Byte positions; offsets have no gaps inside a segment.
    pub(super) at: Vec<u32>,
    pub(super) newest: Timestamp,
    pub(super) bytes: u64,
}

/// What stays in memory of one slot's records in a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) slot: Slot,
    pub(super) base: i64,
    pub(super) count: u32,
    pub(super) newest: Timestamp,
    pub(super) bytes: u64,
    /// Where its byte positions begin in the index file.
    at: u64,
}

impl Line {
    /// One past the last offset.
    pub(super) fn end(&self) -> i64 {
        self.base + i64::from(self.count)
    }
}

/// State of the whole log at the moment a segment was sealed, kept in its index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// Next offset by slot.
    pub(super) next: Vec<i64>,
    /// Next offset to read, by group and slot.
    pub(super) groups: Groups,
}

/// Positions of consumer groups.
pub(super) type Groups = BTreeMap<String, BTreeMap<Slot, i64>>;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    segment_bytes: u64,
    lines: Vec<Line>,
    snapshot: Snapshot,
}

#[derive(Debug)]
enum Index {
    Written(BTreeMap<Slot, Run>),
    Sealed(Vec<Line>),
}

/// A segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    bytes: AtomicU64,
    /// Raised when the file is about to be written anew.
    rewrites: AtomicU64,
    index: RwLock<Index>,
}

/// Name of a segment's file.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:016}.segment")
}

fn index_name(number: u64) -> String {
    format!("{number:016}.index")
}

/// The number in a segment's file name.
pub(super) fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(".segment")?.parse().ok()
}

impl Segment {
    /// A segment that is being written.
    pub(super) fn new(number: u64, runs: BTreeMap<Slot, Run>, bytes: u64) -> Self {
        Self {
            number,
            bytes: AtomicU64::new(bytes),
            rewrites: AtomicU64::new(0),
            index: RwLock::new(Index::Written(runs)),
        }
    }

    /// A sealed segment with what its index file says; none when there is no such file or it does not fit.
    pub(super) fn load(storage: &dyn Storage, number: u64) -> io::Result<Option<(Self, Snapshot)>> {
        let Some(bytes) = storage::read_all(storage, &index_name(number))? else {
            return Ok(None);
        };
        let segment_bytes = storage.open(&file_name(number))?.len()?;
        let Some(head) = parse_head(&bytes).filter(|head| head.segment_bytes == segment_bytes)
        else {
            return Ok(None);
        };
        let segment = Self {
            number,
            bytes: AtomicU64::new(segment_bytes),
            rewrites: AtomicU64::new(0),
            index: RwLock::new(Index::Sealed(head.lines)),
        };
        Ok(Some((segment, head.snapshot)))
    }

    /// Size of its file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How often it was written anew; a read that fails while this changes is to be tried again.
    pub(super) fn rewrites(&self) -> u64 {
        self.rewrites.load(Ordering::SeqCst)
    }

    /// Whether its index is on disk.
    pub(super) fn is_sealed(&self) -> bool {
        matches!(&*self.index.read(), Index::Sealed(_))
    }

    pub(super) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// One line per slot that has records here.
    pub(super) fn lines(&self) -> Vec<Line> {
        match &*self.index.read() {
            Index::Written(runs) => lines(runs),
            Index::Sealed(lines) => lines.clone(),
        }
    }

    /// One past the last offset of a slot; none when it has no records here.
    pub(super) fn end(&self, slot: Slot) -> Option<i64> {
        match &*self.index.read() {
            Index::Written(runs) => runs.get(&slot).map(|run| run.base + run.at.len() as i64),
            Index::Sealed(lines) => lines.iter().find(|line| line.slot == slot).map(Line::end),
        }
    }

    /// Notes records that were written.
    pub(super) fn note(&self, written: impl Iterator<Item = Noted>) {
        if let Index::Written(runs) = &mut *self.index.write() {
            for record in written {
                note(runs, &record);
            }
        }
    }

    /// Writes the index file, durably, and lets go of the index in memory.
    pub(super) fn seal(&self, storage: &dyn Storage, snapshot: Snapshot) -> io::Result<()> {
        let (bytes, lines) = {
            let index = self.index.read();
            let Index::Written(runs) = &*index else {
                return Ok(());
            };
            encode_index(runs, self.bytes(), snapshot)?
        };
        storage::replace(storage, &index_name(self.number), &bytes)?;
        *self.index.write() = Index::Sealed(lines);
        Ok(())
    }

    /// Reads records of `slot` from `from` on, below `end`; empty when the segment has none of them.
    pub(super) fn read(
        &self,
        storage: &dyn Storage,
        slot: Slot,
        from: i64,
        end: i64,
        count_max: usize,
    ) -> io::Result<Vec<Frame>> {
        let (first, positions) = self.positions(storage, slot, from, end, count_max)?;
        let mut reader = Reader::new(storage.open(&file_name(self.number))?)?;
        let mut frames = Vec::with_capacity(positions.len());
        let mut bytes = 0;
        for (at, offset) in positions.into_iter().zip(first..) {
            let frame = reader.frame(u64::from(at))?;
            let Some(frame) = frame.filter(|frame| frame.slot == slot && frame.offset == offset)
            else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} is damaged at byte {at}", file_name(self.number)),
                ));
            };
            bytes += frame.record.value.len();
            frames.push(frame);
            if bytes >= FETCH_BYTES_MAX {
                break;
            }
        }
        Ok(frames)
    }

    /// Byte positions of the records of `slot` in `from..end`, and the offset of the first.
    fn positions(
        &self,
        storage: &dyn Storage,
        slot: Slot,
        from: i64,
        end: i64,
        count_max: usize,
    ) -> io::Result<(i64, Vec<u32>)> {
        let line = match &*self.index.read() {
            Index::Written(runs) => {
                let Some(run) = runs.get(&slot) else {
                    return Ok((from, Vec::new()));
                };
                let first = from.max(run.base);
                let end = end.min(run.base + run.at.len() as i64);
                let range = span(run.base, first, end, count_max);
                return Ok((first, run.at.get(range).unwrap_or_default().to_vec()));
            }
            Index::Sealed(lines) => match lines.iter().find(|line| line.slot == slot) {
                Some(line) => *line,
                None => return Ok((from, Vec::new())),
            },
        };
        let first = from.max(line.base);
        let range = span(line.base, first, end.min(line.end()), count_max);
        let mut bytes = vec![0; range.len() * 4];
        let at = line.at + 4 * range.start as u64;
        storage
            .open(&index_name(self.number))?
            .read_at(&mut bytes, at)?;
        let positions = bytes
            .as_chunks()
            .0
            .iter()
            .map(|chunk| u32::from_le_bytes(*chunk));
        Ok((first, positions.collect()))
    }

    /// Writes the segment anew with the records of the slots that `keep` names, in place of the old one. Readers that hold the
    /// old index notice by the slots and offsets in the frames.
    pub(super) fn rewrite(
        &self,
        storage: &dyn Storage,
        keep: &[Slot],
        snapshot: Snapshot,
    ) -> io::Result<()> {
        let name = file_name(self.number);
        let mut reader = Reader::new(storage.open(&name)?)?;
        let fresh = format!("{name}.new");
        let into = storage.create(&fresh)?;
        into.write_at(MAGIC, 0)?;
        let (mut from, mut to) = (MAGIC.len() as u64, MAGIC.len() as u64);
        let mut runs = BTreeMap::new();
        while let Some((frame, length)) = reader.next(from)? {
            if keep.contains(&frame.slot) {
                into.write_at(&reader.raw(from, length)?, to)?;
                note(&mut runs, &Noted::new(&frame, to, length));
                to += length as u64;
            }
            from += length as u64;
        }
        into.sync()?;
        let (index, lines) = encode_index(&runs, to, snapshot)?;
        // Without an index file the segment is scanned at open, so that no crash leaves an index of other bytes.
        let mut guard = self.index.write();
        self.rewrites.fetch_add(1, Ordering::SeqCst);
        storage.remove(&index_name(self.number))?;
        storage.rename(&fresh, &name)?;
        storage::replace(storage, &index_name(self.number), &index)?;
        *guard = Index::Sealed(lines);
        drop(guard);
        self.set_bytes(to);
        Ok(())
    }

    /// Removes its files.
    pub(super) fn remove(&self, storage: &dyn Storage) -> io::Result<()> {
        match storage.remove(&index_name(self.number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        storage.remove(&file_name(self.number))
    }
}

/// A record that was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noted {
    pub(super) slot: Slot,
    pub(super) offset: i64,
    pub(super) timestamp: Timestamp,
    pub(super) at: u64,
    pub(super) bytes: u64,
}

impl Noted {
    fn new(frame: &Frame, at: u64, length: usize) -> Self {
        Self {
            slot: frame.slot,
            offset: frame.offset,
            timestamp: frame.timestamp,
            at,
            bytes: length as u64,
        }
    }
}

fn note(runs: &mut BTreeMap<Slot, Run>, record: &Noted) {
    let run = runs.entry(record.slot).or_insert_with(|| Run {
        base: record.offset,
        at: Vec::new(),
        newest: record.timestamp,
        bytes: 0,
    });
    run.at.push(record.at as u32);
    run.newest = run.newest.max(record.timestamp);
    run.bytes += record.bytes;
}

fn span(base: i64, first: i64, end: i64, count_max: usize) -> std::ops::Range<usize> {
    let start = (first - base).max(0) as usize;
    let end = (end - base).max(0) as usize;
    start..end.max(start).min(start + count_max)
}

fn lines(runs: &BTreeMap<Slot, Run>) -> Vec<Line> {
    let mut at = 0;
    runs.iter()
        .map(|(slot, run)| {
            let line = Line {
                slot: *slot,
                base: run.base,
                count: run.at.len() as u32,
                newest: run.newest,
                bytes: run.bytes,
                at,
            };
            at += 4 * run.at.len() as u64;
            line
        })
        .collect()
}

/// The index file: magic, length and sum of the head, the head as JSON, and the byte positions. They lie at the file's end, so
/// that lines can name where theirs begin before the head's length is known.
fn encode_index(
    runs: &BTreeMap<Slot, Run>,
    segment_bytes: u64,
    snapshot: Snapshot,
) -> io::Result<(Vec<u8>, Vec<Line>)> {
    let head = serde_json::to_vec(&Head {
        segment_bytes,
        lines: lines(runs),
        snapshot,
    })?;
    let mut bytes = Vec::with_capacity(INDEX_PREFIX + head.len());
    bytes.extend_from_slice(INDEX_MAGIC);
    bytes.extend_from_slice(
        &u32::try_from(head.len())
            .map_err(io::Error::other)?
            .to_le_bytes(),
    );
    bytes.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
    bytes.extend_from_slice(&head);
    let positions = bytes.len() as u64;
    for run in runs.values() {
        for at in &run.at {
            bytes.extend_from_slice(&at.to_le_bytes());
        }
    }
    let mut lines = lines(runs);
    for line in &mut lines {
        line.at += positions;
    }
    Ok((bytes, lines))
}

fn parse_head(bytes: &[u8]) -> Option<Head> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let head = rest.get(..u32::from_le_bytes(*length) as usize)?;
    if magic != INDEX_MAGIC || crc32fast::hash(head) != u32::from_le_bytes(*sum) {
        return None;
    }
    let positions = (INDEX_PREFIX + head.len()) as u64;
    let mut head: Head = serde_json::from_slice(head).ok()?;
    for line in &mut head.lines {
        line.at += positions;
        if line.at + 4 * u64::from(line.count) > bytes.len() as u64 {
            return None;
        }
    }
    Some(head)
}

/// What a scan of a segment without an index found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) runs: BTreeMap<Slot, Run>,
    pub(super) commits: Vec<Commit>,
    /// One past the last whole frame.
    pub(super) end: u64,
    /// Length of the file.
    pub(super) len: u64,
}

/// Reads a whole segment up to the first frame that is not whole.
pub(super) fn scan(storage: &dyn Storage, number: u64) -> io::Result<Scanned> {
    let file = storage.open(&file_name(number))?;
    let len = file.len()?;
    let mut scanned = Scanned {
        runs: BTreeMap::new(),
        commits: Vec::new(),
        end: 0,
        len,
    };
    let mut magic = [0; MAGIC.len()];
    if len < MAGIC.len() as u64 {
        return Ok(scanned);
    }
    file.read_at(&mut magic, 0)?;
    if &magic != MAGIC {
        return Ok(scanned);
    }
    scanned.end = MAGIC.len() as u64;
    let mut reader = Reader::new(file)?;
    while let Some((frame, length)) = reader.next(scanned.end)? {
        if frame.slot == POSITIONS {
            match serde_json::from_slice(&frame.record.value) {
                Ok(commit) => scanned.commits.push(commit),
                Err(_) => break,
            }
        } else {
            let follows = scanned
                .runs
                .get(&frame.slot)
                .is_none_or(|run| run.base + run.at.len() as i64 == frame.offset);
            if !follows {
                break;
            }
            note(&mut scanned.runs, &Noted::new(&frame, scanned.end, length));
        }
        scanned.end += length as u64;
    }
    Ok(scanned)
}
