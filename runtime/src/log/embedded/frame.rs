//! How records lie in a segment.
//!
//! A frame is `length u32 | crc32 u32 | body`, little endian; the sum covers the body. A body is
//! `slot u16 | headers u16 | key length u32 | offset i64 | timestamp i64`, the key, per header
//! `name length u16 | value length u32 | name | value`, and the value to the end. The slot names topic and partition (see
//! `catalog`); the last slot is kept for positions of consumer groups. A length of zero is the end of what was written.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::log::Record;

/// Number of a partition among those of all topics.
pub(super) type Slot = u16;
/// The slot of [`Commit`]s.
pub(super) const POSITIONS: Slot = Slot::MAX;
/// Bytes before the body.
pub(super) const PREFIX: usize = 8;
const FIXED: usize = 24;

/// Positions that a consumer group stores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Commit {
    /// The group's name.
    pub(super) group: String,
    /// Offset of the next record to read, by slot.
    pub(super) next: BTreeMap<Slot, i64>,
}

/// A decoded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) slot: Slot,
    pub(super) offset: i64,
    pub(super) timestamp: Timestamp,
    pub(super) record: Record,
}

/// Size of the frame of a record.
pub(super) fn size(record: &Record) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|(name, value)| 6 + name.len() + value.len())
        .sum();
    PREFIX + FIXED + record.key.len() + headers + record.value.len()
}

/// Whether every length fits its field.
pub(super) fn fits(record: &Record) -> bool {
    record.headers.len() <= usize::from(u16::MAX)
        && record
            .headers
            .iter()
            .all(|(name, _)| name.len() <= usize::from(u16::MAX))
}

/// Appends the frame of a record that [`fits`] and is smaller than 4 GiB.
pub(super) fn encode(
    into: &mut Vec<u8>,
    slot: Slot,
    offset: i64,
    timestamp: Timestamp,
    record: &Record,
) {
    let start = into.len();
    into.extend_from_slice(&[0; PREFIX]);
    into.extend_from_slice(&slot.to_le_bytes());
    into.extend_from_slice(&(record.headers.len() as u16).to_le_bytes());
    into.extend_from_slice(&(record.key.len() as u32).to_le_bytes());
    into.extend_from_slice(&offset.to_le_bytes());
    into.extend_from_slice(&timestamp.0.to_le_bytes());
    into.extend_from_slice(&record.key);
    for (name, value) in &record.headers {
        into.extend_from_slice(&(name.len() as u16).to_le_bytes());
        into.extend_from_slice(&(value.len() as u32).to_le_bytes());
        into.extend_from_slice(name.as_bytes());
        into.extend_from_slice(value);
    }
    into.extend_from_slice(&record.value);
    let body = start + PREFIX;
    let length = (into.len() - body) as u32;
    let sum = crc32fast::hash(&into[body..]);
    into[start..start + 4].copy_from_slice(&length.to_le_bytes());
    into[start + 4..body].copy_from_slice(&sum.to_le_bytes());
}

/// Appends the frame of a commit.
pub(super) fn encode_commit(into: &mut Vec<u8>, commit: &Commit) -> Result<(), serde_json::Error> {
    let record = Record {
        value: serde_json::to_vec(commit)?.into(),
        ..Record::default()
    };
    encode(into, POSITIONS, 0, Timestamp::now(), &record);
    Ok(())
}

/// Length of the body that a prefix announces; zero at the end of what was written.
pub(super) fn body_len(prefix: [u8; PREFIX]) -> usize {
    let [a, b, c, d, ..] = prefix;
    u32::from_le_bytes([a, b, c, d]) as usize
}

/// Decodes a body; none when it is not what its prefix announced.
pub(super) fn decode(prefix: [u8; PREFIX], body: &Bytes) -> Option<Frame> {
    let [_, _, _, _, a, b, c, d] = prefix;
    if crc32fast::hash(body) != u32::from_le_bytes([a, b, c, d]) {
        return None;
    }
    let mut at = 0;
    let slot = u16::from_le_bytes(fixed(body, &mut at)?);
    let header_count = u16::from_le_bytes(fixed(body, &mut at)?);
    let key_len = u32::from_le_bytes(fixed(body, &mut at)?) as usize;
    let offset = i64::from_le_bytes(fixed(body, &mut at)?);
    let timestamp = Timestamp(i64::from_le_bytes(fixed(body, &mut at)?));
    let key = piece(body, &mut at, key_len)?;
    let mut headers = Vec::with_capacity(usize::from(header_count));
    for _ in 0..header_count {
        let name_len = usize::from(u16::from_le_bytes(fixed(body, &mut at)?));
        let value_len = u32::from_le_bytes(fixed(body, &mut at)?) as usize;
        let name = piece(body, &mut at, name_len)?;
        let name: Arc<str> = std::str::from_utf8(&name).ok()?.into();
        headers.push((name, piece(body, &mut at, value_len)?));
    }
    let value = body.slice(at..);
    Some(Frame {
        slot,
        offset,
        timestamp,
        record: Record {
            key,
            headers,
            value,
        },
    })
}

fn fixed<const N: usize>(body: &Bytes, at: &mut usize) -> Option<[u8; N]> {
    let bytes = body.get(*at..*at + N)?.try_into().ok()?;
    *at += N;
    Some(bytes)
}

fn piece(body: &Bytes, at: &mut usize, len: usize) -> Option<Bytes> {
    let end = at.checked_add(len).filter(|end| *end <= body.len())?;
    let piece = body.slice(*at..end);
    *at = end;
    Some(piece)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode_all(bytes: &[u8]) -> Option<Frame> {
        let prefix: [u8; PREFIX] = bytes.get(..PREFIX)?.try_into().ok()?;
        let body = bytes.get(PREFIX..PREFIX + body_len(prefix))?;
        decode(prefix, &Bytes::copy_from_slice(body))
    }

    proptest! {
        #[test]
        fn a_frame_decodes_to_what_was_encoded_and_any_flipped_bit_is_noticed(
            key in proptest::collection::vec(any::<u8>(), 0..40),
            value in proptest::collection::vec(any::<u8>(), 0..300),
            headers in proptest::collection::vec(("[a-z-]{0,12}", proptest::collection::vec(any::<u8>(), 0..20)), 0..4),
            slot in 0_u16..100, offset in 0_i64..i64::MAX, flip in any::<prop::sample::Index>(),
        ) {
            let record = Record {
                key: key.into(),
                headers: headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
                value: value.into(),
            };
            let frame = Frame { slot, offset, timestamp: Timestamp(7), record };
            let mut bytes = Vec::new();
            encode(&mut bytes, slot, offset, frame.timestamp, &frame.record);
            prop_assert_eq!(bytes.len(), size(&frame.record));
            prop_assert_eq!(decode_all(&bytes), Some(frame));
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode_all(&bytes), None);
        }
    }
}
