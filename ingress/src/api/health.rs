//! `GET /admin/v1/health`: the processors that live and the state of every deployment, as
//! their heartbeats say.

use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};
use runtime::fleet::Fleet;
use runtime::store::keys::KeySnapshot;
use schemas::event::ErrorBody;
use schemas::status::{DeploymentStatus, LaneStatus, Status};
use serde::Serialize;

use super::rfc3339;
use crate::auth;
use crate::reply::{self, Reply};

/// Shows the fleet.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) keys: KeySnapshot,
    pub(crate) fleet: Fleet,
}

#[derive(Debug, Serialize)]
struct View<'a> {
    object: &'static str,
    processors: Vec<Processor<'a>>,
}

#[derive(Debug, Serialize)]
struct Processor<'a> {
    id: &'a str,
    /// Of its last heartbeat, by its own clock.
    at: Option<String>,
    deployments: Vec<Deployment<'a>>,
}

#[derive(Debug, Serialize)]
struct Deployment<'a> {
    deployment: &'a str,
    models: &'a [String],
    health: &'a str,
    capacity: i32,
    in_flight: i32,
    lanes: Lanes,
}

#[derive(Debug, Serialize)]
struct Lanes {
    interactive: Lane,
    background: Lane,
    batch: Lane,
}

/// What waits, and how long one more would, in milliseconds.
#[derive(Debug, Serialize)]
struct Lane {
    waiting: i32,
    wait_ms: i64,
    turn_ms: i64,
}

impl Health {
    pub(crate) fn get(&self, headers: &HeaderMap) -> Result<Reply, ErrorBody> {
        auth::admin(headers, &self.keys)?;
        let view = self.fleet.view();
        let view = View {
            object: "health",
            processors: view.statuses().iter().map(processor).collect(),
        };
        reply::json(StatusCode::OK, &view)
    }
}

fn processor(status: &Arc<Status>) -> Processor<'_> {
    Processor {
        id: &status.process,
        at: rfc3339(status.at),
        deployments: status.deployments.iter().map(deployment).collect(),
    }
}

fn deployment(status: &DeploymentStatus) -> Deployment<'_> {
    Deployment {
        deployment: &status.deployment,
        models: &status.models,
        health: &status.health,
        capacity: status.capacity,
        in_flight: status.in_flight,
        lanes: Lanes {
            interactive: lane(status.interactive),
            background: lane(status.background),
            batch: lane(status.batch),
        },
    }
}

fn lane(status: LaneStatus) -> Lane {
    Lane {
        waiting: status.waiting,
        wait_ms: status.wait_micros / 1_000,
        turn_ms: status.turn_micros / 1_000,
    }
}
