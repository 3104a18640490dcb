//! API keys: one truth in the store, a snapshot in every process.

use data_encoding::HEXLOWER;
use schemas::request::{OnDisconnect, OnTakeover};
use schemas::time::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::any::AnyRow;

pub use super::key_snapshot::KeySnapshot;
use super::{STATEMENT_TIMEOUT, Store, StoreError, corrupt, within};

/// Before every key text.
pub(super) const PREFIX: &str = "lg_";
/// Which of the store's versions counts the changes of keys.
pub(super) const VERSION: &str = "keys";

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Calls models and sees its tenant's requests.
    Member,
    /// That, and `/admin/v1`.
    Admin,
}

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

/// Why a key text was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not of the form `lg_<id>_<secret>`, unknown, or the secret is wrong.
    Unknown,
    /// Disabled.
    Disabled,
    /// Expired.
    Expired,
    /// The store does not answer and the key is not known here, though it may be there: answer 503, never 401.
    StoreUnavailable,
}

/// A key and what its secret hashes to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredKey {
    pub(super) key: Key,
    /// SHA-256 of the secret part of the text.
    pub(super) secret_sha256: [u8; 32],
}

/// What is stored of a secret. One round is enough: nobody guesses 256 random bits.
pub(super) fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

const SELECT: &str = "SELECT id, secret_sha256, name, tenant, role, created_at, expires_at, disabled_at, \
    on_disconnect, on_takeover FROM keys ORDER BY created_at, id";

impl Store {
    /// Makes a key; the text `lg_<id>_<secret>` is shown once and cannot be had again (256 random bits, kept as SHA-256).
    ///
    /// The lengths and characters that [`NewKey`] names are the caller's to check.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Unavailable`].
    pub async fn create_key(&self, key: &NewKey) -> Result<(Key, SecretString), StoreError> {
        const INSERT: &str = "INSERT INTO keys (id, secret_sha256, name, tenant, role, created_at, expires_at, \
            on_disconnect, on_takeover) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let id = HEXLOWER.encode(&rand::random::<[u8; 8]>());
        let secret = HEXLOWER.encode(&rand::random::<[u8; 32]>());
        let made = Key {
            id: id.clone(),
            name: key.name.clone(),
            tenant: key.tenant.clone(),
            role: key.role,
            created_at: Timestamp::now(),
            expires_at: key.expires_at,
            disabled_at: None,
            on_disconnect: OnDisconnect::Cancel,
            on_takeover: None,
        };
        within(STATEMENT_TIMEOUT, async {
            let mut write = self.begin().await?;
            sqlx::query(INSERT)
                .bind(made.id.clone())
                .bind(hash(&secret).to_vec())
                .bind(made.name.clone())
                .bind(made.tenant.clone())
                .bind(role_word(made.role))
                .bind(made.created_at.0)
                .bind(made.expires_at.map(|at| at.0))
                .bind(disconnect_word(made.on_disconnect))
                .bind(
                    made.on_takeover
                        .map(|policy| takeover_word(policy).to_owned()),
                )
                .execute(&mut *write.transaction)
                .await
                .map_err(|error| match &error {
                    sqlx::Error::Database(cause) if cause.is_unique_violation() => {
                        StoreError::Exists {
                            what: "key",
                            name: key.name.clone(),
                        }
                    }
                    _ => StoreError::Unavailable(error),
                })?;
            write.raise_version(VERSION).await?;
            self.commit_synced(write).await
        })
        .await?;
        Ok((made, SecretString::from(format!("{PREFIX}{id}_{secret}"))))
    }

    /// All keys, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn list_keys(&self) -> Result<Vec<Key>, StoreError> {
        let stored = self.stored_keys().await?;
        Ok(stored.into_iter().map(|stored| stored.key).collect())
    }

    /// Ends the validity of a key now; none when there is no such key. One that is disabled stays so since then.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn disable_key(&self, id: &str) -> Result<Option<Key>, StoreError> {
        within(STATEMENT_TIMEOUT, async {
            let mut write = self.begin().await?;
            sqlx::query("UPDATE keys SET disabled_at = $1 WHERE id = $2 AND disabled_at IS NULL")
                .bind(Timestamp::now().0)
                .bind(super::plain(id))
                .execute(&mut *write.transaction)
                .await?;
            write.raise_version(VERSION).await?;
            self.commit_synced(write).await
        })
        .await?;
        let keys = self.list_keys().await?;
        Ok(keys.into_iter().find(|key| key.id == id))
    }

    pub(super) async fn stored_keys(&self) -> Result<Vec<StoredKey>, StoreError> {
        within(STATEMENT_TIMEOUT, async {
            let rows = sqlx::query(SELECT).fetch_all(self.pool().await?).await?;
            Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
        })
        .await
    }
}

fn read(row: &AnyRow) -> Result<StoredKey, sqlx::Error> {
    let secret: Vec<u8> = row.try_get("secret_sha256")?;
    let role: &str = row.try_get("role")?;
    let on_disconnect: &str = row.try_get("on_disconnect")?;
    let on_takeover: Option<String> = row.try_get("on_takeover")?;
    let newer = || corrupt("a word of a newer program");
    let key = Key {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        tenant: row.try_get("tenant")?,
        role: match role {
            "member" => Role::Member,
            "admin" => Role::Admin,
            _ => return Err(newer()),
        },
        created_at: Timestamp(row.try_get("created_at")?),
        expires_at: row.try_get::<Option<i64>, _>("expires_at")?.map(Timestamp),
        disabled_at: row.try_get::<Option<i64>, _>("disabled_at")?.map(Timestamp),
        on_disconnect: match on_disconnect {
            "cancel" => OnDisconnect::Cancel,
            "drain" => OnDisconnect::Drain,
            "detach" => OnDisconnect::Detach,
            _ => return Err(newer()),
        },
        on_takeover: match on_takeover.as_deref() {
            None => None,
            Some("retry") => Some(OnTakeover::Retry),
            Some("fail") => Some(OnTakeover::Fail),
            Some(_) => return Err(newer()),
        },
    };
    let secret_sha256 = secret
        .try_into()
        .map_err(|_| corrupt("the hash of a key is not 32 bytes"))?;
    Ok(StoredKey { key, secret_sha256 })
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::Admin => "admin",
    }
}

fn disconnect_word(policy: OnDisconnect) -> &'static str {
    match policy {
        OnDisconnect::Cancel => "cancel",
        OnDisconnect::Drain => "drain",
        OnDisconnect::Detach => "detach",
    }
}

fn takeover_word(policy: OnTakeover) -> &'static str {
    match policy {
        OnTakeover::Retry => "retry",
        OnTakeover::Fail => "fail",
    }
}
