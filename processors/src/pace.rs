//! How long deltas gather before an append: not at all on an idle system, by steps under load.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// From so many live streams in the process on, deltas gather for so long.
const STEPS: [(usize, Duration); 4] = [
    (96, Duration::from_millis(20)),
    (256, Duration::from_millis(50)),
    (512, Duration::from_millis(100)),
    (1024, WINDOW_MAX),
];
/// Longest that a delta waits for others.
pub(crate) const WINDOW_MAX: Duration = Duration::from_millis(150);

/// The pace of all streams of a process.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    streams: AtomicUsize,
    /// Moving mean of the time of an append, microseconds.
    append_micros: AtomicU64,
}

/// A live stream; leaves the count when dropped.
#[derive(Debug)]
pub(crate) struct Live(std::sync::Arc<Pace>);

impl Pace {
    /// Counts a stream in.
    pub(crate) fn enter(self: &std::sync::Arc<Self>) -> Live {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Live(std::sync::Arc::clone(self))
    }

    /// Takes the time of an append into account.
    pub(crate) fn appended(&self, took: Duration) {
        let took = u64::try_from(took.as_micros())
            .unwrap_or(u64::MAX)
            .min(10_000_000);
        // Racing writers lose a sample now and then, which a mean can bear.
        let mean = self.append_micros.load(Ordering::Relaxed);
        self.append_micros
            .store(mean - mean / 8 + took / 8, Ordering::Relaxed);
    }

    /// The least time between the beginnings of two appends of one stream.
    pub(crate) fn window(&self) -> Duration {
        window(
            self.streams.load(Ordering::Relaxed),
            Duration::from_micros(self.append_micros.load(Ordering::Relaxed)),
        )
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The step for so many streams, and at least twice the time that appends take where that
/// shows: a log that is slow is not helped by more appends.
fn window(streams: usize, append: Duration) -> Duration {
    let step = STEPS
        .iter()
        .rev()
        .find(|(from, _)| streams >= *from)
        .map_or(Duration::ZERO, |(_, window)| *window);
    let slow = if append >= Duration::from_millis(10) {
        append * 2
    } else {
        Duration::ZERO
    };
    step.max(slow).min(WINDOW_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_zero_when_idle_and_widens_by_steps_to_its_bound() {
        let fast = Duration::from_micros(300);
        assert_eq!(window(10, fast), Duration::ZERO);
        assert_eq!(window(100, fast), Duration::from_millis(20));
        assert_eq!(window(5_000, fast), WINDOW_MAX);
        assert_eq!(
            window(1, Duration::from_millis(15)),
            Duration::from_millis(30)
        );
        assert_eq!(window(1, Duration::from_secs(9)), WINDOW_MAX);
    }
}
