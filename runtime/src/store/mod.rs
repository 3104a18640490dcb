//! The store: one SQL text for PostgreSQL and SQLite. Not in the hot path.
//!
//! SQLite runs with a write-ahead log and `synchronous = NORMAL`: a power cut may take back the last commits, but as
//! whole transactions. A sink's position and its effects are in one transaction, so they go back together and the
//! sink does the work again; what no log could repeat (keys, the secret) is synced before it is acknowledged.

mod follow;
mod key_snapshot;
pub mod keys;
mod migrate;
pub mod results;
mod rows;
mod secret_snapshot;
pub mod secrets;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretBox};
use sqlx::any::{Any, AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyPool, ConnectOptions, Row, Transaction};
use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard};

use crate::secrets::{SealError, SecretName};

/// Longest wait for a connection. Short: callers have an answer without the store, or try again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest that a statement of the API may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest that a batch of a sink or a sweep may take.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// SQLite has one writer; more than a few readers gain nothing.
const CONNECTIONS_SQLITE: u32 = 4;
const CONNECTIONS_POSTGRES: u32 = 8;

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
    /// A secret could not be sealed or opened.
    #[error("secret {name}")]
    Secret {
        /// Which.
        name: SecretName,
        /// Why.
        #[source]
        source: SealError,
    },
    /// The schema of the store is newer than this program, or a migration failed.
    #[error("the store cannot be brought to this program's schema: {reason}")]
    Migration {
        /// In words.
        reason: String,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(error)
    }
}

impl StoreError {
    /// Whether trying the same again may help. A new variant must decide.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Fenced { .. }
            | Self::Exists { .. }
            | Self::Secret { .. }
            | Self::Migration { .. } => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sqlite,
    Postgres,
}

/// Handle on the store; clones share one pool.
#[derive(Debug, Clone)]
pub struct Store {
    kind: Kind,
    pool: AnyPool,
    /// SQLite's file, whose folder must be there before the first connection.
    file: Option<PathBuf>,
    migrated: Arc<OnceCell<()>>,
    /// SQLite has one writer at a time: waiting here is fair and instant, waiting in SQLite is sleeping and retrying.
    writer: Arc<Mutex<()>>,
}

/// A transaction that writes. Dropped without commit, it is rolled back.
struct Write {
    transaction: Transaction<'static, Any>,
    _writer: Option<OwnedMutexGuard<()>>,
}

impl Write {
    /// In the transaction of the change, so that whoever sees the version sees the change.
    async fn raise_version(&mut self, name: &'static str) -> Result<(), StoreError> {
        sqlx::query("UPDATE versions SET version = version + 1 WHERE name = $1")
            .bind(name)
            .execute(&mut *self.transaction)
            .await?;
        Ok(())
    }
}

impl Store {
    /// Connects and migrates (under a lock, so that many processes may start at once).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] (call again), [`StoreError::Migration`].
    pub async fn open(
        settings: &crate::config::Store,
        data_dir: &Path,
    ) -> Result<Self, StoreError> {
        let store = Self::lazy(settings, data_dir)?;
        store.pool().await?;
        Ok(store)
    }

