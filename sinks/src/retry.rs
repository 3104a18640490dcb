//! Waits between tries.

use std::time::Duration;

const MIN: Duration = Duration::from_millis(50);
const MAX: Duration = Duration::from_secs(2);

/// Waits that double from 50 ms to 2 s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BackOff {
    wait: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { wait: MIN }
    }
}

impl BackOff {
    /// How long to wait now; the next wait is longer.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.wait;
        self.wait = (wait * 2).min(MAX);
        wait
    }

    /// How long the next wait is.
    pub(crate) fn current(self) -> Duration {
        self.wait
    }
}
