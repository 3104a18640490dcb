//! API keys: one truth in the store, a snapshot in every process.

use std::sync::Arc;

use schemas::request::{OnDisconnect, OnTakeover};
use schemas::time::Timestamp;
use secrecy::SecretString;

use super::{Store, StoreError};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Calls models and sees its tenant's requests.
    Member,
    /// That, and `/admin/v1`.
    Admin,
}

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Public part, `lg_<id>_…`.
    pub id: String,
    /// For people; unique within the tenant among enabled keys.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// Not valid from then on.
    pub expires_at: Option<Timestamp>,
    /// Not valid any more since.
    pub disabled_at: Option<Timestamp>,
    /// What a hang-up means for its requests.
    pub on_disconnect: OnDisconnect,
    /// What a takeover does with its calls; none: the configuration's.
    pub on_takeover: Option<OnTakeover>,
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// For people, 1..=64 characters.
    pub name: String,
    /// 1..=64 characters of `[a-zA-Z0-9_.-]`.
    pub tenant: String,
    /// What it may do.
    pub role: Role,
    /// Not valid from then on.
    pub expires_at: Option<Timestamp>,
}

impl Store {
    /// Makes a key; the text `lg_<id>_<secret>` is shown once and cannot be had again (256 random bits, kept as SHA-256).
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Unavailable`].
    pub async fn create_key(&self, key: &NewKey) -> Result<(Key, SecretString), StoreError> {
        todo!()
    }

    /// All keys, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn list_keys(&self) -> Result<Vec<Key>, StoreError> {
        todo!()
    }

    /// Ends the validity of a key now; none when there is no such key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn disable_key(&self, id: &str) -> Result<Option<Key>, StoreError> {
        todo!()
    }
}

/// Why a key text was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not of the form `lg_<id>_<secret>`, unknown, or the secret is wrong.
    Unknown,
    /// Disabled.
    Disabled,
    /// Expired.
    Expired,
    /// No snapshot could be had since the start: answer 503, never 401.
    StoreUnavailable,
}

/// The keys as this process knows them: polled every 250 ms, kept in an `ArcSwap`, last good copy on disk
/// (`data_dir/keys.json`, 0600, hashes only) for a start while the store is down.
#[derive(Debug, Clone)]
pub struct KeySnapshot;

impl KeySnapshot {
    /// Loads the keys (or the copy on disk) and keeps following until `stop`; the follower runs on `tasks`.
    pub async fn follow(
        store: &Store,
        data_dir: &std::path::Path,
        tasks: &tokio_util::task::TaskTracker,
        stop: tokio_util::sync::CancellationToken,
    ) -> Self {
        todo!()
    }

    /// The key behind `text`, compared in constant time.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, text: &str) -> Result<Arc<Key>, Refusal> {
        todo!()
    }
}
