//! All scenarios, one after the other, and the table in the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tests::harness::Stack;
use tests::load::{Quantiles, Report};

use crate::failover::{self, Failover};
use crate::log::LogReport;
use crate::process::{Installation, LogKind, MockProcess, pin};
use crate::scenarios::{self, Chat, Start, Stream};
use crate::soak::{self, Soak};
use crate::table;

/// Requests at a time in scenarios 1 and 2.
pub(crate) const CONCURRENCIES: [usize; 3] = [1, 10, 64];

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Lockgate's binary [default: `lockgate` beside this one]
    #[arg(long)]
    lockgate: Option<PathBuf>,
    /// File that the table is written to; standard output without
    #[arg(long)]
    out: Option<PathBuf>,
    /// Rounds; figures are medians over them
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds of load before each
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Seconds per number of appenders on the embedded log alone
    #[arg(long, default_value_t = 20.0)]
    log_seconds: f64,
    /// Seconds of load over which memory must not grow (scenario 9 says 3600); not run without
    #[arg(long)]
    soak_seconds: Option<f64>,
    /// Requests a second of that load
    #[arg(long, default_value_t = 1000.0)]
    soak_rate: f64,
    /// Folder for data, on the disk that is to be measured
    #[arg(long, default_value = "data/bench")]
    work_dir: PathBuf,
    /// Kafka's brokers; the scenarios on Kafka are left out without
    #[arg(long = "kafka", env = "LOCKGATE_TEST_KAFKA_BROKERS")]
    kafka: Option<String>,
    /// Schema registry, for Kafka
    #[arg(long, env = "LOCKGATE_TEST_REGISTRY_URL")]
    registry: Option<String>,
    /// Store, for Kafka: an empty PostgreSQL database; SQLite without
    #[arg(long)]
    store: Option<String>,
    /// Process of a broker on this machine, to be pinned to the load's core
    #[arg(long, env = "LOCKGATE_STACK_KAFKA_PID")]
    kafka_pid: Option<u32>,
    /// Do not pin processes to cores
    #[arg(long)]
    no_pin: bool,
    /// Leave out the start on a log of 1 GB
    #[arg(long)]
    no_full_log: bool,
}

/// What every scenario is told.
#[derive(Debug)]
pub(crate) struct Setting {
    binary: PathBuf,
    pub(crate) work_dir: PathBuf,
    pub(crate) upstream: SocketAddr,
    pub(crate) lockgate_core: Option<usize>,
    pub(crate) rounds: usize,
    pub(crate) measured: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) log_measured: Duration,
}

impl Setting {
    pub(crate) async fn install(
        &self,
        log: &LogKind,
        bodies: &str,
    ) -> anyhow::Result<Installation> {
        Installation::new(&self.binary, &self.work_dir, log, self.upstream, bodies).await
    }
}

/// What is measured: the mock itself, or Lockgate on one of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Direct,
    Embedded,
    Kafka,
}

impl Subject {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Embedded => "embedded log",
            Self::Kafka => "Kafka",
        }
    }
}

/// Everything that was measured, and what was not.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// Checked out when the run began: an hour later it may be another.
    pub(crate) commit: String,
    /// One entry per round.
    pub(crate) chat: BTreeMap<(Subject, usize), Vec<Chat>>,
    pub(crate) streams: BTreeMap<Subject, Vec<Stream>>,
    pub(crate) failover: BTreeMap<Subject, Vec<Failover>>,
    pub(crate) echo: BTreeMap<usize, Vec<Report>>,
    pub(crate) idle_mib: BTreeMap<Subject, Vec<f64>>,
    /// Role, alone in its process on Kafka.
    pub(crate) idle_roles_mib: Vec<(&'static str, f64)>,
    pub(crate) starts: Vec<(Subject, Start)>,
    pub(crate) soak: Option<Soak>,
    pub(crate) log_alone: Option<LogReport>,
    /// Syncs of 4 KiB on the disk of the data.
    pub(crate) disk_sync: Option<Quantiles>,
    /// Scenario and reason.
    pub(crate) not_run: Vec<(String, String)>,
}

