//! Request ids.

use std::fmt;
use std::str::FromStr;

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::time::Timestamp;
use crate::topic::{ReplyPlace, ReplyTopic};

const PREFIX: &str = "req_";
/// UUID (16 bytes), reply topic (1), reply partition (2, big endian).
const BYTES: usize = 19;
const ENCODED: usize = 31;

/// Identifies a request for ever and names the place of its events, so that any
/// replica knows where to look without asking anybody.
///
/// As text: `req_` and 31 characters of lower-case base32 (Crockford's alphabet,
/// which sorts as the bytes do): a UUIDv7, the reply topic and its partition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    uuid: Uuid,
    reply: ReplyPlace,
}

/// The text is not a request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a request id: expected `req_` and 31 base32 characters")]
pub struct InvalidRequestId;

impl RequestId {
    /// A new id whose events go to `reply`; ids made later sort later, within a millisecond.
    ///
    /// The partition must be within 0..=65535; higher ones are never configured.
    #[must_use]
    pub fn new(reply: ReplyPlace) -> Self {
        Self {
            uuid: Uuid::now_v7(),
            reply,
        }
    }

    /// Where the events of the request go.
    #[must_use]
    pub fn reply(self) -> ReplyPlace {
        self.reply
    }

    /// When the id was made, to the millisecond.
    #[must_use]
    pub fn made_at(self) -> Timestamp {
        let (seconds, nanos) = self
            .uuid
            .get_timestamp()
            .map_or((0, 0), |time| time.to_unix());
        let micros = i64::try_from(seconds)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        Timestamp(micros.saturating_add(i64::from(nanos / 1_000)))
    }

    /// The random part as 32 hex digits, for names in other id schemes (`chatcmpl-…`).
    #[must_use]
    pub fn suffix(self) -> String {
        self.uuid.simple().to_string()
    }
}

fn encoding() -> &'static Encoding {
    static ENCODING: std::sync::LazyLock<Encoding> = std::sync::LazyLock::new(|| {
        let mut specification = Specification::new();
        specification
            .symbols
            .push_str("0123456789abcdefghjkmnpqrstvwxyz");
        #[expect(
            clippy::expect_used,
            reason = "a constant specification, covered by tests"
        )]
        specification.encoding().expect("32 distinct symbols")
    });
    &ENCODING
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(self.uuid.as_bytes());
        bytes[16] = match self.reply.topic {
            ReplyTopic::Responses => 0,
            ReplyTopic::Background => 1,
        };
        let partition = u16::try_from(self.reply.partition).unwrap_or(u16::MAX);
        bytes[17..].copy_from_slice(&partition.to_be_bytes());
        let mut text = [0; ENCODED];
        encoding().encode_mut(&bytes, &mut text);
        f.write_str(PREFIX)?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RequestId {
    type Err = InvalidRequestId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidRequestId)?;
        if encoded.len() != ENCODED {
            return Err(InvalidRequestId);
        }
        let mut bytes = [0; BYTES];
        let length = encoding()
            .decode_mut(encoded.as_bytes(), &mut bytes)
            .map_err(|_| InvalidRequestId)?;
        let (uuid, place) = bytes.split_at(16);
        if length != BYTES {
            return Err(InvalidRequestId);
        }
        let topic = match place[0] {
            0 => ReplyTopic::Responses,
            1 => ReplyTopic::Background,
            _ => return Err(InvalidRequestId),
        };
        let partition = i32::from(u16::from_be_bytes([place[1], place[2]]));
        let uuid = Uuid::from_slice(uuid).map_err(|_| InvalidRequestId)?;
        Ok(Self {
            uuid,
            reply: ReplyPlace { topic, partition },
        })
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_survives_its_text_form(partition in 0..=65_535_i32, background: bool) {
            let topic = if background { ReplyTopic::Background } else { ReplyTopic::Responses };
            let id = RequestId::new(ReplyPlace { topic, partition });
            let text = id.to_string();
            prop_assert_eq!(text.len(), PREFIX.len() + ENCODED);
            prop_assert_eq!(text.parse(), Ok(id));
        }

        #[test]
        fn other_text_is_refused_and_never_panics(text in "\\PC{0,40}") {
            if let Ok(id) = text.parse::<RequestId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
