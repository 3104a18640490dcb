//! The processors that live, and what waits before their deployments: what their heartbeats
//! on the topic `status` say. Ingress asks it before it accepts, processors share limits by it.
//!
//! Whoever reads knows nothing at first, and nothing again when heartbeats cease: everything
//! that rests on this has to go on without it.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use schemas::request::Lane;
use schemas::status::{DeploymentStatus, Status};
use schemas::topic;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::codec::Codec;
use crate::log::{Log, LogError, Tail};

/// How often a processor says how it is.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// A processor that said nothing for so long is taken for gone.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How often what was heard becomes what is seen.
const VIEW_EVERY: Duration = Duration::from_millis(250);
/// Most processors that are kept in view.
const PROCESSES_MAX: usize = 10_000;
/// Between two tries to reach the log.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the processors; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    view: Arc<ArcSwap<View>>,
}

/// The processors at one moment.
#[derive(Debug, Default)]
pub struct View {
    statuses: Vec<Arc<Status>>,
    /// By deployment, the processors that call it, as places among the statuses.
    serving: HashMap<String, Vec<usize>>,
    /// By model.
    waits: HashMap<String, Wait>,
}

/// How long a request for a model waits before it is called, in the interactive lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wait {
    /// Behind all that wait now.
    pub behind_all: Duration,
    /// When its tenant has no other request waiting. At most `behind_all`.
    pub next_turn: Duration,
}

/// What was heard, and when; by our own clock, since others' may be wrong.
#[derive(Debug, Default)]
struct Heard {
    statuses: BTreeMap<String, (Instant, Arc<Status>)>,
    changed: bool,
}

impl Fleet {
    /// As of now; never waits.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Follows the heartbeats from now on until `stop`. Outages of the log are waited out; what was heard before them is
    /// forgotten after [`SILENCE_MAX`].
    ///
    /// # Cancel safety
    /// May be dropped; the view stays as it was.
    pub async fn follow(self, log: Log, codec: Codec, stop: CancellationToken) {
        let heard = Mutex::new(Heard::default());
        let mut listening = std::pin::pin!(listen(&log, &codec, &heard));
        let mut tick = tokio::time::interval(VIEW_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
                never = listening.as_mut() => match never {},
            }
            if let Some(view) = heard.lock().look(Instant::now()) {
                self.view.store(Arc::new(view));
            }
        }
    }
}

