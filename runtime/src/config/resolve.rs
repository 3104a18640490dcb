//! From the tree of values to the configuration: every key, its type and its default.

mod routing;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use schemas::request::OnTakeover;
use schemas::topic;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::reader::{Notes, Section};
use super::source::Variables;
use super::{
    Api, Bodies, Config, Fault, Http, KeySource, LimitsWhenDown, Log, LogFormat, Objects,
    Processors, Provider, ProviderKind, Redis, Replies, Results, Role, SchemaRegistry, ScriptLine,
    Secrets, Server, Shutdown, Store, Telemetry, Timeouts, check,
};
use crate::leases;
use crate::secrets::SecretName;

/// The version that all SDKs send (<https://docs.anthropic.com/en/api/versioning>).
const ANTHROPIC_VERSION: &str = "2023-06-01";
/// The newest that is no preview (<https://learn.microsoft.com/azure/ai-services/openai/api-version-deprecation>).
const AZURE_VERSION: &str = "2024-10-21";

pub(super) use routing::{ON_CUT, PROBES, STICKY};

const COUNT_MAX: i64 = 1_000_000_000;
/// Partitions travel in request ids as 16 bits; Kafka is unwell long before.
const PARTITIONS_MAX: i64 = 10_000;

/// Reads and checks everything. What is returned with faults must not be used.
pub(super) fn config(
    tree: Value,
    variables: &Variables,
    role: Option<Role>,
    faults: &mut Vec<Fault>,
) -> Config {
    let notes = Notes::default();
    let config = read(tree, variables, &notes);
    check::all(&config, role, &notes);
    faults.append(&mut notes.faults.into_inner());
    config
}

/// Reads everything. What is missing without having a default is noted, and something harmless stands in for it, so
/// that the rest is checked all the same.
pub(super) fn read(tree: Value, variables: &Variables, notes: &Notes) -> Config {
    let mut root = Section::new(String::new(), tree, notes);
    let server = server(root.section("server"));
    let telemetry = telemetry(root.section("telemetry"));
    let mut shutdown = root.section("shutdown");
    let grace = shutdown.duration("grace", Duration::from_secs(30));
    shutdown.finish();
    let data_dir = root.or("data_dir", PathBuf::from("./data"));
    let log = log(root.section("log"));
    let replies = replies(root.section("replies"));
    let mut registry = root.section("schema_registry");
    let schema_registry = SchemaRegistry {
        url: url(&mut registry, "url", &["http", "https"]),
        register: registry.or("register", true),
    };
    registry.finish();
    let store = store(root.section("store"));
    let redis = redis(root.section("redis"));
    let secrets = secrets(root.section("secrets"), variables);
    let objects = objects(root.section("objects"), variables);
    let mut results = root.section("results");
    let results_read = Results {
        retention: results.duration("retention", Duration::from_secs(7 * 24 * 60 * 60)),
        bodies: results.word("bodies", &BODIES).unwrap_or(Bodies::Full),
    };
    results.finish();
    let mut processors = root.section("processors");
    let processors_read = Processors {
        held_max: processors
            .number("held_max", 1..=COUNT_MAX)
            .unwrap_or(4_000),
        held_bytes_max: processors.size("held_bytes_max", ByteSize::mib(64)),
        on_takeover: processors
            .word("on_takeover", &TAKEOVERS)
            .unwrap_or(OnTakeover::Retry),
    };
    processors.finish();
    let providers = root.list("providers");
    let providers = providers
        .into_iter()
        .map(|section| provider(section, variables))
        .collect();
    let models = root.list("models");
    let models = models.into_iter().map(routing::model).collect();
    root.finish();
    Config {
        server,
        telemetry,
        shutdown: Shutdown { grace },
        data_dir,
        log,
        replies,
        schema_registry,
        store,
        redis,
        secrets,
        objects,
        results: results_read,
        processors: processors_read,
        providers,
        models,
    }
}

pub(super) const BODIES: [(&str, Bodies); 3] = [
    ("full", Bodies::Full),
    ("metadata", Bodies::Metadata),
    ("none", Bodies::None),
];
pub(super) const TAKEOVERS: [(&str, OnTakeover); 2] =
    [("retry", OnTakeover::Retry), ("fail", OnTakeover::Fail)];
pub(super) const LIMITS_WHEN_DOWN: [(&str, LimitsWhenDown); 2] = [
    ("share", LimitsWhenDown::Share),
    ("refuse", LimitsWhenDown::Refuse),
];
pub(super) const LOG_FORMATS: [(&str, LogFormat); 2] =
    [("human", LogFormat::Human), ("json", LogFormat::Json)];

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A URL with one of these schemes.
fn url(section: &mut Section<'_>, name: &'static str, schemes: &[&str]) -> Option<Url> {
    let url: Url = section.optional(name)?;
    checked_scheme(section, name, url, schemes)
}

