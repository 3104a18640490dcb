//! Calls and failures of the last while.

use std::time::Duration;

const BUCKETS: usize = 10;

/// A sliding window in steps of a tenth.
#[derive(Debug)]
pub(super) struct Window {
    step_micros: u128,
    buckets: [Bucket; BUCKETS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    step: u128,
    calls: u64,
    failures: u64,
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            step_micros: (length.as_micros() / BUCKETS as u128).max(1),
            buckets: [Bucket::default(); BUCKETS],
        }
    }

    pub(super) fn record(&mut self, failed: bool, now: Duration) {
        let step = now.as_micros() / self.step_micros;
        let bucket = &mut self.buckets[(step % BUCKETS as u128) as usize];
        if bucket.step != step {
            *bucket = Bucket {
                step,
                ..Bucket::default()
            };
        }
        bucket.calls += 1;
        bucket.failures += u64::from(failed);
    }

    /// Calls, and those of them that failed.
    pub(super) fn counts(&self, now: Duration) -> (u64, u64) {
        let oldest = (now.as_micros() / self.step_micros + 1).saturating_sub(BUCKETS as u128);
        let recent = self.buckets.iter().filter(|bucket| bucket.step >= oldest);
        recent.fold((0, 0), |(calls, failures), bucket| {
            (calls + bucket.calls, failures + bucket.failures)
        })
    }

    pub(super) fn clear(&mut self) {
        self.buckets = [Bucket::default(); BUCKETS];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut window = Window::new(Duration::from_secs(30));
        window.record(true, Duration::from_secs(100));
        window.record(false, Duration::from_secs(115));
        assert_eq!(window.counts(Duration::from_secs(115)), (2, 1));
        assert_eq!(window.counts(Duration::from_secs(128)), (2, 1));
        assert_eq!(window.counts(Duration::from_secs(132)), (1, 0));
        assert_eq!(window.counts(Duration::from_secs(150)), (0, 0));
    }
}
