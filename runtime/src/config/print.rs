//! The effective configuration as text, secrets hidden, and the version of its routing part.

mod routing;

use std::fmt::Display;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::{ExposeSecret, SecretString};
use serde::ser::{Serialize, SerializeMap, Serializer};
use sha2::{Digest, Sha256};
use url::Url;

use super::resolve::{BODIES, KINDS, LIMITS_WHEN_DOWN, LOG_FORMATS, TAKEOVERS};
use super::{Config, Http, KeySource, Log, Provider, ProviderKind, ScriptLine};

/// What stands for a secret.
const HIDDEN: &str = "***";

/// A tree that keeps the order of its keys.
enum Node {
    Null,
    Bool(bool),
    Number(i64),
    Decimal(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(truth) => serializer.serialize_bool(*truth),
            Self::Number(number) => serializer.serialize_i64(*number),
            Self::Decimal(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(nodes) => serializer.collect_seq(nodes),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, node) in entries {
                    map.serialize_entry(key, node)?;
                }
                map.end()
            }
        }
    }
}

pub(super) fn yaml(config: &Config) -> String {
    #[expect(
        clippy::expect_used,
        reason = "maps with text keys always have a YAML form"
    )]
    serde_saphyr::to_string(&whole(config)).expect("a tree of plain values")
}

pub(super) fn version(config: &Config) -> String {
    let routing = map([
        ("providers", list(&config.providers, provider)),
        ("models", list(&config.models, routing::model)),
    ]);
    let text = json(&routing);
    data_encoding::HEXLOWER.encode(&Sha256::digest(text)[..8])
}

/// The sections by name, each as text, in an order that is always the same.
pub(super) fn sections(config: &Config) -> Vec<(String, String)> {
    let Node::Map(sections) = whole(config) else {
        return Vec::new();
    };
    sections
        .into_iter()
        .map(|(name, section)| (name, json(&section)))
        .collect()
}

fn json(node: &Node) -> String {
    #[expect(
        clippy::expect_used,
        reason = "maps with text keys always have a JSON form"
    )]
    serde_json::to_string(node).expect("a tree of plain values")
}

fn map<const N: usize>(entries: [(&str, Node); N]) -> Node {
    Node::Map(entries.map(|(key, node)| (key.to_owned(), node)).into())
}

fn list<T>(items: &[T], node: fn(&T) -> Node) -> Node {
    Node::List(items.iter().map(node).collect())
}

fn text(value: impl Display) -> Node {
    Node::Text(value.to_string())
}

fn number(value: impl TryInto<i64>) -> Node {
    Node::Number(value.try_into().unwrap_or(i64::MAX))
}

fn optional<T>(value: Option<T>, node: impl FnOnce(T) -> Node) -> Node {
    value.map_or(Node::Null, node)
}

fn word<T: Copy + PartialEq>(value: T, words: &[(&str, T)]) -> Node {
    let found = words.iter().find(|(_, meaning)| *meaning == value);
    optional(found, |(word, _)| text(word))
}

fn duration(value: Duration) -> Node {
    text(humantime::format_duration(value))
}

/// Exact, in the largest unit that divides it.
fn size(value: ByteSize) -> Node {
    let bytes = value.as_u64();
    let units = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    let fit = units
        .iter()
        .find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    let (unit, name) = fit.copied().unwrap_or((1, "B"));
    text(format_args!("{}{name}", bytes / unit))
}

fn url(url: &Url) -> Node {
    text(without_secrets(url))
}

/// A URL without password, in user info or in parameters.
pub(super) fn without_secrets(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() && url.set_password(Some(HIDDEN)).is_err() {
        return HIDDEN.to_owned();
    }
    if url.query().is_some() {
        let shown: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| {
                let is_secret = is_secret(&name) || name.to_ascii_lowercase().contains("key");
                let shown = if is_secret { HIDDEN } else { &value };
                (name.to_string(), shown.to_owned())
            })
            .collect();
        url.query_pairs_mut().clear().extend_pairs(shown);
    }
    url.into()
}

fn secret_url(secret: &SecretString) -> Node {
    Url::parse(secret.expose_secret()).map_or_else(|_| text(HIDDEN), |parsed| url(&parsed))
}

/// Whether a property or URL parameter of this name holds a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let parts = [
        "password",
        "secret",
        "token",
        "pem",
        "private",
        "credential",
        "signature",
        "sasl.oauthbearer.config",
    ];
    parts.iter().any(|part| name.contains(part))
}

