//! `lockgate secrets`: works on the store itself.

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, bail};
use runtime::config::{Config, Fault, Faults};
use runtime::secrets::{MasterKeys, SecretName, VALUE_BYTES_MAX};
use runtime::store::secrets::{Resealed, SecretInfo};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::configuration::Source;
use crate::store_command::{aligned, instant, on_store, on_store_of};

/// `lockgate secrets set`.
pub(crate) fn set(source: &Source, name: &SecretName) -> anyhow::Result<()> {
    let config = source.load(None)?;
    let keys = master_keys(&config)?;
    let value = read_value(name)?;
    let info = on_store_of(&config, async |store| {
        store
            .set_secret(&keys, name, &value)
            .await
            .context("cannot store it")
    })?;
    writeln!(
        std::io::stderr(),
        "stored secret {name}, version {}, sealed under master key {}",
        info.version,
        info.master_key_id,
    )?;
    if !is_named(&config, name) {
        writeln!(
            std::io::stderr(),
            "no provider names it yet: add {{ secret: {name} }} to its keys"
        )?;
    }
    Ok(())
}

/// `lockgate secrets list`.
pub(crate) fn list(source: &Source) -> anyhow::Result<()> {
    let secrets = on_store(source, async |store| Ok(store.list_secrets().await?))?;
    if secrets.is_empty() {
        writeln!(
            std::io::stderr(),
            "there are no secrets; lockgate secrets set NAME stores one"
        )?;
    }
    std::io::stdout().write_all(table(&secrets).as_bytes())?;
    Ok(())
}

/// `lockgate secrets delete`.
pub(crate) fn delete(source: &Source, name: &SecretName) -> anyhow::Result<()> {
    let config = source.load(None)?;
    let deleted = on_store_of(&config, async |store| Ok(store.delete_secret(name).await?))?;
    if !deleted {
        bail!("there is no secret {name}; lockgate secrets list shows all names");
    }
    writeln!(std::io::stderr(), "deleted secret {name}")?;
    if is_named(&config, name) {
        writeln!(
            std::io::stderr(),
            "providers still name it: calls pass that key over, and a process that starts now fails; remove \
             {{ secret: {name} }}, or set it again"
        )?;
    }
    Ok(())
}

/// `lockgate secrets rotate`.
pub(crate) fn rotate(source: &Source) -> anyhow::Result<()> {
    let config = source.load(None)?;
    let keys = master_keys(&config)?;
    on_store_of(&config, async |store| {
        let secrets = store.list_secrets().await?;
        let count = secrets.len();
        let (mut done, mut failed) = (0, 0);
        for (place, secret) in (1..).zip(&secrets) {
            let name = &secret.name;
            let outcome = match store.reseal_secret(&keys, name).await {
                Ok(Resealed::Done { before }) => {
                    done += 1;
                    format!("sealed anew, before under {before}")
                }
                Ok(Resealed::Already) => "nothing to do".to_owned(),
                // The others can be done all the same.
                Err(error) if !error.is_retryable() => {
                    failed += 1;
                    format!("left as it was: {:#}", anyhow::Error::new(error))
                }
                Err(error) => {
                    return Err(error).context("stopped; what is done is done, run it again");
                }
            };
            writeln!(std::io::stderr(), "{place}/{count} {name}: {outcome}")?;
        }
        if failed > 0 {
            bail!("{failed} of {count} secrets could not be sealed anew, keep every master key");
        }
        let id = keys.sealing_id();
        writeln!(
            std::io::stderr(),
            "all {count} secrets are sealed under master key {id}, {done} of them anew"
        )?;
        let others: Vec<&str> = keys.other_ids().collect();
        if !others.is_empty() {
            writeln!(
                std::io::stderr(),
                "once every process has {id}, the others can go: {}",
                others.join(", ")
            )?;
        }
        Ok(())
    })
}

/// `lockgate secrets generate-master-key`: the key alone on standard output.
pub(crate) fn generate_master_key() -> anyhow::Result<()> {
    let key = MasterKeys::generate()?;
    let id = MasterKeys::parse(key.expose_secret())?;
    writeln!(
        std::io::stderr(),
        "master key {}: keep it where the store and its backups are not, as LOCKGATE_MASTER_KEY or in the file of \
         secrets.master_key_file (mode 600); without it no sealed secret opens",
        id.sealing_id()
    )?;
    writeln!(std::io::stdout(), "{}", key.expose_secret())?;
    Ok(())
}

fn master_keys(config: &Config) -> Result<MasterKeys, Faults> {
    let missing = || Fault {
        key: "LOCKGATE_MASTER_KEY".to_owned(),
        problem: "there is no master key to seal with".to_owned(),
        remedy: "set it, or name a file by secrets.master_key_file; lockgate secrets \
                 generate-master-key makes a key"
            .to_owned(),
    };
    let keys = config.secrets.master_keys();
    let keys = keys.and_then(|keys| keys.ok_or_else(missing));
    keys.map_err(|fault| Faults(vec![fault]))
}

fn is_named(config: &Config, name: &SecretName) -> bool {
    config.secret_names().any(|named| named == name)
}

/// From a prompt without echo, or all of standard input; never from the command line, which others can see.
fn read_value(name: &SecretName) -> anyhow::Result<SecretString> {
    let stdin = std::io::stdin();
    let text = if stdin.is_terminal() {
        let prompt = format!("Value of {name} (not shown): ");
        Zeroizing::new(rpassword::prompt_password(prompt).context("cannot read the value")?)
    } else {
        // Of its full size at once: what grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(VALUE_BYTES_MAX + 2));
        let most = u64::try_from(VALUE_BYTES_MAX + 1)?;
        stdin
            .lock()
            .take(most)
            .read_to_string(&mut text)
            .context("cannot read the value from standard input")?;
        text
    };
    check(&text).map(|value| SecretString::from(value.to_owned()))
}

/// The value without the white space around it, which is never part of a key.
fn check(text: &str) -> anyhow::Result<&str> {
    let value = text.trim();
    if value.is_empty() {
        bail!("there is no value: write it to standard input, or to the prompt of a terminal");
    }
    if text.len() > VALUE_BYTES_MAX {
        bail!("the value is longer than {VALUE_BYTES_MAX} bytes");
    }
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!(
            "the value holds spaces, line breaks or characters beyond ASCII, which no provider's key has: give the \
             key alone"
        );
    }
    Ok(value)
}

fn table(secrets: &[SecretInfo]) -> String {
    let heading = ["NAME", "VERSION", "MASTER KEY", "CREATED", "VALUE SET"];
    let mut rows = vec![heading.map(str::to_owned)];
    rows.extend(secrets.iter().map(|secret| {
        [
            secret.name.to_string(),
            secret.version.to_string(),
            secret.master_key_id.clone(),
            instant(secret.created_at),
            instant(secret.updated_at),
        ]
    }));
    aligned(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_word_and_loses_the_white_space_around_it() {
        assert_eq!(check("sk-1\n").unwrap(), "sk-1");
        assert_eq!(check(" sk-1\r\n").unwrap(), "sk-1");
        let longest = "x".repeat(VALUE_BYTES_MAX);
        assert_eq!(check(&longest).unwrap(), longest);
        let long = "hunter2-".repeat(VALUE_BYTES_MAX);
        for bad in [
            "",
            "\n",
            "Bearer hunter2",
            "hunter2\nhunter2",
            "hunter2ä",
            &long,
        ] {
            let error = check(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
