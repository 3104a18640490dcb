use std::collections::BTreeSet;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::reader::Notes;
use super::source::{Variables, from_parts};
use super::*;

/// The example of the documentation; every section and kind is in it or in [`KAFKA`].
const EXAMPLE: &str = r#"
server: { listen: "127.0.0.1:8080", body_bytes_max: 20MiB, request_timeout: 600s, allow_upstreams: [models.internal, 10.1.0.0/16] }
telemetry: { listen: "127.0.0.1:9464", log_format: human, otlp_endpoint: null }
shutdown: { grace: 30s }
data_dir: ./data
log: { kind: embedded }
replies: { partition: auto }
schema_registry: { url: null }
store: { url: null }
redis: { url: null, key_prefix: "lockgate:", limits_when_down: share }
secrets: { master_key_file: null }
objects: { url: null, shared: false }
results: { retention: 7d, bodies: full }
processors: { held_max: 4000, held_bytes_max: 64MiB, on_takeover: retry }
providers:
  - { name: local, kind: openai, base_url: "http://127.0.0.1:9100/v1", keys: [ { env: LOCAL_API_KEY } ],
      timeouts: { connect: 2s, first_token: 20s, idle: 30s, total: 120s }, continues: false,
      health: { active: { every: 10s, probe: models }, failures_in_a_row: 5, error_ratio: 0.5, window: 30s, rest: 5s, panic_threshold: 0.5 } }
  - { name: claude, kind: anthropic, api_version: 2023-06-01 }
  - { name: demo, kind: scripted, script: [ { model: echo, reply: "You said: {prompt}", delay: 20ms } ] }
models:
  - name: gpt-demo
    aliases: ["gpt-*"]
    strategy: weighted
    timeouts: { first_token: 60s, total: 300s }
    deployments:
      - { provider: local, model: gpt-4o, weight: 3, tier: 1, context_tokens: 128000, price: { input: 2.5, cached_input: 1.25, output: 10 },
          limits: { concurrency: 64, requests_per_minute: 5000, tokens_per_minute: 400000 }, tags: [eu], version: "2024-08-06" }
      - { provider: demo, model: echo, weight: 1 }
    attempts_max: 3
    fallbacks: { error: [demo], context_length: [], content_policy: [] }
    on_cut: error
    sticky: none
    shadow: { model: demo, share: 0.01 }
  - name: demo
    deployments: [ { provider: demo, model: echo } ]
"#;

const KAFKA: &str = r#"
log:
  kind: kafka
  brokers: ["127.0.0.1:9092", "other:9093"]
  partitions: { requests.interactive: 6 }
  properties: { sasl.username: me, sasl.password: hunter2, ssl.key.pem: hunter2 }
schema_registry: { url: "http://reader:hunter2@127.0.0.1:8081/apis/ccompat/v7" }
store: { url: "postgres://me:hunter2@localhost/lockgate?sslpassword=hunter2" }
redis: { url: "rediss://me:hunter2@localhost:6380/3", limits_when_down: refuse }
objects: { url: "s3://bucket/prefix" }
telemetry: { otlp_endpoint: "http://me:hunter2@127.0.0.1:4318/?api-key=hunter2" }
"#;

