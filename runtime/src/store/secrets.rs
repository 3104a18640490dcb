//! Sealed provider keys: one truth in the store, a snapshot in every process that calls providers.

use schemas::time::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;

pub use super::secret_snapshot::{CurrentSecret, MissingSecret, SecretHandle, SecretSnapshot};
use super::{STATEMENT_TIMEOUT, Store, StoreError, corrupt, within};
use crate::secrets::{MasterKeys, SealError, Sealed, SecretName};

/// Which of the store's versions counts the changes of secrets.
pub(super) const VERSION: &str = "provider_secrets";

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretInfo {
    /// Its name, unique.
    pub name: SecretName,
    /// From 1 on; raised by every change, by sealing it anew too. Never comes twice for a name.
    pub version: i64,
    /// Id of the master key that it is sealed under.
    pub master_key_id: String,
    /// When it was first set, or set again after it was deleted.
    pub created_at: Timestamp,
    /// When its value was last set.
    pub updated_at: Timestamp,
}

/// A secret as it is stored and copied.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredSecret {
    pub(super) name: SecretName,
    pub(super) version: i64,
    pub(super) sealed: Sealed,
}

/// What became of sealing a secret anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resealed {
    /// It is sealed under the first master key now.
    Done {
        /// Id of the key that it was sealed under before.
        before: String,
    },
    /// There was nothing to do: it is sealed under the first master key already, or is not there any more.
    Already,
}

const SELECT: &str = "SELECT name, version, master_key_id, nonce, sealed, created_at, updated_at \
    FROM provider_secrets WHERE disabled_at IS NULL ORDER BY name";
/// Takes the row for this transaction and tells the version to seal for.
const TAKE: &str = "INSERT INTO provider_secrets (name, version, master_key_id, nonce, sealed, created_at, updated_at) \
    VALUES ($1, 1, '', $2, $2, $3, $3) \
    ON CONFLICT (name) DO UPDATE SET version = provider_secrets.version + 1, \
    created_at = CASE WHEN provider_secrets.disabled_at IS NULL THEN provider_secrets.created_at ELSE $3 END, \
    updated_at = $3, disabled_at = NULL RETURNING version, created_at";
const TAKE_AGAIN: &str = "UPDATE provider_secrets SET version = version + 1 \
    WHERE name = $1 AND disabled_at IS NULL AND master_key_id <> $2 \
    RETURNING version, master_key_id, nonce, sealed";
const SEAL: &str =
    "UPDATE provider_secrets SET master_key_id = $1, nonce = $2, sealed = $3 WHERE name = $4";
const DELETE: &str = "UPDATE provider_secrets SET version = version + 1, master_key_id = '', nonce = $1, \
    sealed = $1, disabled_at = $2 WHERE name = $3 AND disabled_at IS NULL";

impl Store {
    /// Seals `value` under the first master key and keeps it as `name`, in place of what was there.
    ///
    /// # Errors
    /// [`StoreError::Secret`] when it cannot be sealed, [`StoreError::Unavailable`].
    pub async fn set_secret(
        &self,
        keys: &MasterKeys,
        name: &SecretName,
        value: &SecretString,
    ) -> Result<SecretInfo, StoreError> {
        let now = Timestamp::now();
        within(STATEMENT_TIMEOUT, async {
            let mut write = self.begin().await?;
            let row = sqlx::query(TAKE)
                .bind(name.as_str())
                .bind(Vec::new())
                .bind(now.0)
                .fetch_one(&mut *write.transaction)
                .await?;
            let version = row.try_get("version")?;
            let sealed = keys.seal(name, version, value).map_err(at(name))?;
            let info = SecretInfo {
                name: name.clone(),
                version,
                master_key_id: sealed.master_key_id.clone(),
                created_at: Timestamp(row.try_get("created_at")?),
                updated_at: now,
            };
            self.finish(write, name, sealed).await?;
            Ok(info)
        })
        .await
    }

