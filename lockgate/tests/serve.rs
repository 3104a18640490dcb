//! A whole process through the built binary: it starts on an empty folder, answers, and stops.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};

/// Nothing takes so long on a machine that works.
const LONG: Duration = Duration::from_secs(30);

/// A running `lockgate`; killed when dropped.
struct Process {
    child: Child,
    server: SocketAddr,
    telemetry: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An address that was free a moment ago.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Process {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let (server, telemetry) = (free(), free());
        let child = Command::new(env!("CARGO_BIN_EXE_lockgate"))
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .env("LOCKGATE__SERVER__LISTEN", server.to_string())
            .env("LOCKGATE__TELEMETRY__LISTEN", telemetry.to_string())
            .env("LOCKGATE__SHUTDOWN__GRACE", "5s")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            server,
            telemetry,
        }
    }

    /// Status of a path of the telemetry server; none while it does not listen.
    async fn health(&self, path: &str) -> Option<StatusCode> {
        let answer = reqwest::get(format!("http://{}{path}", self.telemetry)).await;
        answer.ok().map(|answer| answer.status())
    }

    async fn ready(&self) {
        let begun = Instant::now();
        while self.health("/readyz").await != Some(StatusCode::OK) {
            assert!(begun.elapsed() < LONG, "it does not become ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn chat(&self, key: &str) -> (StatusCode, Value) {
        let body =
            json!({ "model": "demo", "messages": [{ "role": "user", "content": "ship ahoy" }] });
        let answer = reqwest::Client::new()
            .post(format!("http://{}/v1/chat/completions", self.server))
            .bearer_auth(key)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        let status = answer.status();
        let body = answer.bytes().await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
    }

    /// The exit code, once it has ended by itself.
    fn end(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < LONG, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn lockgate(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_lockgate"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"]
        .as_str()
        .unwrap_or_default()
}

#[tokio::test]
async fn alone_it_serves_the_scripted_model_and_stops_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &["serve"]);
    process.ready().await;
    assert_eq!(process.health("/healthz").await, Some(StatusCode::OK));
    assert_eq!(process.health("/metrics").await, Some(StatusCode::OK));
    assert_eq!(
        process.chat("lg_nobody_nothing").await.0,
        StatusCode::UNAUTHORIZED
    );

    // A key that is made while it runs is known within a second, and forgotten as soon.
    let create = ["keys", "create", "--name", "test", "--tenant", "test"];
    let key = lockgate(folder.path(), &create);
    let made = Instant::now();
    let answer = loop {
        let (status, answer) = process.chat(&key).await;
        if status == StatusCode::OK {
            break answer;
        }
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(made.elapsed() < LONG, "the key stays unknown");
    };
    assert_eq!(text(&answer), "You said: ship ahoy");
    let id = key.split('_').nth(1).unwrap();
    lockgate(folder.path(), &["keys", "disable", id]);
    let disabled = Instant::now();
    while process.chat(&key).await.0 != StatusCode::UNAUTHORIZED {
        assert!(disabled.elapsed() < LONG, "the key stays valid");
    }

    process.signal("TERM");
    assert_eq!(process.end(), Some(0));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn its_memory_is_in_small_pages_whatever_the_system_prefers() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["serve"]);
    process.ready().await;
    let status = format!("/proc/{}/status", process.child.id());
    let status = std::fs::read_to_string(status).unwrap();
    assert!(status.contains("\nTHP_enabled:\t0\n"), "{status}");
}

