//! Gives every gate its part of the limits that all processes share: leased from Redis where there is one, else an equal one.

use std::sync::Arc;
use std::time::Duration;

use runtime::config::{self, LimitsWhenDown};
use runtime::fleet::Fleet;
use runtime::leases::{Claim, LeaseError, Leases, Part};
use runtime::telemetry::Chain;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::gate::Gate;
use crate::work::Work;

/// How often all parts are worked out anew.
const ALL_EVERY: Duration = Duration::from_secs(1);
/// How often those of gates are before which somebody waits.
const SHORT_EVERY: Duration = Duration::from_millis(250);
/// Longest that giving back the leases may hold up the end; they run out by themselves.
const RELEASE_MAX: Duration = Duration::from_millis(200);

/// The sharing of limits.
pub(crate) struct Shares {
    work: Arc<Work>,
    fleet: Fleet,
    process: String,
    leases: Option<Leases>,
    when_down: LimitsWhenDown,
    /// Whether the last parts came from Redis; none before the first.
    leased: Option<bool>,
}

impl Shares {
    /// Shares limits for the process of this name.
    ///
    /// # Errors
    /// When the URL of Redis is none.
    pub(crate) fn new(
        work: Arc<Work>,
        fleet: Fleet,
        process: &str,
        redis: &config::Redis,
    ) -> Result<Self, LeaseError> {
        let leases = redis.url.as_ref();
        let leases = leases.map(|url| Leases::new(url, &redis.key_prefix, process));
        Ok(Self {
            work,
            fleet,
            process: process.to_owned(),
            leases: leases.transpose()?,
            when_down: redis.limits_when_down,
            leased: None,
        })
    }

    /// Shares until `stop`, then gives back what is leased.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(SHORT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut all = Instant::now() + ALL_EVERY;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => {}
            }
            let is_due = Instant::now() >= all;
            if is_due {
                all = Instant::now() + ALL_EVERY;
            }
            let sharing = self.share(|gate| is_due || gate.is_short());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sharing => {}
            }
        }
        self.release().await;
    }

    /// Gives all gates their parts, before the first call.
    pub(crate) async fn begin(&mut self) {
        self.share(|_| true).await;
    }

    async fn share(&mut self, which: impl Fn(&Gate) -> bool) {
        let models = self.work.models.load_full();
        let mut gates = models.gates();
        gates.retain(|gate| gate.limits().are_shared());
        let asking: Vec<&Gate> = gates.iter().copied().filter(|gate| which(gate)).collect();
        if asking.is_empty() {
            return;
        }
        let Some(leases) = &self.leases else {
            for gate in asking {
                gate.keep_to(Some(self.equal(gate)));
            }
            return;
        };
        let claims: Vec<Claim<'_>> = asking
            .iter()
            .map(|gate| Claim {
                name: gate.name(),
                limits: gate.limits(),
                demand: gate.demand(),
                equal: self.equal(gate),
            })
            .collect();
        match leases.sync(&claims).await {
            Ok(parts) => {
                if self.leased == Some(false) {
                    info!("Redis answers again: limits are shared by demand");
                }
                self.leased = Some(true);
                for (gate, part) in asking.into_iter().zip(parts) {
                    gate.keep_to(Some(part));
                }
            }
            Err(error) => {
                if self.leased != Some(false) {
                    let instead = match self.when_down {
                        LimitsWhenDown::Share => "each process takes an equal part of the limits",
                        LimitsWhenDown::Refuse => "deployments with limits are not called",
                    };
                    warn!(error = %Chain(&error), instead, "Redis does not share the limits");
                }
                self.leased = Some(false);
                self.work.metrics.lease_failed();
                // Leases of all gates are in doubt, not only of those that asked.
                for gate in gates {
                    gate.keep_to(match self.when_down {
                        LimitsWhenDown::Share => Some(self.equal(gate)),
                        LimitsWhenDown::Refuse => None,
                    });
                }
            }
        }
    }

    fn equal(&self, gate: &Gate) -> Part {
        let (rank, processes) = self.fleet.view().rank(gate.name(), &self.process);
        Part::equal(gate.limits(), rank, processes)
    }

    async fn release(&self) {
        let Some(leases) = &self.leases else { return };
        let models = self.work.models.load_full();
        let gates = models.gates().into_iter();
        let gates = gates.filter(|gate| gate.limits().are_shared());
        let names: Vec<&str> = gates.map(|gate| &**gate.name()).collect();
        match tokio::time::timeout(RELEASE_MAX, leases.release(&names)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(error = %Chain(&error), "leases are left to run out"),
            Err(_) => debug!("leases are left to run out: Redis is slow"),
        }
    }
}
