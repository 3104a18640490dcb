//! Asks providers on a schedule whether they are there.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::{Health, State};
use crate::adapters::Adapter;
use crate::clock::Clock;

/// One provider to be asked, on behalf of all its deployments.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    /// The provider's name.
    pub(crate) provider: String,
    /// How it is asked.
    pub(crate) adapter: Arc<dyn Adapter>,
    /// Whom the answer is about.
    pub(crate) healths: Vec<Arc<Health>>,
    /// How often, give or take a quarter.
    pub(crate) every: Duration,
}

/// Starts one task for each, until `stop`.
pub(crate) fn watch(
    watches: Vec<Watch>,
    clock: Clock,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    for watch in watches {
        let stop = stop.clone();
        tasks.spawn(async move {
            // Dropping a probe ends it.
            stop.run_until_cancelled(watch.run(clock)).await;
        });
    }
}

impl Watch {
    async fn run(self, clock: Clock) {
        loop {
            // At random, so that many processes do not ask at one moment.
            let pause = self.every.mul_f64(rand::random_range(0.75..1.25));
            tokio::time::sleep(pause).await;
            let Some(probe) = self.adapter.probe() else {
                debug!(
                    provider = self.provider,
                    "this kind of provider cannot be asked"
                );
                return;
            };
            // One that does not answer until the next probe is due is not there.
            let answer = tokio::time::timeout(self.every, probe).await;
            let is_there = matches!(answer, Ok(true));
            let now = clock.now();
            for health in &self.healths {
                let before = health.state(now);
                health.probed(is_there, now);
                let state = health.state(now);
                if state != before {
                    self.tell(state);
                }
            }
        }
    }

    fn tell(&self, state: State) {
        info!(
            provider = self.provider,
            state = state.name(),
            "a probe changed the state of a deployment"
        );
    }
}
