//! Opening: what the last process left behind.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::entry;
use super::partition::{Recovered, index};
use super::segment::{Chunk, Locations, SEGMENT_BYTES, Segment, read_index, write_index};
use super::state::State;
use super::storage::Storage;

/// The journal as found.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Finished segments, oldest first, with their lengths.
    pub(super) finished: Vec<(Arc<Segment>, u64)>,
    /// Number of the next segment.
    pub(super) next_number: u64,
}

pub(super) struct Found {
    pub(super) state: State,
    pub(super) journal: Journal,
}

type Partitions = HashMap<(u16, u16), Recovered>;

/// Reads the folder, cuts off a torn tail, and begins a new incarnation after an unclean end.
pub(super) fn recover(folder: &Path, storage: &dyn Storage) -> io::Result<Found> {
    let mut state = State::load(folder)?;
    let mut numbers = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let name = file?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();

    let mut journal = Journal::default();
    let mut partitions = Partitions::new();
    for number in &numbers {
        let segment = Segment::open(folder, *number, storage)?;
        journal.next_number = number + 1;
        if let Some(listed) = read_index(&segment) {
            for chunk in listed {
                let partition = partitions
                    .entry((chunk.topic, chunk.partition))
                    .or_default();
                partition.chunks.push_back(Chunk {
                    segment: segment.clone(),
                    first: chunk.first,
                    last: chunk.last,
                    last_timestamp: chunk.last_timestamp,
                    locations: Locations::Sealed {
                        at: chunk.at,
                        count: chunk.count,
                    },
                });
            }
            let length = segment.file.length()?;
            journal.finished.push((segment, length));
            continue;
        }
        let length = scan(&segment, &mut partitions)?;
        if length == 0 {
            segment.delete()?;
            continue;
        }
        if length < segment.file.length()? {
            tracing::warn!(
                segment = number,
                length,
                "the torn tail of the log was cut off"
            );
            segment.file.truncate(length)?;
            segment.file.sync()?;
        }
        seal(&segment, length, &mut partitions)?;
        journal.finished.push((segment, length));
    }

    let fresh = numbers.is_empty() && state.ending.incarnation == 0 && state.ending.next.is_empty();
    if !state.ending.clean && !fresh {
        state.ending.incarnation += 1;
        tracing::info!(
            incarnation = state.ending.incarnation,
            "the log was not closed; a new incarnation begins"
        );
    }
    state.ending.clean = false;
    // Durable before any offset of this incarnation is given out.
    state.save_ending(folder)?;
    state.set_recovered(partitions);
    Ok(Found { state, journal })
}

/// Reads a segment from its start and indexes what is whole; returns the length of that.
fn scan(segment: &Arc<Segment>, partitions: &mut Partitions) -> io::Result<u64> {
    let length = usize::try_from(segment.file.length()?).unwrap_or(usize::MAX);
    // A segment is bounded; one read is the fastest scan.
    let mut bytes = vec![0; length.min(2 * SEGMENT_BYTES as usize)];
    let read = segment.file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    let mut position = 0;
    while let Some(total) = entry::length(&bytes[position..]) {
        let Some(head) = bytes.get(position..position + total).and_then(entry::head) else {
            break;
        };
        let partition = partitions.entry((head.topic, head.partition)).or_default();
        // What was written again after a failed sync may be there twice.
        let repeated = partition
            .chunks
            .back()
            .is_some_and(|chunk| chunk.last >= head.offset);
        if !repeated {
            let (at, size) = (as_u32(position), as_u32(total));
            index(
                &mut partition.chunks,
                segment,
                head.offset,
                head.timestamp,
                at,
                size,
            );
        }
        position += total;
    }
    Ok(position as u64)
}

/// Writes the index of a scanned segment and lets go of its locations in memory.
fn seal(segment: &Arc<Segment>, length: u64, partitions: &mut Partitions) -> io::Result<()> {
    let chunks: Vec<(u16, u16, Chunk)> = partitions
        .iter()
        .filter_map(|((topic, partition), recovered)| {
            let chunk = recovered.chunks.back()?;
            (chunk.segment.number == segment.number).then(|| (*topic, *partition, chunk.clone()))
        })
        .collect();
    for listed in write_index(segment, length, &chunks)? {
        let partition = partitions.get_mut(&(listed.topic, listed.partition));
        if let Some(chunk) = partition.and_then(|partition| partition.chunks.back_mut()) {
            chunk.locations = Locations::Sealed {
                at: listed.at,
                count: listed.count,
            };
        }
    }
    Ok(())
}

fn as_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
