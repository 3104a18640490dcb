//! How many calls a deployment takes at once: as many as configured, or as many as it bears.
//! Pure: the clock is passed in.
//!
//! What it bears is found as TCP finds the width of a path (AIMD; Chiu and Jain 1989): one
//! more after a full round of successes, a part less when the provider pushes back. Between
//! the two lies what it takes, however that changes.

use std::time::Duration;

use tokio::time::Instant;

/// What is left of the capacity after a push-back; as CUBIC has it (RFC 9438, section 4.6).
const KEPT: f64 = 0.7;
/// Weight of one more first token in the mean, as TCP weighs round trips or less: 1/16.
const LATENCY_WEIGHT: f64 = 1.0 / 16.0;
/// First tokens are late when they come after so many times their least mean,
const LATE_FACTOR: f64 = 4.0;
/// and by at least so much, in seconds: below, it is noise.
const LATE_BY: f64 = 0.25;
/// The least mean doubles in so many seconds, so that a provider that became slower for good is not taken for overloaded for ever.
const LEAST_DOUBLES_AFTER: f64 = 300.0;

/// How many calls at once.
#[derive(Debug)]
pub(crate) struct Capacity {
    /// 0 while other processes have all places.
    ceiling: usize,
    adaptive: Option<Adaptive>,
}

/// The state of an adaptive capacity.
#[derive(Debug)]
struct Adaptive {
    /// From 1 to the ceiling, where that is not 0.
    limit: f64,
    /// Successes of this round.
    successes: usize,
    /// Raised with each decrease.
    epoch: u64,
    latency: Option<Latency>,
}

/// Time to the first token, in seconds.
#[derive(Debug)]
struct Latency {
    mean: f64,
    least: f64,
    at: Instant,
}

impl Capacity {
    /// At most `ceiling` calls (at least 1); an adaptive one begins there and falls and rises below it.
    pub(crate) fn new(ceiling: usize, adaptive: bool) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            ceiling,
            adaptive: adaptive.then_some(Adaptive {
                limit: ceiling as f64,
                successes: 0,
                epoch: 0,
                latency: None,
            }),
        }
    }

    /// Calls at once, from 1 to the ceiling, or 0 with it.
    pub(crate) fn get(&self) -> usize {
        match &self.adaptive {
            // In range by construction, so nothing is cut off but the fraction.
            Some(adaptive) => (adaptive.limit as usize).max(1).min(self.ceiling),
            None => self.ceiling,
        }
    }

    /// Sets another ceiling, which may be 0. An adaptive capacity that was as high as the old one is as high as the new one;
    /// where the provider bears less, that is still so.
    pub(crate) fn set_ceiling(&mut self, ceiling: usize) {
        if let Some(adaptive) = &mut self.adaptive {
            let was_free = adaptive.limit >= self.ceiling as f64;
            adaptive.limit = if was_free {
                (ceiling as f64).max(1.0)
            } else {
                adaptive.limit.min((ceiling as f64).max(1.0))
            };
        }
        self.ceiling = ceiling;
    }

    /// How many of `wanted` calls at once could be made if the ceiling allowed it.
    pub(crate) fn bears(&self, wanted: usize) -> usize {
        match &self.adaptive {
            Some(adaptive) if adaptive.limit < self.ceiling as f64 => {
                wanted.min((adaptive.limit as usize).max(1))
            }
            _ => wanted,
        }
    }

    /// Stamp of a call that begins now: of the calls that begin between two decreases, only one counts as a push-back.
    pub(crate) fn epoch(&self) -> u64 {
        self.adaptive.as_ref().map_or(0, |adaptive| adaptive.epoch)
    }

    /// A call was answered while so many were in flight, itself included. Only rounds that use the capacity raise it: what was
    /// not tried is not known to be borne.
    pub(crate) fn succeeded(&mut self, in_flight: usize) {
        let capacity = self.get();
        let Some(adaptive) = &mut self.adaptive else {
            return;
        };
        if in_flight < capacity {
            return;
        }
        adaptive.successes += 1;
        if adaptive.successes >= capacity {
            adaptive.successes = 0;
            adaptive.limit = (adaptive.limit + 1.0).min((self.ceiling as f64).max(1.0));
        }
    }

    /// The provider was too busy for a call that began in `epoch`.
    pub(crate) fn pushed_back(&mut self, epoch: u64) {
        let Some(adaptive) = &mut self.adaptive else {
            return;
        };
        // Calls that began before the last decrease tell of the load before it.
        if epoch == adaptive.epoch {
            adaptive.epoch += 1;
            adaptive.successes = 0;
            adaptive.limit = (adaptive.limit * KEPT).max(1.0);
        }
    }

    /// The first token of a call that began in `epoch` came `after` its start; far above the usual it is a push-back.
    pub(crate) fn first_token(&mut self, after: Duration, epoch: u64, now: Instant) {
        let Some(adaptive) = &mut self.adaptive else {
            return;
        };
        let after = after.as_secs_f64();
        let latency = adaptive.latency.get_or_insert(Latency {
            mean: after,
            least: after,
            at: now,
        });
        if latency.observe(after, now) {
            self.pushed_back(epoch);
        }
    }
}

impl Latency {
    /// Takes in one more; whether first tokens come late of late.
    fn observe(&mut self, after: f64, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.mean += (after - self.mean) * LATENCY_WEIGHT;
        self.least = (self.least * (elapsed / LEAST_DOUBLES_AFTER).exp2()).min(self.mean);
        self.mean > (self.least * LATE_FACTOR).max(self.least + LATE_BY)
    }
}

#[cfg(test)]
#[path = "capacity_tests.rs"]
mod tests;