fn variables(pairs: &[(&str, &str)]) -> Variables {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn read(text: &str, pairs: &[(&str, &str)], role: Option<Role>) -> Result<Config, Faults> {
    from_parts("lockgate.yaml", text, &variables(pairs), role, &[])
}

/// The faults as `key: problem; remedy`.
fn faults(text: &str, pairs: &[(&str, &str)], role: Option<Role>) -> Vec<String> {
    match read(text, pairs, role) {
        Ok(config) => panic!("no fault found in {}", config.print()),
        Err(Faults(faults)) => faults.iter().map(ToString::to_string).collect(),
    }
}

/// The first provider, which is called over HTTP.
fn http(config: &Config) -> &Http {
    match &config.providers[0].kind {
        ProviderKind::Http(http) => http,
        ProviderKind::Scripted { .. } => panic!("another kind"),
    }
}

#[test]
fn an_empty_file_gives_the_defaults() {
    for text in ["", "# nothing\n", "---\n", "server:\n"] {
        let config = read(text, &[], Some(Role::Serve)).unwrap();
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.server.body_bytes_max.as_u64(), 20 << 20);
        assert_eq!(config.server.request_timeout, Duration::from_secs(600));
        assert!(
            matches!(config.log, Log::Embedded { bytes_max } if bytes_max.as_u64() == 10 << 30)
        );
        assert!(config.models.is_empty());
    }
}

#[test]
fn the_example_is_read() {
    let config = read(EXAMPLE, &[("LOCAL_API_KEY", "hunter2")], Some(Role::Serve)).unwrap();
    assert_eq!(config.models[0].deployments[0].weight, 3);
    assert_eq!(config.models[0].deployments[0].limits.concurrency, Some(64));
    assert_eq!(config.models[0].deployments[1].limits.concurrency, None);
    let price = Price {
        input: 2_500_000_000,
        cached_input: 1_250_000_000,
        output: 10_000_000_000,
    };
    assert_eq!(config.models[0].deployments[0].price, Some(price));
    assert_eq!(config.models[0].fallbacks.error, ["demo"]);
    assert_eq!(config.models[0].shadow.as_ref().unwrap().share, 0.01);
    assert_eq!(config.models[1].strategy, Strategy::Weighted);
    assert_eq!(
        config.providers[0].health.active_every,
        Some(Duration::from_secs(10))
    );
    assert_eq!(config.providers[1].health, Health::default());
    assert_eq!(config.models[1].attempts_max, 3);
    let Http { keys, timeouts, .. } = http(&config);
    assert_eq!(keys[0].name(), "LOCAL_API_KEY");
    assert_eq!(
        keys[0].secret().unwrap().unwrap().expose_secret(),
        "hunter2"
    );
    assert_eq!(timeouts.first_token, Duration::from_secs(20));
    let over = config.models[0].timeouts.over(*timeouts);
    assert_eq!(over.first_token, Duration::from_secs(60));
    assert_eq!(over.idle, Duration::from_secs(30));
    assert_eq!(over.total, Duration::from_secs(300));
    let ProviderKind::Scripted { script } = &config.providers[2].kind else {
        panic!("another kind");
    };
    assert_eq!(script[0].delay, Duration::from_millis(20));
}

#[test]
fn providers_that_have_one_place_for_all_need_only_a_name_and_a_kind() {
    let public = |kind: &str| {
        let text = format!("providers: [ {{ name: a, kind: {kind} }} ]");
        let config = read(&text, &[], Some(Role::Serve)).unwrap();
        let Http {
            base_url,
            api_version,
            ..
        } = http(&config).clone();
        (base_url.to_string(), api_version)
    };
    assert_eq!(
        public("openai"),
        ("https://api.openai.com/v1".to_owned(), None)
    );
    assert_eq!(
        public("deepseek"),
        ("https://api.deepseek.com/".to_owned(), None)
    );
    let version = Some("2023-06-01".to_owned());
    assert_eq!(
        public("anthropic"),
        ("https://api.anthropic.com/v1".to_owned(), version)
    );
    let gemini = "https://generativelanguage.googleapis.com/v1beta".to_owned();
    assert_eq!(public("gemini"), (gemini, None));
}

