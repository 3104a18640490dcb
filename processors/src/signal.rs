//! What the outside wants of a request in work: one wait for all of it.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// Its partition went to another process: do not start what has not started.
pub(crate) const FENCED: u8 = 1;
/// Its owner gave up: end the call now.
pub(crate) const CANCELLED: u8 = 2;
/// This process is about to go: give it back.
pub(crate) const RELEASED: u8 = 4;

/// Wishes raised so far; they are never taken back.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: AtomicU8,
    changed: Notify,
}

impl Signal {
    /// Raises a wish.
    pub(crate) fn raise(&self, wish: u8) {
        self.raised.fetch_or(wish, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Whether any of `wishes` was raised.
    pub(crate) fn is_raised(&self, wishes: u8) -> bool {
        self.raised.load(Ordering::Acquire) & wishes != 0
    }

    /// Resolves once any of `wishes` is raised.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub(crate) async fn raised(&self, wishes: u8) {
        let mut changed = std::pin::pin!(self.changed.notified());
        loop {
            changed.as_mut().enable();
            if self.is_raised(wishes) {
                return;
            }
            changed.as_mut().await;
            changed.set(self.changed.notified());
        }
    }
}
