//! Deliveries held in memory: how many and how many bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The bound of a process on what it holds; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    deliveries: AtomicUsize,
    bytes: AtomicUsize,
    deliveries_max: usize,
    bytes_max: usize,
    relieved: Notify,
}

/// The share of one delivery; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    held: Arc<Inner>,
    bytes: AtomicUsize,
}

impl Held {
    /// Bounds in deliveries and bytes.
    pub(crate) fn new(deliveries_max: usize, bytes_max: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                deliveries: AtomicUsize::new(0),
                bytes: AtomicUsize::new(0),
                deliveries_max: deliveries_max.max(1),
                bytes_max: bytes_max.max(1),
                relieved: Notify::new(),
            }),
        }
    }

    /// Takes a delivery of `bytes` into account. What was delivered is always taken; whether
    /// to ask for more is [`Held::is_full`].
    pub(crate) fn take(&self, bytes: usize) -> Share {
        self.inner.deliveries.fetch_add(1, Ordering::Relaxed);
        self.inner.bytes.fetch_add(bytes, Ordering::Relaxed);
        Share {
            held: Arc::clone(&self.inner),
            bytes: AtomicUsize::new(bytes),
        }
    }

    /// Whether a bound is reached: consumers pause.
    pub(crate) fn is_full(&self) -> bool {
        self.deliveries() >= self.inner.deliveries_max || self.bytes() >= self.inner.bytes_max
    }

    /// Whether both are down to half: consumers resume.
    pub(crate) fn is_relieved(&self) -> bool {
        self.inner.is_relieved()
    }

    /// Resolves when the bounds may have come down to half.
    ///
    /// # Cancel safety
    /// May be dropped; look at [`Held::is_relieved`] after creating it and before awaiting it.
    pub(crate) fn relieved(&self) -> tokio::sync::futures::Notified<'_> {
        self.inner.relieved.notified()
    }

    /// Deliveries held.
    pub(crate) fn deliveries(&self) -> usize {
        self.inner.deliveries.load(Ordering::Relaxed)
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.inner.bytes.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn is_relieved(&self) -> bool {
        self.deliveries.load(Ordering::Relaxed) <= self.deliveries_max / 2
            && self.bytes.load(Ordering::Relaxed) <= self.bytes_max / 2
    }
}

impl Share {
    /// The delivery holds `bytes` more: its body was fetched.
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.held.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.deliveries.fetch_sub(1, Ordering::Relaxed);
        self.held
            .bytes
            .fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
        if self.held.is_relieved() {
            self.held.relieved.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_at_either_bound_and_relieved_at_half_of_both() {
        let held = Held::new(4, 100);
        let shares: Vec<Share> = (0..4).map(|_| held.take(1)).collect();
        assert!(held.is_full());
        drop(shares);
        let large = held.take(99);
        assert!(!held.is_full());
        let small = held.take(0);
        small.add(1);
        assert!(held.is_full());
        drop(small);
        assert!(!held.is_full());
        assert!(!held.is_relieved(), "99 bytes are more than half");
        drop(large);
        assert!(held.is_relieved());
        assert_eq!((held.deliveries(), held.bytes()), (0, 0));
    }
}
