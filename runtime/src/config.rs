//! Configuration: one YAML file and `LOCKGATE__SECTION__KEY` variables, checked as a whole before anything starts.
//!
//! The names are fixed: add, do not rename. `docs/configuration.md` describes every key. This module alone reads
//! the environment.

mod check;
mod document;
mod names;
mod print;
mod provider;
mod reader;
mod resolve;
mod routing;
mod secrets;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::SecretString;

use crate::secrets::{MasterKeys, SecretName};
use crate::upstream;

pub use document::{Origin, RoutingDocument};
pub use names::{Named, Names};
pub use provider::{
    Api, Http, KeySource, Provider, ProviderKind, ScriptLine, Timeouts, TimeoutsOver,
};
pub use routing::{
    DEPLOYMENTS_MAX, Deployment, Fallbacks, Health, Limits, Model, OnCut, Price, Probe, STRATEGIES,
    Shadow, Sticky, Strategy,
};

/// What a process is; each role demands only the settings that it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// All roles in one process.
    Serve,
    /// The door for clients.
    Ingress,
    /// The work.
    Processors,
    /// The effects.
    Sinks,
}

impl Role {
    /// The sub-command that starts it, also its name in telemetry.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Ingress => "ingress",
            Self::Processors => "processors",
            Self::Sinks => "sinks",
        }
    }

    /// Whether it calls providers, and so needs their keys.
    fn calls_providers(self) -> bool {
        matches!(self, Self::Serve | Self::Processors)
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, as `models[0].deployments`; of the file as a whole: its path.
    pub key: String,
    /// What is wrong, without secrets.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.problem, self.remedy)
    }
}

/// Everything that is wrong with the configuration, one line each; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Reads the file at `path` (none: only defaults), lays `LOCKGATE__SECTION__KEY` variables and then `overrides`
/// (`server.listen` and its value as YAML) over it, and checks everything that `role` uses (none: a command that
/// is no role).
///
/// # Errors
/// All faults together.
pub fn load(
    path: Option<&Path>,
    role: Option<Role>,
    overrides: &[(String, String)],
) -> Result<Config, Faults> {
    source::load(path, role, overrides)
}

impl Config {
    /// The effective values as YAML, secrets hidden. Loading that text again gives the same values, but for secrets.
    #[must_use]
    pub fn print(&self) -> String {
        print::yaml(self)
    }

    /// Version of the routing part (providers without secrets, and models): equal for equal routing, on any machine.
    /// 16 hex digits.
    #[must_use]
    pub fn version(&self) -> String {
        print::version(self)
    }

    /// Names of the secrets that providers' keys are, in the order of the file; one that several use comes again.
    pub fn secret_names(&self) -> impl Iterator<Item = &SecretName> {
        let sources = self.providers.iter().flat_map(Provider::keys);
        sources.filter_map(|source| match source {
            KeySource::Secret(name) => Some(name),
            KeySource::Env { .. } | KeySource::File(_) => None,
        })
    }
}

/// The whole configuration; every default runs on a laptop.
#[derive(Debug, Clone)]
pub struct Config {
    /// The door for clients.
    pub server: Server,
    /// Logs, traces, metrics.
    pub telemetry: Telemetry,
    /// How to stop.
    pub shutdown: Shutdown,
    /// Folder for everything kept on this machine. Default `./data`.
    pub data_dir: PathBuf,
    /// The log.
    pub log: Log,
    /// Reply partitions.
    pub replies: Replies,
    /// Schema registry (Kafka only).
    pub schema_registry: SchemaRegistry,
    /// The store.
    pub store: Store,
    /// What processes share beside the log and the store.
    pub redis: Redis,
    /// Sealing of the provider keys in the store.
    pub secrets: Secrets,
    /// Object storage.
    pub objects: Objects,
    /// What is kept of requests.
    pub results: Results,
    /// Bounds of the work.
    pub processors: Processors,
    /// Who offers models.
    pub providers: Vec<Provider>,
    /// The models that clients may name.
    pub models: Vec<Model>,
}

/// `server`.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where clients connect. Default 127.0.0.1:8080.
    pub listen: SocketAddr,
    /// Largest request body. Default 20 MiB.
    pub body_bytes_max: ByteSize,
    /// Deadline of a request over all attempts. Default 600 s.
    pub request_timeout: Duration,
    /// Requests waiting for an answer at once; more get 503 with `Retry-After`. Default 10,000.
    pub requests_max: usize,
    /// Bytes of an answer buffered for a client that reads slowly; more and its stream is closed. Default 1 MiB.
    pub stream_buffer_max: ByteSize,
    /// Hosts and networks that a base URL may lead into though it is not from this file. Default none.
    pub allow_upstreams: Vec<upstream::Exception>,
}

