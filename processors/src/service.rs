//! Start, supervision and stop of the processors.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use runtime::codec::Codec;
use runtime::config::RoutingDocument;
use runtime::fleet::Fleet;
use runtime::log::{ConsumeOptions, Log, LogError, Tail};
use runtime::objects::Objects;
use runtime::store::Store;
use runtime::store::secrets::SecretSnapshot;
use runtime::telemetry::Readiness;
use schemas::request::Lane;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::GROUP;
use crate::adopter::Adopter;
use crate::cancel::{self, Cancels};
use crate::config::{self, Settings};
use crate::decode::Decoder;
use crate::emitter::Channel;
use crate::error::Error;
use crate::gate::Slack;
use crate::heartbeat;
use crate::held::Held;
use crate::lag::Lag;
use crate::metrics::Metrics;
use crate::routing::Routing;
use crate::runs::Runs;
use crate::shares::Shares;
use crate::work::Work;
use crate::worker::Worker;

/// Before the log is asked again at the start.
const RETRY: Duration = Duration::from_millis(500);
/// Longest that giving back what is in flight may take, after the grace period.
const RELEASE_MAX: Duration = Duration::from_millis(1_700);
/// Most records that one consumer yields at once.
const BATCH_MAX: usize = 500;

/// What the processors work with.
#[derive(Debug)]
pub struct Parts {
    /// The log; its topics exist.
    pub log: Log,
    /// Reads and writes records.
    pub codec: Codec,
    /// Large bodies.
    pub objects: Objects,
    /// Rows of requests, for adoption only.
    pub store: Store,
    /// Provider keys that are sealed in the store.
    pub secrets: SecretSnapshot,
    /// Routing documents that replace the one of the settings.
    pub routing: watch::Receiver<Arc<RoutingDocument>>,
    /// Its condition [`crate::READY`] holds while requests are consumed.
    pub readiness: Readiness,
}

/// Works off requests until `stop`, then finishes what is in flight within the grace period
/// and gives back the rest.
///
/// # Errors
/// [`Error`] when the processors cannot start, or the log fails for good; what was in flight
/// has been drained then too.
pub async fn run(settings: Settings, parts: Parts, stop: CancellationToken) -> Result<(), Error> {
    let Parts {
        log,
        codec,
        objects,
        store,
        secrets,
        routing,
        readiness,
    } = parts;
    let processors = settings.processors;
    let slack = Slack::new(processors.held_max / 8);
    let metrics = Metrics::new();
    let (models, watches) = config::models(&settings.routing, None, &secrets, &slack, &metrics)?;
    let models = Arc::new(ArcSwap::from_pointee(models));
    let held_bytes_max = usize::try_from(processors.held_bytes_max.as_u64()).unwrap_or(usize::MAX);
    let held = Held::new(processors.held_max, held_bytes_max);
    let lag = Lag::default();
    Metrics::observe(&held, &models, lag.clone());
    let tasks = TaskTracker::new();
    let decoder = Decoder::new(codec.clone());
    let runs = Runs::default();
    let work = Arc::new(Work {
        log: log.clone(),
        channel: Channel {
            log: Arc::new(log.clone()),
            codec: codec.clone(),
            pace: Arc::default(),
            metrics: Arc::clone(&metrics),
        },
        decoder,
        objects,
        models: Arc::clone(&models),
        cancels: Cancels::new(runs.clone()),
        runs,
        tasks: tasks.clone(),
        metrics: Arc::clone(&metrics),
        alone: tokio::sync::Mutex::default(),
    });
    let process = heartbeat::process_id();
    let fleet = Fleet::default();
    let mut shares = Shares::new(Arc::clone(&work), fleet.clone(), &process, &settings.redis)?;

    // 1. Orders to stop, before anything that they may be about.
    let Some(control) = read_control(&work, &stop).await? else {
        return Ok(());
    };
    // 2. Requests, lane by lane.
    let mut consumers = Vec::with_capacity(Lane::ALL.len());
    let options = ConsumeOptions {
        batch_max: (processors.held_max / 8).clamp(1, BATCH_MAX),
        ..ConsumeOptions::default()
    };
    for lane in Lane::ALL {
        let consumer = log
            .consume(GROUP, lane.topic(), options.clone())
            .await
            .map_err(|source| Error::Consume {
                topic: lane.topic(),
                source,
            })?;
        consumers.push((lane, consumer));
    }
    let loops = TaskTracker::new();
    let ending = stop.child_token();
    let following = Routing {
        models,
        secrets,
        slack: Arc::clone(&slack),
        metrics,
        tasks: loops.clone(),
    };
    loops.spawn(following.follow(routing, watches, ending.clone()));
    let drained = CancellationToken::new();
    let following = loops.spawn(follow_control(
        Arc::clone(&work),
        control,
        drained.clone(),
        ending.clone(),
    ));
    // 3. Limits are shared with the other processes, before the first call.
    loops.spawn(fleet.follow(log.clone(), codec, drained.clone()));
    shares.begin().await;
    loops.spawn(shares.run(drained.clone()));
    let adopter = Adopter::new(Arc::clone(&work), store, tasks.clone());
    loops.spawn(Arc::clone(&adopter).run(ending.clone()));
    let mut workers = Vec::with_capacity(consumers.len());
    let mut ledgers = Vec::with_capacity(consumers.len());
    for (lane, consumer) in consumers {
        let ledger = Arc::default();
        ledgers.push((lane, Arc::clone(&ledger)));
        let worker = Worker {
            lane,
            consumer,
            ledger,
            work: Arc::clone(&work),
            adopter: Arc::clone(&adopter),
            held: held.clone(),
            slack: Arc::clone(&slack),
            tasks: tasks.clone(),
        };
        workers.push(loops.spawn(supervise(worker, ending.clone(), drained.clone())));
    }
    loops.spawn(lag.measure(log.clone(), ledgers, drained.clone()));
    // 4. Everybody is told how it is here.
    loops.spawn(heartbeat::beat(Arc::clone(&work), process, drained.clone()));
    readiness.set(crate::READY, true);
    info!("processors ready");

    // 5. Until the stop, or until a part fails for good.
    ending.cancelled().await;
    readiness.set(crate::READY, false);
    let latest = Instant::now() + settings.grace;
    let deadline = settings.deadline.get().copied();
    drain(
        &work,
        &tasks,
        deadline.map_or(latest, |common| common.min(latest)),
    )
    .await;
    drained.cancel();
    loops.close();
    loops.wait().await;
    let mut outcome = outcome_of(following).await;
    for worker in workers {
        outcome = outcome.and(outcome_of(worker).await);
    }
    outcome
}