    /// A handle on a store that may be down: whatever is asked of it first connects and migrates, and fails as
    /// [`Store::open`] would until that has succeeded. For a start while the store is down.
    ///
    /// # Errors
    /// [`StoreError::Migration`] when the URL or the path cannot be used at all.
    pub fn lazy(settings: &crate::config::Store, data_dir: &Path) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let refused = |reason: String| StoreError::Migration { reason };
        let (kind, url, file) = match &settings.url {
            Some(url) => (Kind::Postgres, url.expose_secret().to_owned(), None),
            None => {
                let file = std::path::absolute(data_dir.join("store.sqlite"))
                    .map_err(|error| refused(format!("data_dir cannot be used ({error})")))?;
                let path = file
                    .to_str()
                    .ok_or_else(|| refused("data_dir is not UTF-8".to_owned()))?;
                let escaped = path
                    .replace('%', "%25")
                    .replace('?', "%3F")
                    .replace('#', "%23");
                (
                    Kind::Sqlite,
                    format!("sqlite://{escaped}?mode=rwc"),
                    Some(file),
                )
            }
        };
        // The parser's error could repeat the URL, and with it the password.
        let options = AnyConnectOptions::from_str(&url)
            .map_err(|_| refused("store.url is not a URL".to_owned()))?
            .disable_statement_logging();
        let connections = match kind {
            Kind::Sqlite => CONNECTIONS_SQLITE,
            Kind::Postgres => CONNECTIONS_POSTGRES,
        };
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    let settings = match kind {
                        Kind::Sqlite => {
                            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
                             PRAGMA synchronous = NORMAL; PRAGMA cache_size = -16384"
                        }
                        // A statement that outlives its caller must not hold locks for ever.
                        Kind::Postgres => "SET statement_timeout = '60s'",
                    };
                    sqlx::raw_sql(settings).execute(connection).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options);
        Ok(Self {
            kind,
            pool,
            file,
            migrated: Arc::new(OnceCell::new()),
            writer: Arc::new(Mutex::new(())),
        })
    }

    /// Whether it answers within a second.
    pub async fn is_up(&self) -> bool {
        let ask = async {
            let pool = self.pool().await?;
            sqlx::query("SELECT 1").fetch_one(pool).await?;
            Ok(())
        };
        within(Duration::from_secs(1), ask).await.is_ok()
    }

    /// The 32 random bytes made at the first migration, the same in every process: what resume tokens are
    /// authenticated with.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn resume_secret(&self) -> Result<SecretBox<[u8; 32]>, StoreError> {
        within(STATEMENT_TIMEOUT, async {
            let row = sqlx::query("SELECT secret FROM secrets WHERE name = 'resume'")
                .fetch_one(self.pool().await?)
                .await?;
            let secret: Vec<u8> = row.try_get("secret")?;
            let secret: [u8; 32] = secret
                .try_into()
                .map_err(|_| corrupt("the resume secret is not 32 bytes"))?;
            Ok(SecretBox::new(Box::new(secret)))
        })
        .await
    }

    /// Raised with every change of what it counts.
    async fn version_of(&self, name: &'static str) -> Result<i64, StoreError> {
        within(STATEMENT_TIMEOUT, async {
            let row = sqlx::query("SELECT version FROM versions WHERE name = $1")
                .bind(name)
                .fetch_one(self.pool().await?)
                .await?;
            Ok(row.try_get("version")?)
        })
        .await
    }

    /// The pool, once the schema is this program's.
    async fn pool(&self) -> Result<&AnyPool, StoreError> {
        self.migrated
            .get_or_try_init(|| async {
                if let Some(folder) = self.file.as_deref().and_then(Path::parent) {
                    tokio::fs::create_dir_all(folder)
                        .await
                        .map_err(sqlx::Error::Io)?;
                }
                let mut write = self.begin_unmigrated().await?;
                migrate::run(self.kind, &mut write.transaction).await?;
                self.commit_synced(write).await
            })
            .await?;
        Ok(&self.pool)
    }

    async fn begin(&self) -> Result<Write, StoreError> {
        self.pool().await?;
        self.begin_unmigrated().await
    }

    async fn begin_unmigrated(&self) -> Result<Write, StoreError> {
        let (writer, statement) = match self.kind {
            // Taking the write lock at once: one that must be upgraded later can fail with a deadlock.
            Kind::Sqlite => (
                Some(self.writer.clone().lock_owned().await),
                "BEGIN IMMEDIATE",
            ),
            Kind::Postgres => (None, "BEGIN"),
        };
        let transaction = self.pool.begin_with(statement).await?;
        Ok(Write {
            transaction,
            _writer: writer,
        })
    }

    async fn commit(&self, write: Write) -> Result<(), StoreError> {
        Ok(write.transaction.commit().await?)
    }

    /// Commits what no log could repeat: synced also on SQLite.
    async fn commit_synced(&self, write: Write) -> Result<(), StoreError> {
        let Write {
            transaction,
            _writer,
        } = write;
        transaction.commit().await?;
        if self.kind == Kind::Sqlite {
            sqlx::raw_sql("PRAGMA wal_checkpoint(FULL)")
                .execute(&self.pool)
                .await?;
        }
        Ok(())
    }
}

/// `work`, as long as it answers in time. What is dropped in the middle is rolled back by its connection.
async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let late = std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("no answer within {limit:?}"),
        );
        Err(StoreError::Unavailable(sqlx::Error::Io(late)))
    })
}

/// A value in the store that this program never writes.
fn corrupt(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

/// PostgreSQL has no text with NUL, and a sink must not stop at one.
fn plain(text: &str) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text.to_owned()
    }
}