#[test]
fn kinds_that_document_it_go_on_with_a_text_and_others_only_if_they_can() {
    let continues = |rest: &str| {
        let text = format!("providers: [ {{ name: a, {rest} }} ]");
        read(&text, &[], None).map(|config| config.providers[0].continues)
    };
    for (rest, expected) in [
        ("kind: deepseek", true),
        ("kind: anthropic", true),
        ("kind: anthropic, continues: false", false),
        ("kind: openai", false),
        ("kind: openai, continues: true", true),
        ("kind: gemini", false),
        ("kind: scripted", false),
    ] {
        assert_eq!(continues(rest).unwrap(), expected, "{rest}");
    }
    for kind in ["kind: gemini", "kind: scripted"] {
        let Faults(faults) = continues(&format!("{kind}, continues: true")).unwrap_err();
        let shown: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(
            shown[0].starts_with("providers[0].continues: "),
            "{shown:?}"
        );
    }
}

#[test]
fn azure_has_a_version_but_for_its_newer_api() {
    let version = |rest: &str| {
        let text = format!("providers: [ {{ name: a, kind: azure, base_url: {rest} }} ]");
        let config = read(&text, &[], None).unwrap();
        http(&config).api_version.clone()
    };
    let resource = "\"https://x.openai.azure.com\"";
    assert_eq!(version(resource).as_deref(), Some("2024-10-21"));
    let newer = "\"https://x.openai.azure.com/openai/v1/\"";
    assert_eq!(version(newer), None);
    let preview = format!("{newer}, api_version: preview");
    assert_eq!(version(&preview).as_deref(), Some("preview"));
}

#[test]
fn limits_are_read_and_printed_as_they_were() {
    let text = r#"
providers: [ { name: demo, kind: scripted, script: [ { model: echo, reply: hi } ] } ]
models:
  - name: demo
    deployments:
      - { provider: demo, model: echo,
          limits: { concurrency: 8, adaptive: true, requests_per_minute: 600, tokens_per_minute: 40000 } }
"#;
    let config = read(text, &[], None).unwrap();
    let limits = config.models[0].deployments[0].limits;
    let expected = Limits {
        concurrency: Some(8),
        adaptive: true,
        requests_per_minute: Some(600),
        tokens_per_minute: Some(40_000),
    };
    assert_eq!(limits, expected);
    let again = read(&config.print(), &[], None).unwrap();
    assert_eq!(again.models[0].deployments[0].limits, expected);
    let none = text.replace("600", "0").replace("true", "maybe");
    let shown = faults(&none, &[], None).join("\n");
    for key in ["requests_per_minute", "adaptive"] {
        assert!(shown.contains(&format!("limits.{key}")), "{shown}");
    }
}

#[test]
fn kafka_is_read() {
    let config = read(KAFKA, &[("AWS_REGION", "eu-1")], Some(Role::Ingress)).unwrap();
    let Log::Kafka {
        brokers,
        topic_prefix,
        partitions,
        properties,
        ..
    } = &config.log
    else {
        panic!("another kind");
    };
    assert_eq!(brokers.len(), 2);
    assert_eq!(topic_prefix, "lockgate.");
    assert_eq!(partitions["requests.interactive"], 6);
    assert_eq!(properties["sasl.password"].expose_secret(), "hunter2");
    assert_eq!(config.objects.aws["AWS_REGION"].expose_secret(), "eu-1");
}

