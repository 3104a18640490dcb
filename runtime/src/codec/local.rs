//! The local stand-in of a schema registry: ids in a file, for the embedded log.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use apache_avro::Schema;
use apache_avro::schema_compatibility::SchemaCompatibility;
use serde::{Deserialize, Serialize};

use super::{CodecError, Own};

const FILE: &str = "schemas.json";

/// Everything in the file, in the order of ids.
#[derive(Debug)]
pub(super) struct Folder {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    id: i32,
    subject: String,
    /// JSON of the schema, as text.
    schema: String,
}

impl Folder {
    /// Reads the file, adds what is missing of `records`, and returns their ids in order. An id once given stays.
    pub(super) async fn open(
        folder: &Path,
        records: &[Own],
    ) -> Result<(Self, Vec<i32>), CodecError> {
        let unavailable = |error: io::Error| CodecError::RegistryUnavailable {
            reason: format!("{}: {error}", folder.join(FILE).display()),
        };
        let path = folder.join(FILE);
        let mut entries: Vec<Entry> = match tokio::fs::read(&path).await {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| unavailable(error.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(unavailable(error)),
        };
        let known = entries.len();
        let mut ids = Vec::with_capacity(records.len());
        for own in records {
            ids.push(register(&mut entries, own)?);
        }
        if entries.len() > known {
            let entries = entries.clone();
            let written = tokio::task::spawn_blocking(move || write(&path, &entries)).await;
            written
                .unwrap_or_else(|error| Err(io::Error::other(error)))
                .map_err(unavailable)?;
        }
        Ok((Self { entries }, ids))
    }

    /// The schema of an id as JSON.
    pub(super) fn schema(&self, id: i32) -> Option<String> {
        let found = self.entries.iter().find(|entry| entry.id == id);
        found.map(|entry| entry.schema.clone())
    }
}

/// As a registry with `BACKWARD_TRANSITIVE` would: the same schema has the same id, a new one must read all older ones.
fn register(entries: &mut Vec<Entry>, own: &Own) -> Result<i32, CodecError> {
    let refused = |reason: String| CodecError::Refused {
        subject: own.subject,
        reason,
    };
    for entry in entries.iter().filter(|entry| entry.subject == own.subject) {
        let id = entry.id;
        let older = Schema::parse_str(&entry.schema).map_err(|error| {
            refused(format!("its version with id {id} cannot be read ({error})"))
        })?;
        if older == *own.schema {
            return Ok(id);
        }
        SchemaCompatibility::can_read(&older, own.schema)
            .map_err(|error| refused(format!("it does not read what id {id} wrote ({error})")))?;
    }
    let id = entries.iter().map(|entry| entry.id).max().unwrap_or(0) + 1;
    entries.push(Entry {
        id,
        subject: own.subject.to_owned(),
        schema: own.json.to_owned(),
    });
    Ok(id)
}

/// On disk before the first record names an id.
fn write(path: &PathBuf, entries: &[Entry]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder)?;
    let fresh = path.with_extension("json.new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(entries)?)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    std::fs::File::open(folder)?.sync_all()
}
