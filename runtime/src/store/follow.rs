//! Following a table that every process knows by heart: polled by its version, the last good copy on disk.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::telemetry::Chain;

use super::{Store, StoreError};

/// A change is known after at most this and the time of two small queries.
const POLL_EVERY: Duration = Duration::from_millis(250);
/// Longest wait for the store at start; then the copy on disk serves, and the follower goes on trying.
const FIRST_LOAD_MAX: Duration = Duration::from_secs(5);

/// What a process knows of a table.
pub(super) trait Followed: Send + Sync + 'static {
    /// A row; nothing in it may be secret, since it is copied to disk.
    type Row: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The rows in messages.
    const WHAT: &'static str;
    /// Name of the copy in the data folder.
    const COPY: &'static str;
    /// Which of the store's versions counts the changes.
    const VERSION: &'static str;

    /// All rows.
    fn read(store: &Store) -> impl Future<Output = Result<Vec<Self::Row>, StoreError>> + Send;

    /// These are the rows now; of a copy they may be old.
    fn replace(&self, rows: &[Self::Row], origin: Origin);

    /// Tells whether the store answered the last time, and whether it did the time before.
    fn set_fresh(&self, is_fresh: bool) -> bool;
}

/// Where rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The store.
    Store,
    /// The copy on disk, while the store is down.
    Copy,
}

/// Loads the rows (or the copy on disk) and keeps following until `stop`; the follower runs on `tasks`.
///
/// Waits at most 5 s for a store that is down.
pub(super) async fn follow<F: Followed>(
    followed: Arc<F>,
    store: &Store,
    data_dir: &Path,
    tasks: &TaskTracker,
    stop: CancellationToken,
) {
    let mut follower = Follower {
        followed,
        store: store.clone(),
        copy: data_dir.join(F::COPY),
        version: None,
    };
    let first = tokio::time::timeout(FIRST_LOAD_MAX, follower.poll()).await;
    match first {
        Ok(Ok(())) => {}
        failed => {
            let copy: Option<Vec<F::Row>> = read_copy(&follower.copy).await;
            let rows = copy.as_ref().map_or(0, Vec::len);
            if let Some(copy) = copy {
                follower.followed.replace(&copy, Origin::Copy);
            }
            let cause = match failed {
                Ok(Err(error)) => Chain(&error).to_string(),
                _ => "no answer in time".to_owned(),
            };
            let what = F::WHAT;
            tracing::warn!(
                rows,
                cause,
                "store is down, {what} are taken from the copy on disk"
            );
        }
    }
    tasks.spawn(async move { follower.run(stop).await });
}

struct Follower<F> {
    followed: Arc<F>,
    store: Store,
    copy: PathBuf,
    /// Of the rows that are known; none: not from the store.
    version: Option<i64>,
}

impl<F: Followed> Follower<F> {
    async fn run(mut self, stop: CancellationToken) {
        let what = F::WHAT;
        let mut ticks = tokio::time::interval(POLL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let polled = tokio::select! {
                () = stop.cancelled() => return,
                polled = self.load() => polled,
            };
            let was_fresh = self.followed.set_fresh(polled.is_ok());
            match polled {
                Ok(()) if !was_fresh => tracing::info!("store answers, {what} are current"),
                Err(error) if was_fresh => {
                    let cause = Chain(&error).to_string();
                    tracing::warn!(cause, "store is down, {what} stay as they are");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    async fn poll(&mut self) -> Result<(), StoreError> {
        let polled = self.load().await;
        self.followed.set_fresh(polled.is_ok());
        polled
    }

    async fn load(&mut self) -> Result<(), StoreError> {
        // The version first: rows that are newer than it are only read once more.
        let version = self.store.version_of(F::VERSION).await?;
        if self.version == Some(version) {
            return Ok(());
        }
        let rows = F::read(&self.store).await?;
        self.followed.replace(&rows, Origin::Store);
        self.version = Some(version);
        let copy = self.copy.clone();
        let written = tokio::task::spawn_blocking(move || write_copy(&copy, &rows)).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let Err(error) = written {
            let what = F::WHAT;
            tracing::warn!(%error, "copy of the {what} cannot be written, a start without the store will know none");
        }
        Ok(())
    }
}

/// None when there is no copy or it cannot be read.
async fn read_copy<R: DeserializeOwned>(path: &Path) -> Option<Vec<R>> {
    let text = tokio::fs::read(path).await.ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whole or not at all, and for nobody else's eyes.
fn write_copy<R: Serialize>(path: &Path, rows: &[R]) -> io::Result<()> {
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
    file.write_all(&serde_json::to_vec(rows)?)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}
