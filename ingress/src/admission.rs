//! Bounded admission: how many requests wait at once, and how many bytes of bodies are held.
//!
//! Whoever is refused is told a true time to come back: the place it has in the queue of
//! those refused before it, times the pace at which requests end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::metrics::{Metrics, Present};

/// Weight of one more observation in the mean duration, as a power of two: 1/16.
const MEAN_SHIFT: u32 = 4;
/// What a request is taken to last before any has ended.
const DURATION_UNKNOWN: Duration = Duration::from_secs(1);
/// Bounds of what a client is told; beyond a minute an estimate means nothing.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));

/// Counts the requests that are inside and refuses more than the bounds.
#[derive(Debug)]
pub(crate) struct Admission {
    requests_max: usize,
    body_bytes_max: usize,
    inside: AtomicUsize,
    body_bytes: AtomicUsize,
    /// Refused since, less one for each request that ended: who will come back before us.
    refused: AtomicUsize,
    /// Mean duration of a request, microseconds; 0 before the first.
    mean_micros: AtomicU64,
    empty: Notify,
    metrics: Metrics,
}

/// Not now; `retry_after` says when a place is likely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) retry_after: Duration,
}

/// A place inside; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    entered: Instant,
    _present: Present,
}

/// Bytes of a body being held; given back when dropped.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    admission: Arc<Admission>,
    bytes: usize,
}

impl Admission {
    pub(crate) fn new(requests_max: usize, body_bytes_max: usize, metrics: Metrics) -> Self {
        Self {
            requests_max: requests_max.max(1),
            body_bytes_max,
            inside: AtomicUsize::new(0),
            body_bytes: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            mean_micros: AtomicU64::new(0),
            empty: Notify::new(),
            metrics,
        }
    }

    /// A place for one request.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Place, Full> {
        if !take(&self.inside, 1, self.requests_max) {
            let before = self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Full {
                retry_after: self.wait_for(before + 1),
            });
        }
        Ok(Place {
            admission: Arc::clone(self),
            entered: Instant::now(),
            _present: self.metrics.waiting(),
        })
    }

    /// Room for `bytes` of a body. One body alone always fits, whatever the bound.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Result<HeldBytes, Full> {
        let mut held = HeldBytes {
            admission: Arc::clone(self),
            bytes: 0,
        };
        held.grow(bytes)?;
        Ok(held)
    }

    /// Requests inside now.
    pub(crate) fn inside(&self) -> usize {
        self.inside.load(Ordering::Acquire)
    }

    /// Resolves once nobody is inside.
    pub(crate) async fn empty(&self) {
        loop {
            let notified = self.empty.notified();
            if self.inside() == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Time until `ahead` more requests have ended, at the pace observed.
    fn wait_for(&self, ahead: usize) -> Duration {
        let mean = match self.mean_micros.load(Ordering::Relaxed) {
            0 => DURATION_UNKNOWN,
            micros => Duration::from_micros(micros),
        };
        let rounds = ahead as f64 / self.requests_max as f64;
        mean.mul_f64(rounds).clamp(RETRY_AFTER.0, RETRY_AFTER.1)
    }

    fn leave(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        // A lost update between two requests that end together does no harm to a mean.
        let mean = match self.mean_micros.load(Ordering::Relaxed) {
            0 => micros,
            mean => mean - (mean >> MEAN_SHIFT) + (micros >> MEAN_SHIFT),
        };
        self.mean_micros.store(mean.max(1), Ordering::Relaxed);
        let inside = self.inside.fetch_sub(1, Ordering::AcqRel) - 1;
        if inside < self.requests_max / 2 {
            // Half empty: whoever was refused came back or never will.
            self.refused.store(0, Ordering::Relaxed);
        } else if self.refused.load(Ordering::Relaxed) > 0 {
            take_back(&self.refused, 1);
        }
        if inside == 0 {
            self.empty.notify_waiters();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.leave(self.entered.elapsed());
    }
}

impl HeldBytes {
    /// Holds `more` bytes on top.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Full> {
        let admission = &self.admission;
        let alone = admission.body_bytes.load(Ordering::Relaxed) == self.bytes;
        let bound = if alone {
            usize::MAX
        } else {
            admission.body_bytes_max
        };
        if !take(&admission.body_bytes, more, bound) {
            return Err(Full {
                retry_after: admission.wait_for(1),
            });
        }
        self.bytes += more;
        Ok(())
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.admission
            .body_bytes
            .fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Adds `amount` unless the sum would pass `bound`.
fn take(counter: &AtomicUsize, amount: usize, bound: usize) -> bool {
    counter
        .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |now| {
            now.checked_add(amount).filter(|sum| *sum <= bound)
        })
        .is_ok()
}

/// Subtracts `amount`, but not below zero.
fn take_back(counter: &AtomicUsize, amount: usize) {
    let mut now = counter.load(Ordering::Relaxed);
    while let Err(changed) = counter.compare_exchange_weak(
        now,
        now.saturating_sub(amount),
        Ordering::AcqRel,
        Ordering::Relaxed,
    ) {
        now = changed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(requests_max: usize, body_bytes_max: usize) -> Arc<Admission> {
        Arc::new(Admission::new(requests_max, body_bytes_max, Metrics::new()))
    }

    #[test]
    fn no_more_than_the_bound_are_inside_and_a_place_comes_back() {
        let admission = admission(2, 1024);
        let first = admission.enter().unwrap();
        let _second = admission.enter().unwrap();
        assert!(admission.enter().is_err());
        drop(first);
        assert!(admission.enter().is_ok());
    }

    #[test]
    fn the_retry_after_grows_with_those_refused_before_and_falls_as_requests_end() {
        let admission = admission(2, 1024);
        admission.mean_micros.store(4_000_000, Ordering::Relaxed);
        let (one, other) = (admission.enter().unwrap(), admission.enter().unwrap());
        let first = admission.enter().unwrap_err().retry_after;
        let second = admission.enter().unwrap_err().retry_after;
        assert_eq!(first, Duration::from_secs(2));
        assert_eq!(second, Duration::from_secs(4));
        drop(one);
        assert_eq!(admission.refused.load(Ordering::Relaxed), 1);
        drop(other);
        assert_eq!(admission.refused.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn bodies_are_bounded_together_but_one_alone_always_fits() {
        let admission = admission(10, 100);
        let mut large = admission.hold(90).unwrap();
        large.grow(90).unwrap();
        assert!(admission.hold(1).is_err());
        drop(large);
        let _small = admission.hold(60).unwrap();
        assert!(admission.hold(60).is_err());
    }

    #[tokio::test]
    async fn empty_resolves_when_the_last_one_left() {
        let admission = admission(2, 0);
        admission.empty().await;
        let place = admission.enter().unwrap();
        let mut empty = std::pin::pin!(admission.empty());
        assert!(futures::poll!(empty.as_mut()).is_pending());
        drop(place);
        empty.await;
    }
}
