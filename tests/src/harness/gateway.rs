//! One Lockgate, all roles in one process or each in its own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{Process, eventually, free_port, program};
use super::{Client, Records, Stack};
use crate::mock::Mock;

/// Which log a gateway stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// `serve`: one process, SQLite.
    Embedded,
    /// `ingress`, `processors`, `sinks`: a process each; PostgreSQL and the schema registry.
    Kafka,
}

/// A role as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleName {
    /// All of them, embedded log.
    Serve,
    /// The door.
    Ingress,
    /// The work.
    Processors,
    /// The effects.
    Sinks,
}

impl RoleName {
    fn command(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Ingress => "ingress",
            Self::Processors => "processors",
            Self::Sinks => "sinks",
        }
    }
}

/// A gateway to be started.
#[derive(Debug)]
pub struct Builder {
    config: Value,
    program: PathBuf,
    environment: Vec<(String, String)>,
    stack: Option<Stack>,
}

/// A gateway whose processes are started and stopped one by one.
#[derive(Debug)]
pub struct Gateway {
    /// Its folder: configuration, data, output of the processes.
    pub folder: TempDir,
    config: Value,
    program: PathBuf,
    environment: Vec<(String, String)>,
    processes: BTreeMap<String, Running>,
    listen: u16,
    stack: Option<Stack>,
}

#[derive(Debug)]
struct Running {
    process: Process,
    telemetry: u16,
}

impl Builder {
    /// A gateway with a model `mock` whose one deployment is `mock`, on the log `kind`; none when that needs a stack that is not there.
    ///
    /// # Errors
    /// When the binary does not build or the database cannot be made.
    pub fn new(log: LogKind, mock: &Mock) -> anyhow::Result<Option<Self>> {
        match log {
            LogKind::Embedded => Self::with(None, mock).map(Some),
            LogKind::Kafka => Stack::find()
                .map(|stack| Self::with(Some(stack), mock))
                .transpose(),
        }
    }

    /// As [`Builder::new`], on Kafka with this stack, or on the embedded log without any.
    ///
    /// # Errors
    /// When the binary does not build or the database cannot be made.
    pub fn with(stack: Option<Stack>, mock: &Mock) -> anyhow::Result<Self> {
        let mut config = json!({
            "shutdown": { "grace": "10s" },
            "providers": [
                { "name": "mock", "kind": "openai", "base_url": mock.base_url(), "keys": [] },
                { "name": "demo", "kind": "scripted", "script": [ { "model": "echo", "reply": "You said: {prompt}" } ] },
            ],
            "models": [
                { "name": "mock", "deployments": [ { "provider": "mock", "model": "gpt-4o" } ] },
                { "name": "demo", "deployments": [ { "provider": "demo", "model": "echo" } ] },
            ],
        });
        if let Some(stack) = &stack {
            let name = format!("t{}", uuid::Uuid::new_v4().simple());
            // Few partitions: a test needs no throughput, and one broker serves all tests.
            let partitions: BTreeMap<&str, i32> = schemas::topic::ALL
                .iter()
                .map(|topic| (topic.name, topic.partitions_kafka.min(2)))
                .collect();
            config["log"] = json!({
                "kind": "kafka",
                "brokers": stack.brokers.split(',').collect::<Vec<_>>(),
                "topic_prefix": format!("{name}."),
                "partitions": partitions,
                "properties": { "session.timeout.ms": "6000" },
            });
            config["schema_registry"] = json!({ "url": stack.registry });
            config["store"] = json!({ "url": stack.new_database(&name)? });
            config["objects"] = json!({ "shared": true });
        }
        Ok(Self {
            config,
            program: program(None)?,
            environment: Vec::new(),
            stack,
        })
    }

    /// Sets `value` at a path such as `server.request_timeout`.
    #[must_use]
    pub fn set(mut self, path: &str, value: Value) -> Self {
        let mut node = &mut self.config;
        for key in path.split('.') {
            node = &mut node[key];
        }
        *node = value;
        self
    }

