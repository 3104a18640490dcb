//! Sealed secrets and their snapshot.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::secrets::{MissingSecret, Resealed, SecretSnapshot};
use super::super::{Store, StoreError};
use super::fixtures;
use crate::config;
use crate::secrets::{MasterKeys, SealError, SecretName};

/// What must be nowhere but in the hands of who asks for it.
const VALUE: &str = "sk-hunter2-hunter2";

/// Two texts of master keys.
fn texts() -> [String; 2] {
    [(), ()].map(|()| MasterKeys::generate().unwrap().expose_secret().to_owned())
}

fn keys(text: &str) -> MasterKeys {
    MasterKeys::parse(text).unwrap()
}

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

/// Waits until `condition` holds, which must be soon.
async fn soon(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "never");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The secret as the store has it, opened.
async fn opened(store: &Store, keys: &MasterKeys, title: &str) -> Result<String, SealError> {
    let rows = store.stored_secrets().await.unwrap();
    let row = rows.iter().find(|row| row.name == name(title)).unwrap();
    let value = keys.open(&row.name, row.version, &row.sealed)?;
    Ok(value.expose_secret().to_owned())
}

#[tokio::test]
async fn secrets_are_set_replaced_listed_and_deleted() {
    for fixture in fixtures().await {
        let store = fixture.open().await;
        let keys = keys(&texts()[0]);
        let first = store
            .set_secret(&keys, &name("b"), &secret(VALUE))
            .await
            .unwrap();
        assert_eq!(first.version, 1);
        assert_eq!(first.master_key_id, keys.sealing_id());
        assert_eq!(opened(&store, &keys, "b").await.unwrap(), VALUE);
        let second = store
            .set_secret(&keys, &name("b"), &secret("other"))
            .await
            .unwrap();
        assert_eq!((second.version, second.created_at), (2, first.created_at));
        assert!(second.updated_at >= first.updated_at);
        assert_eq!(opened(&store, &keys, "b").await.unwrap(), "other");
        let a = store
            .set_secret(&keys, &name("a"), &secret(VALUE))
            .await
            .unwrap();
        assert_eq!(store.list_secrets().await.unwrap(), [a.clone(), second]);

        assert!(store.delete_secret(&name("b")).await.unwrap());
        assert!(!store.delete_secret(&name("b")).await.unwrap());
        assert!(!store.delete_secret(&name("nobody")).await.unwrap());
        assert_eq!(store.list_secrets().await.unwrap(), [a]);
        let row = sqlx::query("SELECT nonce, sealed FROM provider_secrets WHERE name = 'b'")
            .fetch_one(&store.pool)
            .await
            .unwrap();
        for column in ["nonce", "sealed"] {
            let bytes: Vec<u8> = sqlx::Row::try_get(&row, column).unwrap();
            assert!(bytes.is_empty(), "{column} of a deleted secret");
        }
        let again = store
            .set_secret(&keys, &name("b"), &secret("third"))
            .await
            .unwrap();
        assert_eq!(again.version, 4, "no version of a name comes twice");
        assert!(again.created_at > first.created_at);
    }
}

#[tokio::test]
async fn the_store_holds_no_value_and_opens_none_that_was_moved() {
    for fixture in fixtures().await {
        let store = fixture.open().await;
        let keys = keys(&texts()[0]);
        for title in ["a", "b"] {
            store
                .set_secret(&keys, &name(title), &secret(VALUE))
                .await
                .unwrap();
        }
        for row in store.stored_secrets().await.unwrap() {
            let held = format!("{row:?} {}", String::from_utf8_lossy(&row.sealed.bytes));
            assert!(!held.contains(VALUE), "{held}");
        }
        // Who can write to the store cannot put the key of one provider into the place of another's, nor an old one
        // back.
        let moved = "UPDATE provider_secrets SET sealed = (SELECT sealed FROM provider_secrets WHERE name = 'a'), \
            nonce = (SELECT nonce FROM provider_secrets WHERE name = 'a') WHERE name = 'b'";
        sqlx::query(moved).execute(&store.pool).await.unwrap();
        assert_eq!(
            opened(&store, &keys, "b").await.unwrap_err(),
            SealError::Broken
        );
        let raised = "UPDATE provider_secrets SET version = version + 1 WHERE name = 'a'";
        sqlx::query(raised).execute(&store.pool).await.unwrap();
        assert_eq!(
            opened(&store, &keys, "a").await.unwrap_err(),
            SealError::Broken
        );
    }
}

