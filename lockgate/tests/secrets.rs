//! `lockgate secrets` through the built binary: what it does, and what it never shows.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// In no output, file or log.
const VALUE: &str = "sk-hunter2-hunter2";

const MASTER: &str = "LOCKGATE_MASTER_KEY";

/// Runs `lockgate` in `folder` with a clean environment and this standard input.
fn run(folder: &Path, arguments: &[&str], master: Option<&str>, input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(master) = master {
        command.env(MASTER, master);
    }
    let mut child = command.spawn().unwrap();
    // A command that needs no input may have ended already.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    assert!(!text(&output).contains("hunter2"), "{}", text(&output));
    for master in master.unwrap_or_default().split(',') {
        let shown = !master.is_empty() && text(&output).contains(master);
        assert!(!shown, "{}", text(&output));
    }
    output
}

/// Both outputs.
fn text(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

/// A new master key and its id.
fn master_key(folder: &Path) -> (String, String) {
    let output = run(folder, &["secrets", "generate-master-key"], None, "");
    good(&output);
    let key = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(
        key.lines().count(),
        1,
        "the key alone is on standard output"
    );
    let told = String::from_utf8(output.stderr).unwrap();
    let id = told.strip_prefix("master key ").unwrap();
    (key.trim().to_owned(), id[..16].to_owned())
}

fn set(folder: &Path, name: &str, master: &str, value: &str) -> Output {
    run(folder, &["secrets", "set", name], Some(master), value)
}

/// Each line that `secrets list` prints below its heading, as words.
fn listed(folder: &Path) -> Vec<Vec<String>> {
    // No master key is needed to list.
    let output = run(folder, &["secrets", "list"], None, "");
    good(&output);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("NAME "), "{text}");
    text.lines().skip(1).map(words).collect()
}

/// Whether any file below `folder` holds `value`.
fn is_on_disk(folder: &Path, value: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_on_disk(&path, value);
        }
        let bytes = std::fs::read(&path).unwrap();
        bytes
            .windows(value.len())
            .any(|some| some == value.as_bytes())
    })
}

#[test]
fn a_secret_is_set_listed_and_deleted_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (key, id) = master_key(folder);
    let (other, _) = master_key(folder);
    assert_ne!(key, other);
    let told = good(&set(folder, "openai-2", &key, &format!("{VALUE}\n")));
    assert!(told.contains("openai-2") && told.contains(&id), "{told}");
    assert!(told.contains("no provider names it yet"), "{told}");
    good(&set(folder, "a", &key, VALUE));
    good(&set(folder, "a", &key, VALUE));
    let rows = listed(folder);
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0][..3], ["a", "2", id.as_str()]);
    assert_eq!(rows[1][..3], ["openai-2", "1", id.as_str()]);
    assert!(!is_on_disk(folder, "hunter2"));
    assert!(!is_on_disk(folder, &key));

    let delete = ["secrets", "delete", "a"];
    good(&run(folder, &delete, None, ""));
    assert_eq!(listed(folder).len(), 1);
    let gone = run(folder, &delete, None, "");
    assert_eq!(gone.status.code(), Some(1));
    assert!(
        text(&gone).contains("lockgate secrets list"),
        "{}",
        text(&gone)
    );
}

#[test]
fn what_is_no_value_or_no_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (key, _) = master_key(folder);
    for bad in [
        "",
        "\n",
        "Bearer hunter2",
        "hunter2\nhunter2\n",
        "hunter2-ä",
    ] {
        let output = set(folder, "a", &key, bad);
        assert_eq!(output.status.code(), Some(1), "{bad:?}");
    }
    let long = "hunter2-".repeat(5_000);
    let output = set(folder, "a", &key, &long);
    assert!(
        text(&output).contains("longer than 16384"),
        "{}",
        text(&output)
    );
    assert_eq!(output.status.code(), Some(1));
    for bad in ["", "a b", "a/b"] {
        let output = set(folder, bad, &key, VALUE);
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
    }
    // A value on the command line, where others see it, is not taken.
    let output = run(folder, &["secrets", "set", "a", "value"], Some(&key), "");
    assert_eq!(output.status.code(), Some(2));
    assert!(listed(folder).is_empty());
}