#[tokio::test]
async fn the_demo_prints_a_line_that_works_and_keeps_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut process = Process::start(folder.path(), &["serve", "--demo"]);
        let output = BufReader::new(process.child.stdout.take().unwrap());
        let line = output
            .lines()
            .map(Result::unwrap)
            .find(|line| line.starts_with("curl "));
        let line = line.unwrap();
        assert_eq!(
            process.health("/readyz").await,
            Some(StatusCode::OK),
            "printed once ready"
        );
        assert!(
            line.contains(&format!("http://{}/v1/chat/completions", process.server)),
            "{line}"
        );
        let key = line
            .split("Bearer ")
            .nth(1)
            .unwrap()
            .split('\'')
            .next()
            .unwrap()
            .to_owned();
        let (status, answer) = process.chat(&key).await;
        assert_eq!(
            (status, text(&answer)),
            (StatusCode::OK, "You said: ship ahoy")
        );
        keys.push(key);
        process.signal("INT");
        assert_eq!(process.end(), Some(0));
    }
    assert_eq!(keys[0], keys[1]);
    let file = folder.path().join("data/demo.key");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // A lost file means a new key, and the old one is good no more.
    std::fs::remove_file(&file).unwrap();
    let process = Process::start(folder.path(), &["serve", "--demo"]);
    process.ready().await;
    let new = std::fs::read_to_string(&file).unwrap();
    assert_ne!(new.trim(), keys[0]);
    assert_eq!(process.chat(new.trim()).await.0, StatusCode::OK);
    assert_eq!(process.chat(&keys[0]).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_was_asked_before_a_kill_is_readable_after_the_restart() {
    let folder = tempfile::tempdir().unwrap();
    let create = ["keys", "create", "--name", "test", "--tenant", "test"];
    let key = lockgate(folder.path(), &create);
    let mut process = Process::start(folder.path(), &["serve"]);
    process.ready().await;
    for _ in 0..5 {
        assert_eq!(process.chat(&key).await.0, StatusCode::OK);
    }
    process.signal("KILL");
    assert_eq!(process.end(), None);

    let process = Process::start(folder.path(), &["serve"]);
    process.ready().await;
    let begun = Instant::now();
    loop {
        let list = reqwest::Client::new()
            .get(format!("http://{}/v1/requests", process.server))
            .bearer_auth(&key)
            .send()
            .await
            .unwrap();
        let list: Value = serde_json::from_slice(&list.bytes().await.unwrap()).unwrap();
        let rows = list["data"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let completed = rows
            .iter()
            .filter(|row| row["status"] == "completed")
            .count();
        if completed == 5 {
            assert_eq!(rows.len(), 5);
            break;
        }
        assert!(begun.elapsed() < LONG, "{list}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A configuration whose model `demo` answers with `word` in front.
fn answers(folder: &Path, word: &str) {
    let script = json!([{ "model": "echo", "reply": format!("{word}: {{prompt}}") }]);
    let config = json!({
        "providers": [{ "name": "p", "kind": "scripted", "script": script }],
        "models": [{ "name": "demo", "deployments": [{ "provider": "p", "model": "echo" }] }],
    });
    std::fs::write(folder.join("lockgate.yaml"), config.to_string()).unwrap();
}

#[tokio::test]
async fn a_changed_file_is_taken_on_without_a_restart_and_one_with_a_fault_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let create = ["keys", "create", "--name", "test", "--tenant", "test"];
    answers(folder.path(), "one");
    let key = lockgate(folder.path(), &create);
    let mut process = Process::start(folder.path(), &["serve"]);
    process.ready().await;
    let answered = async |word: &str| {
        let begun = Instant::now();
        let wanted = format!("{word}: ship ahoy");
        loop {
            let (status, answer) = process.chat(&key).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            if text(&answer) == wanted {
                return;
            }
            assert!(begun.elapsed() < LONG, "{answer}, not {wanted}");
        }
    };
    answered("one").await;
    answers(folder.path(), "two");
    answered("two").await;

    let fault = r#"{ "models": [ { "name": "demo", "deployments": [] } ], "nonsense": 1 }"#;
    std::fs::write(folder.path().join("lockgate.yaml"), fault).unwrap();
    let begun = Instant::now();
    let refused = r#"lockgate_config_reloads_total{outcome="refused"} 1"#;
    loop {
        let metrics = reqwest::get(format!("http://{}/metrics", process.telemetry)).await;
        let metrics = metrics.unwrap().text().await.unwrap();
        if metrics.lines().any(|line| line == refused) {
            break;
        }
        assert!(begun.elapsed() < LONG, "{metrics}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answered("two").await;

    answers(folder.path(), "three");
    process.signal("HUP");
    answered("three").await;
    process.signal("TERM");
    assert_eq!(process.end(), Some(0));
}

#[test]
fn a_port_in_use_is_told_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lockgate"))
        .arg("serve")
        .current_dir(folder.path())
        .env_clear()
        .env("LOCKGATE__SERVER__LISTEN", address.to_string())
        .env("LOCKGATE__TELEMETRY__LISTEN", free().to_string())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("server.listen") && text.contains(&address.to_string()),
        "{text}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn while_the_broker_is_down_it_waits_unready_and_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = free();
    let file = format!(
        "log: {{ kind: kafka, brokers: [\"{nobody}\"] }}\nschema_registry: {{ url: \"http://{nobody}\" }}\n"
    );
    std::fs::write(folder.path().join("lockgate.yaml"), file).unwrap();
    let mut process = Process::start(folder.path(), &["serve"]);
    let begun = Instant::now();
    while process.health("/healthz").await != Some(StatusCode::OK) {
        assert!(begun.elapsed() < LONG, "it does not tell its health");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        process.health("/readyz").await,
        Some(StatusCode::SERVICE_UNAVAILABLE)
    );
    process.signal("TERM");
    assert_eq!(process.end(), Some(0));
}

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Process::start(folder.path(), &["serve", "--demo"]);
    let output = BufReader::new(first.child.stdout.take().unwrap());
    let is_ready = output
        .lines()
        .any(|line| line.unwrap().starts_with("curl "));
    assert!(is_ready);
    let mut second = Process::start(folder.path(), &["serve"]);
    assert_eq!(second.end(), Some(1));
    first.signal("TERM");
    assert_eq!(first.end(), Some(0));
}
