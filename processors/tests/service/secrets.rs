//! Provider keys that are sealed in the store.

use std::time::Duration;

use runtime::config::{KeySource, ProviderKind};
use runtime::secrets::MasterKeys;
use runtime::store::secrets::SecretSnapshot;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::rig::{Rig, request, settings};
use crate::upstream::{Upstream, answer};

/// Settings whose one key is the secret `openai-2`.
fn sealed(url: &str) -> processors::Settings {
    let mut settings = settings(&[url]);
    for provider in &mut settings.routing.providers {
        if let ProviderKind::Http(http) = &mut provider.kind {
            http.keys = vec![KeySource::Secret("openai-2".parse().unwrap())];
        }
    }
    settings
}

struct Vault {
    text: SecretString,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Vault {
    fn new() -> Self {
        Self {
            text: MasterKeys::generate().unwrap(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    fn keys(&self) -> MasterKeys {
        MasterKeys::parse(self.text.expose_secret()).unwrap()
    }

    async fn set(&self, rig: &Rig, value: &str) {
        let value = SecretString::from(value.to_owned());
        let (keys, name) = (self.keys(), "openai-2".parse().unwrap());
        rig.store.set_secret(&keys, &name, &value).await.unwrap();
    }

    async fn follow(&self, rig: &Rig) -> SecretSnapshot {
        let folder = rig.folder.path();
        SecretSnapshot::follow(
            &rig.store,
            self.keys(),
            folder,
            &self.tasks,
            self.stop.clone(),
        )
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_sent_and_one_that_replaces_it_after_it() {
    let mut upstream = Upstream::start(|_| answer("hi")).await;
    let rig = Rig::new().await;
    let vault = Vault::new();
    vault.set(&rig, "first-hunter2").await;
    let secrets = vault.follow(&rig).await;
    let handle = secrets.handle(&"openai-2".parse().unwrap()).unwrap();
    let processors = rig.start_with(sealed(&upstream.url), secrets);
    let id = rig.submit(&request(false)).await;
    let answer = rig.answer(id).await;
    let attempt = &answer.terminal().attempts[0];
    assert_eq!(attempt.key_name.as_deref(), Some("openai-2"));
    assert!(upstream.call().await.head.contains("Bearer first-hunter2"));

    vault.set(&rig, "second-hunter2").await;
    while handle.version() != Some(2) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let id = rig.submit(&request(false)).await;
    rig.answer(id).await;
    assert!(upstream.call().await.head.contains("Bearer second-hunter2"));

    let name = "openai-2".parse().unwrap();
    assert!(rig.store.delete_secret(&name).await.unwrap());
    while handle.version().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let id = rig.submit(&request(false)).await;
    let answer = rig.answer(id).await;
    assert!(answer.terminal().error.is_some());
    assert_eq!(upstream.calls(), 2, "nothing is sent without the key");
    vault.stop.cancel();
    processors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_secret_says_how_to_set_it() {
    let rig = Rig::new().await;
    let vault = Vault::new();
    let secrets = vault.follow(&rig).await;
    let failed = rig.start_with(sealed("http://127.0.0.1:1/v1"), secrets);
    let error = failed.failure().await.to_string();
    assert!(error.contains("key openai-2 of provider p0"), "{error}");
    assert!(error.contains("lockgate secrets set openai-2"), "{error}");
    vault.stop.cancel();
}
