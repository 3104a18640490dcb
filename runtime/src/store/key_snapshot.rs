//! The keys as one process knows them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use schemas::time::Timestamp;
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::follow::{self, Followed, Origin};
use super::keys::{Key, PREFIX, Refusal, StoredKey, VERSION, hash};
use super::{Store, StoreError};

struct Entry {
    key: Arc<Key>,
    secret_sha256: [u8; 32],
}

type Entries = HashMap<String, Entry>;

/// The keys as this process knows them: polled every 250 ms, kept in an `ArcSwap`, last good copy on disk
/// (`data_dir/keys.json`, 0600, hashes only) for a start while the store is down.
#[derive(Clone)]
pub struct KeySnapshot {
    shared: Arc<Shared>,
}

struct Shared {
    entries: ArcSwap<Entries>,
    /// Whether the store answered the last time.
    is_fresh: AtomicBool,
}

impl std::fmt::Debug for KeySnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySnapshot")
            .field("keys", &self.shared.entries.load().len())
            .field("is_fresh", &self.is_fresh())
            .finish()
    }
}

impl KeySnapshot {
    /// Loads the keys (or the copy on disk) and keeps following until `stop`; the follower runs on `tasks`.
    ///
    /// Waits at most 5 s for a store that is down. With [`Store::lazy`] a process starts without its store.
    pub async fn follow(
        store: &Store,
        data_dir: &Path,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            entries: ArcSwap::default(),
            is_fresh: AtomicBool::new(false),
        });
        follow::follow(Arc::clone(&shared), store, data_dir, tasks, stop).await;
        Self { shared }
    }

    /// The key behind `text`, compared in constant time.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, text: &str) -> Result<Arc<Key>, Refusal> {
        let (id, secret) = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .ok_or(Refusal::Unknown)?;
        let entries = self.shared.entries.load();
        let Some(entry) = entries.get(id) else {
            return Err(if self.is_fresh() {
                Refusal::Unknown
            } else {
                Refusal::StoreUnavailable
            });
        };
        if !bool::from(hash(secret).ct_eq(&entry.secret_sha256)) {
            return Err(Refusal::Unknown);
        }
        // Told only to who has the secret.
        if entry.key.disabled_at.is_some() {
            return Err(Refusal::Disabled);
        }
        if entry
            .key
            .expires_at
            .is_some_and(|at| at <= Timestamp::now())
        {
            return Err(Refusal::Expired);
        }
        Ok(Arc::clone(&entry.key))
    }

    /// Whether the store answered the last time it was asked.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.shared.is_fresh.load(Ordering::Relaxed)
    }
}

impl Followed for Shared {
    type Row = StoredKey;

    const WHAT: &'static str = "keys";
    const COPY: &'static str = "keys.json";
    const VERSION: &'static str = VERSION;

    async fn read(store: &Store) -> Result<Vec<StoredKey>, StoreError> {
        store.stored_keys().await
    }

    fn replace(&self, rows: &[StoredKey], _: Origin) {
        let entry = |stored: &StoredKey| {
            let entry = Entry {
                key: Arc::new(stored.key.clone()),
                secret_sha256: stored.secret_sha256,
            };
            (stored.key.id.clone(), entry)
        };
        self.entries
            .store(Arc::new(rows.iter().map(entry).collect()));
    }

    fn set_fresh(&self, is_fresh: bool) -> bool {
        self.is_fresh.swap(is_fresh, Ordering::Relaxed)
    }
}
