//! The keys as one process knows them.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use schemas::time::Timestamp;
use subtle::ConstantTimeEq;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::keys::{Key, PREFIX, Refusal, StoredKey, hash};
use super::{Store, StoreError};

/// A new or disabled key is known after at most this and the time of two small queries.
const POLL_EVERY: Duration = Duration::from_millis(250);
/// Longest wait for the store at start; then the copy on disk serves, and the follower goes on trying.
const FIRST_LOAD_MAX: Duration = Duration::from_secs(5);

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
        let snapshot = Self {
            shared: Arc::new(Shared {
                entries: ArcSwap::default(),
                is_fresh: AtomicBool::new(false),
            }),
        };
        let mut follower = Follower {
            store: store.clone(),
            copy: data_dir.join("keys.json"),
            version: None,
            snapshot: snapshot.clone(),
        };
        let first = tokio::time::timeout(FIRST_LOAD_MAX, follower.poll()).await;
        match first {
            Ok(Ok(())) => {}
            failed => {
                let copy = read_copy(&follower.copy).await;
                let keys = copy.as_ref().map_or(0, Vec::len);
                if let Some(copy) = copy {
                    snapshot.replace(&copy);
                }
                let cause = match failed {
                    Ok(Err(error)) => format!("{}", Chain(&error)),
                    _ => "no answer in time".to_owned(),
                };
                tracing::warn!(
                    keys,
                    cause,
                    "store is down, keys are taken from the copy on disk"
                );
            }
        }
        tasks.spawn(async move { follower.run(stop).await });
        snapshot
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

    fn replace(&self, keys: &[StoredKey]) {
        let entry = |stored: &StoredKey| {
            let entry = Entry {
                key: Arc::new(stored.key.clone()),
                secret_sha256: stored.secret_sha256,
            };
            (stored.key.id.clone(), entry)
        };
        self.shared
            .entries
            .store(Arc::new(keys.iter().map(entry).collect()));
    }
}

struct Follower {
    store: Store,
    copy: PathBuf,
    /// Of the keys in the snapshot; none: not from the store.
    version: Option<i64>,
    snapshot: KeySnapshot,
}

impl Follower {
    async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let was_fresh = self.snapshot.is_fresh();
            let polled = tokio::select! {
                () = stop.cancelled() => return,
                polled = self.poll() => polled,
            };
            match polled {
                Ok(()) if !was_fresh => tracing::info!("store answers, keys are current"),
                Err(error) if was_fresh => {
                    let cause = format!("{}", Chain(&error));
                    tracing::warn!(cause, "store is down, keys stay as they are");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    async fn poll(&mut self) -> Result<(), StoreError> {
        let polled = self.load().await;
        self.snapshot
            .shared
            .is_fresh
            .store(polled.is_ok(), Ordering::Relaxed);
        polled
    }

    async fn load(&mut self) -> Result<(), StoreError> {
        // The version first: keys that are newer than it are only read once more.
        let version = self.store.keys_version().await?;
        if self.version == Some(version) {
            return Ok(());
        }
        let keys = self.store.stored_keys().await?;
        self.snapshot.replace(&keys);
        self.version = Some(version);
        let copy = self.copy.clone();
        let written = tokio::task::spawn_blocking(move || write_copy(&copy, &keys)).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let Err(error) = written {
            tracing::warn!(%error, "copy of the keys cannot be written, a start without the store will know none");
        }
        Ok(())
    }
}

/// None when there is no copy or it cannot be read.
async fn read_copy(path: &Path) -> Option<Vec<StoredKey>> {
    let text = tokio::fs::read(path).await.ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whole or not at all, and for nobody else's eyes.
fn write_copy(path: &Path, keys: &[StoredKey]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;

    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let fresh = path.with_extension(format!("json.{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&serde_json::to_vec(keys)?)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

/// An error with its causes in one line.
struct Chain<'e>(&'e dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
