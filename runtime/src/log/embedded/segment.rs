//! Segments of the journal and where records lie in them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};
use schemas::time::Timestamp;

use super::storage::{SegmentFile, Storage, sync_folder};

/// A segment is closed and the next one begun at this size.
pub(super) const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// One file of the journal.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn SegmentFile>,
}

impl Segment {
    pub(super) fn open(folder: &Path, number: u64, storage: &dyn Storage) -> io::Result<Arc<Self>> {
        let path = folder.join(format!("{number:020}.log"));
        let file = storage.open(&path)?;
        Ok(Arc::new(Self { number, path, file }))
    }

    fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    /// Deletes the segment and its index.
    pub(super) fn delete(&self) -> io::Result<()> {
        match fs::remove_file(self.index_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::remove_file(&self.path)
    }
}

/// Where one record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    /// Offset relative to the chunk's first.
    pub(super) relative: u32,
    /// First byte in the segment.
    pub(super) position: u32,
    /// Length of the entry.
    pub(super) length: u32,
}

const LOCATION_BYTES: usize = 12;

/// The records of one partition within one segment.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) segment: Arc<Segment>,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) last_timestamp: Timestamp,
    pub(super) locations: Locations,
}

/// The locations of a chunk, in order of offset.
#[derive(Debug, Clone)]
pub(super) enum Locations {
    /// In memory: the segment is being written.
    Resident(Vec<Location>),
    /// In the segment's index file.
    Sealed {
        /// First byte of the locations in the file.
        at: u64,
        /// How many.
        count: u32,
    },
}

impl Chunk {
    /// Up to `max` locations from `offset` on. Reads the index file when the chunk is sealed.
    pub(super) fn locate(&self, offset: i64, max: usize) -> io::Result<Vec<(i64, Location)>> {
        let wanted = u32::try_from((offset - self.first).max(0)).unwrap_or(u32::MAX);
        let found = match &self.locations {
            Locations::Resident(locations) => {
                let from = locations.partition_point(|location| location.relative < wanted);
                locations[from..].iter().take(max).copied().collect()
            }
            Locations::Sealed { at, count } => {
                let file = fs::File::open(self.segment.index_path())?;
                let count = *count as usize;
                // Binary search on disk, then one read.
                let (mut low, mut high) = (0, count);
                while low < high {
                    let middle = usize::midpoint(low, high);
                    if read_locations(&file, *at, middle, 1)?[0].relative < wanted {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                read_locations(&file, *at, low, max.min(count - low))?
            }
        };
        Ok(found
            .into_iter()
            .map(|location| (self.first + i64::from(location.relative), location))
            .collect())
    }
}

fn read_locations(
    file: &fs::File,
    at: u64,
    from: usize,
    count: usize,
) -> io::Result<Vec<Location>> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; count * LOCATION_BYTES];
    file.read_exact_at(&mut bytes, at + (from * LOCATION_BYTES) as u64)?;
    let mut rest = &bytes[..];
    Ok((0..count)
        .map(|_| Location {
            relative: rest.get_u32_le(),
            position: rest.get_u32_le(),
            length: rest.get_u32_le(),
        })
        .collect())
}

/// A chunk as the index file lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) topic: u16,
    pub(super) partition: u16,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) last_timestamp: Timestamp,
    pub(super) at: u64,
    pub(super) count: u32,
}

const LISTED_BYTES: usize = 2 + 2 + 8 + 8 + 8 + 8 + 4;
/// Count of chunks, length of the segment, checksum of the list, magic.
const FOOTER_BYTES: usize = 4 + 8 + 4 + 8;
const MAGIC: u64 = 0x6c67_696e_6465_7831;

/// Writes the index of a finished segment; it is only an aid, rebuilt by a scan when it is missing.
pub(super) fn write_index(
    segment: &Segment,
    length: u64,
    chunks: &[(u16, u16, Chunk)],
) -> io::Result<Vec<Listed>> {
    let mut out = Vec::new();
    let mut list = Vec::with_capacity(chunks.len());
    for (topic, partition, chunk) in chunks {
        let Locations::Resident(locations) = &chunk.locations else {
            continue;
        };
        list.push(Listed {
            topic: *topic,
            partition: *partition,
            first: chunk.first,
            last: chunk.last,
            last_timestamp: chunk.last_timestamp,
            at: out.len() as u64,
            count: u32::try_from(locations.len()).unwrap_or(u32::MAX),
        });
        for location in locations {
            out.put_u32_le(location.relative);
            out.put_u32_le(location.position);
            out.put_u32_le(location.length);
        }
    }
    let from = out.len();
    for listed in &list {
        out.put_u16_le(listed.topic);
        out.put_u16_le(listed.partition);
        out.put_i64_le(listed.first);
        out.put_i64_le(listed.last);
        out.put_i64_le(listed.last_timestamp.0);
        out.put_u64_le(listed.at);
        out.put_u32_le(listed.count);
    }
    let checksum = crc32fast::hash(&out[from..]);
    out.put_u32_le(u32::try_from(list.len()).unwrap_or(u32::MAX));
    out.put_u64_le(length);
    out.put_u32_le(checksum);
    out.put_u64_le(MAGIC);
    replace_file(&segment.index_path(), &out)?;
    Ok(list)
}

/// Reads the list of chunks of a finished segment; none when there is no index or it does not fit the segment.
pub(super) fn read_index(segment: &Segment) -> Option<Vec<Listed>> {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::open(segment.index_path()).ok()?;
    let total = usize::try_from(file.metadata().ok()?.len()).ok()?;
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(&mut footer, total.checked_sub(FOOTER_BYTES)? as u64)
        .ok()?;
    let mut rest = &footer[..];
    let count = rest.get_u32_le() as usize;
    let length = rest.get_u64_le();
    let checksum = rest.get_u32_le();
    if rest.get_u64_le() != MAGIC || segment.file.length().ok()? != length {
        return None;
    }
    let size = count.checked_mul(LISTED_BYTES)?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, total.checked_sub(FOOTER_BYTES + size)? as u64)
        .ok()?;
    if crc32fast::hash(&bytes) != checksum {
        return None;
    }
    let mut rest = &bytes[..];
    let listed = |rest: &mut &[u8]| Listed {
        topic: rest.get_u16_le(),
        partition: rest.get_u16_le(),
        first: rest.get_i64_le(),
        last: rest.get_i64_le(),
        last_timestamp: Timestamp(rest.get_i64_le()),
        at: rest.get_u64_le(),
        count: rest.get_u32_le(),
    };
    Some((0..count).map(|_| listed(&mut rest)).collect())
}

/// Replaces a file as a whole: a reader sees the old one or the new one.
pub(super) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, bytes)?;
    fs::rename(&next, path)
}

/// As [`replace_file`], and durable on return.
pub(super) fn replace_file_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, bytes)?;
    fs::File::open(&next)?.sync_all()?;
    fs::rename(&next, path)?;
    sync_folder(path)
}