fn checked_scheme(section: &Section<'_>, name: &str, url: Url, schemes: &[&str]) -> Option<Url> {
    if schemes.contains(&url.scheme()) {
        return Some(url);
    }
    let problem = format!("a URL with {}:// does not fit here", url.scheme());
    let known: Vec<String> = schemes
        .iter()
        .map(|scheme| format!("{scheme}://…"))
        .collect();
    section.fault(name, problem, format!("write {}", known.join(" or ")));
    None
}

fn server(mut section: Section<'_>) -> Server {
    let server = Server {
        listen: section.or("listen", local(8080)),
        body_bytes_max: section.size("body_bytes_max", ByteSize::mib(20)),
        request_timeout: section.duration("request_timeout", Duration::from_secs(600)),
        requests_max: section
            .number("requests_max", 1..=COUNT_MAX)
            .unwrap_or(10_000),
        stream_buffer_max: section.size("stream_buffer_max", ByteSize::mib(1)),
        allow_upstreams: section.or("allow_upstreams", Vec::new()),
    };
    section.finish();
    server
}

fn telemetry(mut section: Section<'_>) -> Telemetry {
    let telemetry = Telemetry {
        listen: section.or("listen", local(9464)),
        log_format: section
            .word("log_format", &LOG_FORMATS)
            .unwrap_or(LogFormat::Human),
        otlp_endpoint: url(&mut section, "otlp_endpoint", &["http", "https"]),
        log_level: section.or("log_level", "info".to_owned()),
    };
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&telemetry.log_level) {
        let problem = format!("this is not a filter of log lines ({error})");
        section.fault(
            "log_level",
            problem,
            "write for example info or info,runtime=debug",
        );
    }
    section.finish();
    telemetry
}

#[derive(Clone, Copy)]
enum LogKind {
    Embedded,
    Kafka,
}

fn log(mut section: Section<'_>) -> Log {
    let kinds = [("embedded", LogKind::Embedded), ("kafka", LogKind::Kafka)];
    let kind = section.word("kind", &kinds).unwrap_or(LogKind::Embedded);
    let log = match kind {
        LogKind::Embedded => {
            for name in [
                "brokers",
                "topic_prefix",
                "replication",
                "partitions",
                "properties",
            ] {
                section.only_with(name, "log.kind: kafka");
            }
            let bytes_max = section.size("bytes_max", ByteSize::gib(10));
            Log::Embedded { bytes_max }
        }
        LogKind::Kafka => {
            section.only_with("bytes_max", "log.kind: embedded");
            kafka(&mut section)
        }
    };
    section.finish();
    log
}

