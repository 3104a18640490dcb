//! The last resort against a stop that hangs.

use std::time::Duration;

use tracing::error;

/// Ends the process `limit` from now, whatever it does by then.
///
/// A thread of its own, since what hangs may be the very threads that timers of the runtime need.
///
/// # Errors
/// When no thread can be had.
pub(crate) fn arm(limit: Duration) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(move || {
            std::thread::sleep(limit);
            error!(
                ?limit,
                "the stop took too long, ending the process as it is"
            );
            #[expect(
                clippy::disallowed_methods,
                reason = "drains and flushes had their time; what is left hangs"
            )]
            std::process::exit(1);
        })?;
    Ok(())
}