#[test]
fn without_a_good_master_key_the_command_says_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for command in [&["secrets", "set", "a"][..], &["secrets", "rotate"]] {
        let output = run(folder, command, None, VALUE);
        assert_eq!(output.status.code(), Some(78), "{}", text(&output));
        assert!(
            text(&output).contains("lockgate secrets generate-master-key"),
            "{}",
            text(&output)
        );
        let output = run(folder, command, Some("c2hvcnQ="), VALUE);
        assert_eq!(output.status.code(), Some(78), "{}", text(&output));
        assert!(
            text(&output).contains("LOCKGATE_MASTER_KEY: key 1 of it is not 32 bytes"),
            "{}",
            text(&output)
        );
    }
    let (key, _) = master_key(folder);
    std::fs::write(folder.join("master"), key).unwrap();
    let settings = "secrets: { master_key_file: ./master }\n";
    std::fs::write(folder.join("lockgate.yaml"), settings).unwrap();
    let mode = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.join("master"), mode).unwrap();
    };
    mode(0o644);
    let output = run(folder, &["secrets", "set", "a"], None, VALUE);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
    assert!(text(&output).contains("chmod 600"), "{}", text(&output));
    mode(0o600);
    good(&run(folder, &["secrets", "set", "a"], None, VALUE));
}

#[test]
fn rotation_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (old, old_id) = master_key(folder);
    let (stray, stray_id) = master_key(folder);
    let (new, new_id) = master_key(folder);
    good(&set(folder, "a", &old, VALUE));
    good(&set(folder, "b", &stray, VALUE));
    good(&set(folder, "c", &old, VALUE));
    let rotate = |master: &str| run(folder, &["secrets", "rotate"], Some(master), "");
    let ids = || {
        let id = |row: Vec<String>| row[2].clone();
        listed(folder).into_iter().map(id).collect::<Vec<_>>()
    };

    let stopped = rotate(&format!("{new},{old}"));
    assert_eq!(stopped.status.code(), Some(1));
    let told = text(&stopped);
    assert!(told.contains("1/3 a: sealed anew"), "{told}");
    assert!(told.contains("2/3 b: left as it was"), "{told}");
    assert!(told.contains(&stray_id), "the key that is wanted: {told}");
    assert!(told.contains("3/3 c: sealed anew"), "{told}");
    assert_eq!(ids(), [&*new_id, &*stray_id, &*new_id]);

    let told = good(&rotate(&format!("{new},{old},{stray}")));
    assert!(told.contains("1/3 a: nothing to do"), "{told}");
    assert!(told.contains("2/3 b: sealed anew"), "{told}");
    assert!(told.contains(&format!("{old_id}, {stray_id}")), "{told}");
    assert_eq!(ids(), [&*new_id, &*new_id, &*new_id]);
    let told = good(&rotate(&new));
    assert!(told.contains("0 of them anew"), "{told}");
}

/// A provider that nothing answers for, with a key that is sealed in the store.
const SETTINGS: &str = r#"
server: { listen: "127.0.0.1:0" }
telemetry: { listen: "127.0.0.1:0", log_level: debug }
providers: [ { name: p, kind: openai, base_url: "http://127.0.0.1:1/v1", keys: [ { secret: openai-2 } ] } ]
models: [ { name: m, deployments: [ { provider: p, model: m } ] } ]
"#;

#[test]
fn a_start_names_what_it_lacks_to_use_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("lockgate.yaml"), SETTINGS).unwrap();
    let serve = |master: Option<&str>| run(folder, &["serve"], master, "");
    let bare = serve(None);
    assert_eq!(bare.status.code(), Some(78), "{}", text(&bare));
    assert!(
        text(&bare).contains("no master key to open secret openai-2"),
        "{}",
        text(&bare)
    );
    let (key, id) = master_key(folder);
    let unset = serve(Some(&key));
    assert_eq!(unset.status.code(), Some(1));
    assert!(
        text(&unset).contains("lockgate secrets set openai-2"),
        "{}",
        text(&unset)
    );
    let told = good(&set(folder, "openai-2", &key, VALUE));
    assert!(!told.contains("no provider"), "{told}");
    let (wrong, wrong_id) = master_key(folder);
    let wrong = serve(Some(&wrong));
    assert_eq!(wrong.status.code(), Some(1));
    for id in [&id, &wrong_id] {
        assert!(text(&wrong).contains(id.as_str()), "{}", text(&wrong));
    }
    let printed = run(folder, &["print-config"], Some(&key), "");
    assert!(good(&printed).contains("secret: openai-2"));
    let deleted = run(folder, &["secrets", "delete", "openai-2"], None, "");
    assert!(
        good(&deleted).contains("providers still name it"),
        "{}",
        text(&deleted)
    );
}

#[test]
fn the_help_tells_how_secrets_are_used_and_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let help = |arguments: &[&str]| good(&run(folder.path(), arguments, None, ""));
    let whole = help(&["secrets", "--help"]);
    for words in [
        "{ secret: NAME }",
        "LOCKGATE_MASTER_KEY",
        "NEW,OLD",
        "Examples:",
    ] {
        assert!(whole.contains(words), "{words} in\n{whole}");
    }
    for command in ["set", "list", "delete", "rotate", "generate-master-key"] {
        let text = help(&["secrets", command, "--help"]);
        assert!(text.contains("Usage: lockgate secrets"), "{text}");
    }
}
