//! Deliveries held in memory: how many and how many bytes, of whom and for what.
//!
//! A consumer that pauses holds up everybody behind it in the log. So that one tenant's flood,
//! or one model that stands still, does not hold up the others, neither may hold more than
//! [`ALPHA`] times the room that is left (dynamic thresholds; Choudhury and Hahne 1998): one
//! gets four fifths, two get four ninths each, and there is always room for a newcomer. The room
//! is counted up to where paused consumers resume, so that floods alone never keep them paused.
//! An interactive request past that is answered with an error at once: its client can come
//! back, while held it would only wait, and keep others from being read at all. The patient
//! lanes need none of this; their consumers pause long before the bound
//! ([`crate::gate::Slack`]). Whoever is the only one may fill the bound, and waits in the log.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What one owner may hold, in terms of the room that is left.
const ALPHA: usize = 4;
/// This part of a bound anybody may hold, however little room is left.
const FREE_PART: usize = 64;
/// For so long after somebody else's delivery an owner is not the only one.
const COMPANY: Duration = Duration::from_secs(60);

/// The bound of a process on what it holds; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    deliveries: AtomicUsize,
    bytes: AtomicUsize,
    /// From here on consumers pause.
    max: Amount,
    owners: Mutex<Owners>,
    relieved: Notify,
}

/// Deliveries and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amount {
    deliveries: usize,
    bytes: usize,
}

impl Amount {
    /// Of a bound, where consumers with one owner resume.
    fn half(max: usize) -> usize {
        max / 2
    }

    /// Of a bound, where consumers with several owners resume, and what these share.
    fn most(max: usize) -> usize {
        max - max / 8
    }
}

#[derive(Debug, Default)]
struct Owners {
    tenants: Parts,
    models: Parts,
}

/// What each of some owners holds.
#[derive(Debug, Default)]
struct Parts {
    /// Those who hold anything.
    held: HashMap<Arc<str>, Amount>,
    /// Whose delivery came last.
    latest: Option<Arc<str>>,
    /// When a delivery of another one than the one before came.
    mixed: Option<Instant>,
}

/// Why a request cannot be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// Its tenant holds more than its share.
    Tenant,
    /// Its model does.
    Model,
}

/// The share of one delivery; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    held: Arc<Inner>,
    bytes: AtomicUsize,
    /// Tenant and model, once they are known.
    owners: Option<(Arc<str>, Arc<str>)>,
}

impl Held {
    /// Bounds in deliveries and bytes.
    pub(crate) fn new(deliveries_max: usize, bytes_max: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                deliveries: AtomicUsize::new(0),
                bytes: AtomicUsize::new(0),
                max: Amount {
                    deliveries: deliveries_max.max(1),
                    bytes: bytes_max.max(1),
                },
                owners: Mutex::default(),
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
            owners: None,
        }
    }

    /// Whether a bound is reached: consumers pause.
    pub(crate) fn is_full(&self) -> bool {
        let Amount { deliveries, bytes } = self.inner.max;
        self.deliveries() >= deliveries || self.bytes() >= bytes
    }

    /// Whether both are down far enough: consumers resume. To half, which makes for few pauses, while there is one owner; with
    /// several, who do not wait for each other, as soon as there is any room.
    pub(crate) fn is_relieved(&self, now: Instant) -> bool {
        let inner = &self.inner;
        inner.is_below(Amount::half) || (inner.is_below(Amount::most) && inner.is_shared(now))
    }

    /// Resolves when [`Held::is_relieved`] may hold.
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
    /// Whether what is held is at most this part of the bound.
    fn is_below(&self, part: impl Fn(usize) -> usize) -> bool {
        self.deliveries.load(Ordering::Relaxed) <= part(self.max.deliveries)
            && self.bytes.load(Ordering::Relaxed) <= part(self.max.bytes)
    }

    /// Whether several tenants come, or several models are asked for.
    fn is_shared(&self, now: Instant) -> bool {
        let owners = self.owners.lock();
        owners.tenants.is_mixed(now) || owners.models.is_mixed(now)
    }

    /// Whether an owner with `part` holds more than its share of what there is.
    fn is_over(&self, part: Amount) -> bool {
        let over = |part: usize, held: usize, max: usize| {
            let room = Amount::most(max).saturating_sub(held);
            part > (room.saturating_mul(ALPHA)).max(max / FREE_PART).max(1)
        };
        let (held, max) = (&self.deliveries, self.max);
        over(
            part.deliveries,
            held.load(Ordering::Relaxed),
            max.deliveries,
        ) || over(part.bytes, self.bytes.load(Ordering::Relaxed), max.bytes)
    }
}