#[test]
fn all_faults_come_together_by_key_with_a_remedy() {
    let text = r#"
sever: {}
server: { allow_upstreams: ["http://x"], listen: here, body_bytes_max: 20MiX, request_timeout: 600, lissten: 1, requests_max: 0 }
telemetry: { listen: "0.0.0.0:8080", log_format: xml, otlp_endpoint: "ftp://x" }
shutdown: 30s
log: { kind: kafka, replication: many, partitions: { nowhere: 3, responses: 0 }, properties: { group.id: mine } }
replies: { partition: 48 }
store: { url: "mysql://me:hunter2@x/y" }
redis: { url: "http://me:hunter2@x", key_prefix: "a b", limits_when_down: wait }
results: { retention: 0s, bodies: some }
providers:
  - { name: a, kind: azure, api_version: "../x", health: { active: { every: 1ms, probe: ping }, error_ratio: 0, window: 0s, panic_threshold: 1.5, failures_in_a_row: 0 } }
  - { name: a, kind: scripted, script: [ { reply: hi, status: 7 } ], base_url: "http://x" }
  - { kind: magic, nonsense: 1 }
  - { name: b, kind: openai, base_url: "nowhere", keys: [ {}, { env: NOT_SET }, { env: A, file: b }, { file: b, secret: c }, { secret: "a b" } ] }
models:
  - { name: m, deployments: [] }
  - { name: n, strategy: best, on_cut: retry, sticky: key, aliases: [m, "x*"], shadow: { share: 2 }, fallbacks: { error: [n], context_length: [nowhere] },
      deployments: [ { provider: b, model: y, tier: -1, price: { input: 1 }, context_tokens: 0, limits: { concurrency: 0 } },
                     { provider: b, model: z, price: { cached_input: -1, output: 3 } } ] }
  - { name: "x*", deployments: [ { provider: b, model: y } ] }
  - { name: m, deployments: [ { provider: c, model: x, weight: 0 }, { provider: a }, { provider: b, model: y, limits: { concurency: 3 } } ] }
"#;
    let found = faults(text, &[], Some(Role::Serve));
    let shown = found.join("\n");
    let keys: BTreeSet<&str> = found
        .iter()
        .filter_map(|fault| fault.split(": ").next())
        .collect();
    for key in [
        "sever",
        "server.listen",
        "server.body_bytes_max",
        "server.request_timeout",
        "server.lissten",
        "server.requests_max",
        "telemetry.log_format",
        "telemetry.otlp_endpoint",
        "telemetry.listen",
        "shutdown",
        "log.brokers",
        "log.replication",
        "log.partitions.nowhere",
        "log.partitions.responses",
        "log.properties.group.id",
        "schema_registry.url",
        "replies.partition",
        "store.url",
        "redis.url",
        "redis.key_prefix",
        "redis.limits_when_down",
        "results.retention",
        "results.bodies",
        "providers[0].base_url",
        "providers[0].api_version",
        "providers[1].name",
        "providers[1].base_url",
        "providers[1].script[0].model",
        "providers[1].script[0].status",
        "providers[2].name",
        "providers[2].kind",
        "providers[3].base_url",
        "providers[3].keys[0].env",
        "providers[3].keys[2].file",
        "providers[3].keys[3].secret",
        "providers[3].keys[4].secret",
        "server.allow_upstreams",
        "models[0].deployments",
        "models[1].strategy",
        "models[1].on_cut",
        "models[1].sticky",
        "models[1].aliases",
        "models[1].shadow.share",
        "models[1].fallbacks.error",
        "models[1].fallbacks.context_length",
        "models[1].deployments[0].tier",
        "models[1].deployments[0].price.output",
        "models[1].deployments[0].context_tokens",
        "models[1].deployments[0].limits.concurrency",
        "models[1].deployments[1].price.cached_input",
        "models[1].deployments[1].price.input",
        "models[2].name",
        "models[3].name",
        "models[3].deployments[0].provider",
        "models[3].deployments[0].weight",
        "models[3].deployments[1].model",
        "models[3].deployments[2].limits.concurency",
        "providers[0].health.active.every",
        "providers[0].health.active.probe",
        "providers[0].health.error_ratio",
        "providers[0].health.window",
        "providers[0].health.panic_threshold",
        "providers[0].health.failures_in_a_row",
    ] {
        assert!(keys.contains(key), "no fault for {key} in\n{shown}");
    }
    assert!(!keys.contains("providers[2].nonsense"), "{shown}");
    assert!(
        shown.contains("sever: there is no such key; did you mean server?"),
        "{shown}"
    );
    assert!(shown.contains("did you mean listen?"), "{shown}");
    assert!(shown.contains("did you mean concurrency?"), "{shown}");
    assert!(
        shown.contains("600 is not a time with its unit; write for example 500ms, 600s, 10m or 7d"),
        "{shown}"
    );
    assert!(
        shown.contains("\"20MiX\" is not a size with its unit"),
        "{shown}"
    );
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn text_without_unit_is_refused_too() {
    let found = faults(
        "server: { request_timeout: \"600\", body_bytes_max: \"20\", stream_buffer_max: 20M }",
        &[],
        None,
    );
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn broken_yaml_is_told_by_its_line_without_its_text() {
    let found = faults("server: {}\nstore: { url: 'postgres://hunter2\n", &[], None);
    assert!(found[0].starts_with("lockgate.yaml: line "), "{found:?}");
    assert!(!found[0].contains("hunter2"));
    let repeated = faults("server: {}\nserver: {}\n", &[], None);
    assert!(repeated[0].contains("repeats a key"), "{repeated:?}");
    let list = faults("- a\n", &[], None);
    assert!(list[0].contains("map of sections"), "{list:?}");
}

#[test]
fn a_file_that_is_not_there_is_a_fault() {
    let error = load(Some(Path::new("/nowhere/lockgate.yaml")), None, &[]).unwrap_err();
    assert!(error.to_string().contains("cannot be read"), "{error}");
}

#[test]
fn variables_and_options_lie_over_the_file() {
    let pairs = [
        ("LOCKGATE__SERVER__LISTEN", "0.0.0.0:9000"),
        ("LOCKGATE__RESULTS__BODIES", "none"),
        ("LOCKGATE__LOG__KIND", "kafka"),
        ("LOCKGATE__LOG__BROKERS", "[\"a:1\", \"b:2\"]"),
        ("LOCKGATE__LOG__PROPERTIES__SASL_PASSWORD", "x: *y"),
        ("LOCKGATE__LOG__PARTITIONS__REQUESTS_DELAYED_10S", "3"),
        ("LOCKGATE__SCHEMA_REGISTRY__URL", "http://r:1"),
        ("LOCKGATE__PROVIDERS__0__BASE_URL", "http://elsewhere/v1"),
        ("LOCKGATE__SERVER__REQUEST_TIMEOUT", ""),
        ("LOCKGATE_TEST_URL", "not ours"),
    ];
    let options = [("server.requests_max".to_owned(), "7".to_owned())];
    let config = from_parts("", EXAMPLE, &variables(&pairs), None, &options).unwrap();
    assert_eq!(config.server.listen.port(), 9000);
    assert_eq!(config.server.requests_max, 7);
    assert_eq!(config.server.request_timeout, Duration::from_secs(600));
    assert_eq!(config.results.bodies, Bodies::None);
    let Log::Kafka {
        brokers,
        properties,
        partitions,
        ..
    } = &config.log
    else {
        panic!("another kind");
    };
    assert_eq!(brokers, &["a:1", "b:2"]);
    assert_eq!(properties["sasl.password"].expose_secret(), "x: *y");
    assert_eq!(partitions["requests.delayed.10s"], 3);
    let Http { base_url, .. } = http(&config);
    assert_eq!(base_url.as_str(), "http://elsewhere/v1");
}

#[test]
fn brokers_may_be_a_plain_list_with_commas() {
    let pairs = [("LOCKGATE__LOG__BROKERS", "a:1, b:2")];
    let config = read(KAFKA, &pairs, None).unwrap();
    assert!(matches!(&config.log, Log::Kafka { brokers, .. } if brokers == &["a:1", "b:2"]));
}

#[test]
fn faults_of_variables_name_the_variable() {
    let pairs = [
        ("LOCKGATE__SERVER__LISSTEN", "x"),
        ("LOCKGATE__SERVER__LISTEN__PORT", "x"),
        ("LOCKGATE__MODELS", "[ {"),
    ];
    let shown = faults("server: { listen: \"127.0.0.1:1\" }", &pairs, None).join("\n");
    assert!(
        shown.contains("set by LOCKGATE__SERVER__LISSTEN"),
        "{shown}"
    );
    assert!(
        shown.contains("LOCKGATE__SERVER__LISTEN__PORT: server.listen is a single value"),
        "{shown}"
    );
    assert!(
        shown.contains("LOCKGATE__MODELS: the value is not valid YAML"),
        "{shown}"
    );
}

#[test]
fn each_role_demands_what_it_uses_only() {
    assert!(read(EXAMPLE, &[], None).is_ok());
    let serve = faults(EXAMPLE, &[], Some(Role::Serve));
    assert_eq!(
        serve,
        [
            "providers[0].keys[0].env: variable LOCAL_API_KEY was not set at start; set it, or remove the key"
        ]
    );
    let split = faults(EXAMPLE, &[], Some(Role::Sinks)).join("\n");
    for key in ["log.kind", "store.url", "objects.shared"] {
        assert!(split.contains(key), "{split}");
    }
    assert!(!split.contains("LOCAL_API_KEY"), "{split}");
    let shared = KAFKA.replace("url: \"s3://bucket/prefix\"", "shared: true");
    assert!(read(&shared, &[], Some(Role::Processors)).is_ok());
}

#[test]
fn a_key_in_a_file_loses_its_white_space_and_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let text = format!(
        "providers: [ {{ name: a, kind: openai, base_url: \"http://x\", keys: [ {{ file: {} }} ] }} ]",
        path.display()
    );
    let missing = faults(&text, &[], Some(Role::Serve));
    assert!(
        missing[0].starts_with("providers[0].keys[0].file: "),
        "{missing:?}"
    );
    std::fs::write(&path, "hunter2\n").unwrap();
    let config = read(&text, &[], Some(Role::Serve)).unwrap();
    let Http { keys, .. } = http(&config);
    assert_eq!(
        keys[0].secret().unwrap().unwrap().expose_secret(),
        "hunter2"
    );
}

/// A provider whose key is sealed in the store.
const SEALED: &str = r#"
providers: [ { name: a, kind: openai, base_url: "http://x", keys: [ { secret: openai-2 } ] } ]
"#;

fn master_key() -> String {
    let key = crate::secrets::MasterKeys::generate().unwrap();
    key.expose_secret().to_owned()
}

#[test]
fn a_sealed_key_needs_a_master_key_where_providers_are_called() {
    for role in [None, Some(Role::Serve)] {
        let without = read(SEALED, &[], role);
        assert_eq!(without.is_err(), role.is_some());
    }
    let missing = faults(SEALED, &[], Some(Role::Serve)).join("\n");
    assert!(
        missing.starts_with("LOCKGATE_MASTER_KEY: there is no master key to open secret openai-2"),
        "{missing}"
    );
    assert!(
        missing.contains("lockgate secrets generate-master-key"),
        "{missing}"
    );
    let key = master_key();
    let config = read(SEALED, &[("LOCKGATE_MASTER_KEY", &key)], Some(Role::Serve)).unwrap();
    assert_eq!(
        config
            .secret_names()
            .map(|name| name.as_str())
            .collect::<Vec<_>>(),
        ["openai-2"]
    );
    assert!(config.secrets.master_keys().unwrap().is_some());
    let shown = format!("{} {config:?}", config.print());
    assert!(
        !shown.contains(&key) && shown.contains("secret: openai-2"),
        "{shown}"
    );
    let bad = faults(
        SEALED,
        &[("LOCKGATE_MASTER_KEY", "hunter2")],
        Some(Role::Serve),
    )
    .join("\n");
    assert!(
        bad.starts_with("LOCKGATE_MASTER_KEY: key 1 of it is not 32 bytes"),
        "{bad}"
    );
    assert!(!bad.contains("hunter2"), "{bad}");
}

#[test]
fn a_file_of_master_keys_is_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master");
    let text = format!(
        "secrets: {{ master_key_file: {} }}\n{SEALED}",
        path.display()
    );
    let told = |variables: &[(&str, &str)]| faults(&text, variables, Some(Role::Serve)).join("\n");
    assert!(
        told(&[]).starts_with("secrets.master_key_file: "),
        "{}",
        told(&[])
    );
    std::fs::write(&path, format!("{}\n{}\n", master_key(), master_key())).unwrap();
    for (mode, is_good) in [(0o640, false), (0o604, false), (0o600, true), (0o400, true)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        if is_good {
            let config = read(&text, &[], Some(Role::Serve)).unwrap();
            let keys = config.secrets.master_keys().unwrap().unwrap();
            assert_eq!(keys.other_ids().count(), 1);
        } else {
            let told = told(&[]);
            assert!(told.contains(&format!("mode is {mode:o}")), "{told}");
            assert!(told.contains("chmod 600"), "{told}");
        }
    }
    let both = told(&[("LOCKGATE_MASTER_KEY", &master_key())]);
    assert!(both.contains("keep the variable or the file"), "{both}");
}

