//! How processors are and what waits before their deployments. Topic `status`, keyed by
//! process id: one record a second from each, also when nothing changed, since silence means
//! that the process is gone.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::framing::{Format, Record};
use crate::request::Lane;
use crate::time::Timestamp;

/// Health of a deployment that takes calls as usual.
pub const HEALTHY: &str = "healthy";
/// Health of a deployment that failed too often and gets no calls for a while.
pub const EJECTED: &str = "ejected";
/// Health of a deployment whose keys all rest, after a 429.
pub const RESTING: &str = "resting";
/// Health of a deployment whose keys were all refused.
pub const LOCKED_OUT: &str = "locked_out";

/// The heartbeat of a processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Names the process for as long as it lives; a restarted one has another.
    pub process: String,
    /// When it was written, by the clock of the process.
    pub at: Timestamp,
    /// Every deployment that it calls.
    pub deployments: Vec<DeploymentStatus>,
}

/// A deployment as one process sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentStatus {
    /// `provider/model`.
    pub deployment: String,
    /// Names of the models that it serves.
    pub models: Vec<String>,
    /// [`HEALTHY`], [`EJECTED`], [`RESTING`], [`LOCKED_OUT`], or a word that a reader does not know.
    pub health: String,
    /// Calls that this process makes at once, as of now.
    pub capacity: i32,
    /// Calls in progress.
    pub in_flight: i32,
    /// Requests that somebody waits for.
    pub interactive: LaneStatus,
    /// Asynchronous jobs.
    pub background: LaneStatus,
    /// Lines of batch files.
    pub batch: LaneStatus,
}

/// What waits before a deployment in one lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// Calls that wait.
    pub waiting: i32,
    /// Estimated wait of a call that goes behind all of them; 0 when it need not wait.
    pub wait_micros: i64,
    /// Estimated wait of a call whose tenant has no other one waiting: one turn of every tenant that has. At most `wait_micros`.
    pub turn_micros: i64,
}

impl DeploymentStatus {
    /// Whether calls go to it; one whose health is in a word not known here is taken for usable.
    #[must_use]
    pub fn takes_calls(&self) -> bool {
        !matches!(self.health.as_str(), EJECTED | RESTING | LOCKED_OUT)
    }

    /// What waits in `lane`.
    #[must_use]
    pub fn lane(&self, lane: Lane) -> &LaneStatus {
        match lane {
            Lane::Interactive => &self.interactive,
            Lane::Background => &self.background,
            Lane::Batch => &self.batch,
        }
    }
}

impl Record for Status {
    const SUBJECT: &'static str = "lockgate.status";
    const SCHEMA: &'static str = include_str!("../avro/status.avsc");

    fn format() -> &'static Format {
        static FORMAT: LazyLock<Format> = LazyLock::new(|| Format::of(Status::SCHEMA));
        &FORMAT
    }
}
