//! A child process whose output is kept, and shown when the test fails.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// A child process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: std::process::Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command`; standard output and error are appended to `folder/name.log`.
    ///
    /// # Errors
    /// When the file or the process cannot be made.
    pub fn start(name: &str, folder: &Path, mut command: Command) -> anyhow::Result<Self> {
        let output = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&output)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            output,
        })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Sends a signal by its name, such as `TERM`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let status = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.child.id().to_string())
            .stderr(Stdio::null())
            .status()?;
        anyhow::ensure!(status.success(), "{} is gone", self.name);
        Ok(())
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// When it was gone before: then it had crashed.
    pub fn kill_9(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "{} had ended before it was killed: {status}\n{}",
                self.name,
                self.tail()
            );
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                bail!("{} still runs after {limit:?}\n{}", self.name, self.tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// The end of its output.
    #[must_use]
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let from = lines.len().saturating_sub(40);
        format!("--- {} ---\n{}", self.name, lines[from..].join("\n"))
    }
}

impl Drop for Process {
    #[expect(
        clippy::print_stderr,
        reason = "the output of a failed test is for its reader"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

/// Asks `condition` until it holds; for states of other processes, which cannot wake us.
///
/// # Errors
/// When it does not hold within `limit`; the text names `what`.
pub async fn eventually<F, Fut>(what: &str, limit: Duration, mut condition: F) -> anyhow::Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let start = Instant::now();
    while !condition().await {
        anyhow::ensure!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A port of the loopback interface that was free a moment ago.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Path of the program, built if it is not up to date, with `feature` if one is given.
///
/// # Errors
/// When it does not build.
pub fn program(feature: Option<&'static str>) -> anyhow::Result<PathBuf> {
    static BUILT: LazyLock<parking_lot::Mutex<HashMap<Option<&'static str>, PathBuf>>> =
        LazyLock::new(parking_lot::Mutex::default);
    let mut built = BUILT.lock();
    if let Some(path) = built.get(&feature) {
        return Ok(path.clone());
    }
    // …/target/debug/deps/end_to_end-hash → …/target/debug
    let tests = std::env::current_exe()?;
    let profile = tests
        .parent()
        .and_then(Path::parent)
        .context("a test binary lies in deps/")?;
    let name = profile.file_name().context("the folder of the profile")?;
    let target = profile.parent().context("the target folder")?;
    let mut build = Command::new(env!("CARGO"));
    build.args([
        "build",
        "--quiet",
        "--locked",
        "--package",
        "lockgate",
        "--bin",
        "lockgate",
    ]);
    if name == "release" {
        build.arg("--release");
    }
    // A variant shares all that is built but its own crates, and must not take the program's place.
    let output = match feature {
        Some(feature) => {
            build.args(["--features", feature]);
            target.join(feature)
        }
        None => target.to_owned(),
    };
    build
        .env("CARGO_BUILD_BUILD_DIR", target)
        .arg("--target-dir")
        .arg(&output)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let done = build.output()?;
    if !done.status.success() {
        bail!("cargo build: {}", String::from_utf8_lossy(&done.stderr));
    }
    let path = output.join(name).join("lockgate");
    built.insert(feature, path.clone());
    Ok(path)
}