#[test]
fn a_time_out_beyond_what_the_log_keeps_is_refused() {
    let shown = faults("server: { request_timeout: 25h }", &[], None).join("\n");
    assert!(shown.contains("server.request_timeout: topic"), "{shown}");
    let shown = faults("results: { retention: 1m }", &[], None).join("\n");
    assert!(shown.contains("results.retention"), "{shown}");
}

#[test]
fn printing_hides_secrets_and_can_be_read_again() {
    for text in ["", EXAMPLE, KAFKA] {
        let config = read(text, &[("LOCAL_API_KEY", "hunter2")], None).unwrap();
        let printed = config.print();
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(!format!("{config:?}").contains("hunter2"));
        let again = read(&printed, &[], None).unwrap();
        assert_eq!(printed, again.print());
        assert_eq!(config.version(), again.version());
    }
}

#[test]
fn the_version_is_of_the_routing_alone() {
    let version = |text: &str| read(text, &[], None).unwrap().version();
    let plain = version(EXAMPLE);
    assert_eq!(plain.len(), 16);
    assert_eq!(plain, version(&EXAMPLE.replace("8080", "8081")));
    assert_ne!(plain, version(&EXAMPLE.replace("weight: 3", "weight: 4")));
    assert_ne!(plain, version(&EXAMPLE.replace("idle: 30s", "idle: 31s")));
}

