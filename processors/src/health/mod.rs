//! Whether a deployment is well: by the outcomes of its calls, and by asking it now and then.
//!
//! Healthy, degraded when some calls fail, ejected when many do; after its rest it is probed by
//! single calls, and after the first success it recovers: its share of the calls grows slowly.
//! Times count from any fixed instant; [`machine`] is pure, this module shares it between threads.

pub(crate) mod active;
mod machine;
mod window;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::router::Standing;
use machine::{Machine, Snapshot};

/// Between two calls that try a deployment which is out of service.
pub(crate) const TRIAL_EVERY: Duration = Duration::from_millis(500);

/// The health of one deployment, as seen by this process.
#[derive(Debug)]
pub(crate) struct Health {
    machine: Mutex<Machine>,
    /// The packed [`Snapshot`], so that readers need no lock.
    snapshot: AtomicU64,
    /// When it was tried last while it was out, microseconds.
    tried_at: AtomicU64,
}

/// What a deployment is called in metrics and in the admin API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// All is well.
    Healthy,
    /// Some calls fail; it gets half of its share.
    Degraded,
    /// It is out of service.
    Ejected,
    /// Its rest is over, and single calls try it.
    Probing,
    /// It is back, and its share grows.
    Recovering,
}

impl State {
    /// All, in the order above.
    pub(crate) const ALL: [Self; 5] = [
        Self::Healthy,
        Self::Degraded,
        Self::Ejected,
        Self::Probing,
        Self::Recovering,
    ];

    /// In metrics and in the admin API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Ejected => "ejected",
            Self::Probing => "probing",
            Self::Recovering => "recovering",
        }
    }
}

impl Health {
    /// A deployment that is taken to be well.
    pub(crate) fn new(rules: runtime::config::Health) -> Self {
        let machine = Machine::new(rules);
        Self {
            snapshot: AtomicU64::new(machine.snapshot().pack()),
            machine: Mutex::new(machine),
            tried_at: AtomicU64::new(0),
        }
    }

    /// A call that began at `began` was answered.
    pub(crate) fn answered(&self, began: Duration, now: Duration) {
        self.change(now, |machine| machine.answered(began, now));
    }

    /// A call that began at `began` failed by the deployment's fault.
    pub(crate) fn failed(&self, began: Duration, now: Duration) {
        self.change(now, |machine| machine.failed(began, now));
    }

    /// The provider was asked whether it is there.
    pub(crate) fn probed(&self, is_there: bool, now: Duration) {
        self.change(now, |machine| machine.probed(is_there, now));
    }

    /// What it allows at `now`.
    pub(crate) fn standing(&self, now: Duration) -> Standing {
        let snapshot = Snapshot::unpack(self.snapshot.load(Ordering::Relaxed));
        match snapshot {
            Snapshot::Healthy | Snapshot::Degraded | Snapshot::Returning { .. } => {
                Standing::Open(snapshot.share(now))
            }
            Snapshot::Out { until } => {
                let next = micros_to(self.tried_at.load(Ordering::Relaxed)) + TRIAL_EVERY;
                let trial = next <= now;
                if until <= now && trial {
                    return Standing::Trial;
                }
                Standing::Out {
                    rest: until.max(next).saturating_sub(now),
                    trial,
                }
            }
        }
    }

    /// Takes the trial that is due; false when another call was quicker.
    pub(crate) fn take_trial(&self, now: Duration) -> bool {
        let due = micros(now.saturating_sub(TRIAL_EVERY));
        self.tried_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tried_at| {
                (tried_at <= due).then_some(micros(now))
            })
            .is_ok()
    }

    /// Its state at `now`.
    pub(crate) fn state(&self, now: Duration) -> State {
        match Snapshot::unpack(self.snapshot.load(Ordering::Relaxed)) {
            Snapshot::Degraded => State::Degraded,
            Snapshot::Out { until } if until <= now => State::Probing,
            Snapshot::Out { .. } => State::Ejected,
            returning @ Snapshot::Returning { .. } if returning.share(now) < machine::WHOLE => {
                State::Recovering
            }
            Snapshot::Healthy | Snapshot::Returning { .. } => State::Healthy,
        }
    }

    fn change(&self, now: Duration, change: impl FnOnce(&mut Machine)) {
        let mut machine = self.machine.lock();
        let before = machine.snapshot();
        change(&mut machine);
        let after = machine.snapshot();
        if after != before
            && let Snapshot::Out { .. } = after
        {
            // The first trial is not at once.
            self.tried_at.fetch_max(micros(now), Ordering::Relaxed);
        }
        // Under the lock, so that an older one never comes last.
        self.snapshot.store(after.pack(), Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn micros_to(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

#[cfg(test)]
mod tests;
