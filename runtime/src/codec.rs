//! Records to framed bytes and back, with the schema registry or its local stand-in.

use bytes::Bytes;
use schemas::framing::Record;

/// Why bytes could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes are not what they should be; no retry will help: dead letter.
    #[error("undecodable record")]
    Undecodable {
        /// Schema id in the frame, when there was one.
        schema_id: Option<i32>,
        /// The cause.
        #[source]
        source: schemas::framing::FramingError,
    },
    /// The registry does not answer and the schema is not cached: wait and try again.
    #[error("the schema registry does not answer: {reason}")]
    RegistryUnavailable {
        /// In words, without secrets.
        reason: String,
    },
    /// The registry refuses our schema (incompatible, or registration is off).
    #[error("the schema registry refuses schema {subject}: {reason}")]
    Refused {
        /// Subject.
        subject: &'static str,
        /// In words.
        reason: String,
    },
}

/// Encodes and decodes; clones share one cache of schemas, kept for ever.
#[derive(Debug, Clone)]
pub struct Codec;

/// Where schemas get their ids.
#[derive(Debug, Clone)]
pub enum Settings {
    /// Ids from a file in this folder (embedded log).
    Local(std::path::PathBuf),
    /// A Confluent-compatible registry.
    Registry {
        /// Its base URL.
        url: url::Url,
        /// Whether schemas that are missing are registered at start.
        register: bool,
    },
}

impl Codec {
    /// Connects and makes the ids of all our schemas known (registering them where allowed).
    ///
    /// # Errors
    /// [`CodecError::RegistryUnavailable`] (call again), [`CodecError::Refused`].
    pub async fn connect(settings: &Settings) -> Result<Self, CodecError> {
        todo!()
    }

    /// Frames a record; never waits, since our own ids are known from the start.
    ///
    /// # Errors
    /// [`CodecError::Undecodable`] when the value does not fit its schema.
    pub fn encode<R: Record>(&self, record: &R) -> Result<Bytes, CodecError> {
        todo!()
    }

    /// Reads a framed record; asks the registry only for a schema id not seen before.
    ///
    /// # Errors
    /// [`CodecError::Undecodable`] or [`CodecError::RegistryUnavailable`].
    pub async fn decode<R: Record>(&self, value: &[u8]) -> Result<R, CodecError> {
        todo!()
    }

    /// As [`Codec::decode`] when the schema is cached; none when the registry must be asked.
    pub fn decode_cached<R: Record>(&self, value: &[u8]) -> Option<Result<R, CodecError>> {
        todo!()
    }
}
