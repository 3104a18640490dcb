//! What the commands share that work on the store itself.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use runtime::config::Config;
use runtime::store::Store;
use schemas::time::Timestamp;

use crate::configuration::Source;
use crate::connect::make_data_dir;

/// Opens the configured store for one piece of work.
pub(crate) fn on_store<T>(
    source: &Source,
    work: impl AsyncFnOnce(&Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    on_store_of(&source.load(None)?, work)
}

/// As [`on_store`], where the configuration was read already.
pub(crate) fn on_store_of<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    if config.store.url.is_none() {
        make_data_dir(&config.data_dir)?;
    }
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio.block_on(async {
        let store = Store::open(&config.store, &config.data_dir)
            .await
            .context("cannot open the store")?;
        work(&store).await
    })
}

/// To the second, UTC.
pub(crate) fn instant(at: Timestamp) -> String {
    let since_epoch = Duration::from_micros(u64::try_from(at.0).unwrap_or(0));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_epoch).to_string()
}

/// Rows as lines whose columns line up.
pub(crate) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