fn kafka(section: &mut Section<'_>) -> Log {
    let brokers: Option<Vec<String>> = section.required("brokers");
    if let Some(brokers) = &brokers {
        let is_broker = |text: &String| {
            text.rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if brokers.is_empty() || !brokers.iter().all(is_broker) {
            let remedy = "write host:port of some brokers, for example [\"127.0.0.1:9092\"]";
            section.fault("brokers", "this names no brokers", remedy);
        }
    }
    let topic_prefix: String = section.or("topic_prefix", "lockgate.".to_owned());
    let fits = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    if topic_prefix.len() > 100 || !topic_prefix.chars().all(fits) {
        let remedy = "write at most 100 letters, digits, dots, hyphens and underscores";
        section.fault("topic_prefix", "topics cannot be named so", remedy);
    }
    let replication = section.number("replication", 1..=100).unwrap_or(1);
    let mut partitions = BTreeMap::new();
    for (name, number) in section.free_map::<i64>("partitions") {
        let key = format!("partitions.{name}");
        if !topic::ALL.iter().any(|topic| topic.name == name) {
            let known: Vec<&str> = topic::ALL.iter().map(|topic| topic.name).collect();
            let remedy = format!("write one of: {}", known.join(", "));
            section.fault(&key, "there is no such topic", remedy);
        } else if (1..=PARTITIONS_MAX).contains(&number)
            && let Ok(number) = i32::try_from(number)
        {
            partitions.insert(name, number);
        } else {
            let remedy = format!("write a number from 1 to {PARTITIONS_MAX}");
            section.fault(&key, format!("{number} is out of bounds"), remedy);
        }
    }
    let properties: BTreeMap<_, SecretString> =
        section.free_map("properties").into_iter().collect();
    for (name, setting) in RESERVED_PROPERTIES {
        if properties.contains_key(name) {
            let key = format!("properties.{name}");
            section.fault(&key, "Lockgate sets this itself", setting);
        }
    }
    Log::Kafka {
        brokers: brokers.unwrap_or_default(),
        topic_prefix,
        replication,
        partitions,
        properties,
    }
}

/// What the delivery guarantees rest on.
const RESERVED_PROPERTIES: [(&str, &str); 9] = [
    ("bootstrap.servers", "remove it and set log.brokers"),
    ("metadata.broker.list", "remove it and set log.brokers"),
    ("group.id", "remove it; log.topic_prefix is part of it"),
    ("enable.auto.commit", "remove it"),
    ("enable.auto.offset.store", "remove it"),
    ("auto.offset.reset", "remove it"),
    ("enable.idempotence", "remove it"),
    ("acks", "remove it"),
    ("partitioner", "remove it"),
];

fn replies(mut section: Section<'_>) -> Replies {
    let partition = match section.optional::<String>("partition").as_deref() {
        None | Some("auto") => None,
        Some(text) => {
            let number = text.parse().ok().filter(|number| *number >= 0);
            if number.is_none() {
                let problem = format!("{text:?} is no partition");
                section.fault("partition", problem, "write auto, or a number from 0 on");
            }
            number
        }
    };
    section.finish();
    Replies { partition }
}

fn store(mut section: Section<'_>) -> Store {
    let url: Option<SecretString> = section.optional("url");
    let url = url.filter(|text| {
        let parsed = Url::parse(text.expose_secret()).ok();
        let fits = parsed.is_some_and(|url| ["postgres", "postgresql"].contains(&url.scheme()));
        if !fits {
            let remedy = "write postgres://user:password@host/database, or null for SQLite";
            section.fault(
                "url",
                "this is not the URL of a PostgreSQL database",
                remedy,
            );
        }
        fits
    });
    section.finish();
    Store { url }
}

fn redis(mut section: Section<'_>) -> Redis {
    let url: Option<SecretString> = section.optional("url");
    let url = url.filter(|text| {
        // What the client itself takes, so that nothing is found out only at the start.
        let fits = leases::is_address(text.expose_secret());
        if !fits {
            section.fault(
                "url",
                "this is not the URL of a Redis server",
                "write redis://user:password@host:port/database, rediss://… for TLS, or null",
            );
        }
        fits
    });
    let key_prefix: String = section.or("key_prefix", "lockgate:".to_owned());
    if key_prefix.len() > 100 || !key_prefix.chars().all(|one| one.is_ascii_graphic()) {
        let remedy = "write at most 100 visible ASCII characters";
        section.fault("key_prefix", "keys cannot be named so", remedy);
    }
    let redis = Redis {
        url,
        key_prefix,
        limits_when_down: section
            .word("limits_when_down", &LIMITS_WHEN_DOWN)
            .unwrap_or(LimitsWhenDown::Share),
    };
    section.finish();
    redis
}

fn secrets(mut section: Section<'_>, variables: &Variables) -> Secrets {
    let set = variables.get(super::secrets::VARIABLE);
    let secrets = Secrets {
        master_key_file: section.optional("master_key_file"),
        master_key: set
            .filter(|text| !text.trim().is_empty())
            .map(|text| SecretString::from(text.clone())),
    };
    section.finish();
    secrets
}

fn objects(mut section: Section<'_>, variables: &Variables) -> Objects {
    let url = url(&mut section, "url", &["s3", "file"]);
    let shared = section.or("shared", false);
    section.finish();
    let is_s3 = url.as_ref().is_some_and(|url| url.scheme() == "s3");
    let aws = variables
        .iter()
        .filter(|(name, _)| is_s3 && name.starts_with("AWS_"))
        .map(|(name, value)| (name.clone(), SecretString::from(value.clone())))
        .collect();
    Objects { url, shared, aws }
}

/// None: `scripted`.
pub(super) const KINDS: [(&str, Option<Api>); 6] = [
    ("openai", Some(Api::OpenAi)),
    ("azure", Some(Api::Azure)),
    ("deepseek", Some(Api::DeepSeek)),
    ("anthropic", Some(Api::Anthropic)),
    ("gemini", Some(Api::Gemini)),
    ("scripted", None),
];

fn provider(mut section: Section<'_>, variables: &Variables) -> Provider {
    let name: String = section.required("name").unwrap_or_default();
    if name.contains('/') {
        // Deployments are named provider/model.
        section.fault(
            "name",
            "a slash separates provider and model",
            "choose a name without",
        );
    }
    let kind = match section.required_word("kind", &KINDS) {
        Some(Some(api)) => {
            section.only_with("script", "kind: scripted");
            http(&mut section, api, variables)
        }
        Some(None) => {
            for name in ["base_url", "api_version", "keys", "timeouts"] {
                section.only_with(name, "a kind that is called over HTTP");
            }
            let lines = section.list("script");
            let script = lines.into_iter().map(script_line).collect();
            ProviderKind::Scripted { script }
        }
        None => {
            section.skip_rest();
            ProviderKind::Scripted { script: Vec::new() }
        }
    };
    let health = routing::health(section.section("health"));
    let continues = section.or("continues", kind.takes_prefix());
    if continues && !kind.can_continue() {
        let problem = "providers of this kind cannot go on with a text that another began";
        section.fault("continues", problem, "leave it out");
    }
    section.finish();
    Provider {
        name,
        kind,
        health,
        continues,
    }
}

/// Where the provider itself serves its API, for those that have one place for all.
fn public_url(api: Api) -> Option<&'static str> {
    match api {
        Api::OpenAi => Some("https://api.openai.com/v1"),
        Api::Azure => None,
        Api::DeepSeek => Some("https://api.deepseek.com"),
        Api::Anthropic => Some("https://api.anthropic.com/v1"),
        Api::Gemini => Some("https://generativelanguage.googleapis.com/v1beta"),
    }
}

