//! The keys of a provider: rotation, rest and lock-out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::router::Readiness;

/// A key that was refused is tried again after this long: it may have been put right meanwhile.
pub(crate) const LOCKED_OUT: Duration = Duration::from_secs(60);

/// A provider key. Its `Debug` form does not show it.
#[derive(Clone)]
pub(crate) struct Key {
    /// What attempts call it.
    pub(crate) name: Arc<str>,
    /// `Bearer …`, marked sensitive.
    pub(crate) authorization: HeaderValue,
    /// The key itself, to strike it out of messages.
    pub(crate) secret: Arc<str>,
}

/// The keys of one provider, as used for one of its models: limits are counted by model,
/// lock-outs by provider.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    provider: Arc<Provider>,
    /// When each key may be used again for this model; without keys one entry for the model.
    rests: Arc<Mutex<Vec<Option<Instant>>>>,
    turn: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Provider {
    keys: Vec<Key>,
    locked_out: Mutex<Vec<Option<Instant>>>,
}

/// The choice of a key for one call.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    index: usize,
    /// None when the provider wants no key.
    pub(crate) key: Option<Key>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// The keys of a provider, which may be none.
    pub(crate) fn new(keys: Vec<Key>) -> Self {
        let slots = keys.len().max(1);
        Self {
            provider: Arc::new(Provider {
                keys,
                locked_out: Mutex::new(vec![None; slots]),
            }),
            rests: Arc::new(Mutex::new(vec![None; slots])),
            turn: Arc::default(),
        }
    }

    /// The same keys for another model of the provider.
    pub(crate) fn for_model(&self) -> Self {
        Self {
            provider: Arc::clone(&self.provider),
            rests: Arc::new(Mutex::new(vec![None; self.slots()])),
            turn: Arc::default(),
        }
    }

    /// Whether any key may be used at `now`.
    pub(crate) fn readiness(&self, now: Instant) -> Readiness {
        let locked_out = self.provider.locked_out.lock();
        let rests = self.rests.lock();
        let mut shortest: Option<Duration> = None;
        for (locked_out, rest) in locked_out.iter().zip(rests.iter()) {
            if left(*locked_out, now).is_some() {
                continue;
            }
            match left(*rest, now) {
                None => return Readiness::Ready,
                Some(left) => shortest = Some(shortest.map_or(left, |least| least.min(left))),
            }
        }
        shortest.map_or(Readiness::LockedOut, Readiness::Rests)
    }

    /// The next key in turn that may be used; any when none may.
    pub(crate) fn choose(&self, now: Instant) -> Chosen {
        let slots = self.slots();
        if slots == 1 {
            return self.chosen(0);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let locked_out = self.provider.locked_out.lock();
        let rests = self.rests.lock();
        let index = (0..slots)
            .map(|step| (turn.wrapping_add(step)) % slots)
            .find(|index| {
                left(locked_out[*index], now).is_none() && left(rests[*index], now).is_none()
            })
            .unwrap_or(turn % slots);
        self.chosen(index)
    }

    /// The key has to rest for this model.
    pub(crate) fn rest(&self, chosen: &Chosen, until: Instant) {
        if let Some(rest) = self.rests.lock().get_mut(chosen.index) {
            *rest = Some(rest.map_or(until, |earlier| earlier.max(until)));
        }
    }

    /// The provider refused the key.
    pub(crate) fn lock_out(&self, chosen: &Chosen, now: Instant) {
        if let Some(locked_out) = self.provider.locked_out.lock().get_mut(chosen.index) {
            *locked_out = Some(now + LOCKED_OUT);
        }
    }

    /// `text` with every key of the provider struck out.
    pub(crate) fn strike_out(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for key in &self.provider.keys {
            if !key.secret.is_empty() && text.contains(&*key.secret) {
                text = text.replace(&*key.secret, "[key]");
            }
        }
        text
    }

    fn slots(&self) -> usize {
        self.provider.keys.len().max(1)
    }

    fn chosen(&self, index: usize) -> Chosen {
        Chosen {
            index,
            key: self.provider.keys.get(index).cloned(),
        }
    }
}

fn left(until: Option<Instant>, now: Instant) -> Option<Duration> {
    until
        .map(|until| until.saturating_duration_since(now))
        .filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> Keys {
        let keys = names.iter().map(|name| Key {
            name: (*name).into(),
            authorization: HeaderValue::from_static("Bearer x"),
            secret: format!("secret-{name}").into(),
        });
        Keys::new(keys.collect())
    }

    #[test]
    fn keys_take_turns_and_skip_those_that_rest_or_are_locked_out() {
        let keys = keys(&["a", "b", "c"]);
        let now = Instant::now();
        let name = |keys: &Keys, now| keys.choose(now).key.unwrap().name;
        let first: Vec<_> = (0..4).map(|_| name(&keys, now)).collect();
        assert_eq!(first, ["a", "b", "c", "a"].map(Arc::from));
        let b = keys.choose(now);
        keys.rest(&b, now + Duration::from_secs(5));
        let c = keys.choose(now);
        keys.lock_out(&c, now);
        assert!((0..5).all(|_| &*name(&keys, now) == "a"));
        let other = keys.for_model();
        let used: std::collections::BTreeSet<_> = (0..9).map(|_| name(&other, now)).collect();
        assert_eq!(
            used,
            ["a", "b"].map(Arc::from).into(),
            "a rest is of one model, a lock-out of all"
        );
    }

    #[test]
    fn readiness_tells_the_shortest_rest() {
        let keys = keys(&["a", "b"]);
        let now = Instant::now();
        let (a, b) = (keys.choose(now), keys.choose(now));
        keys.rest(&a, now + Duration::from_secs(5));
        assert_eq!(keys.readiness(now), Readiness::Ready);
        keys.rest(&b, now + Duration::from_secs(3));
        assert_eq!(
            keys.readiness(now),
            Readiness::Rests(Duration::from_secs(3))
        );
        keys.lock_out(&a, now);
        keys.lock_out(&b, now);
        assert_eq!(keys.readiness(now), Readiness::LockedOut);
        assert_eq!(keys.readiness(now + LOCKED_OUT), Readiness::Ready);
        assert_eq!(keys.strike_out("no secret-a here"), "no [key] here");
        assert!(!format!("{keys:?}").contains("secret"));
    }
}
