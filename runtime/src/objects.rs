//! Object storage for large bodies (the claim check).
//!
//! Bodies over [`INLINE_BYTES_MAX`] go to object storage before the record is appended; when the storage is down
//! they stay inline up to [`INLINE_BYTES_MAX_FALLBACK`].

use std::time::Duration;

use bytes::Bytes;
use schemas::id::RequestId;
use schemas::request::{Body, Claim};
use schemas::time::Timestamp;

/// Largest body that stays in the record: 256 KiB.
pub const INLINE_BYTES_MAX: usize = 256 * 1024;
/// Largest body that stays in the record when object storage is down: 3 MiB.
pub const INLINE_BYTES_MAX_FALLBACK: usize = 3 * 1024 * 1024;

/// Why a body could not be kept or fetched.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The storage does not answer; trying again may help.
    #[error("object storage does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No such object: deleted by age, or the roles do not share storage.
    #[error("object {name} is not there")]
    Missing {
        /// Object name.
        name: String,
    },
    /// The bytes do not have the recorded length or hash.
    #[error("object {name} is damaged")]
    Damaged {
        /// Object name.
        name: String,
    },
}

/// Which body of a request is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request body.
    Request,
    /// The answer of one run; its number keeps zombies apart.
    Answer(schemas::event::Run),
}

/// Handle on object storage; clones share it.
#[derive(Debug, Clone)]
pub struct Objects;

impl Objects {
    /// Opens `url` (`s3://bucket/prefix`, `file:///folder`) or the folder when there is none.
    ///
    /// # Errors
    /// When the URL's scheme or settings are refused.
    pub fn open(
        settings: &crate::config::Objects,
        data_dir: &std::path::Path,
    ) -> Result<Self, ObjectsError> {
        todo!()
    }

    /// The body as it goes into a record: inline when small, else kept (durable on return) and claimed.
    ///
    /// # Errors
    /// [`ObjectsError::Unavailable`] when it is too large to stay inline and the storage is down.
    pub async fn store(
        &self,
        tenant: &str,
        id: RequestId,
        at: Timestamp,
        kind: Kind,
        bytes: Bytes,
    ) -> Result<Body, ObjectsError> {
        todo!()
    }

    /// The bytes of a body, checked against length and hash.
    ///
    /// # Errors
    /// As in [`ObjectsError`].
    pub async fn load(&self, body: &Body) -> Result<Bytes, ObjectsError> {
        todo!()
    }

    /// Deletes objects older than `age`; returns how many.
    ///
    /// # Errors
    /// [`ObjectsError::Unavailable`].
    pub async fn sweep(&self, age: Duration) -> Result<u64, ObjectsError> {
        let _: Option<Claim> = None;
        todo!()
    }
}
