//! The scenarios, each from a ready system to its figures.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rand::RngExt as _;
use tests::load::{self, Quantiles, Report, Span, StreamReport, Streams, Target, Times};

use crate::log::LogReport;
use crate::process::{Installation, LogKind, Running, last_lines, pinned};
use crate::run::Setting;

/// The model of every scenario but failover.
pub(crate) const MODEL: &str = "bench";
/// Streams at a time, tokens of each, and the time between two (scenario 3).
const STREAMS: usize = 16;
const STREAM_TOKENS: u64 = 64;
const STREAM_PROMPT: &str = "mock:tokens=64,delay=20ms,stamp";
const STREAM_LASTS: Duration = Duration::from_millis(64 * 20);
/// What an instant answer is asked for with.
pub(crate) const CHAT_PROMPT: &str = "Say hello mock:tokens=8";
/// Quiet before idle memory is read.
const IDLE_AFTER: Duration = Duration::from_secs(5);
/// Syncs measured on the bare disk.
const DISK_SYNCS: usize = 500;
/// Size of the log that scenario 10 starts on.
const FULL_LOG_BYTES: u64 = 1 << 30;
/// Longest time to fill it.
const FILL_MAX: Duration = Duration::from_secs(600);
/// Prompt that fills it: below the bound of the claim check.
const FILL_PROMPT_BYTES: usize = 128 * 1024;

/// Whole answers at one concurrency, and what they cost Lockgate.
#[derive(Debug, Clone)]
pub(crate) struct Chat {
    pub(crate) report: Report,
    pub(crate) cost: Option<Cost>,
}

/// Streams, and what they cost Lockgate.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) report: StreamReport,
    pub(crate) cost: Option<Cost>,
}

/// What a measurement cost Lockgate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// CPU time of one answer, or of one token of a stream, in microseconds.
    pub(crate) cpu_us: f64,
    /// Proportional set size at the end, in MiB.
    pub(crate) pss_mib: f64,
}

/// Starts of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) on: String,
    /// From exec to the first good answer.
    pub(crate) first_answers: Vec<Duration>,
}

/// Where load goes: straight to the mock, or through Lockgate.
pub(crate) fn target(
    setting: &Setting,
    through: Option<&Installation>,
    model: &str,
    prompt: &str,
    stream: bool,
) -> Target {
    match through {
        None => Target::chat(setting.upstream, model, prompt, stream),
        Some(installation) => {
            Target::chat(installation.addr, model, prompt, stream).with_key(&installation.key)
        }
    }
}

/// Scenarios 1 and 2.
pub(crate) async fn chat(
    setting: &Setting,
    through: Option<(&Installation, &Running)>,
    concurrency: usize,
) -> anyhow::Result<Chat> {
    let installation = through.map(|(installation, _)| installation);
    let target = target(setting, installation, MODEL, CHAT_PROMPT, false);
    load::closed_loop(&target, concurrency, at_once(setting.warm_up)).await?;
    let before = cpu(through)?;
    let report = load::closed_loop(&target, concurrency, at_once(setting.measured)).await?;
    let cost = cost(through, before, report.latency.count)?;
    Ok(Chat { report, cost })
}

/// Scenario 3.
pub(crate) async fn stream(
    setting: &Setting,
    through: Option<(&Installation, &Running)>,
) -> anyhow::Result<Stream> {
    let installation = through.map(|(installation, _)| installation);
    let target = target(setting, installation, MODEL, STREAM_PROMPT, true);
    let streams = Streams {
        concurrency: STREAMS,
        tokens: STREAM_TOKENS,
        spread: STREAM_LASTS,
    };
    load::streams(&target, streams, at_once(setting.warm_up)).await?;
    let before = cpu(through)?;
    let report = load::streams(&target, streams, at_once(setting.measured)).await?;
    let cost = cost(through, before, report.tokens)?;
    Ok(Stream { report, cost })
}

/// Scenario 9, before any load: memory of each process of a Lockgate that has answered once.
pub(crate) async fn idle(running: &[Running]) -> anyhow::Result<Vec<f64>> {
    tokio::time::sleep(IDLE_AFTER).await;
    running.iter().map(Running::pss_mib).collect()
}

/// Scenario 10 on an empty log.
pub(crate) async fn start_empty(setting: &Setting, log: &LogKind) -> anyhow::Result<Start> {
    let mut first_answers = Vec::new();
    for _ in 0..setting.rounds {
        let installation = setting.install(log, "full").await?;
        let running = installation.start(setting.lockgate_core).await?;
        first_answers.push(running.first_answer);
        running.stop().await?;
    }
    let on = "an empty log".into();
    Ok(Start { on, first_answers })
}