impl Share {
    /// Says whose the delivery is and for what; whether that one holds too much now, this delivery included.
    pub(crate) fn claim(&mut self, tenant: &str, model: &str, now: Instant) -> Option<Over> {
        if self.owners.is_some() {
            return None;
        }
        let amount = Amount {
            deliveries: 1,
            bytes: *self.bytes.get_mut(),
        };
        let mut owners = self.held.owners.lock();
        let (tenant, of_tenant) = owners.tenants.add(tenant, amount, now);
        let (model, of_model) = owners.models.add(model, amount, now);
        drop(owners);
        self.owners = Some((tenant, model));
        let is_over = |part: Option<Amount>| part.is_some_and(|part| self.held.is_over(part));
        if is_over(of_tenant) {
            Some(Over::Tenant)
        } else if is_over(of_model) {
            Some(Over::Model)
        } else {
            None
        }
    }

    /// The delivery holds `bytes` more: its body was fetched.
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.held.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some((tenant, model)) = &self.owners {
            let mut owners = self.held.owners.lock();
            owners.tenants.grow(tenant, bytes);
            owners.models.grow(model, bytes);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let amount = Amount {
            deliveries: 1,
            bytes: *self.bytes.get_mut(),
        };
        if let Some((tenant, model)) = self.owners.take() {
            let mut owners = self.held.owners.lock();
            owners.tenants.remove(tenant, amount);
            owners.models.remove(model, amount);
        }
        self.held.deliveries.fetch_sub(1, Ordering::Relaxed);
        self.held.bytes.fetch_sub(amount.bytes, Ordering::Relaxed);
        if self.held.is_below(Amount::most) {
            self.held.relieved.notify_waiters();
        }
    }
}

impl Parts {
    /// Adds to the part of `owner` and returns it; no part while nobody else has come for long.
    fn add(&mut self, owner: &str, amount: Amount, now: Instant) -> (Arc<str>, Option<Amount>) {
        let owner = match self.held.get_key_value(owner) {
            Some((known, _)) => Arc::clone(known),
            None => owner.into(),
        };
        if self.latest.as_ref() != Some(&owner) {
            if self.latest.is_some() {
                self.mixed = Some(now);
            }
            self.latest = Some(Arc::clone(&owner));
        }
        let part = self.held.entry(Arc::clone(&owner)).or_default();
        part.deliveries += amount.deliveries;
        part.bytes += amount.bytes;
        let part = *part;
        (owner, self.is_mixed(now).then_some(part))
    }

    fn is_mixed(&self, now: Instant) -> bool {
        self.mixed
            .is_some_and(|mixed| now.saturating_duration_since(mixed) < COMPANY)
    }

    fn grow(&mut self, owner: &Arc<str>, bytes: usize) {
        if let Some(part) = self.held.get_mut(owner) {
            part.bytes += bytes;
        }
    }

