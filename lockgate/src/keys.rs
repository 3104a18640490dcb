//! `lockgate keys`: works on the store itself.

use std::io::Write;

use anyhow::bail;
use runtime::store::keys::{Key, NewKey, Role};
use schemas::time::Timestamp;
use secrecy::ExposeSecret;

use crate::cli;
use crate::configuration::Source;
use crate::store_command::{aligned, instant, on_store};

/// `lockgate keys create`: the key alone on standard output, what it is on standard error.
pub(crate) fn create(source: &Source, wish: &cli::NewKey) -> anyhow::Result<()> {
    let key = NewKey {
        name: wish.name.clone(),
        tenant: wish.tenant.clone(),
        role: match wish.role {
            cli::KeyRole::Member => Role::Member,
            cli::KeyRole::Admin => Role::Admin,
        },
        expires_at: wish.expires.map(|time| Timestamp::now().plus(time)),
    };
    check(&key)?;
    let (key, text) = on_store(source, async |store| Ok(store.create_key(&key).await?))?;
    let until = key
        .expires_at
        .map_or_else(|| "it is disabled".to_owned(), instant);
    writeln!(
        std::io::stderr(),
        "made {} key {} ({}) of tenant {}, valid until {until}; the key is shown only now",
        role_word(key.role),
        key.id,
        key.name,
        key.tenant,
    )?;
    writeln!(std::io::stdout(), "{}", text.expose_secret())?;
    Ok(())
}

/// `lockgate keys list`.
pub(crate) fn list(source: &Source) -> anyhow::Result<()> {
    let keys = on_store(source, async |store| Ok(store.list_keys().await?))?;
    if keys.is_empty() {
        writeln!(
            std::io::stderr(),
            "there are no keys; lockgate keys create makes one"
        )?;
    }
    std::io::stdout().write_all(table(&keys, Timestamp::now()).as_bytes())?;
    Ok(())
}

/// `lockgate keys disable`.
pub(crate) fn disable(source: &Source, id: &str) -> anyhow::Result<()> {
    match on_store(source, async |store| Ok(store.disable_key(id).await?))? {
        Some(key) => {
            writeln!(
                std::io::stderr(),
                "disabled key {} ({}) of tenant {}",
                key.id,
                key.name,
                key.tenant
            )?;
            Ok(())
        }
        None => bail!("there is no key {id}; lockgate keys list shows all ids"),
    }
}

fn check(key: &NewKey) -> anyhow::Result<()> {
    if !(1..=64).contains(&key.name.chars().count()) {
        bail!("--name must have 1 to 64 characters");
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !(1..=64).contains(&key.tenant.len()) || !key.tenant.chars().all(is_plain) {
        bail!("--tenant must have 1 to 64 characters of a-z, A-Z, 0-9, _ . and -");
    }
    Ok(())
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::Admin => "admin",
    }
}

fn state(key: &Key, now: Timestamp) -> String {
    if let Some(at) = key.disabled_at {
        return format!("disabled {}", instant(at));
    }
    match key.expires_at {
        Some(at) if at <= now => format!("expired {}", instant(at)),
        Some(at) => format!("until {}", instant(at)),
        None => "enabled".to_owned(),
    }
}

fn table(keys: &[Key], now: Timestamp) -> String {
    let mut rows = vec![["ID", "NAME", "TENANT", "ROLE", "CREATED", "STATE"].map(str::to_owned)];
    rows.extend(keys.iter().map(|key| {
        [
            key.id.clone(),
            key.name.clone(),
            key.tenant.clone(),
            role_word(key.role).to_owned(),
            instant(key.created_at),
            state(key, now),
        ]
    }));
    aligned(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::request::OnDisconnect;

    #[test]
    fn a_table_lines_up_and_tells_the_state() {
        let key = |id: &str, name: &str, expires_at, disabled_at| Key {
            id: id.to_owned(),
            name: name.to_owned(),
            tenant: "t".to_owned(),
            role: Role::Member,
            created_at: Timestamp(0),
            expires_at,
            disabled_at,
            on_disconnect: OnDisconnect::Cancel,
            on_takeover: None,
        };
        let keys = [
            key("a", "laptop", None, None),
            key("b", "ci", Some(Timestamp(5_000_000)), None),
            key("c", "x", Some(Timestamp(20_000_000)), None),
            key("d", "y", None, Some(Timestamp(1_000_000))),
        ];
        assert_eq!(
            table(&keys, Timestamp(10_000_000)),
            "\
ID  NAME    TENANT  ROLE    CREATED               STATE
a   laptop  t       member  1970-01-01T00:00:00Z  enabled
b   ci      t       member  1970-01-01T00:00:00Z  expired 1970-01-01T00:00:05Z
c   x       t       member  1970-01-01T00:00:00Z  until 1970-01-01T00:00:20Z
d   y       t       member  1970-01-01T00:00:00Z  disabled 1970-01-01T00:00:01Z
"
        );
    }
}