impl Results {
    fn not_run(&mut self, scenario: impl Into<String>, reason: impl Into<String>) {
        let (scenario, reason) = (scenario.into(), reason.into());
        // A scenario that fails in every round is told once.
        if self.not_run.iter().all(|(known, _)| *known != scenario) {
            self.not_run.push((scenario, reason));
        }
    }
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut results = Results {
        commit: table::commit(),
        ..Results::default()
    };
    let cores = std::thread::available_parallelism()?.get();
    let pinned = !arguments.no_pin && cores >= 2;
    if pinned {
        pin(std::process::id(), 0).await?;
        if let Some(pid) = arguments.kafka_pid {
            pin(pid, 0).await?;
        }
    } else {
        results.not_run("Pinning to cores", format!("{cores} cores, or `--no-pin`"));
    }
    let mock = MockProcess::start(pinned.then_some(0)).await?;
    let binary = match &arguments.lockgate {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("lockgate"),
    };
    let setting = Setting {
        binary,
        work_dir: std::path::absolute(&arguments.work_dir)?,
        upstream: mock.addr,
        lockgate_core: pinned.then_some(1),
        rounds: arguments.rounds,
        measured: Duration::from_secs_f64(arguments.seconds),
        warm_up: Duration::from_secs_f64(arguments.warm_up),
        log_measured: Duration::from_secs_f64(arguments.log_seconds),
    };

    match scenarios::disk_sync(&setting.work_dir) {
        Ok(sync) => results.disk_sync = Some(sync),
        Err(error) => results.not_run("Sync of the disk", format!("{error:#}")),
    }

    let mut subjects = vec![(Subject::Embedded, LogKind::Embedded)];
    match &arguments.kafka {
        Some(brokers) => subjects.push((
            Subject::Kafka,
            LogKind::Kafka {
                brokers: brokers.clone(),
                registry: arguments.registry.clone(),
                store: arguments.store.clone(),
            },
        )),
        None => results.not_run("Everything on Kafka", "no `--kafka BROKERS`"),
    }

    // A round that does not count: the broker's virtual machine compiles what is called often only after some 10,000 calls, and
    // on the one core that it shares here a cold broker takes several times as long.
    for (_, log) in subjects
        .iter()
        .filter(|(subject, _)| *subject == Subject::Kafka)
    {
        let cold = round(
            &setting,
            Some((Subject::Kafka, log)),
            &mut Results::default(),
        )
        .await;
        if let Err(error) = cold {
            results.not_run("Warm-up of the broker", format!("{error:#}"));
        }
    }
    for _ in 0..setting.rounds {
        if let Err(error) = round(&setting, None, &mut results).await {
            results.not_run("1–3 direct", format!("{error:#}"));
        }
        for (subject, log) in &subjects {
            if let Err(error) = round(&setting, Some((*subject, log)), &mut results).await {
                let scenario = format!("1–3, 9, failover on {}", subject.name());
                results.not_run(scenario, format!("{error:#}"));
            }
        }
        if let Some(brokers) = &arguments.kafka {
            for concurrency in CONCURRENCIES {
                match scenarios::echo(&setting, brokers, concurrency).await {
                    Ok(report) => results.echo.entry(concurrency).or_default().push(report),
                    Err(error) => results.not_run("Echo on Kafka", format!("{error:#}")),
                }
            }
        }
    }
    for (subject, log) in &subjects {
        starts(&setting, *subject, log, arguments.no_full_log, &mut results).await;
    }
    match idle_roles(&setting, &arguments).await {
        Ok(idle) => results.idle_roles_mib = idle,
        Err(error) => results.not_run("9 by role", format!("{error:#}")),
    }
    match arguments.soak_seconds {
        Some(seconds) => match soak::measure(
            &setting,
            arguments.soak_rate,
            Duration::from_secs_f64(seconds),
        )
        .await
        {
            Ok(soak) => results.soak = Some(soak),
            Err(error) => results.not_run("9 under long load", format!("{error:#}")),
        },
        None => results.not_run("9 under long load", "no `--soak-seconds`"),
    }
    match scenarios::log_alone(&setting).await {
        Ok(report) => results.log_alone = Some(report),
        Err(error) => results.not_run("11 embedded log alone", format!("{error:#}")),
    }