/// Reads the orders up to now, as soon as the log answers; none when stopped before.
async fn read_control(work: &Work, stop: &CancellationToken) -> Result<Option<Tail>, Error> {
    loop {
        let read = cancel::read(&work.log, &work.decoder, &work.cancels);
        let read = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            read = read => read,
        };
        match read {
            Ok(tail) => return Ok(Some(tail)),
            Err(error) if is_passing(&error) => {
                warn!(%error, "processors wait for the log");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(Error::Control(error)),
        }
    }
}

/// Whether reading again from the start may succeed.
fn is_passing(error: &LogError) -> bool {
    error.is_retryable() || matches!(error, LogError::BelowStart { .. })
}

/// Follows the orders as long as anything is in flight; from the start again when retention
/// overtook the tail.
async fn follow_control(
    work: Arc<Work>,
    mut tail: Tail,
    drained: CancellationToken,
    ending: CancellationToken,
) -> Result<(), Error> {
    loop {
        let followed = cancel::follow(
            tail,
            work.decoder.clone(),
            work.cancels.clone(),
            drained.clone(),
        );
        match followed.await {
            Ok(()) => return Ok(()),
            Err(error) if is_passing(&error) => {
                warn!(%error, "orders are read again from the start");
                match read_control(&work, &drained).await? {
                    Some(again) => tail = again,
                    None => return Ok(()),
                }
            }
            Err(error) => {
                ending.cancel();
                return Err(Error::Control(error));
            }
        }
    }
}

/// Runs a worker; one that fails ends all.
async fn supervise(
    worker: Worker,
    ending: CancellationToken,
    drained: CancellationToken,
) -> Result<(), Error> {
    let outcome = Box::pin(worker.run(ending.clone(), drained)).await;
    if outcome.is_err() {
        ending.cancel();
    }
    outcome
}

/// What is in flight finishes before the deadline; the rest is given back.
async fn drain(work: &Work, tasks: &TaskTracker, deadline: Instant) {
    work.runs.fence_all();
    tasks.close();
    info!(requests = work.runs.len(), "draining");
    if tokio::time::timeout_at(deadline, tasks.wait())
        .await
        .is_ok()
    {
        return;
    }
    warn!(
        requests = work.runs.len(),
        "grace period over: giving requests back"
    );
    work.runs.release_all();
    if tokio::time::timeout(RELEASE_MAX, tasks.wait())
        .await
        .is_err()
    {
        warn!(
            requests = tasks.len(),
            "some requests could not be given back"
        );
    }
}

async fn outcome_of(task: JoinHandle<Result<(), Error>>) -> Result<(), Error> {
    match task.await {
        Ok(outcome) => outcome,
        Err(fault) => {
            error!(%fault, "a part of the processors panicked");
            Err(Error::Panicked)
        }
    }
}
