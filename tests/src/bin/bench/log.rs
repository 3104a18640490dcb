//! The embedded log alone: durable appends at several widths, and how soon a waiting reader wakes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use rand::Rng as _;
use runtime::log::{Durability, Log, Place, Record, Settings, embedded};
use serde::{Deserialize, Serialize};
use tests::load::{Errors, Quantiles, Report, Times};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Size of the value of each record.
const VALUE_BYTES: usize = 1024;
/// Values told apart, so that compression finds nothing to save.
const VALUES: usize = 512;
/// Appends whose reader is watched.
const WAKES: usize = 2_000;
/// Appenders at a time.
pub(crate) const WIDTHS: [usize; 3] = [1, 10, 64];
/// Most bytes that the log may keep.
const LOG_BYTES_MAX: u64 = 64 << 30;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder of the log; made when missing
    #[arg(long)]
    folder: PathBuf,
    /// Seconds measured per number of appenders
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
}

/// What was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct LogReport {
    /// Durable appends of 1 KiB, by number of appenders.
    pub(crate) appends: BTreeMap<usize, Report>,
    /// From the end of a durable append to the wake-up of a reader that waited for it.
    pub(crate) wake: Quantiles,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(measure(arguments))
}

async fn measure(arguments: Arguments) -> anyhow::Result<()> {
    let log = Log::open(&Settings::Embedded(embedded::Settings {
        folder: arguments.folder,
        bytes_max: LOG_BYTES_MAX,
    }))
    .await?;
    log.ensure_topics(&schemas::topic::ALL).await?;
    let values = values();
    let mut report = LogReport {
        wake: wake(&log, &values).await?,
        ..LogReport::default()
    };
    let seconds = Duration::from_secs_f64(arguments.seconds);
    for width in WIDTHS {
        report
            .appends
            .insert(width, appends(&log, &values, width, seconds).await?);
    }
    log.close(Duration::from_secs(10)).await;
    crate::print(&report)
}

fn values() -> Vec<Bytes> {
    let mut random = rand::rng();
    let mut values = Vec::with_capacity(VALUES);
    for _ in 0..VALUES {
        let mut value = vec![0; VALUE_BYTES];
        random.fill_bytes(&mut value);
        values.push(value.into());
    }
    values
}

fn record(number: usize, values: &[Bytes]) -> Record {
    Record {
        key: Bytes::copy_from_slice(&number.to_le_bytes()),
        headers: Vec::new(),
        value: values[number % values.len()].clone(),
    }
}

async fn appends(
    log: &Log,
    values: &[Bytes],
    width: usize,
    measured: Duration,
) -> anyhow::Result<Report> {
    let tasks = TaskTracker::new();
    let begin = Instant::now();
    let end = begin + measured;
    let mut appenders = Vec::with_capacity(width);
    for appender in 0..width {
        let (log, values) = (log.clone(), values.to_vec());
        appenders.push(tasks.spawn(async move {
            let (mut times, mut errors) = (Times::new(), Errors::new());
            let mut number = appender;
            while Instant::now() < end {
                let sent = Instant::now();
                let appended = log
                    .append(
                        schemas::topic::RESPONSES,
                        Place::ByKey,
                        record(number, &values),
                        Durability::Durable,
                    )
                    .await;
                match appended {
                    Ok(_) => times.record(sent.elapsed()),
                    Err(error) => *errors.entry(error.to_string()).or_default() += 1,
                }
                number += width;
            }
            (times, errors)
        }));
    }
    let (mut times, mut errors) = (Times::new(), Errors::new());
    for appender in appenders {
        let (of_one, errors_of_one) = appender.await?;
        times.merge(&of_one);
        for (name, count) in errors_of_one {
            *errors.entry(name).or_default() += count;
        }
    }
    let latency = times.quantiles();
    let seconds = begin.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 53 bits")]
    let per_second = latency.count as f64 / seconds;
    Ok(Report {
        per_second,
        latency,
        errors,
        seconds,
    })
}

async fn wake(log: &Log, values: &[Bytes]) -> anyhow::Result<Quantiles> {
    let topic = schemas::topic::RESPONSES;
    let high = log.watermarks(topic, 0).await?.high;
    let mut tail = log.tail(topic, 0, high).await?;
    let (woke, mut wakes) = mpsc::channel(1);
    let tasks = TaskTracker::new();
    let reader = tasks.spawn(async move {
        for _ in 0..WAKES {
            tail.recv().await?;
            if woke.send(Instant::now()).await.is_err() {
                break;
            }
        }
        anyhow::Ok(())
    });
    let mut times = Times::new();
    for number in 0..WAKES {
        let place = Place::Partition(0);
        log.append(topic, place, record(number, values), Durability::Durable)
            .await?;
        let durable = Instant::now();
        let woke = wakes.recv().await.context("the reader ended early")?;
        times.record(woke.saturating_duration_since(durable));
    }
    reader.await??;
    Ok(times.quantiles())
}