/// `telemetry`.
#[derive(Clone)]
pub struct Telemetry {
    /// Where `/metrics`, `/healthz`, `/readyz` are served. Default 127.0.0.1:9464.
    pub listen: SocketAddr,
    /// `human` or `json`. Default human.
    pub log_format: LogFormat,
    /// Base URL of an OTLP/HTTP collector (`http://host:4318`); none: no export.
    pub otlp_endpoint: Option<url::Url>,
    /// Filter of log lines, as `RUST_LOG` writes them. Default `info`.
    pub log_level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// `shutdown`.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// Longest that work in flight may take after SIGTERM. Default 30 s.
    pub grace: Duration,
}

/// `log`.
#[derive(Debug, Clone)]
pub enum Log {
    /// `kind: embedded`: on local disk under `data_dir`, this process alone.
    Embedded {
        /// Most bytes kept. Default 10 GiB.
        bytes_max: ByteSize,
    },
    /// `kind: kafka`.
    Kafka {
        /// `host:port` of some brokers.
        brokers: Vec<String>,
        /// Put before every topic and group name. Default `lockgate.`.
        topic_prefix: String,
        /// Replication of topics that are created. Default 1.
        replication: i32,
        /// Partitions by topic where they differ from the default.
        partitions: BTreeMap<String, i32>,
        /// Further librdkafka properties; values may be secret.
        properties: BTreeMap<String, SecretString>,
    },
}

/// `replies`.
#[derive(Debug, Clone, Copy)]
pub struct Replies {
    /// Partition of `responses` that this ingress tails; none (`auto`): one picked at random at start.
    pub partition: Option<i32>,
}

/// `schema_registry`.
#[derive(Clone)]
pub struct SchemaRegistry {
    /// Base URL of a Confluent-compatible API; none: the local registry (embedded log only).
    pub url: Option<url::Url>,
    /// Whether schemas that are missing are registered at start. Default true.
    pub register: bool,
}

/// `store`.
#[derive(Debug, Clone)]
pub struct Store {
    /// `postgres://…`; none: SQLite under `data_dir`.
    pub url: Option<SecretString>,
}

/// `redis`.
#[derive(Debug, Clone)]
pub struct Redis {
    /// `redis://…` or `rediss://…`; none: processes share limits by their number alone.
    pub url: Option<SecretString>,
    /// Put before every key. Default `lockgate:`.
    pub key_prefix: String,
    /// What becomes of limits that processes share while it does not answer. Default share.
    pub limits_when_down: LimitsWhenDown,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: None,
            key_prefix: "lockgate:".to_owned(),
            limits_when_down: LimitsWhenDown::Share,
        }
    }
}

/// What becomes of limits that processes share while Redis does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitsWhenDown {
    /// Each process takes the limit divided by the number of those that live.
    Share,
    /// Deployments with such limits are not called.
    Refuse,
}

/// `secrets`.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// File with the master keys, for its user alone; none: `LOCKGATE_MASTER_KEY`.
    pub master_key_file: Option<PathBuf>,
    /// Value of `LOCKGATE_MASTER_KEY` at start; none when it was not set.
    pub master_key: Option<SecretString>,
}

impl Secrets {
    /// The master keys; none when none are configured. A file is read anew each time.
    ///
    /// # Errors
    /// When both places are configured, the file cannot be read or is open to others, or what is there is no key.
    pub fn master_keys(&self) -> Result<Option<MasterKeys>, Fault> {
        secrets::master_keys(self)
    }
}

/// `objects`.
#[derive(Clone)]
pub struct Objects {
    /// `s3://bucket/prefix` or `file:///folder`; none: a folder under `data_dir`.
    pub url: Option<url::Url>,
    /// Whether a folder is shared by all roles (split roles need that, or s3). Default false.
    pub shared: bool,
    /// The environment's `AWS_…` variables by their names, for `s3://`; empty for folders.
    pub aws: BTreeMap<String, SecretString>,
}

/// `results`.
#[derive(Debug, Clone, Copy)]
pub struct Results {
    /// How long requests stay readable. Default 7 days.
    pub retention: Duration,
    /// What is kept of bodies. Default full.
    pub bodies: Bodies,
}

/// What is kept of request and answer bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bodies {
    /// Both.
    Full,
    /// Neither, but their sizes.
    Metadata,
    /// Nothing.
    None,
}

/// `processors`.
#[derive(Debug, Clone, Copy)]
pub struct Processors {
    /// Deliveries held at once. Default 4,000.
    pub held_max: usize,
    /// Bytes of deliveries held at once. Default 64 MiB.
    pub held_bytes_max: ByteSize,
    /// What a takeover does with a call that was in flight. Default retry.
    pub on_takeover: schemas::request::OnTakeover,
}

// By hand where there are URLs: their own `Debug` shows passwords.

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("listen", &self.listen)
            .field("log_format", &self.log_format)
            .field(
                "otlp_endpoint",
                &self.otlp_endpoint.as_ref().map(print::without_secrets),
            )
            .field("log_level", &self.log_level)
            .finish()
    }
}

impl fmt::Debug for SchemaRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchemaRegistry")
            .field("url", &self.url.as_ref().map(print::without_secrets))
            .field("register", &self.register)
            .finish()
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("url", &self.url.as_ref().map(print::without_secrets))
            .field("shared", &self.shared)
            .field("aws", &self.aws)
            .finish()
    }
}
