//! Start and stop of a process with one role or all.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, anyhow};
use runtime::config::{Config, Role};
use runtime::log::{Health, Log};
use runtime::shutdown;
use runtime::telemetry::{self, Readiness, Telemetry};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::configuration::Source;
use crate::connect::connect;
use crate::reload::Reload;
use crate::roles::{self, Start};
use crate::{demo, watchdog};

/// For the log to be flushed and closed.
const LOG_LAST: Duration = Duration::from_millis(300);
/// Beyond the grace period, the process is gone after so long, whatever hangs.
const PROCESS_LAST: Duration = Duration::from_millis(1_900);
/// For blocking work to end that nobody waits for.
const LEFT_BEHIND: Duration = Duration::from_millis(100);

/// Between two looks at whether the process is ready, for the demo's line.
const READY_POLL: Duration = Duration::from_millis(5);

/// Conditions of the process itself; roles add their own.
const STARTED: &str = "started";
const LOG: &str = "log";

/// Runs the roles until a signal or a failure, and stops them in order.
///
/// # Errors
/// Faults of the configuration, what could not be opened, or why a role failed.
pub(crate) fn run(role: Role, source: Source, is_demo: bool) -> anyhow::Result<()> {
    // 1. The configuration, all of it, before anything is opened.
    let config = source.load_for(role, is_demo)?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = tokio.block_on(process(role, source, config, is_demo));
    tokio.shutdown_timeout(LEFT_BEHIND);
    outcome
}

async fn process(role: Role, source: Source, config: Config, is_demo: bool) -> anyhow::Result<()> {
    // 2. Telemetry, so that all that follows is told; signals, so that all that follows can be stopped.
    let telemetry = telemetry::init(role, &config.telemetry)?;
    let stop = shutdown::on_signal().context("cannot listen for signals")?;
    let reload =
        Reload::new(source, role, is_demo, config.clone()).context("cannot listen for SIGHUP")?;
    let outcome = Box::pin(work(role, &config, reload, is_demo, &telemetry, &stop)).await;
    match &outcome {
        Ok(()) => info!("stopped"),
        Err(failure) => error!(error = format!("{failure:#}"), "stopped by a failure"),
    }
    // 11. Last, so that the drain is in the traces.
    telemetry.flush();
    outcome
}

async fn work(
    role: Role,
    config: &Config,
    reload: Reload,
    is_demo: bool,
    telemetry: &Telemetry,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    // 3. Both listeners, so that a port in use fails before anything is connected. Health is told from here on.
    let door = match role {
        Role::Serve | Role::Ingress => Some(bind("server.listen", config.server.listen).await?),
        Role::Processors | Role::Sinks => None,
    };
    let listener = bind("telemetry.listen", config.telemetry.listen).await?;
    let readiness = Readiness::new(
        [STARTED, LOG]
            .iter()
            .chain(roles::conditions(role))
            .copied(),
    );
    let tasks = TaskTracker::new();
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    let health = telemetry::serve(listener, telemetry.clone(), readiness.clone(), end.clone());
    tasks.spawn(health);

    // 4. Log with its topics, schemas, store with its migrations, objects; what is down is waited for.
    let Some(shared) = connect(config, stop).await? else {
        return Ok(());
    };
    let following = follow_log(shared.log.clone(), readiness.clone());
    tasks.spawn(end.clone().run_until_cancelled_owned(following));
    let line = match &door {
        Some(door) if is_demo => {
            let key = demo::key(&shared.store, &config.data_dir).await?;
            Some(demo::curl(door.local_addr()?, &key))
        }
        _ => None,
    };

    // 5. The roles. Each is ready in its own time: processors with the control topic read, ingress with its replies
    //    tailed.
    let deadline = Arc::new(OnceLock::new());
    let start = Start {
        config,
        routing: reload.routing(),
        shared: &shared,
        readiness: &readiness,
        tasks: &tasks,
        end: &end,
        deadline: &deadline,
    };
    let mut running = start.roles(role, door).await?;
    tasks.spawn(reload.run(end.clone()));
    readiness.set(STARTED, true);
    let failed = tokio::select! { biased;
        () = stop.cancelled() => None,
        failed = roles::first_end(&mut running) => Some(failed),
        failed = failure(shared.log.health()) => Some(failed),
        failed = announce(&readiness, line) => Some(failed),
    };

    // The stop, within one grace period and from the edge inward. 6. Not ready: traffic goes elsewhere.
    readiness.set(STARTED, false);
    let grace = config.shutdown.grace;
    watchdog::arm(grace + PROCESS_LAST)?;
    info!(?grace, "stopping");
    let deadline = *deadline.get_or_init(|| Instant::now() + grace);
    // 7. Ingress admits nobody and answers whom it can. 8. Processors finish what they can and give back the rest.
    // 9. Sinks write what has arrived.
    let mut failure = failed;
    for role in running {
        let outcome = role.stop(deadline).await;
        failure = failure.or(outcome.err());
    }
    // 10. Nobody appends any more.
    shared.log.close(LOG_LAST).await;
    failure.map_or(Ok(()), Err)
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{key}: cannot listen on {address}"))
}

/// Keeps the condition `log` true to whether the log takes records.
async fn follow_log(log: Log, readiness: Readiness) {
    let mut health = log.health();
    loop {
        let is_up = *health.borrow_and_update() == Health::Up;
        readiness.set(LOG, is_up);
        if health.changed().await.is_err() {
            return;
        }
    }
}

/// Resolves when the log's client cannot go on: a supervisor has to start another process.
async fn failure(mut health: watch::Receiver<Health>) -> anyhow::Error {
    match health
        .wait_for(|health| matches!(health, Health::Failed { .. }))
        .await
        .as_deref()
    {
        Ok(Health::Failed { reason }) => return anyhow!("the log failed for good: {reason}"),
        Ok(Health::Up | Health::Down { .. }) | Err(_) => {}
    }
    std::future::pending().await
}

/// Prints the demo's line once the process is ready; ends only when that fails.
async fn announce(readiness: &Readiness, line: Option<String>) -> anyhow::Error {
    let Some(line) = line else {
        return std::future::pending().await;
    };
    while !readiness.is_ready() {
        tokio::time::sleep(READY_POLL).await;
    }
    match writeln!(std::io::stdout(), "\nReady. Try it:\n\n{line}\n") {
        Ok(()) => std::future::pending().await,
        Err(error) => anyhow::Error::new(error).context("cannot print the line to paste"),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_log_that_is_down_is_waited_for_and_one_that_failed_ends_the_process() {
        let (health, told) = watch::channel(Health::Up);
        let mut failure = std::pin::pin!(failure(told));
        let reason = || "fenced".into();
        health.send_replace(Health::Down { reason: reason() });
        assert!(failure.as_mut().now_or_never().is_none());
        health.send_replace(Health::Failed { reason: reason() });
        let failed = failure.now_or_never().unwrap();
        assert_eq!(failed.to_string(), "the log failed for good: fenced");
    }
}
