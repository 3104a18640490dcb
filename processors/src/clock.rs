//! Time as the parts that know no clock take it.

use std::time::Duration;

use tokio::time::Instant;

/// Counts from the moment it was made; copies count alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that shows zero now.
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// What it shows now.
    pub(crate) fn now(self) -> Duration {
        self.at(Instant::now())
    }

    /// What it showed, or will show, at `instant`.
    pub(crate) fn at(self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.start)
    }
}
