//! Whether a consumer of a patient lane should pull more: how many calls wait before all
//! gates of the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use schemas::request::Lane;
use tokio::sync::Notify;

/// How many calls wait before the gates of the process, by lane.
#[derive(Debug)]
pub(crate) struct Slack {
    waiting: [AtomicUsize; 3],
    waiting_max: usize,
    relieved: Notify,
}

impl Slack {
    /// Patient lanes are held up from `waiting_max` waiting calls of their own or of more urgent lanes.
    pub(crate) fn new(waiting_max: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: [const { AtomicUsize::new(0) }; 3],
            waiting_max: waiting_max.max(1),
            relieved: Notify::new(),
        })
    }

    /// Whether a consumer of `lane` should go on pulling; the interactive one always does.
    pub(crate) fn has_slack(&self, lane: Lane) -> bool {
        lane == Lane::Interactive || self.waiting_before(lane) < self.waiting_max
    }

    /// Whether a consumer of `lane` that was held up should begin again.
    pub(crate) fn is_relieved(&self, lane: Lane) -> bool {
        lane == Lane::Interactive || self.waiting_before(lane) <= self.waiting_max / 2
    }

    /// Resolves when a waiting call got through its gate.
    ///
    /// # Cancel safety
    /// May be dropped; look at [`Slack::is_relieved`] after creating it and before awaiting it.
    pub(crate) fn relieved(&self) -> tokio::sync::futures::Notified<'_> {
        self.relieved.notified()
    }

    /// A call begins to wait.
    pub(super) fn enter(&self, lane: Lane) {
        self.waiting[lane as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A call waits no longer.
    pub(super) fn leave(&self, lane: Lane) {
        self.waiting[lane as usize].fetch_sub(1, Ordering::Relaxed);
        self.relieved.notify_waiters();
    }

    fn waiting_before(&self, lane: Lane) -> usize {
        self.waiting[..=lane as usize]
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}