    fn remove(&mut self, owner: Arc<str>, amount: Amount) {
        if let Entry::Occupied(mut part) = self.held.entry(owner) {
            part.get_mut().deliveries -= amount.deliveries;
            part.get_mut().bytes -= amount.bytes;
            if part.get().deliveries == 0 {
                part.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn full_at_either_bound_and_relieved_at_half_of_both() {
        let (held, now) = (Held::new(4, 100), Instant::now());
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
        assert!(!held.is_relieved(now), "99 bytes are more than half");
        drop(large);
        assert!(held.is_relieved(now));
        assert_eq!((held.deliveries(), held.bytes()), (0, 0));
    }

    /// Deliveries that are kept until one is over its share; how many were kept, and why no more.
    fn flood(
        held: &Held,
        shares: &mut Vec<Share>,
        (tenant, model): (&str, &str),
        now: Instant,
    ) -> (usize, Option<Over>) {
        for kept in 0..1_000 {
            if held.is_full() {
                return (kept, None);
            }
            let mut share = held.take(10);
            if let Some(over) = share.claim(tenant, model, now) {
                return (kept, Some(over));
            }
            shares.push(share);
        }
        panic!("no bound");
    }

    #[test]
    fn a_flood_leaves_room_for_others_and_two_floods_too() {
        let (held, now) = (Held::new(900, usize::MAX), Instant::now());
        let mut shares = Vec::new();
        shares.push(held.take(0));
        assert_eq!(shares[0].claim("quiet", "m", now), None);
        let (kept, over) = flood(&held, &mut shares, ("a", "m"), now);
        assert_eq!(over, Some(Over::Tenant));
        assert!(
            (620..=640).contains(&kept),
            "{kept}: four fifths of seven eighths"
        );
        let (kept, over) = flood(&held, &mut shares, ("b", "m"), now);
        assert_eq!(over, Some(Over::Tenant));
        assert!(kept > 100, "{kept}");
        let mut newcomer = held.take(10);
        assert_eq!(newcomer.claim("c", "m", now), None);
        assert!(held.is_relieved(now), "floods keep nobody paused");
        let alone = now + COMPANY;
        assert!(!held.is_relieved(alone));
    }

    #[test]
    fn a_model_that_stands_still_leaves_room_for_the_others() {
        let (held, now) = (Held::new(1_000, usize::MAX), Instant::now());
        let mut shares = Vec::new();
        shares.push(held.take(0));
        assert_eq!(shares[0].claim("0", "moving", now), None);
        for tenant in 0..1_000 {
            let mut share = held.take(1);
            let over = share.claim(&tenant.to_string(), "still", now);
            shares.push(share);
            if over.is_some() {
                assert_eq!(over, Some(Over::Model));
                assert!((690..=710).contains(&tenant), "{tenant}");
                return;
            }
        }
        panic!("one model took all");
    }

    #[test]
    fn whoever_is_the_only_one_may_fill_the_bound() {
        let (held, now) = (Held::new(100, usize::MAX), Instant::now());
        let mut shares = vec![held.take(0)];
        shares[0].claim("other", "m", now);
        shares.clear();
        let later = now + COMPANY + Duration::from_secs(1);
        let mut first = held.take(0);
        first.claim("a", "m", now);
        assert_eq!(flood(&held, &mut shares, ("a", "m"), later), (99, None));
    }

    #[test]
    fn bytes_count_as_deliveries_do() {
        let (held, now) = (Held::new(1_000, 1_000), Instant::now());
        let mut quiet = held.take(5);
        assert_eq!(quiet.claim("quiet", "m", now), None);
        let mut large = held.take(500);
        assert_eq!(large.claim("a", "m", now), None);
        large.add(400);
        let mut next = held.take(10);
        assert_eq!(next.claim("a", "m", now), Some(Over::Tenant));
        assert_eq!(held.take(5).claim("quiet", "m", now), None);
    }

    proptest! {
        /// Whatever comes and goes, the parts are those of the shares that are left, and nobody's name is kept for nothing.
        #[test]
        fn the_parts_are_those_of_the_shares(
            steps in prop::collection::vec((0..4_u8, 0..5_u8, 0..100_usize), 1..200),
        ) {
            let (held, now) = (Held::new(50, 2_000), Instant::now());
            let mut shares: Vec<(u8, usize, Share)> = Vec::new();
            for (what, owner, bytes) in steps {
                match what {
                    0 if !shares.is_empty() => {
                        let place = bytes % shares.len();
                        drop(shares.swap_remove(place));
                    }
                    1 if !shares.is_empty() => {
                        let place = bytes % shares.len();
                        shares[place].2.add(bytes);
                        shares[place].1 += bytes;
                    }
                    _ => {
                        let mut share = held.take(bytes);
                        share.claim(&owner.to_string(), "m", now);
                        shares.push((owner, bytes, share));
                    }
                }
                let owners = held.inner.owners.lock();
                for owner in 0..5_u8 {
                    let own = shares.iter().filter(|share| share.0 == owner);
                    let expected = own.fold(Amount::default(), |sum, share| Amount {
                        deliveries: sum.deliveries + 1,
                        bytes: sum.bytes + share.1,
                    });
                    let part = owners.tenants.held.get(owner.to_string().as_str()).copied();
                    prop_assert_eq!(part.unwrap_or_default(), expected);
                    prop_assert_eq!(part.is_some(), expected.deliveries > 0);
                }
            }
        }
    }
}
