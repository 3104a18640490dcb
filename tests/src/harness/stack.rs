//! The services of `deploy/local/stack`, as the environment names them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Addresses of the running stack.
#[derive(Debug, Clone)]
pub struct Stack {
    /// `host:port` of the brokers, comma separated.
    pub brokers: String,
    /// Base URL of the schema registry.
    pub registry: String,
    /// URL of a PostgreSQL database whose user may create databases.
    pub postgres: String,
    /// URL of Redis.
    pub redis: String,
    /// The folder of the stack, for `deploy/local/stack --dir`.
    pub folder: String,
}

#[expect(
    clippy::disallowed_methods,
    reason = "how a test learns where its stack is"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Stack {
    /// The stack that the environment names; none when there is none.
    ///
    /// # Panics
    /// When there is none though `LOCKGATE_TEST_REQUIRE_STACK` asks for it.
    #[must_use]
    #[expect(clippy::print_stderr, reason = "for the reader of the test's output")]
    pub fn find() -> Option<Self> {
        let stack = (|| {
            Some(Self {
                brokers: variable("LOCKGATE_TEST_KAFKA_BROKERS")?,
                registry: variable("LOCKGATE_TEST_REGISTRY_URL")?,
                postgres: variable("LOCKGATE_TEST_POSTGRES_URL")?,
                redis: variable("LOCKGATE_TEST_REDIS_URL")?,
                folder: variable("LOCKGATE_STACK_DIR")?,
            })
        })();
        if stack.is_none() {
            assert!(
                variable("LOCKGATE_TEST_REQUIRE_STACK").is_none(),
                "the stack is required and not there: run `make test`"
            );
            eprintln!("skipped: needs the stack of deploy/local (`make test` starts it)");
        }
        stack
    }

    /// The Python interpreter that has the SDKs; none when it was not set up.
    ///
    /// # Panics
    /// When there is none though `LOCKGATE_TEST_REQUIRE_STACK` asks for it.
    #[must_use]
    #[expect(clippy::print_stderr, reason = "for the reader of the test's output")]
    pub fn python() -> Option<String> {
        let python = variable("LOCKGATE_TEST_PYTHON");
        if python.is_none() {
            assert!(
                variable("LOCKGATE_TEST_REQUIRE_STACK").is_none(),
                "the SDKs are required and not there: run `make test`"
            );
            eprintln!("skipped: needs the Python SDKs (`make test` installs them)");
        }
        python
    }

    /// Makes an empty database and returns its URL.
    ///
    /// # Errors
    /// When `psql` is not there or refuses.
    pub fn new_database(&self, name: &str) -> anyhow::Result<String> {
        let made = Command::new("psql")
            .args(["--no-psqlrc", "--quiet", "--command"])
            .arg(format!("CREATE DATABASE {name}"))
            .arg(&self.postgres)
            .output()
            .context("run psql")?;
        ensure!(
            made.status.success(),
            "psql: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let (server, _) = self
            .postgres
            .rsplit_once('/')
            .context("a database in the URL")?;
        Ok(format!("{server}/{name}"))
    }

    /// `host:port` of PostgreSQL.
    ///
    /// # Errors
    /// When the URL has none.
    pub fn postgres_address(&self) -> anyhow::Result<String> {
        address(&self.postgres)
    }

    /// `host:port` of Redis.
    ///
    /// # Errors
    /// When the URL has none.
    pub fn redis_address(&self) -> anyhow::Result<String> {
        address(&self.redis)
    }

    /// `host:port` of the registry.
    ///
    /// # Errors
    /// When the URL has none.
    pub fn registry_address(&self) -> anyhow::Result<String> {
        address(&self.registry)
    }

    /// A stack of its own in `folder`, for tests that take services down; it is taken down by [`Stack::purge`].
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(folder: &Path) -> anyhow::Result<Self> {
        let mut stack = Self {
            folder: folder.to_string_lossy().into_owned(),
            brokers: String::new(),
            registry: String::new(),
            postgres: String::new(),
            redis: String::new(),
        };
        stack.act("up", &[])?;
        let variables = std::fs::read_to_string(folder.join("env"))?;
        let value = |name: &str| {
            variables
                .lines()
                .find_map(|line| {
                    line.trim_start_matches("export ")
                        .strip_prefix(name)?
                        .strip_prefix('=')
                })
                .map(|value| value.trim_matches(['\'', '"']).to_owned())
                .with_context(|| format!("{name} in the stack's env file"))
        };
        stack.brokers = value("LOCKGATE_TEST_KAFKA_BROKERS")?;
        stack.registry = value("LOCKGATE_TEST_REGISTRY_URL")?;
        stack.postgres = value("LOCKGATE_TEST_POSTGRES_URL")?;
        stack.redis = value("LOCKGATE_TEST_REDIS_URL")?;
        Ok(stack)
    }

    /// Takes a stack of one's own down, with its data.
    ///
    /// # Errors
    /// When it does not go down.
    pub fn purge(&self) -> anyhow::Result<()> {
        self.act("down", &["--purge"])
    }

    /// Runs `deploy/local/stack ACTION ARGUMENTS` on this stack (`kill kafka`).
    ///
    /// # Errors
    /// When it fails.
    pub fn act(&self, action: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/local/stack");
        let done = Command::new(script)
            .arg(action)
            .args(arguments)
            .args(["--dir", &self.folder])
            .output()
            .context("run deploy/local/stack")?;
        ensure!(
            done.status.success(),
            "stack {action} {arguments:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }
}

/// `host:port` of a URL.
fn address(url: &str) -> anyhow::Result<String> {
    let url: reqwest::Url = url.parse()?;
    let host = url.host_str().context("a host in the URL")?;
    Ok(format!(
        "{host}:{}",
        url.port_or_known_default().context("a port in the URL")?
    ))
}