#[tokio::test]
async fn rotation_seals_anew_once_and_can_be_repeated() {
    for fixture in fixtures().await {
        let store = fixture.open().await;
        let [old, new] = texts();
        let old_keys = keys(&old);
        for title in ["a", "b"] {
            store
                .set_secret(&old_keys, &name(title), &secret(title))
                .await
                .unwrap();
        }
        let before = store.list_secrets().await.unwrap();
        let both = keys(&format!("{new},{old}"));
        let done = Resealed::Done {
            before: old_keys.sealing_id().to_owned(),
        };
        assert_eq!(store.reseal_secret(&both, &name("a")).await.unwrap(), done);
        // Interrupted here: each secret opens with both keys, and the rest is done later.
        for title in ["a", "b"] {
            assert_eq!(opened(&store, &both, title).await.unwrap(), title);
        }
        for title in ["a", "gone"] {
            let repeated = store.reseal_secret(&both, &name(title)).await.unwrap();
            assert_eq!(repeated, Resealed::Already, "{title}");
        }
        assert_eq!(store.reseal_secret(&both, &name("b")).await.unwrap(), done);
        let new_keys = keys(&new);
        for (title, before) in ["a", "b"].into_iter().zip(&before) {
            assert_eq!(opened(&store, &new_keys, title).await.unwrap(), title);
            assert!(opened(&store, &old_keys, title).await.is_err());
            let after = store.list_secrets().await.unwrap();
            let after = after.iter().find(|info| info.name == before.name).unwrap();
            assert_eq!(after.updated_at, before.updated_at, "the value is as old");
        }
    }
}

