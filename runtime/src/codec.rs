//! Records to framed bytes and back, with the schema registry or its local stand-in.

mod local;
mod registry;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use apache_avro::Schema;
use arc_swap::ArcSwap;
use bytes::Bytes;
use schemas::control::Cancel;
use schemas::dead_letter::DeadLetter;
use schemas::event::EventRecord;
use schemas::framing::{self, FramingError, Record};
use schemas::request::Request;
use schemas::status::Status;

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
        source: Cause,
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

impl CodecError {
    /// Whether trying again may help. A new variant must decide.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::RegistryUnavailable { .. } => true,
            Self::Undecodable { .. } | Self::Refused { .. } => false,
        }
    }
}

/// Why a record is undecodable.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The bytes do not fit.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// The registry answers that it has no such schema.
    #[error("there is no such schema")]
    UnknownSchema,
    /// What the registry has under the id is no Avro schema.
    #[error("the schema itself cannot be read")]
    UnreadableSchema(#[source] Box<apache_avro::Error>),
}

/// Encodes and decodes; clones share one cache of schemas, kept for ever.
#[derive(Debug, Clone)]
pub struct Codec {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// What our own records are written with, by subject.
    own: Vec<(&'static str, i32)>,
    /// By id; grows by what is read, never shrinks.
    writers: ArcSwap<HashMap<i32, Writer>>,
    source: Source,
    /// One question to the registry at a time: many records of one new schema arrive together.
    asking: tokio::sync::Mutex<()>,
}

/// The schema that a record was written with.
#[derive(Debug, Clone)]
enum Writer {
    /// Newest of one of our records; its address tells the decoder that nothing need be resolved.
    Own(&'static Schema),
    /// Any other.
    Other(Arc<Schema>),
}

impl Writer {
    fn schema(&self) -> &Schema {
        match self {
            Self::Own(schema) => schema,
            Self::Other(schema) => schema,
        }
    }
}

#[derive(Debug)]
enum Source {
    Local(local::Folder),
    Registry(registry::Client),
}

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

/// One of our records.
struct Own {
    subject: &'static str,
    json: &'static str,
    schema: &'static Schema,
}

impl Own {
    fn of<R: Record>() -> Self {
        Self {
            subject: R::SUBJECT,
            json: R::SCHEMA,
            schema: R::schema(),
        }
    }

    fn all() -> [Self; 5] {
        [
            Self::of::<Request>(),
            Self::of::<EventRecord>(),
            Self::of::<DeadLetter>(),
            Self::of::<Cancel>(),
            Self::of::<Status>(),
        ]
    }
}

impl Codec {
    /// Connects and makes the ids of all our schemas known (registering them where allowed).
    ///
    /// # Errors
    /// [`CodecError::RegistryUnavailable`] (call again), [`CodecError::Refused`].
    pub async fn connect(settings: &Settings) -> Result<Self, CodecError> {
        Self::connect_with(settings, &Own::all()).await
    }

    async fn connect_with(settings: &Settings, records: &[Own]) -> Result<Self, CodecError> {
        let (source, ids) = match settings {
            Settings::Local(folder) => {
                let (folder, ids) = local::Folder::open(folder, records).await?;
                (Source::Local(folder), ids)
            }
            Settings::Registry { url, register } => {
                let client = registry::Client::new(url)?;
                let mut ids = Vec::with_capacity(records.len());
                for record in records {
                    ids.push(client.id(record, *register).await?);
                }
                (Source::Registry(client), ids)
            }
        };
        let known = records.iter().zip(&ids);
        let writers = known
            .clone()
            .map(|(record, id)| (*id, Writer::Own(record.schema)));
        Ok(Self {
            shared: Arc::new(Shared {
                own: known
                    .clone()
                    .map(|(record, id)| (record.subject, *id))
                    .collect(),
                writers: ArcSwap::from_pointee(writers.collect()),
                source,
                asking: tokio::sync::Mutex::new(()),
            }),
        })
    }

    /// Frames a record; never waits, since our own ids are known from the start.
    ///
    /// # Errors
    /// [`CodecError::Undecodable`] when the value does not fit its schema.
    pub fn encode<R: Record>(&self, record: &R) -> Result<Bytes, CodecError> {
        let own = self
            .shared
            .own
            .iter()
            .find(|(subject, _)| *subject == R::SUBJECT);
        let undecodable = |schema_id, source| CodecError::Undecodable { schema_id, source };
        let Some((_, id)) = own else {
            return Err(undecodable(None, Cause::UnknownSchema));
        };
        framing::encode(*id, record).map_err(|error| undecodable(Some(*id), error.into()))
    }

    /// Reads a framed record; asks the registry only for a schema id not seen before.
    ///
    /// # Errors
    /// [`CodecError::Undecodable`] or [`CodecError::RegistryUnavailable`].
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing but the answer of the registry.
    pub async fn decode<R: Record>(&self, value: &[u8]) -> Result<R, CodecError> {
        if let Some(decoded) = self.decode_cached(value) {
            return decoded;
        }
        let (id, datum) = split(value)?;
        let writer = self.fetch(id).await?;
        read(&writer, id, datum)
    }

    /// As [`Codec::decode`] when the schema is cached; none when the registry must be asked.
    pub fn decode_cached<R: Record>(&self, value: &[u8]) -> Option<Result<R, CodecError>> {
        let (id, datum) = match split(value) {
            Ok(parts) => parts,
            Err(error) => return Some(Err(error)),
        };
        let writers = self.shared.writers.load();
        writers.get(&id).map(|writer| read(writer, id, datum))
    }

    /// The schema of an id that is not cached.
    async fn fetch(&self, id: i32) -> Result<Writer, CodecError> {
        let _asking = self.shared.asking.lock().await;
        if let Some(writer) = self.shared.writers.load().get(&id) {
            return Ok(writer.clone());
        }
        let undecodable = |source| CodecError::Undecodable {
            schema_id: Some(id),
            source,
        };
        let json = match &self.shared.source {
            Source::Local(folder) => folder.schema(id),
            Source::Registry(client) => client.schema(id).await?,
        };
        let json = json.ok_or_else(|| undecodable(Cause::UnknownSchema))?;
        let schema = Schema::parse_str(&json)
            .map_err(|error| undecodable(Cause::UnreadableSchema(Box::new(error))))?;
        // A registry may give one schema several ids.
        let own = Own::all().into_iter().find(|own| *own.schema == schema);
        let writer = match own {
            Some(own) => Writer::Own(own.schema),
            None => Writer::Other(Arc::new(schema)),
        };
        let mut writers = HashMap::clone(&self.shared.writers.load());
        writers.insert(id, writer.clone());
        self.shared.writers.store(Arc::new(writers));
        Ok(writer)
    }
}

fn split(value: &[u8]) -> Result<(i32, &[u8]), CodecError> {
    framing::split(value).map_err(|error| CodecError::Undecodable {
        schema_id: None,
        source: error.into(),
    })
}

fn read<R: Record>(writer: &Writer, id: i32, datum: &[u8]) -> Result<R, CodecError> {
    framing::decode(writer.schema(), datum).map_err(|error| CodecError::Undecodable {
        schema_id: Some(id),
        source: error.into(),
    })
}
