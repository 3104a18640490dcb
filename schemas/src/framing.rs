//! Confluent wire format: a magic byte, the schema id (4 bytes, big endian), Avro.
//!
//! Pure: who knows which id a schema has is `runtime::registry`. Encoding writes with the
//! newest schema of the type. Decoding goes straight from the bytes to the Rust type, whatever
//! schema they were written with: fields are matched by name, absent ones take the schema's
//! default, unknown ones are skipped, unknown symbols become the enum's default, and the branch
//! of a union counts by its position. Schemas therefore grow by defaulted fields, symbols and
//! branches at the end; `tests/contract.rs` holds them to it. A branch that only a newer version
//! knows is an error, so readers are upgraded before writers use one.
//!
//! The resolution of `apache_avro::types::Value` is not used: it tells the branches of a union
//! apart by their shape, and the four terminals have one shape.

use std::cell::RefCell;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A thread keeps no larger buffer than this between two records.
const SCRATCH_BYTES_MAX: usize = 256 * 1024;

/// A longer string or byte field is taken for garbage; no record on the log comes near it.
const FIELD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A record type with its newest Avro schema.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Registry subject, `TopicNameStrategy` is not used because several topics share a record:
    /// `lockgate.request`, `lockgate.event`, `lockgate.dead-letter`, `lockgate.cancel`, `lockgate.status`.
    const SUBJECT: &'static str;
    /// The newest schema as JSON (`avro/*.avsc`).
    const SCHEMA: &'static str;

    /// The newest schema, made ready once.
    fn format() -> &'static Format;

    /// The newest schema, parsed once.
    fn schema() -> &'static Schema {
        Self::format().schema
    }
}

/// A schema made ready for writing and reading: its names are resolved once, not per record.
pub struct Format {
    schema: &'static Schema,
    writer: GenericDatumWriter<'static>,
    reader: GenericDatumReader<'static>,
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Format").field(&self.schema.name()).finish()
    }
}

impl Format {
    /// Parses one of our own schemas; it lives as long as the process.
    #[expect(
        clippy::expect_used,
        reason = "the schemas are constants of this crate, parsed by its tests"
    )]
    pub(crate) fn of(json: &'static str) -> Self {
        apache_avro::util::max_allocation_bytes(FIELD_BYTES_MAX);
        let schema: &'static Schema =
            Box::leak(Box::new(Schema::parse_str(json).expect("a valid schema")));
        Self {
            schema,
            writer: GenericDatumWriter::builder(schema)
                .human_readable(false)
                .build()
                .expect("a schema without open references"),
            reader: GenericDatumReader::builder(schema)
                .human_readable(false)
                .build()
                .expect("a schema without open references"),
        }
    }
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
    /// Bytes are left after the value.
    #[error("{0} bytes left after the value")]
    Trailing(usize),
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
    thread_local! {
        /// Grows to the largest record of the thread, so that the result is the one allocation.
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        scratch.push(0);
        scratch.extend_from_slice(&id.to_be_bytes());
        let framed = R::format()
            .writer
            .write_ser(scratch, record)
            .map(|_| Bytes::copy_from_slice(scratch))
            .map_err(Box::new);
        if scratch.capacity() > SCRATCH_BYTES_MAX {
            *scratch = Vec::new();
        }
        Ok(framed?)
    })
}

/// Reads an Avro datum that was written with `writer` as the newest form of `R`.
///
/// Fastest with [`Record::schema`] itself (the same address), whose names are resolved already.
///
/// # Errors
/// [`FramingError::Avro`] when the bytes are not of `writer`, or it cannot be resolved to `R`;
/// [`FramingError::Trailing`] when there are more of them.
pub fn decode<R: Record>(writer: &Schema, datum: &[u8]) -> Result<R, FramingError> {
    let mut rest = datum;
    let format = R::format();
    let record = if std::ptr::eq(writer, format.schema) {
        format.reader.read_deser(&mut rest)
    } else {
        GenericDatumReader::builder(writer)
            .human_readable(false)
            .build()
            .and_then(|reader| reader.read_deser(&mut rest))
    };
    let record = record.map_err(Box::new)?;
    if rest.is_empty() {
        Ok(record)
    } else {
        Err(FramingError::Trailing(rest.len()))
    }
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