#[test]
fn the_documentation_has_exactly_the_keys_that_are_read() {
    let mut asked = BTreeSet::new();
    for text in [EXAMPLE, KAFKA] {
        let notes = Notes::default();
        let tree = serde_saphyr::from_str(text).unwrap();
        let config = resolve::read(tree, &Variables::new(), &notes);
        assert_eq!(config.data_dir, PathBuf::from("./data"));
        asked.append(&mut notes.asked.into_inner());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let document = std::fs::read_to_string(path).unwrap();
    let documented: BTreeSet<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    let missing: Vec<_> = asked.difference(&documented).collect();
    let invented: Vec<_> = documented.difference(&asked).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "missing {missing:?}, invented {invented:?}"
    );
}

#[test]
fn sections_that_differ_are_named_but_for_the_routing_document() {
    let before = read("", &[], None).unwrap();
    let after = read(
        "server: { request_timeout: 5s }\nproviders: [ { name: d, kind: scripted, script: [ { model: e, reply: x } ] } ]\nmodels: [ { name: m, deployments: [ { provider: d, model: e } ] } ]\n",
        &[],
        None,
    )
    .unwrap();
    assert_eq!(before.differs_in(&after), ["server"]);
    assert!(after.differs_in(&after).is_empty());
    assert_ne!(before.routing().version, after.routing().version);
    assert_eq!(after.routing().models[0].name, "m");
}
