//! The secrets as one process knows them: sealed, but for those that it uses.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::follow::{self, Followed, Origin};
use super::secrets::{StoredSecret, VERSION};
use super::{Store, StoreError};
use crate::secrets::{MasterKeys, SealError, SecretName};

/// The secrets as this process knows them: polled every 250 ms, last good copy on disk (`data_dir/secrets.json`, 0600,
/// sealed bytes only) for a start while the store is down. Opened are those alone that somebody holds a handle of.
#[derive(Clone)]
pub struct SecretSnapshot {
    shared: Arc<Shared>,
}

/// One secret, as it is now; clones share it.
#[derive(Debug, Clone)]
pub struct SecretHandle {
    slot: Arc<Slot>,
}

/// The value of a secret and which one it is. Its `Debug` form does not show the value.
#[derive(Debug)]
pub struct CurrentSecret {
    /// The value; wiped from memory when the last holder lets go.
    pub value: SecretString,
    /// From 1 on; raised when it is set or sealed anew.
    pub version: i64,
}

/// Why there is no handle of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MissingSecret {
    /// The store does not have it.
    #[error("there is no secret {name} in the store: lockgate secrets set {name} puts it there")]
    Unknown {
        /// Which.
        name: SecretName,
    },
    /// It is there and does not open.
    #[error("secret {name} cannot be opened: {source}")]
    Unopened {
        /// Which.
        name: SecretName,
        /// Why.
        source: SealError,
    },
    /// This process has no master key.
    #[error(
        "secret {name} cannot be opened without a master key: set LOCKGATE_MASTER_KEY or secrets.master_key_file"
    )]
    NoMasterKey {
        /// Which.
        name: SecretName,
    },
}

struct Shared {
    /// None: nothing can be opened.
    keys: Option<MasterKeys>,
    known: Mutex<Known>,
    /// Whether the store answered the last time.
    is_fresh: AtomicBool,
}

#[derive(Default)]
struct Known {
    rows: HashMap<SecretName, StoredSecret>,
    /// The store itself was read, not its copy alone: what is not among the rows does not exist.
    is_whole: bool,
    slots: HashMap<SecretName, Arc<Slot>>,
}

#[derive(Debug)]
struct Slot {
    name: SecretName,
    current: ArcSwapOption<CurrentSecret>,
}

impl std::fmt::Debug for SecretSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.shared.known.lock();
        f.debug_struct("SecretSnapshot")
            .field("secrets", &known.rows.len())
            .field("opened", &known.slots.len())
            .field("is_fresh", &self.is_fresh())
            .finish()
    }
}

impl SecretSnapshot {
    /// Loads the sealed secrets (or the copy on disk) and keeps following until `stop`; the follower runs on `tasks`.
    ///
    /// Waits at most 5 s for a store that is down. With [`Store::lazy`] a process starts without its store.
    pub async fn follow(
        store: &Store,
        keys: MasterKeys,
        data_dir: &Path,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let snapshot = Self::new(Some(keys));
        let shared = Arc::clone(&snapshot.shared);
        follow::follow(shared, store, data_dir, tasks, stop).await;
        snapshot
    }