    let text = table::render(&setting, &results);
    match &arguments.out {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        }
        None => Ok(std::io::Write::write_all(
            &mut std::io::stdout(),
            text.as_bytes(),
        )?),
    }
}

/// The idle memory of each role on Kafka, whose store several processes can use.
async fn idle_roles(
    setting: &Setting,
    arguments: &Arguments,
) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let brokers = arguments.kafka.clone().context("no `--kafka BROKERS`")?;
    let stack = Stack::find().context("no stack that could make a database")?;
    let store = stack.new_database(&format!("bench_{}", uuid::Uuid::new_v4().simple()))?;
    let log = LogKind::Kafka {
        brokers,
        registry: arguments.registry.clone(),
        store: Some(store),
    };
    let installation = setting.install(&log, "full").await?;
    let running = installation.start_roles(setting.lockgate_core).await?;
    let idle = scenarios::idle(&running).await?;
    let roles = running.iter().map(|process| process.role);
    let idle = roles.zip(idle).collect();
    for process in running {
        process.stop().await?;
    }
    Ok(idle)
}

/// Scenarios 1, 2, 3, the memory of 9 and failover, once.
async fn round(
    setting: &Setting,
    through: Option<(Subject, &LogKind)>,
    results: &mut Results,
) -> anyhow::Result<()> {
    let Some((subject, log)) = through else {
        for concurrency in CONCURRENCIES {
            let chat = scenarios::chat(setting, None, concurrency).await?;
            let key = (Subject::Direct, concurrency);
            results.chat.entry(key).or_default().push(chat);
        }
        let stream = scenarios::stream(setting, None).await?;
        results
            .streams
            .entry(Subject::Direct)
            .or_default()
            .push(stream);
        return Ok(());
    };
    let installation = setting.install(log, "full").await?;
    let running = installation.start(setting.lockgate_core).await?;
    let idle = scenarios::idle(std::slice::from_ref(&running)).await?;
    results.idle_mib.entry(subject).or_default().extend(idle);
    let lockgate = Some((&installation, &running));
    for concurrency in CONCURRENCIES {
        let chat = scenarios::chat(setting, lockgate, concurrency).await?;
        let key = (subject, concurrency);
        results.chat.entry(key).or_default().push(chat);
    }
    let stream = scenarios::stream(setting, lockgate).await?;
    results.streams.entry(subject).or_default().push(stream);
    let failover = failover::measure(setting, &installation).await?;
    results.failover.entry(subject).or_default().push(failover);
    running.stop().await
}

async fn starts(
    setting: &Setting,
    subject: Subject,
    log: &LogKind,
    no_full_log: bool,
    results: &mut Results,
) {
    match scenarios::start_empty(setting, log).await {
        Ok(start) => results.starts.push((subject, start)),
        Err(error) => results.not_run(
            format!("10 empty, on {}", subject.name()),
            format!("{error:#}"),
        ),
    }
    if subject != Subject::Embedded {
        return;
    }
    if no_full_log {
        results.not_run("10 on a log of 1 GB", "`--no-full-log`");
        return;
    }
    match scenarios::start_full(setting, log).await {
        Ok(starts) => results
            .starts
            .extend(starts.into_iter().map(|start| (subject, start))),
        Err(error) => results.not_run("10 on a log of 1 GB", format!("{error:#}")),
    }
}
