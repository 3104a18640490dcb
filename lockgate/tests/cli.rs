//! The commands that open no socket, through the built binary.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Command, Output};

/// Runs `lockgate` in `folder` with a clean environment.
fn lockgate(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lockgate"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Each line that `keys list` prints below its heading, as words.
fn listed(folder: &Path) -> Vec<Vec<String>> {
    let output = lockgate(folder, &["keys", "list"], &[]);
    assert!(output.status.success(), "{}", err(&output));
    let text = out(&output);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    text.lines().skip(1).map(words).collect()
}

#[test]
fn every_fault_is_named_by_its_key_and_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let faults = r#"
sever: {}
server: { listen: "127.0.0.1:9464", body_bytes_max: 20MiX }
shutdown: { grace: soon }
models:
  - { name: lonely, deployments: [] }
  - { name: lost, deployments: [ { provider: nobody, model: x } ] }
"#;
    std::fs::write(folder.path().join("lockgate.yaml"), faults).unwrap();
    for command in [
        &["check-config"][..],
        &["serve"],
        &["print-config"],
        &["keys", "list"],
    ] {
        let output = lockgate(
            folder.path(),
            command,
            &[("LOCKGATE__RESULTS__BODIES", "some")],
        );
        assert_eq!(
            output.status.code(),
            Some(78),
            "{command:?}: {}",
            err(&output)
        );
        assert_eq!(out(&output), "");
        let text = err(&output);
        for key in [
            "sever:",
            "server.body_bytes_max:",
            "telemetry.listen:",
            "shutdown.grace:",
            "results.bodies:",
            "models[0].deployments:",
            "models[1].deployments[0].provider:",
        ] {
            let named = text.lines().any(|line| line.starts_with(key));
            assert!(named, "{command:?} does not name {key} in\n{text}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the file itself is there");
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let output = lockgate(
        folder.path(),
        &["check-config", "--config", "mine.yaml"],
        &[],
    );
    assert_eq!(output.status.code(), Some(78));
    assert!(err(&output).contains("mine.yaml"), "{}", err(&output));
    let output = lockgate(folder.path(), &["check-config"], &[]);
    assert!(output.status.success(), "{}", err(&output));
}

#[test]
fn checking_for_a_role_tells_what_that_role_demands() {
    let folder = tempfile::tempdir().unwrap();
    let output = lockgate(folder.path(), &["check-config", "--role", "sinks"], &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(err(&output).contains("log.kind: "), "{}", err(&output));
}

#[test]
fn the_configuration_is_printed_without_its_secrets_and_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = r#"
log: { kind: kafka, brokers: ["127.0.0.1:1"], properties: { sasl.password: hunter2 } }
schema_registry: { url: "http://me:hunter2@127.0.0.1:1" }
store: { url: "postgres://me:hunter2@127.0.0.1:1/x" }
"#;
    std::fs::write(folder.path().join("mine.yaml"), file).unwrap();
    let arguments = ["print-config", "--config", "mine.yaml"];
    let variables = [("LOCKGATE__SERVER__LISTEN", "127.0.0.1:1234")];
    let output = lockgate(folder.path(), &arguments, &variables);
    assert!(output.status.success(), "{}", err(&output));
    let text = out(&output);
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("127.0.0.1:1234"), "{text}");
    std::fs::write(folder.path().join("lockgate.yaml"), &text).unwrap();
    let again = lockgate(folder.path(), &["print-config"], &[]);
    assert_eq!(out(&again), text);
}

#[test]
fn without_a_file_the_scripted_model_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let output = lockgate(folder.path(), &["print-config"], &[]);
    let text = out(&output);
    assert!(
        text.contains("scripted") && text.contains("name: demo"),
        "{text}"
    );
}

#[test]
fn a_key_is_made_listed_and_disabled() {
    let folder = tempfile::tempdir().unwrap();
    let create = ["keys", "create", "--name", "ci", "--tenant", "research"];
    let made = lockgate(folder.path(), &create, &[]);
    assert!(made.status.success(), "{}", err(&made));
    let key = out(&made);
    let mut parts = key.trim_end().splitn(3, '_');
    assert_eq!(
        parts.next(),
        Some("lg"),
        "the key alone is on standard output"
    );
    let id = parts.next().unwrap().to_owned();
    let secret = parts.next().unwrap();
    assert_eq!(key.lines().count(), 1);
    assert!(err(&made).contains(&id) && !err(&made).contains(secret));

    let admin = ["--role", "admin", "--expires", "90d"];
    let second = [
        &["keys", "create", "--name", "root", "--tenant", "ops"][..],
        &admin,
    ]
    .concat();
    assert!(lockgate(folder.path(), &second, &[]).status.success());
    let twin = lockgate(folder.path(), &create, &[]);
    assert_eq!(twin.status.code(), Some(1));
    assert!(err(&twin).contains("exists already"), "{}", err(&twin));

    let rows = listed(folder.path());
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0][..4], [id.as_str(), "ci", "research", "member"]);
    assert_eq!(rows[0][5], "enabled");
    assert_eq!(rows[1][1..4], ["root", "ops", "admin"]);
    assert_eq!(rows[1][5], "until");

    assert!(
        lockgate(folder.path(), &["keys", "disable", &id], &[])
            .status
            .success()
    );
    assert_eq!(listed(folder.path())[0][5], "disabled");
    let unknown = lockgate(folder.path(), &["keys", "disable", "nobody"], &[]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(err(&unknown).contains("there is no key nobody"));
}

#[test]
fn a_key_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, tenant) in [("", "t"), ("n", "a tenant"), ("n", "")] {
        let arguments = ["keys", "create", "--name", name, "--tenant", tenant];
        let output = lockgate(folder.path(), &arguments, &[]);
        assert_eq!(output.status.code(), Some(1), "{name:?} {tenant:?}");
        assert_eq!(out(&output), "");
    }
    let arguments = [
        "keys",
        "create",
        "--name",
        "n",
        "--tenant",
        "t",
        "--expires",
        "soon",
    ];
    assert_eq!(
        lockgate(folder.path(), &arguments, &[]).status.code(),
        Some(2)
    );
}

#[test]
fn each_command_has_a_help_that_says_what_it_is_for() {
    let folder = tempfile::tempdir().unwrap();
    let whole = out(&lockgate(folder.path(), &["--help"], &[]));
    for (command, words) in [
        ("serve", "every role"),
        ("ingress", "door"),
        ("processors", "providers"),
        ("sinks", "store"),
        ("check-config", "every fault"),
        ("print-config", "secrets hidden"),
        ("keys", "API keys"),
        ("secrets", "sealed"),
    ] {
        let line = whole
            .lines()
            .find(|line| line.trim_start().starts_with(command));
        assert!(
            line.is_some_and(|line| line.contains(words)),
            "{command} in\n{whole}"
        );
        let help = lockgate(folder.path(), &[command, "--help"], &[]);
        assert!(
            help.status.success() && out(&help).contains("--config <FILE>"),
            "{command}"
        );
    }
    assert!(
        whole.contains("Examples:") && whole.contains("Exit codes:"),
        "{whole}"
    );
    for command in ["create", "list", "disable"] {
        let help = out(&lockgate(folder.path(), &["keys", command, "--help"], &[]));
        assert!(help.contains("Usage: lockgate keys"), "{help}");
    }
    let wrong = lockgate(folder.path(), &["sreve"], &[]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(err(&wrong).contains("serve"), "{}", err(&wrong));
}