fn whole(config: &Config) -> Node {
    let Config {
        server,
        telemetry,
        shutdown,
        data_dir,
        log,
        replies,
        schema_registry,
        store,
        redis,
        secrets,
        objects,
        results,
        processors,
        providers,
        models,
    } = config;
    map([
        (
            "server",
            map([
                ("listen", text(server.listen)),
                ("body_bytes_max", size(server.body_bytes_max)),
                ("request_timeout", duration(server.request_timeout)),
                ("requests_max", number(server.requests_max)),
                ("stream_buffer_max", size(server.stream_buffer_max)),
                (
                    "allow_upstreams",
                    list(&server.allow_upstreams, |one| text(one)),
                ),
            ]),
        ),
        (
            "telemetry",
            map([
                ("listen", text(telemetry.listen)),
                ("log_format", word(telemetry.log_format, &LOG_FORMATS)),
                ("log_level", text(&telemetry.log_level)),
                (
                    "otlp_endpoint",
                    optional(telemetry.otlp_endpoint.as_ref(), url),
                ),
            ]),
        ),
        ("shutdown", map([("grace", duration(shutdown.grace))])),
        ("data_dir", text(data_dir.display())),
        ("log", self::log(log)),
        (
            "replies",
            map([(
                "partition",
                replies.partition.map_or_else(|| text("auto"), number),
            )]),
        ),
        (
            "schema_registry",
            map([
                ("url", optional(schema_registry.url.as_ref(), url)),
                ("register", Node::Bool(schema_registry.register)),
            ]),
        ),
        (
            "store",
            map([("url", optional(store.url.as_ref(), secret_url))]),
        ),
        (
            "redis",
            map([
                ("url", optional(redis.url.as_ref(), secret_url)),
                ("key_prefix", text(&redis.key_prefix)),
                (
                    "limits_when_down",
                    word(redis.limits_when_down, &LIMITS_WHEN_DOWN),
                ),
            ]),
        ),
        (
            "secrets",
            map([(
                "master_key_file",
                optional(secrets.master_key_file.as_ref(), |path| {
                    text(path.display())
                }),
            )]),
        ),
        (
            "objects",
            map([
                ("url", optional(objects.url.as_ref(), url)),
                ("shared", Node::Bool(objects.shared)),
            ]),
        ),
        (
            "results",
            map([
                ("retention", duration(results.retention)),
                ("bodies", word(results.bodies, &BODIES)),
            ]),
        ),
        (
            "processors",
            map([
                ("held_max", number(processors.held_max)),
                ("held_bytes_max", size(processors.held_bytes_max)),
                ("on_takeover", word(processors.on_takeover, &TAKEOVERS)),
            ]),
        ),
        ("providers", list(providers, provider)),
        ("models", list(models, routing::model)),
    ])
}

fn log(log: &Log) -> Node {
    match log {
        Log::Embedded { bytes_max } => {
            map([("kind", text("embedded")), ("bytes_max", size(*bytes_max))])
        }
        Log::Kafka {
            brokers,
            topic_prefix,
            replication,
            partitions,
            properties,
        } => {
            let partitions = partitions
                .iter()
                .map(|(topic, count)| (topic.clone(), number(*count)));
            let properties = properties.iter().map(|(name, value)| {
                let shown = if is_secret(name) {
                    HIDDEN
                } else {
                    value.expose_secret()
                };
                (name.clone(), text(shown))
            });
            map([
                ("kind", text("kafka")),
                ("brokers", list(brokers, |broker| text(broker))),
                ("topic_prefix", text(topic_prefix)),
                ("replication", number(*replication)),
                ("partitions", Node::Map(partitions.collect())),
                ("properties", Node::Map(properties.collect())),
            ])
        }
    }
}

fn provider(provider: &Provider) -> Node {
    let mut entries = vec![("name".to_owned(), text(&provider.name))];
    let kind = match &provider.kind {
        ProviderKind::Http(http) => {
            let Http {
                api,
                base_url,
                api_version,
                keys,
                timeouts,
            } = http;
            let mut entries = vec![
                ("kind".to_owned(), word(Some(*api), &KINDS)),
                ("base_url".to_owned(), url(base_url)),
            ];
            let version = api_version.iter();
            entries.extend(version.map(|version| ("api_version".to_owned(), text(version))));
            entries.push(("keys".to_owned(), list(keys, key_source)));
            entries.push((
                "timeouts".to_owned(),
                map([
                    ("connect", duration(timeouts.connect)),
                    ("first_token", duration(timeouts.first_token)),
                    ("idle", duration(timeouts.idle)),
                    ("total", duration(timeouts.total)),
                ]),
            ));
            Node::Map(entries)
        }
        ProviderKind::Scripted { script } => map([
            ("kind", text("scripted")),
            ("script", list(script, script_line)),
        ]),
    };
    if let Node::Map(kind) = kind {
        entries.extend(kind);
    }
    entries.push(("health".to_owned(), routing::health(&provider.health)));
    entries.push(("continues".to_owned(), Node::Bool(provider.continues)));
    Node::Map(entries)
}

/// Where the key is, never the key.
fn key_source(source: &KeySource) -> Node {
    match source {
        KeySource::Env { name, .. } => map([("env", text(name))]),
        KeySource::File(path) => map([("file", text(path.display()))]),
        KeySource::Secret(name) => map([("secret", text(name))]),
    }
}

fn script_line(line: &ScriptLine) -> Node {
    map([
        ("model", text(&line.model)),
        ("reply", text(&line.reply)),
        ("delay", duration(line.delay)),
        ("status", optional(line.status, number)),
        ("cut_after", optional(line.cut_after, number)),
    ])
}
