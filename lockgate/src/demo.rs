//! What lets a newcomer try Lockgate at once: a scripted model, a key, and a line to paste.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use runtime::config::{Config, Deployment, Health, Model, Provider, ProviderKind, ScriptLine};
use runtime::store::keys::{NewKey, Role};
use runtime::store::{Store, StoreError};
use schemas::time::Timestamp;
use secrecy::{ExposeSecret, SecretString};

/// Name of the model, of its provider, of the key and of its tenant.
const DEMO: &str = "demo";

/// Adds the scripted model `demo`, unless a model of that name is configured.
pub(crate) fn add_model(config: &mut Config) {
    if config.models.iter().any(|model| model.name == DEMO) {
        return;
    }
    let is_taken = |name: &str| config.providers.iter().any(|other| other.name == name);
    let mut name = DEMO.to_owned();
    while is_taken(&name) {
        name.push_str("-scripted");
    }
    let deployment = Deployment::new(name.clone(), "echo");
    config.models.push(Model::new(DEMO, vec![deployment]));
    config.providers.push(Provider {
        name,
        kind: ProviderKind::Scripted {
            script: vec![ScriptLine {
                model: "echo".to_owned(),
                reply: "You said: {prompt}".to_owned(),
                delay: Duration::from_millis(20),
                status: None,
                cut_after: None,
            }],
        },
        health: Health::default(),
        continues: false,
    });
}

/// The demo's key: the one in `data_dir`/demo.key while it is valid, else a new one.
pub(crate) async fn key(store: &Store, data_dir: &Path) -> anyhow::Result<SecretString> {
    let path = data_dir.join("demo.key");
    let keys = store.list_keys().await?;
    let now = Timestamp::now();
    match fs::read_to_string(&path) {
        Ok(text) => {
            let id = text.trim().split('_').nth(1).unwrap_or_default();
            let is_valid = keys.iter().any(|key| {
                key.id == id
                    && key.disabled_at.is_none()
                    && key.expires_at.is_none_or(|at| at > now)
            });
            if is_valid {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
                return Ok(SecretString::from(text.trim().to_owned()));
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    }
    let wish = NewKey {
        name: DEMO.to_owned(),
        tenant: DEMO.to_owned(),
        role: Role::Member,
        expires_at: None,
    };
    let made = match store.create_key(&wish).await {
        Err(StoreError::Exists { .. }) => {
            // Its text is lost with the file, so nobody can use it any more.
            let lost = keys
                .iter()
                .filter(|key| key.name == DEMO && key.tenant == DEMO && key.disabled_at.is_none());
            for key in lost {
                store.disable_key(&key.id).await?;
            }
            store.create_key(&wish).await
        }
        made => made,
    };
    let (_, text) = made?;
    write_secret(&path, text.expose_secret())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(text)
}

/// Replaces the file as a whole; nobody else may read it at any time.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("key.new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// A line that works as pasted on this machine.
pub(crate) fn curl(listen: SocketAddr, key: &SecretString) -> String {
    let mut listen = listen;
    if listen.ip().is_unspecified() {
        listen.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!(
        "curl http://{listen}/v1/chat/completions -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' \
         -d '{{\"model\":\"{DEMO}\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello, Lockgate!\"}}]}}'",
        key.expose_secret()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_an_address_that_can_be_reached() {
        let line = curl(
            "0.0.0.0:8080".parse().unwrap(),
            &SecretString::from("lg_a_b".to_owned()),
        );
        assert_eq!(
            line,
            "curl http://127.0.0.1:8080/v1/chat/completions -H 'Authorization: Bearer lg_a_b' \
             -H 'Content-Type: application/json' \
             -d '{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello, Lockgate!\"}]}'"
        );
    }
}
