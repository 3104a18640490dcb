//! Keys and their snapshot.

use std::time::{Duration, Instant};

use schemas::time::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::keys::{KeySnapshot, NewKey, Refusal, Role};
use super::super::{Store, StoreError};
use super::fixtures;
use crate::config;

fn new_key(name: &str) -> NewKey {
    NewKey {
        name: name.to_owned(),
        tenant: "acme".to_owned(),
        role: Role::Member,
        expires_at: None,
    }
}

/// Waits until `condition` holds, which must be within the second that is promised.
async fn within_a_second(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "not within a second"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn keys_are_made_listed_and_disabled() {
    for fixture in fixtures().await {
        let store = fixture.open().await;
        let (key, text) = store.create_key(&new_key("one")).await.unwrap();
        let text = text.expose_secret();
        assert!(text.starts_with(&format!("lg_{}_", key.id)), "{text}");
        assert_eq!(text.rsplit('_').next().unwrap().len(), 64);
        let twice = store.create_key(&new_key("one")).await;
        assert!(
            matches!(twice, Err(StoreError::Exists { what: "key", .. })),
            "{twice:?}"
        );
        assert_eq!(store.list_keys().await.unwrap(), std::slice::from_ref(&key));
        let disabled = store.disable_key(&key.id).await.unwrap().unwrap();
        assert!(disabled.disabled_at.is_some());
        assert_eq!(store.disable_key(&key.id).await.unwrap(), Some(disabled));
        assert_eq!(store.disable_key("nobody").await.unwrap(), None);
        let (_, other) = store.create_key(&new_key("one")).await.unwrap();
        assert_ne!(other.expose_secret(), text);
    }
}

#[tokio::test]
async fn a_snapshot_learns_of_keys_within_a_second() {
    for fixture in fixtures().await {
        let (store, writer) = (fixture.open().await, fixture.open().await);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let keys = KeySnapshot::follow(&store, fixture.folder.path(), &tasks, stop.clone()).await;
        let (key, text) = writer.create_key(&new_key("one")).await.unwrap();
        let text = text.expose_secret();
        within_a_second(|| keys.check(text).is_ok()).await;
        assert_eq!(*keys.check(text).unwrap(), key);
        let wrong = format!("lg_{}_{}", key.id, "0".repeat(64));
        for bad in [
            wrong.as_str(),
            "",
            "lg_",
            "lg__",
            "lg_x",
            "sk-1",
            &text[..70],
            &text[3..],
        ] {
            assert_eq!(keys.check(bad), Err(Refusal::Unknown), "{bad}");
        }
        writer.disable_key(&key.id).await.unwrap();
        within_a_second(|| keys.check(text) == Err(Refusal::Disabled)).await;
        let expired = NewKey {
            expires_at: Some(Timestamp(1)),
            ..new_key("old")
        };
        let (_, old) = writer.create_key(&expired).await.unwrap();
        within_a_second(|| keys.check(old.expose_secret()) == Err(Refusal::Expired)).await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

#[tokio::test]
async fn a_start_without_the_store_uses_the_copy() {
    use std::os::unix::fs::PermissionsExt;

    let fixture = &fixtures().await[0];
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let store = fixture.open().await;
    let (_, text) = store.create_key(&new_key("one")).await.unwrap();
    let folder = fixture.folder.path();
    KeySnapshot::follow(&store, folder, &tasks, stop.clone()).await;
    let copy = folder.join("keys.json");
    let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let secret = text.expose_secret().rsplit('_').next().unwrap();
    assert!(!std::fs::read_to_string(&copy).unwrap().contains(secret));

    let down = config::Store {
        url: Some(SecretString::from("postgres://nobody@127.0.0.1:1/none")),
    };
    let down = Store::lazy(&down, folder).unwrap();
    let keys = KeySnapshot::follow(&down, folder, &tasks, stop.clone()).await;
    assert!(keys.check(text.expose_secret()).is_ok());
    assert_eq!(
        keys.check("lg_other_secret"),
        Err(Refusal::StoreUnavailable)
    );
    assert_eq!(keys.check("nonsense"), Err(Refusal::Unknown));
    let nothing = tempfile::tempdir().unwrap();
    let keys = KeySnapshot::follow(&down, nothing.path(), &tasks, stop.clone()).await;
    assert_eq!(
        keys.check(text.expose_secret()),
        Err(Refusal::StoreUnavailable)
    );
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