#[tokio::test]
async fn a_rotation_without_the_old_key_names_it_and_leaves_the_secret() {
    for fixture in fixtures().await {
        let store = fixture.open().await;
        let [old, new] = texts();
        let (old, new) = (keys(&old), keys(&new));
        store
            .set_secret(&old, &name("a"), &secret(VALUE))
            .await
            .unwrap();
        let before = store.list_secrets().await.unwrap();
        let error = store.reseal_secret(&new, &name("a")).await.unwrap_err();
        let StoreError::Secret { source, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(source.to_string().contains(old.sealing_id()), "{source}");
        assert!(!error.is_retryable());
        assert_eq!(store.list_secrets().await.unwrap(), before);
        assert_eq!(opened(&store, &old, "a").await.unwrap(), VALUE);
    }
}

#[tokio::test]
async fn many_may_set_and_rotate_at_once() {
    for fixture in fixtures().await {
        let (one, other) = (fixture.open().await, fixture.open().await);
        let [old, new] = texts();
        let (old, both) = (keys(&old), keys(&format!("{new},{old}")));
        one.set_secret(&old, &name("a"), &secret("0"))
            .await
            .unwrap();
        let rounds = async |store: &Store, value: &str| {
            for _ in 0..5 {
                store
                    .set_secret(&old, &name("a"), &secret(value))
                    .await
                    .unwrap();
                store.reseal_secret(&both, &name("a")).await.unwrap();
            }
        };
        tokio::join!(rounds(&one, "1"), rounds(&other, "2"));
        one.reseal_secret(&both, &name("a")).await.unwrap();
        let value = opened(&one, &keys(&new), "a").await.unwrap();
        assert!(["1", "2"].contains(&value.as_str()), "{value}");
        let info = &one.list_secrets().await.unwrap()[0];
        assert!(info.version >= 12, "every change counts: {}", info.version);
    }
}

#[tokio::test]
async fn a_snapshot_follows_what_it_has_handles_of() {
    for fixture in fixtures().await {
        let (store, writer) = (fixture.open().await, fixture.open().await);
        let [old, new] = texts();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let old_keys = keys(&old);
        for title in ["a", "b"] {
            writer
                .set_secret(&old_keys, &name(title), &secret(title))
                .await
                .unwrap();
        }
        let both = format!("{new},{old}");
        let snapshot = SecretSnapshot::follow(
            &store,
            keys(&both),
            fixture.folder.path(),
            &tasks,
            stop.clone(),
        )
        .await;
        assert!(snapshot.is_fresh());
        let a = snapshot.handle(&name("a")).unwrap();
        let value = || {
            a.current()
                .map(|current| current.value.expose_secret().to_owned())
        };
        assert_eq!(value().as_deref(), Some("a"));
        assert_eq!(a.version(), Some(1));
        assert_eq!(
            snapshot.handle(&name("c")).unwrap_err(),
            MissingSecret::Unknown { name: name("c") }
        );
        assert!(
            format!("{snapshot:?}").contains("opened: 1"),
            "b is nobody's: {snapshot:?}"
        );

        writer
            .set_secret(&old_keys, &name("a"), &secret(VALUE))
            .await
            .unwrap();
        soon(|| value().as_deref() == Some(VALUE)).await;
        assert!(!format!("{snapshot:?} {a:?} {:?}", a.current()).contains(VALUE));
        writer
            .reseal_secret(&keys(&both), &name("a"))
            .await
            .unwrap();
        soon(|| a.version() == Some(3)).await;
        assert_eq!(value().as_deref(), Some(VALUE));
        writer.delete_secret(&name("a")).await.unwrap();
        soon(|| value().is_none()).await;
        assert!(matches!(
            snapshot.handle(&name("a")),
            Err(MissingSecret::Unknown { .. })
        ));
        writer
            .set_secret(&old_keys, &name("a"), &secret("back"))
            .await
            .unwrap();
        soon(|| value().as_deref() == Some("back")).await;
        // Sealed under a key that this process was not given: what it has opened serves on.
        let stranger = keys(&texts()[0]);
        writer
            .set_secret(&stranger, &name("a"), &secret("unreadable"))
            .await
            .unwrap();
        writer
            .set_secret(&old_keys, &name("b"), &secret("later"))
            .await
            .unwrap();
        let b = snapshot.handle(&name("b")).unwrap();
        soon(|| b.version() == Some(2)).await;
        assert_eq!(value().as_deref(), Some("back"));
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

#[tokio::test]
async fn a_start_without_the_store_uses_the_sealed_copy() {
    let fixture = &fixtures().await[0];
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let store = fixture.open().await;
    let [text, other] = texts();
    store
        .set_secret(&keys(&text), &name("a"), &secret(VALUE))
        .await
        .unwrap();
    let folder = fixture.folder.path();
    SecretSnapshot::follow(&store, keys(&text), folder, &tasks, stop.clone()).await;
    let copy = folder.join("secrets.json");
    let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let copied = std::fs::read_to_string(&copy).unwrap();
    assert!(
        copied.contains("\"a\"") && !copied.contains(VALUE),
        "{copied}"
    );

    let down = config::Store {
        url: Some(SecretString::from("postgres://nobody@127.0.0.1:1/none")),
    };
    let down = Store::lazy(&down, folder).unwrap();
    let follow = async |text: &str, folder| {
        SecretSnapshot::follow(&down, keys(text), folder, &tasks, stop.clone()).await
    };
    let snapshot = follow(&text, folder).await;
    assert!(!snapshot.is_fresh());
    let current = snapshot.handle(&name("a")).unwrap().current().unwrap();
    assert_eq!(current.value.expose_secret(), VALUE);
    // It may have been set since the copy was made: nobody knows, so that is no fault.
    assert!(snapshot.handle(&name("b")).unwrap().current().is_none());
    let wrong = follow(&other, folder).await;
    let error = wrong.handle(&name("a")).unwrap_err();
    assert!(
        error.to_string().contains(keys(&text).sealing_id()),
        "{error}"
    );
    let nothing = tempfile::tempdir().unwrap();
    let bare = follow(&text, nothing.path()).await;
    assert!(bare.handle(&name("a")).unwrap().current().is_none());
    let none = SecretSnapshot::none().handle(&name("a")).unwrap_err();
    assert!(none.to_string().contains("LOCKGATE_MASTER_KEY"), "{none}");
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
