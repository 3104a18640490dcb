//! When to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit codes of a process that a signal ended, as shells have them: 128 and the signal's number.
const CODE_INTERRUPT: i32 = 130;
const CODE_TERMINATE: i32 = 143;

/// A token that is cancelled by SIGTERM or SIGINT. A second signal ends the process at once with exit code 130 or 143.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let listen = async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupts.recv() => CODE_INTERRUPT,
                _ = terminations.recv() => CODE_TERMINATE,
            }
        };
        next().await;
        tracing::info!("stopping: finishing what is in flight, a second signal ends at once");
        stopped.cancel();
        let code = next().await;
        tracing::warn!(code, "ending at once, work in flight is left to others");
        end(code);
    };
    // Lives as long as the process: nobody waits for it, and there is nothing to lose.
    tokio_util::task::TaskTracker::new().spawn(listen);
    Ok(stop)
}

#[expect(
    clippy::disallowed_methods,
    reason = "whoever sends a second signal asks for an end without drain and flush"
)]
fn end(code: i32) {
    std::process::exit(code);
}
