//! A record as it lies in a segment.
//!
//! `length u32 · crc32 u32 · topic u16 · partition u16 · offset i64 · timestamp i64 · key length u32 · key ·
//! header count u8 · (name length u8 · name · value length u16 · value)* · value`, little endian; `length` counts
//! what follows the checksum, which covers the same bytes.

use std::sync::Arc;

use bytes::Bytes;
use schemas::time::Timestamp;

use crate::log::{Delivery, Position, Record};

/// Bytes before the body: length and checksum.
pub(super) const PREFIX: usize = 8;
/// Bytes of the body before the key.
const FIXED: usize = 2 + 2 + 8 + 8 + 4;

/// Place and time of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) topic: u16,
    pub(super) partition: u16,
    pub(super) offset: i64,
    pub(super) timestamp: Timestamp,
}

/// Appends the entry to `out` and returns its length. Headers beyond the format's bounds are cut off, which our own names and values never reach.
pub(super) fn encode(head: Head, record: &Record, out: &mut Vec<u8>) -> u32 {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    out.extend_from_slice(&head.topic.to_le_bytes());
    out.extend_from_slice(&head.partition.to_le_bytes());
    out.extend_from_slice(&head.offset.to_le_bytes());
    out.extend_from_slice(&head.timestamp.0.to_le_bytes());
    out.extend_from_slice(
        &u32::try_from(record.key.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    out.extend_from_slice(&record.key);
    let headers = record.headers.len().min(usize::from(u8::MAX));
    out.push(u8::try_from(headers).unwrap_or(u8::MAX));
    for (name, value) in record.headers.iter().take(headers) {
        let name = &name.as_bytes()[..name.len().min(usize::from(u8::MAX))];
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(name);
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(value);
    }
    out.extend_from_slice(&record.value);
    let length = u32::try_from(out.len() - start - PREFIX).unwrap_or(u32::MAX);
    let checksum = crc32fast::hash(&out[start + PREFIX..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + PREFIX].copy_from_slice(&checksum.to_le_bytes());
    length.saturating_add(PREFIX as u32)
}

/// Length of the whole entry by its first bytes; none where no entry begins (zeros, or too few bytes).
pub(super) fn length(prefix: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(prefix.get(..4)?.try_into().ok()?) as usize;
    (length > FIXED).then_some(length + PREFIX)
}

/// Reads place and time of the entry in `bytes`; none when it is torn or damaged.
pub(super) fn head(bytes: &[u8]) -> Option<Head> {
    let total = length(bytes)?;
    let body = bytes.get(PREFIX..total)?;
    let checksum = u32::from_le_bytes(bytes.get(4..PREFIX)?.try_into().ok()?);
    if crc32fast::hash(body) != checksum {
        return None;
    }
    Some(Head {
        topic: u16::from_le_bytes(body.get(..2)?.try_into().ok()?),
        partition: u16::from_le_bytes(body.get(2..4)?.try_into().ok()?),
        offset: i64::from_le_bytes(body.get(4..12)?.try_into().ok()?),
        timestamp: Timestamp(i64::from_le_bytes(body.get(12..20)?.try_into().ok()?)),
    })
}

/// Reads the whole entry in `bytes` without copying; none when it is torn or damaged.
pub(super) fn decode(bytes: &Bytes, topic: &Arc<str>, names: &mut Names) -> Option<Delivery> {
    let head = head(bytes)?;
    let mut rest = bytes.slice(PREFIX + 20..length(bytes)?);
    let mut take = |count: usize| (count <= rest.len()).then(|| rest.split_to(count));
    let key_length = u32::from_le_bytes(take(4)?[..].try_into().ok()?) as usize;
    let key = take(key_length)?;
    let count = take(1)?[0];
    let mut headers = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let length = take(1)?[0];
        let name = take(usize::from(length))?;
        let length = u16::from_le_bytes(take(2)?[..].try_into().ok()?);
        let value = take(usize::from(length))?;
        headers.push((names.shared(std::str::from_utf8(&name).ok()?), value));
    }
    Some(Delivery {
        topic: topic.clone(),
        position: Position {
            partition: i32::from(head.partition),
            offset: head.offset,
        },
        timestamp: head.timestamp,
        record: Record {
            key,
            headers,
            value: rest,
        },
    })
}

/// Header names seen so far: there are few, and each delivery shares them.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<Arc<str>>);

impl Names {
    fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| &***known == name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        if self.0.len() < 16 {
            self.0.push(name.clone());
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_survives_and_a_torn_one_is_noticed(
            key: Vec<u8>, value: Vec<u8>, header: Vec<u8>, offset in 0..i64::MAX, cut in 1..40_usize, flip: usize,
        ) {
            let record = Record {
                key: key.into(),
                headers: vec![("request-id".into(), header.into())],
                value: value.into(),
            };
            let at = Head { topic: 3, partition: 1, offset, timestamp: Timestamp(5) };
            let mut out = vec![9; 3];
            let length = encode(at, &record, &mut out) as usize;
            let bytes = Bytes::from(out).slice(3..);
            prop_assert_eq!(bytes.len(), length);
            let delivery = decode(&bytes, &"t".into(), &mut Names::default()).unwrap();
            prop_assert_eq!(delivery.record, record);
            prop_assert_eq!(delivery.position, Position { partition: 1, offset });
            prop_assert_eq!(head(&bytes[..length - cut.min(length)]), None);
            let mut damaged = bytes.to_vec();
            let flip = PREFIX + flip % (length - PREFIX);
            damaged[flip] ^= 0x40;
            prop_assert_eq!(head(&damaged), None);
        }
    }
}
