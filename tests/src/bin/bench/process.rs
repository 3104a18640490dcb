//! The processes that are measured: the mock upstream, and Lockgate in an installation of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::failover;
use crate::scenarios::MODEL;

/// Clock ticks per second in `/proc/PID/stat`: a constant of Linux's interface (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;
/// Longest wait for a first answer.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest wait for an end after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(35);

/// A command, pinned to a core when one is given.
pub(crate) fn pinned(program: &Path, core: Option<usize>) -> Command {
    let mut command = match core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.arg("-c").arg(core.to_string()).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.kill_on_drop(true);
    command
}

/// Pins every thread of a running process to a core.
pub(crate) async fn pin(pid: u32, core: usize) -> anyhow::Result<()> {
    let output = Command::new("taskset")
        .args(["-acp", &core.to_string(), &pid.to_string()])
        .output()
        .await
        .context("taskset")?;
    ensure!(
        output.status.success(),
        "cannot pin process {pid} to core {core}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The mock upstream as a process of its own.
#[derive(Debug)]
pub(crate) struct MockProcess {
    pub(crate) addr: SocketAddr,
    _child: Child,
}

impl MockProcess {
    /// Starts it; it remembers no calls.
    pub(crate) async fn start(core: Option<usize>) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = pinned(&program, core)
            .args(["mock", "--calls-max", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the mock")?;
        let stdout = child.stdout.take().context("the mock has no output")?;
        let line = BufReader::new(stdout).lines().next_line().await?;
        let addr = line.context("the mock ended")?.parse()?;
        Ok(Self {
            addr,
            _child: child,
        })
    }
}

/// Which log an installation runs on.
#[derive(Debug, Clone)]
pub(crate) enum LogKind {
    /// The embedded one.
    Embedded,
    /// Kafka with its schema registry.
    Kafka {
        brokers: String,
        registry: Option<String>,
        /// PostgreSQL; SQLite without.
        store: Option<String>,
    },
}

/// A configuration, a folder for its data and an API key.
#[derive(Debug)]
pub(crate) struct Installation {
    binary: PathBuf,
    folder: TempDir,
    config: PathBuf,
    pub(crate) addr: SocketAddr,
    pub(crate) key: String,
}

impl Installation {
    /// Writes the configuration and creates the key.
    pub(crate) async fn new(
        binary: &Path,
        work_dir: &Path,
        log: &LogKind,
        upstream: SocketAddr,
        bodies: &str,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(work_dir)?;
        let folder = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(work_dir)?;
        let addr = free_addr()?;
        let config = folder.path().join("lockgate.yaml");
        let data_dir = folder.path().join("data");
        std::fs::write(&config, render(addr, &data_dir, log, upstream, bodies))?;
        let mut installation = Self {
            binary: binary.into(),
            folder,
            config,
            addr,
            key: String::new(),
        };
        installation.key = installation.create_key().await?;
        Ok(installation)
    }

    async fn create_key(&self) -> anyhow::Result<String> {
        let output = Command::new(&self.binary)
            .args(["keys", "create", "--name", "bench", "--tenant", "bench"])
            .args(["--role", "member", "--config"])
            .arg(&self.config)
            .output()
            .await
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        ensure!(
            output.status.success(),
            "`lockgate keys create` ended with {}: {}",
            output.status,
            last_lines(&String::from_utf8_lossy(&output.stderr))
        );
        let key = String::from_utf8(output.stdout)?.trim().to_owned();
        ensure!(
            key.starts_with("lg_"),
            "`lockgate keys create` printed no key"
        );
        Ok(key)
    }

    /// Bytes of all files under the data folder.
    pub(crate) fn data_bytes(&self) -> u64 {
        bytes_under(&self.folder.path().join("data"))
    }

    /// Starts all roles in one process and waits for the first good answer.
    pub(crate) async fn start(&self, core: Option<usize>) -> anyhow::Result<Running> {
        let begun = Instant::now();
        let mut running = self.spawn("serve", core)?;
        self.answers(std::slice::from_mut(&mut running)).await?;
        running.first_answer = begun.elapsed();
        Ok(running)
    }

    /// Starts each role in a process of its own and waits for the first good answer.
    pub(crate) async fn start_roles(&self, core: Option<usize>) -> anyhow::Result<Vec<Running>> {
        let roles = ["ingress", "processors", "sinks"].into_iter();
        let running: anyhow::Result<Vec<Running>> =
            roles.map(|role| self.spawn(role, core)).collect();
        let mut running = running?;
        self.answers(&mut running).await?;
        Ok(running)
    }

    fn spawn(&self, role: &'static str, core: Option<usize>) -> anyhow::Result<Running> {
        let output = std::fs::File::create(self.output_of(role))?;
        let child = pinned(&self.binary, core)
            .arg(role)
            .arg("--config")
            .arg(&self.config)
            .env("LOCKGATE__TELEMETRY__LISTEN", free_addr()?.to_string())
            .env("BENCH_UPSTREAM_KEY", "sk-bench")
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start lockgate")?;
        let pid = child.id().context("lockgate ended at once")?;
        Ok(Running {
            role,
            child,
            pid,
            first_answer: Duration::ZERO,
        })
    }

    /// Waits for a good answer of these processes together.
    async fn answers(&self, processes: &mut [Running]) -> anyhow::Result<()> {
        let begun = Instant::now();
        let client = reqwest::Client::builder()
            .tcp_nodelay(true)
            .timeout(Duration::from_secs(5))
            .build()?;
        let url = format!("http://{}/v1/chat/completions", self.addr);
        let body = r#"{"model":"bench","messages":[{"role":"user","content":"mock:tokens=1"}]}"#;
        loop {
            let request = client
                .post(&url)
                .bearer_auth(&self.key)
                .header("content-type", "application/json")
                .body(body);
            let last = match request.send().await {
                Ok(response) if response.status().is_success() => {
                    return Ok(());
                }
                Ok(response) => format!("status {}", response.status()),
                Err(error) => error.to_string(),
            };
            for process in &mut *processes {
                if let Some(status) = process.child.try_wait()? {
                    let output = self.output(process.role);
                    bail!("lockgate {} ended with {status}: {output}", process.role);
                }
            }
            if begun.elapsed() > START_MAX {
                let outputs = processes.iter().map(|process| self.output(process.role));
                bail!(
                    "no good answer within {START_MAX:?}, the last was: {last}; {}",
                    outputs.collect::<Vec<_>>().join("; ")
                );
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn output_of(&self, role: &str) -> PathBuf {
        self.folder.path().join(format!("{role}.log"))
    }

    fn output(&self, role: &str) -> String {
        let log = std::fs::read_to_string(self.output_of(role));
        last_lines(&log.unwrap_or_default())
    }
}

/// Lockgate at work.
#[derive(Debug)]
pub(crate) struct Running {
    /// The command that it runs.
    pub(crate) role: &'static str,
    child: Child,
    pid: u32,
    /// From exec to the first good answer.
    pub(crate) first_answer: Duration,
}

impl Running {
    /// CPU time of all its threads so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The name of the program, in parentheses, may hold anything; fields count from after it.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        let mut fields = fields.split_whitespace().skip(11);
        let user: f64 = fields.next().context("utime")?.parse()?;
        let system: f64 = fields.next().context("stime")?.parse()?;
        Ok((user + system) / TICKS_PER_SECOND)
    }

    /// Proportional set size, in MiB.
    pub(crate) fn pss_mib(&self) -> anyhow::Result<f64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = line.context("smaps_rollup has no Pss")?.trim();
        let kib: f64 = kib.trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let asked = Command::new("kill")
            .args(["-TERM", &self.pid.to_string()])
            .status()
            .await?;
        ensure!(asked.success(), "lockgate was gone before it was stopped");
        let ended = tokio::time::timeout(STOP_MAX, self.child.wait()).await;
        let status = ended.context("lockgate does not end")??;
        ensure!(status.success(), "lockgate ended with {status}");
        Ok(())
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}

fn render(
    addr: SocketAddr,
    data_dir: &Path,
    log: &LogKind,
    upstream: SocketAddr,
    bodies: &str,
) -> String {
    // JSON is YAML, and needs no care for quotes.
    let (log, registry, store) = match log {
        LogKind::Embedded => (json!({ "kind": "embedded" }), None, None),
        LogKind::Kafka {
            brokers,
            registry,
            store,
        } => {
            let names = schemas::topic::ALL.iter().map(|topic| {
                let partitions = topic.partitions_kafka.min(4);
                (topic.name.to_owned(), partitions.into())
            });
            let partitions: serde_json::Map<String, Value> = names.collect();
            let log = json!({
                "kind": "kafka",
                "brokers": brokers.split(',').collect::<Vec<_>>(),
                "topic_prefix": format!("bench-{}.", uuid::Uuid::new_v4().simple()),
                "replication": 1,
                "partitions": partitions,
            });
            (log, registry.clone(), store.clone())
        }
    };
    let config = json!({
        "server": { "listen": addr },
        "data_dir": data_dir,
        "log": log,
        "schema_registry": { "url": registry },
        "store": { "url": store },
        "objects": { "shared": true },
        "results": { "bodies": bodies },
        "providers": [
            provider("mock", format!("http://{upstream}/v1")),
            // What a path says to the mock counts more than what the prompt says.
            provider("spare", format!("http://{upstream}/mock:ok/v1")),
        ],
        "models": [
            model(MODEL, &[("mock", "mock")]),
            {
                "name": failover::IN_TIERS,
                "strategy": "priority",
                "deployments": [
                    { "provider": "mock", "model": "first", "tier": 1 },
                    { "provider": "spare", "model": "second", "tier": 2 },
                ],
            },
            model(failover::GOOD, &[("mock", "a"), ("mock", "b"), ("mock", "c")]),
            model(failover::FAILING, &[("mock", "a"), ("mock", "b"), ("mock", "mock:status=500")]),
        ],
    });
    format!("{config:#}\n")
}

fn provider(name: &str, base_url: String) -> Value {
    json!({
        "name": name,
        "kind": "openai",
        "base_url": base_url,
        "keys": [{ "env": "BENCH_UPSTREAM_KEY" }],
    })
}

/// A model over these deployments, each a provider's name and its model.
fn model(name: &str, deployments: &[(&str, &str)]) -> Value {
    let deployments = deployments.iter();
    let deployments =
        deployments.map(|(provider, model)| json!({ "provider": provider, "model": model }));
    json!({ "name": name, "deployments": deployments.collect::<Vec<_>>() })
}

/// An address that was free a moment ago.
fn free_addr() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn bytes_under(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
            Ok(metadata) => metadata.len(),
            // Deleted since it was listed.
            Err(_) => 0,
        })
        .sum()
}

/// The end of an output, on one line, without a backtrace.
pub(crate) fn last_lines(output: &str) -> String {
    let before_trace = output.split("stack backtrace:").next().unwrap_or_default();
    let told = before_trace.lines().filter(|line| !line.trim().is_empty());
    let lines: Vec<&str> = told.rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_output_is_one_line_without_a_backtrace() {
        assert_eq!(last_lines("a\nb\n\nc\nd\n"), "b / c / d");
        assert_eq!(
            last_lines("oh\nstack backtrace:\n 0: x\n 1: y\n 2: z"),
            "oh"
        );
        assert_eq!(last_lines(""), "");
    }

    #[test]
    fn the_configuration_names_the_log_and_the_upstream() {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        let log = LogKind::Kafka {
            brokers: "a:1,b:2".into(),
            registry: Some("http://r".into()),
            store: None,
        };
        let text = render(addr, Path::new("/d"), &log, addr, "full");
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["log"]["brokers"][1], "b:2");
        assert_eq!(config["log"]["partitions"]["responses"], 4);
        assert_eq!(config["log"]["partitions"]["control"], 1);
        assert_eq!(config["schema_registry"]["url"], "http://r");
        assert_eq!(
            config["providers"][0]["base_url"],
            "http://127.0.0.1:8080/v1"
        );
    }
}
