//! The store: one SQL text for PostgreSQL and SQLite. Not in the hot path.

pub mod keys;
pub mod results;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer; trying again may help.
    #[error("the store does not answer")]
    Unavailable(#[source] sqlx::Error),
    /// Somebody else moved the position: stop, read it again, seek.
    #[error("position of {sink} on {topic}/{partition} was moved by somebody else")]
    Fenced {
        /// The sink.
        sink: String,
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
    },
    /// A name that must be unique is taken.
    #[error("{what} {name} exists already")]
    Exists {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The schema of the store is newer than this program, or a migration failed.
    #[error("the store cannot be brought to this program's schema: {reason}")]
    Migration {
        /// In words.
        reason: String,
    },
}

/// Handle on the store; clones share one pool.
#[derive(Debug, Clone)]
pub struct Store;

impl Store {
    /// Connects and migrates (under a lock, so that many processes may start at once).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] (call again), [`StoreError::Migration`].
    pub async fn open(
        settings: &crate::config::Store,
        data_dir: &std::path::Path,
    ) -> Result<Self, StoreError> {
        todo!()
    }

    /// Whether it answers within a second.
    pub async fn is_up(&self) -> bool {
        todo!()
    }
}
