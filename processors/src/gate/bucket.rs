//! So many units in a minute, smoothly: a token bucket. Pure: the clock is passed in.

use std::time::Duration;

use tokio::time::Instant;

const MINUTE: f64 = 60.0;
/// The bucket holds what comes in so many seconds, but at least one unit: providers measure over short windows too.
const BURST: f64 = 1.0;
/// What is missing to the last digits of a sum is not waited for.
const ROUNDING: f64 = 1e-6;

/// A bucket that fills at a steady rate.
#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    burst: f64,
    /// What may be taken now; below zero after more was taken than was known, never above the burst.
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket for `per_minute` units.
    pub(crate) fn new(per_minute: f64, now: Instant) -> Self {
        let mut bucket = Self {
            per_second: 0.0,
            burst: 0.0,
            level: 0.0,
            at: now,
        };
        bucket.set_rate(per_minute, now);
        bucket.level = bucket.burst;
        bucket
    }

    /// Fills at another rate from now on.
    pub(crate) fn set_rate(&mut self, per_minute: f64, now: Instant) {
        self.fill(now);
        self.per_second = per_minute.max(f64::MIN_POSITIVE) / MINUTE;
        self.burst = (self.per_second * BURST).max(1.0);
        self.level = self.level.min(self.burst);
    }

    /// How long until `amount` can be taken; none when it can be now. More than the bucket holds is taken from a full one and
    /// paid back afterwards.
    pub(crate) fn due(&mut self, amount: f64, now: Instant) -> Option<Duration> {
        self.fill(now);
        let missing = amount.min(self.burst) - self.level;
        if missing <= ROUNDING {
            return None;
        }
        let seconds = missing / self.per_second;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// Takes `amount`, at once, whether it is there or not.
    pub(crate) fn take(&mut self, amount: f64, now: Instant) {
        self.fill(now);
        self.level -= amount;
    }

    /// Puts back what was taken and not used; less than nothing takes the rest of what was used.
    pub(crate) fn give_back(&mut self, amount: f64, now: Instant) {
        self.fill(now);
        self.level = (self.level + amount).min(self.burst);
    }

    /// Seconds until `amount` more could be taken than is there now.
    pub(crate) fn seconds_for(&mut self, amount: f64, now: Instant) -> f64 {
        self.fill(now);
        ((amount - self.level) / self.per_second).max(0.0)
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.level = (self.level + elapsed * self.per_second).min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn more_than_a_burst_waits_for_a_full_bucket_and_is_paid_back() {
        let start = Instant::now();
        let mut bucket = Bucket::new(600.0, start);
        assert_eq!(bucket.due(25.0, start), None, "full: ten units");
        bucket.take(25.0, start);
        let due = bucket.due(1.0, start).unwrap();
        assert_eq!(
            due.as_millis(),
            1_600,
            "15 owed and one wanted, at ten a second"
        );
        assert_eq!(bucket.due(1.0, start + due), None);
    }

    #[test]
    fn a_rate_that_changes_holds_from_now_on() {
        let start = Instant::now();
        let mut bucket = Bucket::new(600.0, start);
        bucket.take(10.0, start);
        bucket.set_rate(60.0, start);
        assert_eq!(bucket.due(1.0, start).unwrap().as_millis(), 1_000);
        bucket.set_rate(600.0, start + Duration::from_millis(500));
        let due = bucket.due(1.0, start + Duration::from_millis(500));
        assert_eq!(due.unwrap().as_millis(), 50);
    }

    proptest! {
        /// In every window that ends with a taking: no more than its length times the rate, one burst, and what that last taking
        /// had above a burst. Corrections count as takings that nobody asked for.
        #[test]
        fn no_window_sees_more_than_its_rate_and_one_burst(
            per_minute in 1.0..600.0_f64,
            steps in prop::collection::vec((0..2_000_u64, any::<bool>(), -2.0..6.0_f64), 1..150),
        ) {
            let mut now = Instant::now();
            let mut bucket = Bucket::new(per_minute, now);
            let burst = bucket.burst;
            let mut taken: Vec<(Instant, f64, bool)> = Vec::new();
            for (pause, asked, amount) in steps {
                now += Duration::from_millis(pause);
                if asked {
                    let amount = amount.max(0.0);
                    if bucket.due(amount, now).is_none() {
                        bucket.take(amount, now);
                        taken.push((now, amount, true));
                    }
                } else {
                    bucket.give_back(-amount, now);
                    taken.push((now, amount, false));
                }
                prop_assert!(bucket.level <= burst);
            }
            for (first, (from, ..)) in taken.iter().enumerate() {
                let mut sum = 0.0;
                for (at, amount, asked) in &taken[first..] {
                    sum += amount;
                    let window = at.duration_since(*from).as_secs_f64();
                    let allowed = burst + window * per_minute / MINUTE + (amount - burst).max(0.0);
                    prop_assert!(!asked || sum <= allowed + 1e-3, "{sum} of {allowed}");
                }
            }
        }
    }
}
