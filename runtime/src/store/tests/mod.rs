//! On SQLite always; on PostgreSQL when `LOCKGATE_TEST_POSTGRES_URL` names a server, each test in a database of its own.

mod keys;
mod results;
mod secrets;

use schemas::id::RequestId;
use schemas::topic::{ReplyPlace, ReplyTopic};
use secrecy::{ExposeSecret, SecretString};

use super::*;
use crate::config;

/// A store of its own for one test.
struct Fixture {
    settings: config::Store,
    folder: tempfile::TempDir,
}

impl Fixture {
    async fn open(&self) -> Store {
        Store::open(&self.settings, self.folder.path())
            .await
            .unwrap()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests alone know of this variable"
)]
fn postgres_url() -> Option<String> {
    let url = std::env::var("LOCKGATE_TEST_POSTGRES_URL").ok();
    url.filter(|url| !url.is_empty())
}

/// SQLite, and PostgreSQL when there is one.
async fn fixtures() -> Vec<Fixture> {
    let mut fixtures = vec![Fixture {
        settings: config::Store { url: None },
        folder: tempfile::tempdir().unwrap(),
    }];
    if let Some(url) = postgres_url() {
        sqlx::any::install_default_drivers();
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let admin = AnyPool::connect(&url).await.unwrap();
        let create = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(create))
            .execute(&admin)
            .await
            .unwrap();
        admin.close().await;
        let mut url = url::Url::parse(&url).unwrap();
        url.set_path(&name);
        fixtures.push(Fixture {
            settings: config::Store {
                url: Some(SecretString::from(url.to_string())),
            },
            folder: tempfile::tempdir().unwrap(),
        });
    }
    fixtures
}

fn id() -> RequestId {
    RequestId::new(ReplyPlace {
        topic: ReplyTopic::Responses,
        partition: 1,
    })
}

#[tokio::test]
async fn many_may_open_at_once_and_see_one_secret() {
    for fixture in fixtures().await {
        let stores = futures::future::join_all((0..4).map(|_| fixture.open())).await;
        let mut secrets = Vec::new();
        for store in &stores {
            assert!(store.is_up().await);
            secrets.push(*store.resume_secret().await.unwrap().expose_secret());
        }
        assert_ne!(secrets[0], [0; 32]);
        assert!(secrets.iter().all(|secret| *secret == secrets[0]));
        drop(stores);
        let again = fixture.open().await;
        assert_eq!(
            *again.resume_secret().await.unwrap().expose_secret(),
            secrets[0]
        );
    }
}

#[tokio::test]
async fn a_store_of_a_newer_program_is_refused() {
    for fixture in fixtures().await {
        let store = fixture.open().await;
        sqlx::query("UPDATE schema_version SET version = 99")
            .execute(&store.pool)
            .await
            .unwrap();
        let error = Store::open(&fixture.settings, fixture.folder.path())
            .await
            .unwrap_err();
        assert!(!error.is_retryable());
        assert!(
            error
                .to_string()
                .contains("a newer program has migrated it"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_store_that_is_down_says_so() {
    let settings = config::Store {
        url: Some(SecretString::from(
            "postgres://nobody:hunter2@127.0.0.1:1/none",
        )),
    };
    let folder = tempfile::tempdir().unwrap();
    let error = Store::open(&settings, folder.path()).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(!format!("{error:?}").contains("hunter2"));
    let store = Store::lazy(&settings, folder.path()).unwrap();
    assert!(!store.is_up().await);
    let began = std::time::Instant::now();
    assert!(matches!(
        store.result(id()).await,
        Err(StoreError::Unavailable(_))
    ));
    assert!(began.elapsed() < 2 * CONNECT_TIMEOUT);
}