    /// All secrets by name, without their values.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn list_secrets(&self) -> Result<Vec<SecretInfo>, StoreError> {
        within(STATEMENT_TIMEOUT, async {
            let rows = sqlx::query(SELECT).fetch_all(self.pool().await?).await?;
            Ok(rows.iter().map(info).collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Removes the sealed bytes for good; false when there is no such secret.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn delete_secret(&self, name: &SecretName) -> Result<bool, StoreError> {
        within(STATEMENT_TIMEOUT, async {
            let mut write = self.begin().await?;
            let deleted = sqlx::query(DELETE)
                .bind(Vec::new())
                .bind(Timestamp::now().0)
                .bind(name.as_str())
                .execute(&mut *write.transaction)
                .await?
                .rows_affected();
            write.raise_version(VERSION).await?;
            self.commit_synced(write).await?;
            Ok(deleted > 0)
        })
        .await
    }

    /// Seals a secret under the first master key if it is sealed under another. One transaction: done or untouched,
    /// whenever it is interrupted, and safe to repeat.
    ///
    /// # Errors
    /// [`StoreError::Secret`] when the key that it is sealed under is not given, [`StoreError::Unavailable`].
    pub async fn reseal_secret(
        &self,
        keys: &MasterKeys,
        name: &SecretName,
    ) -> Result<Resealed, StoreError> {
        within(STATEMENT_TIMEOUT, async {
            let mut write = self.begin().await?;
            let row = sqlx::query(TAKE_AGAIN)
                .bind(name.as_str())
                .bind(keys.sealing_id())
                .fetch_optional(&mut *write.transaction)
                .await?;
            let Some(row) = row else {
                return Ok(Resealed::Already);
            };
            let version: i64 = row.try_get("version")?;
            let before = sealed(&row)?;
            let value = keys.open(name, version - 1, &before).map_err(at(name))?;
            let after = keys.seal(name, version, &value).map_err(at(name))?;
            self.finish(write, name, after).await?;
            Ok(Resealed::Done {
                before: before.master_key_id,
            })
        })
        .await
    }

    pub(super) async fn stored_secrets(&self) -> Result<Vec<StoredSecret>, StoreError> {
        within(STATEMENT_TIMEOUT, async {
            let rows = sqlx::query(SELECT).fetch_all(self.pool().await?).await?;
            let stored = |row: &AnyRow| {
                Ok(StoredSecret {
                    name: name(row)?,
                    version: row.try_get("version")?,
                    sealed: sealed(row)?,
                })
            };
            let stored: Result<_, sqlx::Error> = rows.iter().map(stored).collect();
            Ok(stored?)
        })
        .await
    }

    /// Puts the seal into the row that `write` has taken.
    async fn finish(
        &self,
        mut write: super::Write,
        name: &SecretName,
        sealed: Sealed,
    ) -> Result<(), StoreError> {
        sqlx::query(SEAL)
            .bind(sealed.master_key_id)
            .bind(sealed.nonce)
            .bind(sealed.bytes)
            .bind(name.as_str())
            .execute(&mut *write.transaction)
            .await?;
        write.raise_version(VERSION).await?;
        self.commit_synced(write).await
    }
}

fn at(name: &SecretName) -> impl Fn(SealError) -> StoreError {
    |source| StoreError::Secret {
        name: name.clone(),
        source,
    }
}

fn name(row: &AnyRow) -> Result<SecretName, sqlx::Error> {
    let name: String = row.try_get("name")?;
    SecretName::try_from(name).map_err(|_| corrupt("the name of a secret of a newer program"))
}

fn sealed(row: &AnyRow) -> Result<Sealed, sqlx::Error> {
    Ok(Sealed {
        master_key_id: row.try_get("master_key_id")?,
        nonce: row.try_get("nonce")?,
        bytes: row.try_get("sealed")?,
    })
}

fn info(row: &AnyRow) -> Result<SecretInfo, sqlx::Error> {
    Ok(SecretInfo {
        name: name(row)?,
        version: row.try_get("version")?,
        master_key_id: row.try_get("master_key_id")?,
        created_at: Timestamp(row.try_get("created_at")?),
        updated_at: Timestamp(row.try_get("updated_at")?),
    })
}
