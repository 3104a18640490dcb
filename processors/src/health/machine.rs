//! How health follows from outcomes: pure, time comes in as an argument.

use std::time::Duration;

use runtime::config::Health as Rules;

use super::window::Window;
use super::{micros, micros_to};

/// A share of failures says nothing about fewer calls than this.
const CALLS_MIN: u64 = 10;
/// The whole share of the calls.
pub(super) const WHOLE: u16 = 1_000;
/// Share of a deployment some of whose calls fail.
const DEGRADED: u16 = 500;
/// Share of a deployment that has just come back.
const FIRST: u16 = 100;
/// From its return to its whole share. With the longest rest it stays within the 30 s in which
/// a recovered deployment has its traffic back.
const RAMP: Duration = Duration::from_secs(10);
/// A deployment that has just come back is out again after so many failures in a row.
const FAILURES_AT_RETURN: u32 = 2;
/// The rest grows with each ejection, up to so many times the configured one.
const REST_FACTOR_MAX: u32 = 3;

/// The health of one deployment.
#[derive(Debug)]
pub(super) struct Machine {
    rules: Rules,
    phase: Phase,
    window: Window,
    failures_in_a_row: u32,
    probes_failed_in_a_row: u32,
    /// Ejections without a time of health between them that is long enough to forget them.
    ejections: u32,
    /// When its last return was complete.
    well_since: Duration,
    /// Some of the recent calls failed.
    is_degraded: bool,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Serving,
    Out {
        since: Duration,
        until: Duration,
        /// It did not answer probes.
        by_probe: bool,
    },
    Returning {
        since: Duration,
    },
}

/// What a router has to know, in 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Snapshot {
    Healthy,
    Degraded,
    Out { until: Duration },
    Returning { since: Duration },
}

impl Machine {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            window: Window::new(rules.window),
            rules,
            phase: Phase::Serving,
            failures_in_a_row: 0,
            probes_failed_in_a_row: 0,
            ejections: 0,
            well_since: Duration::ZERO,
            is_degraded: false,
        }
    }

    pub(super) fn answered(&mut self, began: Duration, now: Duration) {
        self.advance(now);
        match self.phase {
            // What began before the ejection tells nothing new.
            Phase::Out { since, .. } if began <= since => return,
            Phase::Out { .. } => self.come_back(now),
            Phase::Serving | Phase::Returning { .. } => {}
        }
        self.failures_in_a_row = 0;
        self.record(false, now);
    }

    pub(super) fn failed(&mut self, began: Duration, now: Duration) {
        self.advance(now);
        if let Phase::Out { since, until, .. } = self.phase {
            // A trial failed: another rest. Before the end of the rest it was a call for want
            // of anybody else, which changes nothing.
            if began > since && now >= until {
                self.eject(now, false);
            }
            return;
        }
        self.failures_in_a_row += 1;
        self.record(true, now);
        let most = match self.phase {
            Phase::Returning { .. } => self.rules.failures_in_a_row.min(FAILURES_AT_RETURN),
            Phase::Serving | Phase::Out { .. } => self.rules.failures_in_a_row,
        };
        if self.failures_in_a_row >= most || self.fails_often(self.rules.error_ratio, now) {
            self.eject(now, false);
        }
    }

    pub(super) fn probed(&mut self, is_there: bool, now: Duration) {
        self.advance(now);
        if !is_there {
            self.probes_failed_in_a_row += 1;
            let is_gone = self.probes_failed_in_a_row >= self.rules.failures_in_a_row;
            match self.phase {
                Phase::Serving | Phase::Returning { .. } if is_gone => self.eject(now, true),
                _ => {}
            }
            return;
        }
        self.probes_failed_in_a_row = 0;
        // Only what a probe found can a probe take back: one that answers probes may still fail
        // its calls.
        if let Phase::Out { by_probe: true, .. } = self.phase {
            self.come_back(now);
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        match self.phase {
            Phase::Serving if self.is_degraded => Snapshot::Degraded,
            Phase::Serving => Snapshot::Healthy,
            Phase::Out { until, .. } => Snapshot::Out { until },
            Phase::Returning { since } => Snapshot::Returning { since },
        }
    }

    /// Takes notice of the time.
    fn advance(&mut self, now: Duration) {
        if let Phase::Returning { since } = self.phase
            && now >= since + RAMP
        {
            self.phase = Phase::Serving;
            self.well_since = since + RAMP;
        }
        if let Phase::Serving = self.phase
            && now >= self.well_since + self.rules.window
        {
            self.ejections = 0;
        }
    }

    fn record(&mut self, failed: bool, now: Duration) {
        self.window.record(failed, now);
        self.is_degraded = self.fails_often(self.rules.error_ratio / 2.0, now);
    }

    fn fails_often(&self, ratio: f64, now: Duration) -> bool {
        let (calls, failures) = self.window.counts(now);
        calls >= CALLS_MIN && failures as f64 >= calls as f64 * ratio
    }

    fn eject(&mut self, now: Duration, by_probe: bool) {
        self.ejections = self.ejections.saturating_add(1);
        let rest = self.rules.rest * self.ejections.min(REST_FACTOR_MAX);
        self.phase = Phase::Out {
            since: now,
            until: now + rest,
            by_probe,
        };
        self.forget();
    }

    fn come_back(&mut self, now: Duration) {
        self.phase = Phase::Returning { since: now };
        self.forget();
    }

    fn forget(&mut self) {
        self.window.clear();
        self.failures_in_a_row = 0;
        self.probes_failed_in_a_row = 0;
        self.is_degraded = false;
    }
}

impl Snapshot {
    /// Its share of the calls, out of [`WHOLE`].
    pub(super) fn share(self, now: Duration) -> u16 {
        match self {
            Self::Healthy => WHOLE,
            Self::Degraded => DEGRADED,
            Self::Out { .. } => 0,
            Self::Returning { since } => {
                let back = now.saturating_sub(since).min(RAMP);
                let grown = back.as_millis() * u128::from(WHOLE - FIRST) / RAMP.as_millis();
                FIRST + u16::try_from(grown).unwrap_or(WHOLE - FIRST)
            }
        }
    }

    /// Two bits say which, the others when.
    pub(super) fn pack(self) -> u64 {
        match self {
            Self::Healthy => 0,
            Self::Degraded => 1,
            Self::Out { until } => 2 | (micros(until) << 2),
            Self::Returning { since } => 3 | (micros(since) << 2),
        }
    }

    pub(super) fn unpack(packed: u64) -> Self {
        let at = micros_to(packed >> 2);
        match packed & 3 {
            0 => Self::Healthy,
            1 => Self::Degraded,
            2 => Self::Out { until: at },
            _ => Self::Returning { since: at },
        }
    }
}