    /// Appends `value` to the list called `list`.
    #[must_use]
    pub fn push(mut self, list: &str, value: Value) -> Self {
        if let Some(list) = self.config[list].as_array_mut() {
            list.push(value);
        }
        self
    }

    /// URL of the store, on Kafka.
    #[must_use]
    pub fn store_url(&self) -> &str {
        self.config["store"]["url"].as_str().unwrap_or_default()
    }

    /// Runs another program instead of `lockgate`.
    #[must_use]
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// Sets an environment variable of every process.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes the configuration; nothing runs yet.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn build(mut self) -> anyhow::Result<Gateway> {
        let folder = tempfile::Builder::new()
            .prefix("lockgate-test-")
            .tempdir()?;
        self.config["data_dir"] = json!(folder.path().join("data"));
        let gateway = Gateway {
            folder,
            config: self.config,
            program: self.program,
            environment: self.environment,
            processes: BTreeMap::new(),
            listen: free_port()?,
            stack: self.stack,
        };
        gateway.write_config()?;
        Ok(gateway)
    }

    /// Builds and starts every role, and waits until all are ready.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn start(self) -> anyhow::Result<Gateway> {
        let mut gateway = self.build()?;
        gateway.start_all().await?;
        Ok(gateway)
    }
}

impl Gateway {
    fn write_config(&self) -> anyhow::Result<()> {
        // JSON is YAML.
        std::fs::write(self.config_file(), serde_json::to_vec_pretty(&self.config)?)?;
        Ok(())
    }

