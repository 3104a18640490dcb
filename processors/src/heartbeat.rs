//! The heartbeat of the process: once a second, how its deployments are and what waits before
//! them goes to the topic `status`. Also when nothing changed: silence means that the process
//! is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runtime::fleet::BEAT_EVERY;
use runtime::log::{Durability, Place, Record};
use schemas::header;
use schemas::status::{DeploymentStatus, HEALTHY, LOCKED_OUT, RESTING, Status};
use schemas::time::Timestamp;
use schemas::topic;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::config::Deployment;
use crate::health::State;
use crate::router::Readiness;
use crate::work::Work;

/// A name for this process that no other one has, nor it itself after a restart: 16 hex digits.
pub(crate) fn process_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// Beats until `stop`. A beat that the log does not take is lost; the next one says it all again.
pub(crate) async fn beat(work: Arc<Work>, process: String, stop: CancellationToken) {
    let mut tick = tokio::time::interval(BEAT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let status = status(&work, &process, Timestamp::now());
        let value = match work.channel.codec.encode(&status) {
            Ok(value) => value,
            Err(error) => {
                error!(%error, "a heartbeat does not fit its schema");
                continue;
            }
        };
        let record = Record {
            key: Bytes::from(process.clone()),
            headers: vec![(
                header::CONTENT_TYPE.into(),
                Bytes::from_static(header::AVRO.as_bytes()),
            )],
            value,
        };
        let appending = work
            .log
            .append(topic::STATUS, Place::ByKey, record, Durability::Buffered);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            appended = appending => if let Err(error) = appended {
                // The log itself says that it is down, once.
                debug!(%error, "a heartbeat was lost");
            },
        }
    }
}

/// How everything is now.
fn status(work: &Work, process: &str, at: Timestamp) -> Status {
    // Models may share a deployment, which has one gate.
    let mut deployments: BTreeMap<&str, (&Deployment, Vec<String>)> = BTreeMap::new();
    let current = work.models.load();
    for model in current.iter() {
        for deployment in &model.deployments {
            let (_, models) = deployments
                .entry(&deployment.name)
                .or_insert_with(|| (deployment, Vec::new()));
            if !models.contains(&model.name) {
                models.push(model.name.clone());
            }
        }
    }
    let now = current.clock.now();
    let deployments = deployments.into_values().map(|(deployment, mut models)| {
        models.sort_unstable();
        let snapshot = deployment.gate.snapshot();
        let [interactive, background, batch] = snapshot.lanes;
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        DeploymentStatus {
            deployment: deployment.name.to_string(),
            models,
            health: health(deployment, now).to_owned(),
            capacity: count(snapshot.capacity),
            in_flight: count(snapshot.in_flight),
            interactive,
            background,
            batch,
        }
    });
    Status {
        process: process.to_owned(),
        at,
        deployments: deployments.collect(),
    }
}

fn health(deployment: &Deployment, now: Duration) -> &'static str {
    let state = deployment.health.state(now);
    if state != State::Healthy {
        return state.name();
    }
    if deployment.gate.is_shut() {
        return RESTING;
    }
    match deployment.adapter.readiness(Instant::now()) {
        // What it serves is not asked here.
        Readiness::Ready | Readiness::Unfit => HEALTHY,
        Readiness::Rests(_) => RESTING,
        Readiness::LockedOut => LOCKED_OUT,
    }
}
