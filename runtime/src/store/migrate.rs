//! Brings the schema of the store to this program's, in one transaction and under a lock.

use sqlx::any::Any;
use sqlx::{Row, Transaction};

use super::{Kind, StoreError};

/// In order, from version 1 on. What has been released never changes.
const SCRIPTS: [&str; 3] = [
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_sizes.sql"),
    include_str!("migrations/0003_provider_secrets.sql"),
];

/// Any number, as long as it is always the same: `lockgate` in ASCII.
const POSTGRES_LOCK: &str = "SELECT pg_advisory_xact_lock(7813571076914672741)";

/// Runs what is missing. The caller commits; on SQLite the transaction itself is the lock.
pub(super) async fn run(
    kind: Kind,
    transaction: &mut Transaction<'static, Any>,
) -> Result<(), StoreError> {
    if kind == Kind::Postgres {
        sqlx::raw_sql(POSTGRES_LOCK)
            .execute(&mut **transaction)
            .await?;
    }
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
        .execute(&mut **transaction)
        .await?;
    let row = sqlx::query("SELECT version FROM schema_version")
        .fetch_optional(&mut **transaction)
        .await?;
    let stored = match row {
        Some(row) => row.try_get::<i64, _>("version")?,
        None => {
            sqlx::query("INSERT INTO schema_version (version) VALUES (0)")
                .execute(&mut **transaction)
                .await?;
            0
        }
    };
    let done = usize::try_from(stored).unwrap_or(usize::MAX);
    let Some(missing) = SCRIPTS.get(done..) else {
        let known = SCRIPTS.len();
        return Err(StoreError::Migration {
            reason: format!(
                "it has version {stored}, this program knows {known}: a newer program has migrated it; start that one"
            ),
        });
    };
    for (script, version) in missing.iter().zip(stored + 1..) {
        let applied = apply(kind, script, version, transaction).await;
        applied.map_err(|error| match error {
            // The script is at fault, or a table that is not ours.
            sqlx::Error::Database(error) => StoreError::Migration {
                reason: format!("migration {version} failed: {error}"),
            },
            other => StoreError::Unavailable(other),
        })?;
    }
    // In the schema's own transaction, so that there is one secret whoever comes first.
    let secret: [u8; 32] = rand::random();
    sqlx::query(
        "INSERT INTO secrets (name, secret) VALUES ('resume', $1) ON CONFLICT (name) DO NOTHING",
    )
    .bind(secret.to_vec())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

async fn apply(
    kind: Kind,
    script: &'static str,
    version: i64,
    transaction: &mut Transaction<'static, Any>,
) -> Result<(), sqlx::Error> {
    match kind {
        Kind::Postgres => sqlx::raw_sql(script).execute(&mut **transaction).await?,
        Kind::Sqlite => {
            let script = script
                .replace("BYTEA", "BLOB")
                .replace(" COLLATE \"C\"", "");
            sqlx::raw_sql(sqlx::AssertSqlSafe(script))
                .execute(&mut **transaction)
                .await?
        }
    };
    sqlx::query("UPDATE schema_version SET version = $1")
        .bind(version)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