/// Takes in heartbeats; opens the tail again, at the end, whenever it fails.
async fn listen(log: &Log, codec: &Codec, heard: &Mutex<Heard>) -> Infallible {
    loop {
        let error = match open(log).await {
            Ok(mut tail) => take_in(&mut tail, codec, heard).await,
            Err(error) => error,
        };
        if !error.is_retryable() {
            warn!(%error, "heartbeats are followed from now on again");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Takes in what comes until reading fails.
async fn take_in(tail: &mut Tail, codec: &Codec, heard: &Mutex<Heard>) -> LogError {
    loop {
        let deliveries = match tail.recv().await {
            Ok(deliveries) => deliveries,
            Err(error) => return error,
        };
        for delivery in deliveries {
            match codec.decode::<Status>(&delivery.record.value).await {
                Ok(status) => heard.lock().hear(status, Instant::now()),
                Err(error) => debug!(%error, "a heartbeat could not be read"),
            }
        }
    }
}

async fn open(log: &Log) -> Result<Tail, LogError> {
    let end = log.watermarks(topic::STATUS, 0).await?.high;
    log.tail(topic::STATUS, 0, end).await
}

impl Heard {
    fn hear(&mut self, status: Status, now: Instant) {
        if self.statuses.len() >= PROCESSES_MAX && !self.statuses.contains_key(&status.process) {
            return;
        }
        self.changed = true;
        self.statuses
            .insert(status.process.clone(), (now, Arc::new(status)));
    }

    /// What is to be seen now; none when that is what was seen before.
    fn look(&mut self, now: Instant) -> Option<View> {
        let before = self.statuses.len();
        self.statuses
            .retain(|_, (at, _)| now.saturating_duration_since(*at) < SILENCE_MAX);
        let gone = before != self.statuses.len();
        if !std::mem::take(&mut self.changed) && !gone {
            return None;
        }
        let statuses = self.statuses.values();
        Some(View::new(
            statuses.map(|(_, status)| Arc::clone(status)).collect(),
        ))
    }
}

impl View {
    /// A view of these.
    fn new(statuses: Vec<Arc<Status>>) -> Self {
        let mut serving: HashMap<String, Vec<usize>> = HashMap::new();
        // By model, the sum over the processes and their number.
        let mut sums: HashMap<&str, (Wait, u32)> = HashMap::new();
        for (place, status) in statuses.iter().enumerate() {
            for one in &status.deployments {
                let places = serving.entry(one.deployment.clone()).or_default();
                places.push(place);
            }
            for (model, wait) in waits(status) {
                let (sum, count) = sums.entry(model).or_default();
                sum.behind_all = sum.behind_all.saturating_add(wait.behind_all);
                sum.next_turn = sum.next_turn.saturating_add(wait.next_turn);
                *count += 1;
            }
        }
        let mean = |(model, (sum, count)): (&str, (Wait, u32))| {
            let mean = Wait {
                behind_all: sum.behind_all / count,
                next_turn: sum.next_turn / count,
            };
            (model.to_owned(), mean)
        };
        let waits = sums.into_iter().map(mean).collect();
        Self {
            statuses,
            serving,
            waits,
        }
    }

    /// The last heartbeat of every processor that lives, ordered by their ids.
    #[must_use]
    pub fn statuses(&self) -> &[Arc<Status>] {
        &self.statuses
    }

    /// Which of the processors that call `deployment` (`provider/model`) `process` is, in the order of their ids and from 0, and
    /// how many they are. It counts also when it was not heard yet.
    #[must_use]
    pub fn rank(&self, deployment: &str, process: &str) -> (usize, usize) {
        let places = self.serving.get(deployment).map_or(&[][..], Vec::as_slice);
        match places.binary_search_by(|place| self.statuses[*place].process.as_str().cmp(process)) {
            Ok(rank) => (rank, places.len()),
            Err(rank) => (rank, places.len() + 1),
        }
    }

    /// How long a request for `model` would wait; none when nobody says, or nobody takes calls for it.
    ///
    /// In a process, the wait before the least busy of its deployments, since a router may choose that one; over the processes,
    /// the mean, since the log spreads requests evenly. Both rather too short than too long: who is refused is lost for
    /// certain.
    #[must_use]
    pub fn wait(&self, model: &str) -> Option<Wait> {
        self.waits.get(model).copied()
    }
}

/// The wait for each model in one process.
fn waits(status: &Status) -> HashMap<&str, Wait> {
    let mut waits: HashMap<&str, Wait> = HashMap::new();
    for deployment in &status.deployments {
        if !deployment.takes_calls() {
            continue;
        }
        let own = wait(deployment);
        for model in &deployment.models {
            let least = waits.entry(model).or_insert(own);
            least.behind_all = least.behind_all.min(own.behind_all);
            least.next_turn = least.next_turn.min(own.next_turn);
        }
    }
    waits
}

fn wait(deployment: &DeploymentStatus) -> Wait {
    let lane = deployment.lane(Lane::Interactive);
    let duration = |micros: i64| Duration::from_micros(micros.max(0).unsigned_abs());
    Wait {
        behind_all: duration(lane.wait_micros),
        next_turn: duration(lane.turn_micros),
    }
}

#[cfg(test)]
mod tests {
    use schemas::status::{EJECTED, HEALTHY, LaneStatus};
    use schemas::time::Timestamp;

    use super::*;

    fn deployment(name: &str, health: &str, wait_secs: i64, turn_secs: i64) -> DeploymentStatus {
        DeploymentStatus {
            deployment: name.to_owned(),
            models: vec!["m".to_owned()],
            health: health.to_owned(),
            capacity: 1,
            in_flight: 1,
            interactive: LaneStatus {
                waiting: 1,
                wait_micros: wait_secs * 1_000_000,
                turn_micros: turn_secs * 1_000_000,
            },
            background: LaneStatus::default(),
            batch: LaneStatus::default(),
        }
    }

    fn status(process: &str, deployments: Vec<DeploymentStatus>) -> Status {
        Status {
            process: process.to_owned(),
            at: Timestamp(0),
            deployments,
        }
    }

    fn wait(behind_all: u64, next_turn: u64) -> Wait {
        Wait {
            behind_all: Duration::from_secs(behind_all),
            next_turn: Duration::from_secs(next_turn),
        }
    }

    #[test]
    fn a_model_waits_for_the_least_busy_deployment_of_the_average_process() {
        let (now, mut heard) = (Instant::now(), Heard::default());
        let one = vec![
            deployment("p/a", HEALTHY, 90, 9),
            deployment("p/b", HEALTHY, 10, 2),
            deployment("p/c", EJECTED, 0, 0),
        ];
        heard.hear(status("1", one), now);
        heard.hear(status("2", vec![deployment("p/b", "new word", 20, 4)]), now);
        let view = heard.look(now).unwrap();
        assert_eq!(view.wait("m"), Some(wait(15, 3)));
        assert_eq!(view.wait("other"), None);
        assert_eq!(
            (view.rank("p/a", "1"), view.rank("p/b", "2")),
            ((0, 1), (1, 2))
        );
        assert_eq!(
            (view.rank("p/b", "0"), view.rank("p/d", "0")),
            ((0, 3), (0, 1))
        );
    }

    #[test]
    fn a_model_that_nobody_takes_calls_for_has_no_wait() {
        let (now, mut heard) = (Instant::now(), Heard::default());
        heard.hear(status("1", vec![deployment("p/c", EJECTED, 5, 5)]), now);
        assert_eq!(heard.look(now).unwrap().wait("m"), None);
    }

    #[test]
    fn whoever_is_silent_for_too_long_is_gone_and_what_is_known_is_not_worked_out_again() {
        let (now, mut heard) = (Instant::now(), Heard::default());
        heard.hear(status("1", vec![deployment("p/a", HEALTHY, 5, 5)]), now);
        heard.hear(status("2", Vec::new()), now + Duration::from_secs(2));
        assert_eq!(heard.look(now).unwrap().statuses().len(), 2);
        assert!(heard.look(now).is_none());
        let view = heard.look(now + SILENCE_MAX).unwrap();
        assert_eq!(view.statuses()[0].process, "2");
        assert_eq!(view.wait("m"), None);
        let view = heard.look(now + SILENCE_MAX * 2).unwrap();
        assert!(view.statuses().is_empty());
    }
}