fn http(section: &mut Section<'_>, api: Api, variables: &Variables) -> ProviderKind {
    let schemes = ["http", "https"];
    let public = public_url(api).and_then(|url| Url::parse(url).ok());
    let base_url = match public {
        Some(public) => section.or("base_url", public).into(),
        None => section.required("base_url"),
    };
    let base_url = base_url.and_then(|url| checked_scheme(section, "base_url", url, &schemes));
    let api_version = match api {
        Api::Anthropic => Some(section.or("api_version", ANTHROPIC_VERSION.to_owned())),
        Api::Azure => {
            let version = section.optional("api_version");
            // The newer API has no versions but for previews.
            let is_v1 = base_url.as_ref().is_some_and(|url: &Url| {
                let path = url.path().trim_end_matches('/');
                path.ends_with("/v1")
            });
            version.or_else(|| (!is_v1).then(|| AZURE_VERSION.to_owned()))
        }
        Api::OpenAi | Api::DeepSeek | Api::Gemini => {
            section.only_with("api_version", "kind: anthropic or azure");
            None
        }
    };
    if let Some(version) = &api_version
        && !version
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        let remedy = "write for example 2024-10-21";
        section.fault("api_version", "this is no version of an API", remedy);
    }
    let keys = section.list("keys");
    let keys = keys
        .into_iter()
        .filter_map(|key| key_source(key, variables))
        .collect();
    let mut timeouts = section.section("timeouts");
    let timeouts_read = Timeouts {
        connect: timeouts.duration("connect", Duration::from_secs(2)),
        first_token: timeouts.duration("first_token", Duration::from_secs(20)),
        idle: timeouts.duration("idle", Duration::from_secs(30)),
        total: timeouts.duration("total", Duration::from_secs(120)),
    };
    timeouts.finish();
    match base_url {
        Some(base_url) => ProviderKind::Http(Http {
            api,
            base_url,
            api_version,
            keys,
            timeouts: timeouts_read,
        }),
        None => ProviderKind::Scripted { script: Vec::new() },
    }
}

fn key_source(mut section: Section<'_>, variables: &Variables) -> Option<KeySource> {
    let env: Option<String> = section.optional("env");
    let file: Option<PathBuf> = section.optional("file");
    let secret: Option<SecretName> = section.optional("secret");
    let env = env.map(|name| {
        let value = variables.get(&name).filter(|value| !value.is_empty());
        let value = value.cloned().map(SecretString::from);
        ("env", KeySource::Env { name, value })
    });
    let file = file.map(|path| ("file", KeySource::File(path)));
    let secret = secret.map(|name| ("secret", KeySource::Secret(name)));
    let mut sources = [env, file, secret].into_iter().flatten();
    let source = sources.next().map(|(_, source)| source);
    if source.is_none() {
        section.fault(
            "env",
            "this names no key",
            "write { env: NAME }, { file: PATH } or { secret: NAME }",
        );
    }
    if let Some((name, _)) = sources.next() {
        section.fault(
            name,
            "a key comes from one place",
            "keep env, file or secret",
        );
    }
    section.finish();
    source
}

fn script_line(mut section: Section<'_>) -> ScriptLine {
    let line = ScriptLine {
        model: section.required("model").unwrap_or_default(),
        reply: section.or("reply", String::new()),
        delay: section.or("delay", Duration::ZERO),
        status: section.number("status", 200..=599),
        cut_after: section.number("cut_after", 0..=COUNT_MAX),
    };
    section.finish();
    line
}
