//! How long a request would wait before a model is called for it, known before it is accepted:
//! one that cannot be started before its deadline is refused while nothing is written down yet.
//!
//! The processors say how long their queues are ([`runtime::fleet`]); this door adds what it
//! sees itself: how many requests of the same tenant it has accepted that have not begun, and
//! how long such took to begin of late. Tenants take turns, so that a tenant that floods does
//! not make the others wait, nor be refused. Where nobody says anything, nobody is refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use runtime::fleet::{Fleet, Wait};

use crate::metrics::Metrics;

/// Weight of one more observation in the mean: 1/8.
const WEIGHT: f64 = 1.0 / 8.0;
/// An observation counts half after so many seconds without another: what was is no proof of what is.
const HALVES_AFTER: f64 = 5.0;
/// Bounds of what a client is told: heartbeats come once a second, and beyond a minute an estimate means nothing.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The forecast of one door; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Forecast {
    fleet: Fleet,
    /// By model and tenant, where any request has been accepted that has not begun.
    lines: Arc<Mutex<HashMap<String, HashMap<String, Line>>>>,
    metrics: Metrics,
}

/// The requests of one tenant for one model that have not begun.
#[derive(Debug, Default)]
struct Line {
    queued: u32,
    /// Mean time from accept to begin, in seconds, and when it was last added to.
    observed: Option<(f64, Instant)>,
}

/// The request would not begin before its deadline; `retry_after` says when one like it would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong {
    pub(crate) retry_after: Duration,
}

/// A request that has not begun; leaves the line when dropped.
#[derive(Debug)]
pub(crate) struct Queued {
    forecast: Forecast,
    model: String,
    tenant: String,
}

impl Forecast {
    pub(crate) fn new(fleet: Fleet, metrics: Metrics) -> Self {
        Self {
            fleet,
            lines: Arc::default(),
            metrics,
        }
    }

    /// Lines a request up that has so long until its deadline, unless it would wait for longer.
    pub(crate) fn enter(
        &self,
        model: &str,
        tenant: &str,
        timeout: Duration,
    ) -> Result<Queued, TooLong> {
        let wait = self.fleet.view().wait(model);
        self.enter_with(wait, model, tenant, timeout, Instant::now())
            .inspect_err(|_| self.metrics.refused())
    }

    fn enter_with(
        &self,
        wait: Option<Wait>,
        model: &str,
        tenant: &str,
        timeout: Duration,
        now: Instant,
    ) -> Result<Queued, TooLong> {
        let mut lines = self.lines.lock();
        let line = lines.get_mut(model).and_then(|lines| lines.get_mut(tenant));
        let estimated = wait.map(|wait| estimate(wait, line.as_deref(), now));
        if let Some(beyond) = estimated.and_then(|estimated| estimated.checked_sub(timeout))
            && !beyond.is_zero()
        {
            return Err(TooLong {
                retry_after: beyond.clamp(RETRY_AFTER.0, RETRY_AFTER.1),
            });
        }
        match line {
            Some(line) => line.queued += 1,
            None => {
                let line = Line {
                    queued: 1,
                    observed: None,
                };
                let lines = lines.entry(model.to_owned()).or_default();
                lines.insert(tenant.to_owned(), line);
            }
        }
        Ok(Queued {
            forecast: self.clone(),
            model: model.to_owned(),
            tenant: tenant.to_owned(),
        })
    }
}

/// How long one more of this line would wait: a turn for each that it has queued, and never longer than behind everybody; and
/// at least as long as such took of late. Not at all where nobody would.
fn estimate(wait: Wait, line: Option<&Line>, now: Instant) -> Duration {
    if wait.behind_all.is_zero() {
        return Duration::ZERO;
    }
    let queued = line.map_or(0, |line| line.queued);
    let turns = wait.next_turn.saturating_mul(queued.saturating_add(1));
    let observed = line.map_or(Duration::ZERO, |line| line.observed(now));
    turns.min(wait.behind_all).max(observed)
}

