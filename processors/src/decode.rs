//! Reading framed records without giving up on a registry that does not answer.

use std::time::Duration;

use runtime::codec::{Cause, Codec, CodecError};
use schemas::framing::Record;
use tracing::warn;

/// Pauses between two questions to a registry that does not answer.
const RETRY: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// Reads records; clones share one cache of schemas.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    codec: Codec,
}

/// What the bytes were.
#[derive(Debug)]
pub(crate) enum Decoded<R> {
    /// A record.
    Record(R),
    /// Nothing that anybody could read.
    Undecodable {
        /// Schema id in the frame, when there was one.
        schema_id: Option<i32>,
        /// What is wrong.
        source: Cause,
    },
}

impl Decoder {
    /// A decoder over the codec's cache.
    pub(crate) fn new(codec: Codec) -> Self {
        Self { codec }
    }

    /// Reads a record; waits only while the registry has to be asked and does not answer.
    pub(crate) async fn decode<R: Record>(&self, value: &[u8]) -> Decoded<R> {
        let mut result = match self.codec.decode_cached(value) {
            Some(result) => result,
            None => self.codec.decode(value).await,
        };
        let mut tries = 0;
        loop {
            match result {
                Ok(record) => return Decoded::Record(record),
                Err(CodecError::Undecodable { schema_id, source }) => {
                    return Decoded::Undecodable { schema_id, source };
                }
                Err(
                    error @ (CodecError::RegistryUnavailable { .. } | CodecError::Refused { .. }),
                ) => {
                    if tries == 0 {
                        warn!(%error, "a record has to wait for the schema registry");
                    }
                    tokio::time::sleep(RETRY[tries.min(RETRY.len() - 1)]).await;
                    tries += 1;
                    result = self.codec.decode(value).await;
                }
            }
        }
    }
}
