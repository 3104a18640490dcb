//! What a deployment is doing: calls in flight and the average time to its first token.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Time in which an average that is not renewed loses most of its say. A deployment that was
/// ten times slower than the others is tried again after 12 s, one a hundred times slower
/// after 23 s.
const DECAY: Duration = Duration::from_secs(5);

/// Shared by all models that use the deployment.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: AtomicU32,
    /// A packed [`Average`], so that readers need no lock.
    average: AtomicU64,
}

/// A call given to a deployment; over when dropped.
#[derive(Debug)]
pub(crate) struct Call<'l> {
    load: &'l Load,
}

/// A decaying average in microseconds, as of a time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Average {
    micros: f32,
    at: u32,
}

impl Load {
    /// A call is given to the deployment.
    pub(crate) fn enter(&self) -> Call<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Call { load: self }
    }

    /// Calls given to it that have not ended, those that wait for their turn included.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A first token came after `after`; `now` counts from any fixed time.
    pub(crate) fn first_token(&self, after: Duration, now: Duration) {
        let updated = self
            .average
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
                Some(Average::unpack(packed).with(after, millis(now)).pack())
            });
        // The closure never declines.
        debug_assert!(updated.is_ok());
    }

    /// Average time to the first token, decayed since it was last renewed; 0: not known.
    pub(crate) fn first_token_micros(&self, now: Duration) -> u64 {
        Average::unpack(self.average.load(Ordering::Relaxed)).decayed(millis(now))
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Average {
    fn with(self, sample: Duration, now: u32) -> Self {
        let sample = sample.as_micros() as f32;
        let kept = if self.micros > 0.0 {
            weight(self.at, now)
        } else {
            0.0
        };
        // Of many samples at one moment each still counts for something.
        let kept = kept.min(0.95);
        Self {
            micros: (self.micros * kept + sample * (1.0 - kept)).max(1.0),
            at: now,
        }
    }

    fn decayed(self, now: u32) -> u64 {
        (self.micros * weight(self.at, now)) as u64
    }

    fn pack(self) -> u64 {
        (u64::from(self.micros.to_bits()) << 32) | u64::from(self.at)
    }

    fn unpack(packed: u64) -> Self {
        Self {
            micros: f32::from_bits((packed >> 32) as u32),
            at: (packed & 0xffff_ffff) as u32,
        }
    }
}

/// How much of an average is left after the time from `at` to `now`.
fn weight(at: u32, now: u32) -> f32 {
    // Milliseconds wrap around after 49 days. A reader that is a moment behind sees no age.
    let age = now.wrapping_sub(at);
    let age = if age > u32::MAX / 2 { 0 } else { age };
    (-(age as f32) / DECAY.as_millis() as f32).exp()
}

fn millis(now: Duration) -> u32 {
    (now.as_millis() & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_average_follows_its_samples_and_fades_without_them() {
        let load = Load::default();
        assert_eq!(load.first_token_micros(seconds(1)), 0);
        load.first_token(seconds(1), seconds(10));
        assert_eq!(load.first_token_micros(seconds(10)), 1_000_000);
        let faded = load.first_token_micros(seconds(22));
        assert!((80_000..100_000).contains(&faded), "{faded}");
        for at in 10..25 {
            load.first_token(Duration::from_millis(100), seconds(at));
        }
        let near = load.first_token_micros(seconds(24));
        assert!((100_000..200_000).contains(&near), "{near}");
    }

    #[test]
    fn samples_at_one_moment_count_all() {
        let load = Load::default();
        load.first_token(Duration::from_millis(100), seconds(5));
        for _ in 0..100 {
            load.first_token(seconds(2), seconds(5));
        }
        assert!(load.first_token_micros(seconds(5)) > 1_900_000);
    }

    #[test]
    fn calls_are_in_flight_until_they_are_dropped() {
        let load = Load::default();
        let (one, two) = (load.enter(), load.enter());
        assert_eq!(load.in_flight(), 2);
        drop(one);
        drop(two);
        assert_eq!(load.in_flight(), 0);
    }
}