    /// For a process without a master key: it has no secrets, and follows nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::new(None)
    }

    fn new(keys: Option<MasterKeys>) -> Self {
        Self {
            shared: Arc::new(Shared {
                keys,
                known: Mutex::default(),
                is_fresh: AtomicBool::new(false),
            }),
        }
    }

    /// A handle that follows the secret from now on. While the store is down and the copy on disk does not have it, the
    /// handle is empty until the store answers.
    ///
    /// # Errors
    /// [`MissingSecret`] when the store has no such secret, or it cannot be opened.
    pub fn handle(&self, name: &SecretName) -> Result<SecretHandle, MissingSecret> {
        let Some(keys) = &self.shared.keys else {
            return Err(MissingSecret::NoMasterKey { name: name.clone() });
        };
        let mut known = self.shared.known.lock();
        if let Some(slot) = known.slots.get(name)
            && slot.current.load().is_some()
        {
            let slot = Arc::clone(slot);
            return Ok(SecretHandle { slot });
        }
        let current = match known.rows.get(name) {
            Some(row) => Some(open(keys, row).map_err(|source| MissingSecret::Unopened {
                name: name.clone(),
                source,
            })?),
            None if known.is_whole => {
                return Err(MissingSecret::Unknown { name: name.clone() });
            }
            None => {
                tracing::warn!(
                    secret = %name,
                    "secret is not known while the store is down, keys that name it are passed over until it answers"
                );
                None
            }
        };
        let slot = known.slots.entry(name.clone()).or_insert_with(|| {
            Arc::new(Slot {
                name: name.clone(),
                current: ArcSwapOption::empty(),
            })
        });
        slot.current.store(current);
        let slot = Arc::clone(slot);
        Ok(SecretHandle { slot })
    }

    /// Whether the store answered the last time it was asked.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.shared.is_fresh.load(Ordering::Relaxed)
    }
}

impl SecretHandle {
    /// Name of the secret.
    #[must_use]
    pub fn name(&self) -> &SecretName {
        &self.slot.name
    }

    /// The secret as it is now; none when it was deleted, or is not known while the store is down. Takes no lock.
    #[must_use]
    pub fn current(&self) -> Option<Arc<CurrentSecret>> {
        self.slot.current.load_full()
    }

    /// Version of the secret as it is now, as [`SecretHandle::current`] without the value. Takes no lock.
    #[must_use]
    pub fn version(&self) -> Option<i64> {
        self.slot.current.load().as_ref().map(|now| now.version)
    }
}

impl Followed for Shared {
    type Row = StoredSecret;

    const WHAT: &'static str = "secrets";
    const COPY: &'static str = "secrets.json";
    const VERSION: &'static str = VERSION;

    async fn read(store: &Store) -> Result<Vec<StoredSecret>, StoreError> {
        store.stored_secrets().await
    }

    fn replace(&self, rows: &[StoredSecret], origin: Origin) {
        let Some(keys) = &self.keys else {
            return;
        };
        let mut known = self.known.lock();
        let rows = rows.iter().map(|row| (row.name.clone(), row.clone()));
        known.rows = rows.collect();
        known.is_whole |= origin == Origin::Store;
        let Known { rows, slots, .. } = &mut *known;
        // A value that nobody asks for any more is not kept open.
        slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        for (name, slot) in slots {
            refresh(keys, slot, rows.get(name));
        }
    }

    fn set_fresh(&self, is_fresh: bool) -> bool {
        self.is_fresh.swap(is_fresh, Ordering::Relaxed)
    }
}

fn open(keys: &MasterKeys, row: &StoredSecret) -> Result<Arc<CurrentSecret>, SealError> {
    Ok(Arc::new(CurrentSecret {
        value: keys.open(&row.name, row.version, &row.sealed)?,
        version: row.version,
    }))
}

fn refresh(keys: &MasterKeys, slot: &Slot, row: Option<&StoredSecret>) {
    let before = slot.current.load().as_ref().map(|now| now.version);
    let Some(row) = row else {
        if before.is_some() {
            slot.current.store(None);
            let name = &slot.name;
            tracing::warn!(
                secret = %name,
                "secret was deleted, keys that name it are passed over until lockgate secrets set {name}"
            );
        }
        return;
    };
    if before == Some(row.version) {
        return;
    }
    match open(keys, row) {
        Ok(current) => {
            slot.current.store(Some(current));
            tracing::info!(secret = %slot.name, version = row.version, "secret is current");
        }
        // Most likely sealed anew under a master key that this process was not given: what it has opened still serves.
        Err(error) => tracing::error!(
            secret = %slot.name,
            version = row.version,
            %error,
            "secret cannot be opened, its last version stays in use"
        ),
    }
}