/// Scenario 10 on a log of 1 GB, after an orderly end and after `kill -9`.
pub(crate) async fn start_full(setting: &Setting, log: &LogKind) -> anyhow::Result<Vec<Start>> {
    let installation = setting.install(log, "metadata").await?;
    let mut running = installation.start(setting.lockgate_core).await?;
    fill(setting, &installation).await?;
    let (mut ended, mut killed) = (Vec::new(), Vec::new());
    for _ in 0..setting.rounds {
        running.stop().await?;
        running = installation.start(setting.lockgate_core).await?;
        ended.push(running.first_answer);
        running.kill().await?;
        running = installation.start(setting.lockgate_core).await?;
        killed.push(running.first_answer);
    }
    running.stop().await?;
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let gib = installation.data_bytes() as f64 / f64::from(1 << 30);
    Ok(vec![
        Start {
            on: format!("{gib:.1} GiB of data, ended in good order"),
            first_answers: ended,
        },
        Start {
            on: format!("{gib:.1} GiB of data, after `kill -9`"),
            first_answers: killed,
        },
    ])
}

async fn fill(setting: &Setting, installation: &Installation) -> anyhow::Result<()> {
    let mut random = rand::rng();
    let noise: String = (0..FILL_PROMPT_BYTES)
        .map(|_| char::from(random.sample(rand::distr::Alphanumeric)))
        .collect();
    let target = target(setting, Some(installation), MODEL, &noise, false);
    let begun = Instant::now();
    while installation.data_bytes() < FULL_LOG_BYTES {
        let report = load::closed_loop(&target, 10, at_once(Duration::from_secs(2))).await?;
        ensure!(
            report.latency.count > 0,
            "no answer while the log was filled: {:?}",
            report.errors
        );
        ensure!(
            begun.elapsed() < FILL_MAX,
            "the log has {} bytes after {FILL_MAX:?}",
            installation.data_bytes()
        );
    }
    Ok(())
}

/// The two hops on Kafka that scenario 1 is compared with, on Lockgate's core.
pub(crate) async fn echo(
    setting: &Setting,
    brokers: &str,
    concurrency: usize,
) -> anyhow::Result<Report> {
    let arguments = [
        "echo".into(),
        format!("--brokers={brokers}"),
        format!("--concurrency={concurrency}"),
        format!("--seconds={}", setting.measured.as_secs_f64()),
        format!("--warm-up={}", setting.warm_up.as_secs_f64()),
    ];
    in_own_process(setting, &arguments).await
}

/// Scenario 11, on Lockgate's core.
pub(crate) async fn log_alone(setting: &Setting) -> anyhow::Result<LogReport> {
    std::fs::create_dir_all(&setting.work_dir)?;
    let folder = tempfile::Builder::new()
        .prefix("bench-log-")
        .tempdir_in(&setting.work_dir)?;
    let folder: &Path = folder.path();
    let arguments = [
        "log".into(),
        format!("--folder={}", folder.display()),
        format!("--seconds={}", setting.log_measured.as_secs_f64()),
    ];
    in_own_process(setting, &arguments).await
}

/// What the disk itself takes: `fdatasync` after each of a row of 4 KiB writes.
pub(crate) fn disk_sync(folder: &Path) -> anyhow::Result<Quantiles> {
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::tempfile_in(folder)?;
    let mut times = Times::new();
    for _ in 0..DISK_SYNCS {
        let begun = Instant::now();
        file.write_all(&[b'x'; 4096])?;
        file.sync_data()?;
        times.record(begun.elapsed());
    }
    Ok(times.quantiles())
}

async fn in_own_process<T: serde::de::DeserializeOwned>(
    setting: &Setting,
    arguments: &[String],
) -> anyhow::Result<T> {
    let output = pinned(&std::env::current_exe()?, setting.lockgate_core)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ended with {}: {}",
        output.status,
        last_lines(&errors)
    );
    serde_json::from_slice(&output.stdout).context("unreadable result")
}

pub(crate) fn at_once(measured: Duration) -> Span {
    Span {
        warm_up: Duration::ZERO,
        measured,
    }
}

fn cpu(through: Option<(&Installation, &Running)>) -> anyhow::Result<f64> {
    through.map_or(Ok(0.0), |(_, running)| running.cpu_seconds())
}

fn cost(
    through: Option<(&Installation, &Running)>,
    before: f64,
    count: u64,
) -> anyhow::Result<Option<Cost>> {
    let Some((_, running)) = through else {
        return Ok(None);
    };
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 53 bits")]
    let count = if count == 0 { f64::NAN } else { count as f64 };
    Ok(Some(Cost {
        cpu_us: (running.cpu_seconds()? - before) * 1e6 / count,
        pss_mib: running.pss_mib()?,
    }))
}

/// The quantiles as milliseconds: p50, p99. Not a number when there was no sample, which the table
/// shows as missing.
pub(crate) fn millis(quantiles: &Quantiles) -> (f64, f64) {
    if quantiles.count == 0 {
        return (f64::NAN, f64::NAN);
    }
    (quantiles.p50_us / 1_000.0, quantiles.p99_us / 1_000.0)
}
