//! Signals and the end of a process: this very test program is started again as the process to be stopped.

#![expect(clippy::unwrap_used, reason = "a test may unwrap, its helpers as well")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// Set for the process to be stopped.
const CHILD: &str = "LOCKGATE_TEST_SHUTDOWN_CHILD";

struct Stoppable {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Stoppable {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["process_to_be_stopped", "--exact", "--nocapture"])
            .env(CHILD, "yes")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn wait_for(&mut self, line: &str) {
        // The test harness writes on the same line before.
        let found = self
            .lines
            .by_ref()
            .map_while(Result::ok)
            .any(|text| text.ends_with(line));
        assert!(found, "no line {line}");
    }

    fn send(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &id])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    fn code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's own variable")]
fn is_child() -> bool {
    std::env::var(CHILD).is_ok()
}

/// Does something only as the child of a test below.
#[tokio::test]
async fn process_to_be_stopped() {
    if !is_child() {
        return;
    }
    let stop = runtime::shutdown::on_signal().unwrap();
    writeln!(std::io::stdout(), "running").unwrap();
    stop.cancelled().await;
    writeln!(std::io::stdout(), "stopping").unwrap();
    // Work that never ends.
    std::future::pending::<()>().await;
}

#[test]
fn the_first_signal_stops_and_the_second_ends() {
    for (first, second, code) in [
        ("TERM", "TERM", 143),
        ("INT", "INT", 130),
        ("TERM", "INT", 130),
    ] {
        let mut process = Stoppable::start();
        process.wait_for("running");
        process.send(first);
        process.wait_for("stopping");
        process.send(second);
        assert_eq!(process.code(), Some(code), "{first} {second}");
    }
}