    /// Path of the configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("lockgate.yaml")
    }

    /// The log it stands on.
    #[must_use]
    pub fn log_kind(&self) -> LogKind {
        if self.stack.is_some() {
            LogKind::Kafka
        } else {
            LogKind::Embedded
        }
    }

    /// The configuration as written.
    #[must_use]
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The stack behind it, on Kafka.
    #[must_use]
    pub fn stack(&self) -> Option<&Stack> {
        self.stack.as_ref()
    }

    /// Base URL of the API, up to and without `/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.listen)
    }

    /// The address of the API.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.listen).into()
    }

    /// The roles that make up the gateway.
    #[must_use]
    pub fn roles(&self) -> &'static [RoleName] {
        match self.log_kind() {
            LogKind::Embedded => &[RoleName::Serve],
            LogKind::Kafka => &[RoleName::Sinks, RoleName::Processors, RoleName::Ingress],
        }
    }

    /// The process that runs the processors, alone or with all else.
    #[must_use]
    pub fn processors_name(&self) -> &'static str {
        match self.log_kind() {
            LogKind::Embedded => "serve",
            LogKind::Kafka => "processors",
        }
    }

    /// Starts every role, one after the other, and waits until they are ready.
    ///
    /// # Errors
    /// When one does not become ready.
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        for role in self.roles() {
            self.launch(*role, role.command())?;
        }
        for role in self.roles() {
            self.ready(role.command()).await?;
        }
        Ok(())
    }

    /// Starts `role` as a process called `name` and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(&mut self, role: RoleName, name: &str) -> anyhow::Result<()> {
        self.launch(role, name)?;
        self.ready(name).await
    }

    /// Starts `role` as a process called `name`, without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self, role: RoleName, name: &str) -> anyhow::Result<()> {
        let telemetry = free_port()?;
        let mut command = Command::new(&self.program);
        command
            .arg(role.command())
            .arg("--config")
            .arg(self.config_file())
            .env(
                "LOCKGATE__SERVER__LISTEN",
                format!("127.0.0.1:{}", self.listen),
            )
            .env(
                "LOCKGATE__TELEMETRY__LISTEN",
                format!("127.0.0.1:{telemetry}"),
            )
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        let process = Process::start(name, self.folder.path(), command)?;
        self.processes
            .insert(name.to_owned(), Running { process, telemetry });
        Ok(())
    }

    /// Waits until the process `name` says that it is ready.
    ///
    /// # Errors
    /// When it does not within 40 s, or ends.
    pub async fn ready(&mut self, name: &str) -> anyhow::Result<()> {
        let running = self.processes.get_mut(name).context("no such process")?;
        let url = format!("http://127.0.0.1:{}/readyz", running.telemetry);
        let http = reqwest::Client::new();
        let start = std::time::Instant::now();
        loop {
            if http
                .get(&url)
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return Ok(());
            }
            ensure!(
                running.process.is_running()?,
                "{name} ended\n{}",
                running.process.tail()
            );
            ensure!(
                start.elapsed() < Duration::from_secs(40),
                "{name} is not ready\n{}",
                running.process.tail()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Status and text of the process's `/readyz`; none when nothing answers.
    pub async fn readiness(&self, name: &str) -> Option<(u16, String)> {
        let running = self.processes.get(name)?;
        let url = format!("http://127.0.0.1:{}/readyz", running.telemetry);
        let answer = reqwest::get(&url).await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.text().await.unwrap_or_default()))
    }

    /// Text of the process's `/metrics`.
    ///
    /// # Errors
    /// When nothing answers.
    pub async fn metrics(&self, name: &str) -> anyhow::Result<String> {
        let running = self.processes.get(name).context("no such process")?;
        let url = format!("http://127.0.0.1:{}/metrics", running.telemetry);
        Ok(reqwest::get(&url).await?.text().await?)
    }

    /// The process `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        Ok(&mut self
            .processes
            .get_mut(name)
            .context("no such process")?
            .process)
    }

    /// `kill -9` of the process `name`.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn kill_9(&mut self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.kill_9()
    }

    /// SIGTERM to the process `name`; waits until it has ended well.
    ///
    /// # Errors
    /// When it does not end within its grace of 10 s and 2 s, or with an error.
    pub async fn terminate(&mut self, name: &str) -> anyhow::Result<()> {
        let process = self.process(name)?;
        process.signal("TERM")?;
        let status = process.ended(Duration::from_secs(12)).await?;
        ensure!(status.success(), "{name}: {status}\n{}", process.tail());
        Ok(())
    }

    /// SIGTERM to every process, ingress first.
    ///
    /// # Errors
    /// As [`Gateway::terminate`].
    pub async fn terminate_all(&mut self) -> anyhow::Result<()> {
        let mut names: Vec<String> = self.processes.keys().cloned().collect();
        names.sort();
        for name in names {
            if self.process(&name)?.is_running()? {
                self.terminate(&name).await?;
            }
        }
        Ok(())
    }

    /// Runs a sub-command of the binary and returns its standard output.
    ///
    /// # Errors
    /// When it fails; the text is its standard error.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let done = Command::new(&self.program)
            .args(arguments)
            .arg("--config")
            .arg(self.config_file())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()?;
        ensure!(
            done.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(String::from_utf8(done.stdout)?)
    }

    /// A client with a new key of tenant `tenant`, known to the running server.
    ///
    /// # Errors
    /// When the key is not accepted within a second.
    pub async fn client(&self, tenant: &str) -> anyhow::Result<Client> {
        self.client_with_role(tenant, "member").await
    }

    /// As [`Gateway::client`], with a role.
    ///
    /// # Errors
    /// When the key is not accepted within a second.
    pub async fn client_with_role(&self, tenant: &str, role: &str) -> anyhow::Result<Client> {
        let name = format!("test-{}", uuid::Uuid::new_v4().simple());
        let key = self.run(&[
            "keys", "create", "--name", &name, "--tenant", tenant, "--role", role,
        ])?;
        let client = Client::new(&self.url(), key.trim());
        eventually("the new key is known", Duration::from_secs(2), || async {
            client
                .get("/v1/models")
                .await
                .is_ok_and(|(status, _)| status == 200)
        })
        .await?;
        Ok(client)
    }

    /// Reads the log itself. On the embedded log only while no process runs.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn records(&self) -> anyhow::Result<Records> {
        Records::open(self).await
    }
}