impl Line {
    fn observed(&self, now: Instant) -> Duration {
        let Some((mean, at)) = self.observed else {
            return Duration::ZERO;
        };
        let elapsed = now.saturating_duration_since(at).as_secs_f64();
        let seconds = mean * (-elapsed / HALVES_AFTER).exp2();
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    fn observe(&mut self, waited: Duration, now: Instant) {
        let waited = waited.as_secs_f64();
        let mean = match self.observed {
            Some(_) => {
                let mean = self.observed(now).as_secs_f64();
                mean + (waited - mean) * WEIGHT
            }
            None => waited,
        };
        self.observed = Some((mean, now));
    }
}

impl Queued {
    /// The request began, so long after it was accepted.
    pub(crate) fn started(self, waited: Duration) {
        let mut lines = self.forecast.lines.lock();
        let line = lines.get_mut(&self.model);
        if let Some(line) = line.and_then(|lines| lines.get_mut(&self.tenant)) {
            line.observe(waited, Instant::now());
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut lines = self.forecast.lines.lock();
        let Some(of_model) = lines.get_mut(&self.model) else {
            return;
        };
        let Some(line) = of_model.get_mut(&self.tenant) else {
            return;
        };
        line.queued -= 1;
        if line.queued > 0 {
            return;
        }
        of_model.remove(&self.tenant);
        if of_model.is_empty() {
            lines.remove(&self.model);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast() -> Forecast {
        Forecast::new(Fleet::default(), Metrics::new())
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn wait(behind_all: u64, next_turn: u64) -> Option<Wait> {
        Some(Wait {
            behind_all: seconds(behind_all),
            next_turn: seconds(next_turn),
        })
    }

    #[test]
    fn whoever_would_wait_past_the_deadline_is_told_how_long_beyond_it() {
        let (forecast, now) = (forecast(), Instant::now());
        let enter = |wait, timeout| forecast.enter_with(wait, "m", "t", seconds(timeout), now);
        assert!(enter(wait(20, 20), 20).is_ok());
        let refused = enter(wait(20, 20), 13).unwrap_err();
        assert_eq!(refused.retry_after, seconds(7));
        let refused = enter(wait(9_000, 9_000), 10).unwrap_err();
        assert_eq!(refused.retry_after, seconds(60));
        assert!(enter(wait(0, 0), 1).is_ok());
        assert!(enter(None, 1).is_ok(), "nobody knows: nobody is refused");
    }

    #[test]
    fn a_tenant_waits_for_its_own_turns_and_not_for_anothers_flood() {
        let (forecast, now) = (forecast(), Instant::now());
        let enter = |tenant| forecast.enter_with(wait(100, 3), "m", tenant, seconds(10), now);
        let flood: Vec<_> = std::iter::from_fn(|| enter("flood").ok()).collect();
        assert_eq!(flood.len(), 3, "the fourth would wait for four turns");
        assert!(enter("quiet").is_ok());
        drop(flood);
        assert!(enter("flood").is_ok());
        assert!(forecast.lines.lock().is_empty(), "nobody's name is kept");
    }

    #[test]
    fn what_was_seen_counts_while_somebody_waits_and_less_as_it_ages() {
        let (forecast, now) = (forecast(), Instant::now());
        let enter = |wait, at| forecast.enter_with(wait, "m", "t", seconds(10), at);
        let _waits = enter(wait(5, 5), now).unwrap();
        enter(wait(5, 5), now).unwrap().started(seconds(30));
        let now = Instant::now();
        assert!(enter(wait(5, 5), now).is_err());
        assert!(enter(wait(0, 0), now).is_ok(), "the queue is gone");
        assert!(
            enter(wait(5, 5), now + seconds(10)).is_ok(),
            "a quarter of it"
        );
    }
}
