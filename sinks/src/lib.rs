//! The effects of the log: each sink consumes topics and writes what follows from them exactly once.
//!
//! [`run`] is the whole interface. A sink says what to write; the runner decides when, and keeps its
//! positions.

mod dead_letter;
mod error;
mod memory;
mod position;
mod results;
mod retry;
mod runner;
mod sink;
mod source;
mod status;
mod sweeper;
#[cfg(test)]
mod tests;

use runtime::codec::Codec;
use runtime::log::Log;
use runtime::objects::Objects;
use runtime::store::Store;
use runtime::telemetry::Readiness;
use tokio_util::sync::CancellationToken;

pub use error::Error;

use results::Results;
use runner::Runner;
use sink::Sink;
use status::Status;
use sweeper::Sweeper;

/// What the sinks work with; handles that other roles of the process may share.
#[derive(Debug, Clone)]
pub struct Parts {
    /// With its topics created.
    pub log: Log,
    /// Reads records.
    pub codec: Codec,
    /// Where rows go.
    pub store: Store,
    /// Where large bodies are, to be deleted by age.
    pub objects: Objects,
    /// Its condition `sinks` holds while they can write: not while one waits for something that is down, nor ever
    /// again once records were gone before it had read them.
    pub readiness: Readiness,
}

/// Runs all sinks until `stop`; then writes what has arrived by then (for at most a second), leaves the groups and
/// returns.
///
/// # Errors
/// When the log cannot be read any more: the process must end. Passing trouble is waited out.
pub async fn run(
    settings: &runtime::config::Results,
    parts: Parts,
    stop: CancellationToken,
) -> Result<(), Error> {
    let Parts {
        log,
        codec,
        store,
        objects,
        readiness,
    } = parts;
    let results = Results::new(store.clone(), settings.bodies);
    let status = Status::new(Results::NAME, readiness);
    let runner = Runner::join(results, log, codec, status).await?;
    let sweeper = Sweeper::new(store, objects, settings.retention);
    let sweeps = stop.child_token();
    let work = async {
        let outcome = runner.run(stop).await;
        sweeps.cancel();
        outcome
    };
    let (outcome, ()) = tokio::join!(work, sweeper.run(sweeps.clone()));
    outcome
}
