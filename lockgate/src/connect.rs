//! Opening what the roles share. What is down at the start is waited for, with a message.

use std::fs::DirBuilder;
use std::future::Future;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use runtime::codec::{self, Codec, CodecError};
use runtime::config::{self, Config};
use runtime::log::{self, Log};
use runtime::objects::Objects;
use runtime::store::Store;
use runtime::telemetry::Chain;
use schemas::topic;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Waits between tries double from here …
const WAIT_MIN: Duration = Duration::from_millis(100);
/// … to here.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Handles that all roles of a process share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) log: Log,
    pub(crate) codec: Codec,
    pub(crate) store: Store,
    pub(crate) objects: Objects,
}

/// Opens everything; none when stopped while it waited.
///
/// # Errors
/// What no waiting would mend.
pub(crate) async fn connect(
    config: &Config,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Shared>> {
    make_data_dir(&config.data_dir)?;
    let objects =
        Objects::open(&config.objects, &config.data_dir).context("cannot open object storage")?;
    let open = async { tokio::try_join!(open_log(config), open_codec(config), open_store(config)) };
    tokio::select! { biased;
        () = stop.cancelled() => Ok(None),
        opened = open => {
            let (log, codec, store) = opened?;
            Ok(Some(Shared { log, codec, store, objects }))
        }
    }
}

/// Makes the folder for this user alone: prompts and answers are in it. One that is there stays as it is.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn make_data_dir(folder: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("data_dir: cannot make {}", folder.display()))
}

async fn open_log(config: &Config) -> anyhow::Result<Log> {
    let settings = match &config.log {
        config::Log::Embedded { bytes_max } => log::Settings::Embedded(log::embedded::Settings {
            folder: config.data_dir.join("log"),
            bytes_max: bytes_max.as_u64(),
        }),
        config::Log::Kafka {
            brokers,
            topic_prefix,
            replication,
            partitions,
            properties,
        } => log::Settings::Kafka(log::kafka::Settings {
            brokers: brokers.clone(),
            topic_prefix: topic_prefix.clone(),
            replication: *replication,
            partitions: partitions.clone(),
            properties: properties
                .iter()
                .map(|(name, value)| (name.clone(), value.expose_secret().to_owned()))
                .collect(),
        }),
    };
    let log = Log::open(&settings).await.context("cannot open the log")?;
    until_up("log", log::LogError::is_retryable, async || {
        log.ensure_topics(&topic::ALL).await
    })
    .await
    .context("cannot prepare the topics")?;
    Ok(log)
}

async fn open_codec(config: &Config) -> anyhow::Result<Codec> {
    let settings = match &config.schema_registry.url {
        Some(url) => codec::Settings::Registry {
            url: url.clone(),
            register: config.schema_registry.register,
        },
        None => codec::Settings::Local(config.data_dir.join("schemas")),
    };
    let is_down = |fault: &CodecError| matches!(fault, CodecError::RegistryUnavailable { .. });
    until_up("schema registry", is_down, async || {
        Codec::connect(&settings).await
    })
    .await
    .context("cannot prepare the schemas")
}

/// The store is not in the way of traffic: while it is down the roles start with what they know without it, and it is
/// connected to when it is first needed.
async fn open_store(config: &Config) -> anyhow::Result<Store> {
    match Store::open(&config.store, &config.data_dir).await {
        Err(fault) if fault.is_retryable() => {
            warn!(
                error = %Chain(&fault),
                "store is down, starting without it"
            );
            Store::lazy(&config.store, &config.data_dir).context("cannot open the store")
        }
        opened => opened.context("cannot open the store"),
    }
}

/// Tries until it is up, or the fault is of a kind that stays.
async fn until_up<T, E, F>(
    what: &'static str,
    is_down: impl Fn(&E) -> bool,
    connect: impl Fn() -> F,
) -> Result<T, E>
where
    E: std::error::Error,
    F: Future<Output = Result<T, E>>,
{
    let mut wait = WAIT_MIN;
    loop {
        match connect().await {
            Ok(handle) => {
                if wait > WAIT_MIN {
                    info!("{what} is up");
                }
                return Ok(handle);
            }
            Err(fault) if is_down(&fault) => {
                warn!(error = %Chain(&fault), retry_in = ?wait, "{what} is down, waiting for it");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
            }
            Err(fault) => return Err(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_data_folder_is_for_its_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("made/data");
        make_data_dir(&data).unwrap();
        make_data_dir(&data).unwrap();
        let mode = std::fs::metadata(&data).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}
