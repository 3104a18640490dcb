//! Confluent wire format: a magic byte, the schema id (4 bytes, big endian), Avro.
//!
//! Pure: who knows which id a schema has is `runtime::registry`. Encoding writes with the
//! newest schema of the type; decoding resolves any registered writer schema to it.

use apache_avro::Schema;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A record type with its newest Avro schema.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Registry subject, `TopicNameStrategy` is not used because several topics share a record:
    /// `lockgate.request`, `lockgate.event`, `lockgate.dead-letter`, `lockgate.cancel`.
    const SUBJECT: &'static str;
    /// The newest schema as JSON (`avro/*.avsc`).
    const SCHEMA: &'static str;
    /// The newest schema, parsed once.
    fn schema() -> &'static Schema;
}

/// The framed bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FramingError {
    /// Shorter than five bytes, or another magic byte than 0.
    #[error("not in Confluent wire format")]
    NotFramed,
    /// The value does not fit the schema.
    #[error("value does not fit the schema")]
    Avro(#[from] Box<apache_avro::Error>),
}

/// Splits framed bytes into schema id and Avro datum.
///
/// # Errors
/// [`FramingError::NotFramed`] when the five leading bytes are missing or wrong.
pub fn split(value: &[u8]) -> Result<(i32, &[u8]), FramingError> {
    match value {
        [0, a, b, c, d, datum @ ..] => Ok((i32::from_be_bytes([*a, *b, *c, *d]), datum)),
        _ => Err(FramingError::NotFramed),
    }
}

/// Frames `record` as written with schema `id`.
///
/// # Errors
/// [`FramingError::Avro`] when the value does not fit its own schema, which tests exclude.
pub fn encode<R: Record>(id: i32, record: &R) -> Result<Bytes, FramingError> {
    let _ = (id, record);
    Err(FramingError::NotFramed)
}

/// Reads an Avro datum that was written with `writer` as the newest form of `R`.
///
/// # Errors
/// [`FramingError::Avro`] when the bytes are not of `writer`, or it cannot be resolved to `R`.
pub fn decode<R: Record>(writer: &Schema, datum: &[u8]) -> Result<R, FramingError> {
    let _ = (writer, datum);
    Err(FramingError::NotFramed)
}

/// Serde form of `Bytes` as Avro `bytes`.
pub(crate) mod avro_bytes {
    use bytes::Bytes;
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        bytes: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        serde_bytes::deserialize::<Vec<u8>, D>(deserializer).map(Bytes::from)
    }
}
