//! Checks between settings.

mod routing;

use std::net::SocketAddr;

use schemas::topic;

use super::reader::Notes;
use super::{Config, KeySource, Log, ProviderKind, Role};

pub(super) fn all(config: &Config, role: Option<Role>, notes: &Notes) {
    ports(config, notes);
    times(config, notes);
    log(config, notes);
    routing::check(config, notes);
    if let Some(role) = role {
        if role != Role::Serve {
            split_role(config, role, notes);
        }
        if role.calls_providers() {
            provider_keys(config, notes);
            master_keys(config, notes);
        }
    }
}

fn ports(config: &Config, notes: &Notes) {
    let (server, telemetry) = (config.server.listen, config.telemetry.listen);
    let meet = |a: SocketAddr, b: SocketAddr| {
        a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified()
    };
    // Port 0 is a free one each time.
    if server.port() != 0 && server.port() == telemetry.port() && meet(server, telemetry) {
        notes.fault(
            "telemetry.listen",
            format!("{telemetry} is taken by server.listen, {server}"),
            "give each its own port",
        );
    }
}

fn times(config: &Config, notes: &Notes) {
    let timeout = config.server.request_timeout;
    // What a request leaves on the log must be there for as long as it may run.
    let shortest = topic::ALL
        .iter()
        .filter(|topic| topic.name != topic::STATUS)
        .min_by_key(|topic| topic.retention);
    if let Some(topic) = shortest
        && timeout > topic.retention
    {
        let kept = humantime::format_duration(topic.retention);
        notes.fault(
            "server.request_timeout",
            format!("topic {} keeps records for {kept} only", topic.name),
            format!("write at most {kept}"),
        );
    }
    if config.results.retention < timeout {
        notes.fault(
            "results.retention",
            "requests would be forgotten while they may still run",
            format!("write at least {}", humantime::format_duration(timeout)),
        );
    }
}

fn log(config: &Config, notes: &Notes) {
    let responses = topic::ALL
        .iter()
        .find(|topic| topic.name == topic::RESPONSES);
    let partitions = match &config.log {
        Log::Embedded { .. } => responses.map(|topic| topic.partitions_embedded),
        Log::Kafka { partitions, .. } => {
            if config.schema_registry.url.is_none() {
                notes.fault(
                    "schema_registry.url",
                    "readers of a Kafka log need a schema registry",
                    "write its URL, for example http://127.0.0.1:8081/apis/ccompat/v7",
                );
            }
            let configured = partitions.get(topic::RESPONSES).copied();
            configured.or(responses.map(|topic| topic.partitions_kafka))
        }
    };
    if let (Some(partition), Some(partitions)) = (config.replies.partition, partitions)
        && partition >= partitions
    {
        notes.fault(
            "replies.partition",
            format!("topic {} has {partitions} partitions", topic::RESPONSES),
            format!("write auto, or a number from 0 to {}", partitions - 1),
        );
    }
}

/// Roles in processes of their own meet in shared services only.
fn split_role(config: &Config, role: Role, notes: &Notes) {
    let role = role.name();
    if matches!(config.log, Log::Embedded { .. }) {
        notes.fault(
            "log.kind",
            format!("the embedded log is for one process, and {role} is a part only"),
            "write kafka, or run `lockgate serve`",
        );
    }
    if config.store.url.is_none() {
        notes.fault(
            "store.url",
            format!("SQLite is for one process, and {role} is a part only"),
            "write postgres://…, or run `lockgate serve`",
        );
    }
    let is_s3 = config
        .objects
        .url
        .as_ref()
        .is_some_and(|url| url.scheme() == "s3");
    if !is_s3 && !config.objects.shared {
        notes.fault(
            "objects.shared",
            format!("{role} must see the same large bodies as the other roles"),
            "write s3://… as objects.url, or shared: true when all processes see one folder",
        );
    }
}

fn provider_keys(config: &Config, notes: &Notes) {
    for (index, provider) in config.providers.iter().enumerate() {
        let ProviderKind::Http(http) = &provider.kind else {
            continue;
        };
        for (place, source) in http.keys.iter().enumerate() {
            let Err(error) = source.secret() else {
                continue;
            };
            let (what, remedy) = match source {
                KeySource::Env { .. } => ("env", "set it, or remove the key"),
                KeySource::File(_) => ("file", "name a readable file that holds the key"),
                // The store tells, once it is open.
                KeySource::Secret(_) => continue,
            };
            let key = format!("providers[{index}].keys[{place}].{what}");
            notes.fault(&key, error.to_string(), remedy);
        }
    }
}

/// What seals the store's secrets must be right where they are used, and be there when one is named.
fn master_keys(config: &Config, notes: &Notes) {
    match config.secrets.master_keys() {
        Err(fault) => notes.fault(&fault.key, fault.problem, fault.remedy),
        Ok(Some(_)) => {}
        Ok(None) => {
            if let Some(name) = config.secret_names().next() {
                notes.fault(
                    super::secrets::VARIABLE,
                    format!("there is no master key to open secret {name} with"),
                    super::secrets::REMEDY,
                );
            }
        }
    }
}
