//! The keys of a provider: rotation, rest and lock-out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use runtime::store::secrets::SecretHandle;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use crate::router::Readiness;

/// A key that was refused is tried again after this long: it may have been put right meanwhile.
pub(crate) const LOCKED_OUT: Duration = Duration::from_secs(60);
/// Version of a key that is never replaced; those of the store begin with 1.
const VERSION_FIXED: i64 = 0;

/// A provider key, which may be replaced while it is in use.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    /// What attempts call it.
    pub(crate) name: Arc<str>,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    /// As it was at start.
    Fixed(Credential),
    /// As the store has it now.
    Stored(SecretHandle),
}

/// The value of a key at one time. Its `Debug` form does not show it.
#[derive(Clone)]
pub(crate) struct Credential {
    /// `Bearer …`, marked sensitive.
    pub(crate) bearer: HeaderValue,
    /// The key as it is, marked sensitive.
    pub(crate) plain: HeaderValue,
    /// The key itself, to strike it out of messages.
    secret: Arc<str>,
    version: i64,
}

/// A key that holds characters which no header can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it holds characters that no header can carry")]
pub(crate) struct Unsendable;

impl Key {
    /// A key that stays as it is.
    ///
    /// # Errors
    /// [`Unsendable`].
    pub(crate) fn fixed(name: &str, secret: &str) -> Result<Self, Unsendable> {
        Ok(Self {
            name: name.into(),
            source: Source::Fixed(Credential::new(secret, VERSION_FIXED)?),
        })
    }

    /// A key that is what the store says, call by call.
    ///
    /// # Errors
    /// [`Unsendable`] when it is that now. When it becomes so later, the key is passed over.
    pub(crate) fn stored(name: &str, handle: SecretHandle) -> Result<Self, Unsendable> {
        if let Some(current) = handle.current() {
            Credential::new(current.value.expose_secret(), current.version)?;
        }
        Ok(Self {
            name: name.into(),
            source: Source::Stored(handle),
        })
    }

    /// Its value now; none: it was deleted from the store.
    fn current(&self) -> Option<Credential> {
        match &self.source {
            Source::Fixed(credential) => Some(credential.clone()),
            Source::Stored(handle) => {
                let current = handle.current()?;
                Credential::new(current.value.expose_secret(), current.version).ok()
            }
        }
    }

    /// Which value it has now; none: it was deleted from the store. Cheap: asked for every choice.
    fn version(&self) -> Option<i64> {
        match &self.source {
            Source::Fixed(_) => Some(VERSION_FIXED),
            Source::Stored(handle) => handle.version(),
        }
    }
}

impl Credential {
    /// `secret` as it is of one `version`.
    ///
    /// # Errors
    /// [`Unsendable`].
    pub(super) fn new(secret: &str, version: i64) -> Result<Self, Unsendable> {
        let sensitive = |text: &str| {
            let mut value = HeaderValue::try_from(text).map_err(|_| Unsendable)?;
            value.set_sensitive(true);
            Ok(value)
        };
        Ok(Self {
            bearer: sensitive(&format!("Bearer {secret}"))?,
            plain: sensitive(secret)?,
            secret: secret.into(),
            version,
        })
    }
}

/// The keys of one provider, as used for one of its models: limits are counted by model,
/// lock-outs by provider.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    provider: Arc<Provider>,
    /// When each key may be used again for this model; without keys one entry for the model.
    rests: Arc<Mutex<Vec<Option<Hold>>>>,
    turn: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Provider {
    keys: Vec<Key>,
    locked_out: Mutex<Vec<Option<Hold>>>,
}

/// A key is not used until then, as long as it is not replaced: what was held against the old one says nothing of the
/// new.
#[derive(Debug, Clone, Copy)]
struct Hold {
    until: Instant,
    version: i64,
}

/// The choice of a key for one call.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    index: usize,
    /// None when the provider wants no key.
    pub(crate) key: Option<Key>,
    /// The key's value at the time of the choice; none when there is no key, or none of them has a value any more.
    pub(crate) credential: Option<Credential>,
    version: i64,
}

impl Chosen {
    /// There ought to be a key and it has no value: the call must not be made.
    pub(crate) fn is_missing(&self) -> bool {
        self.key.is_some() && self.credential.is_none()
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("version", &self.version)
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
        for (index, (locked_out, rest)) in locked_out.iter().zip(rests.iter()).enumerate() {
            let Some(version) = self.version(index) else {
                continue;
            };
            if left(*locked_out, now, version).is_some() {
                continue;
            }
            match left(*rest, now, version) {
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
                self.version(*index).is_some_and(|version| {
                    left(locked_out[*index], now, version).is_none()
                        && left(rests[*index], now, version).is_none()
                })
            })
            .unwrap_or(turn % slots);
        self.chosen(index)
    }

    /// The key has to rest for this model.
    pub(crate) fn rest(&self, chosen: &Chosen, until: Instant) {
        hold(&self.rests, chosen, until);
    }

    /// The provider refused the key.
    pub(crate) fn lock_out(&self, chosen: &Chosen, now: Instant) {
        hold(&self.provider.locked_out, chosen, now + LOCKED_OUT);
    }

    /// `text` with every key of the provider struck out, as they are now and as the call had it.
    pub(crate) fn strike_out(&self, chosen: &Chosen, text: &str) -> String {
        let mut text = text.to_owned();
        let current = self.provider.keys.iter().filter_map(Key::current);
        for credential in current.chain(chosen.credential.clone()) {
            if !credential.secret.is_empty() && text.contains(&*credential.secret) {
                text = text.replace(&*credential.secret, "[key]");
            }
        }
        text
    }

    /// Which value the key at `index` has; none: it has none any more. Without keys there is one that never changes.
    fn version(&self, index: usize) -> Option<i64> {
        let key = self.provider.keys.get(index);
        key.map_or(Some(VERSION_FIXED), Key::version)
    }

    fn slots(&self) -> usize {
        self.provider.keys.len().max(1)
    }

    fn chosen(&self, index: usize) -> Chosen {
        let key = self.provider.keys.get(index).cloned();
        let version = self.version(index).unwrap_or(VERSION_FIXED);
        let credential = key.as_ref().and_then(Key::current);
        Chosen {
            index,
            // That of the value, where it was replaced in between.
            version: credential.as_ref().map_or(version, |now| now.version),
            credential,
            key,
        }
    }
}

/// Holds the value that was chosen, unless a later one is held already.
fn hold(holds: &Mutex<Vec<Option<Hold>>>, chosen: &Chosen, until: Instant) {
    let version = chosen.version;
    if let Some(hold) = holds.lock().get_mut(chosen.index) {
        match hold {
            Some(earlier) if earlier.version > version => {}
            Some(earlier) if earlier.version == version => {
                earlier.until = earlier.until.max(until);
            }
            Some(_) | None => *hold = Some(Hold { until, version }),
        }
    }
}

fn left(hold: Option<Hold>, now: Instant, version: i64) -> Option<Duration> {
    hold.filter(|hold| hold.version == version)
        .map(|hold| hold.until.saturating_duration_since(now))
        .filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use runtime::secrets::MasterKeys;
    use runtime::store::Store;
    use runtime::store::secrets::SecretSnapshot;
    use secrecy::SecretString;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::*;

    fn keys(names: &[&str]) -> Keys {
        let key = |name: &&str| Key::fixed(name, &format!("secret-{name}")).unwrap();
        Keys::new(names.iter().map(key).collect())
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
        assert_eq!(keys.strike_out(&a, "no secret-b here"), "no [key] here");
        assert!(!format!("{keys:?}").contains("secret"));
    }

    /// Waits until `condition` holds, which must be soon.
    async fn soon(condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        waited.expect("never");
    }

    #[tokio::test]
    async fn a_stored_key_is_what_the_store_says_and_a_hold_is_of_one_value() {
        let folder = tempfile::tempdir().unwrap();
        let settings = runtime::config::Store { url: None };
        let store = Store::open(&settings, folder.path()).await.unwrap();
        let text = MasterKeys::generate().unwrap();
        let master = || MasterKeys::parse(text.expose_secret()).unwrap();
        let set = async |name: &str, value: &str| {
            let value = SecretString::from(value.to_owned());
            let (keys, name) = (master(), name.parse().unwrap());
            store.set_secret(&keys, &name, &value).await.unwrap();
        };
        set("one", "first-hunter2").await;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let follow = SecretSnapshot::follow(&store, master(), folder.path(), &tasks, stop.clone());
        let snapshot = follow.await;
        let handle = snapshot.handle(&"one".parse().unwrap()).unwrap();
        let keys = Keys::new(vec![Key::stored("one", handle).unwrap()]);
        let now = Instant::now();
        let sent = || {
            let credential = keys.choose(now).credential?;
            Some(credential.bearer.to_str().unwrap().to_owned())
        };
        let first = keys.choose(now);
        assert_eq!(sent().as_deref(), Some("Bearer first-hunter2"));
        keys.lock_out(&first, now);
        assert_eq!(keys.readiness(now), Readiness::LockedOut);

        set("one", "second-hunter2").await;
        soon(|| keys.readiness(now) == Readiness::Ready).await;
        assert_eq!(sent().as_deref(), Some("Bearer second-hunter2"));
        // A refusal that comes late is of the value that the call had.
        keys.lock_out(&first, now);
        assert_eq!(keys.readiness(now), Readiness::Ready);
        keys.lock_out(&keys.choose(now), now);
        keys.lock_out(&first, now);
        assert_eq!(keys.readiness(now), Readiness::LockedOut);
        let text = keys.strike_out(&first, "first-hunter2 second-hunter2");
        assert_eq!(text, "[key] [key]");
        assert!(!format!("{keys:?} {first:?}").contains("hunter2"));

        assert!(store.delete_secret(&"one".parse().unwrap()).await.unwrap());
        soon(|| keys.choose(now).is_missing()).await;
        assert_eq!(keys.readiness(now), Readiness::LockedOut);
        let chosen = keys.choose(now);
        keys.lock_out(&chosen, now);
        set("one", "third-hunter2").await;
        soon(|| keys.readiness(now) == Readiness::Ready).await;
        assert_eq!(sent().as_deref(), Some("Bearer third-hunter2"));
        // What no header can carry is never sent, and locks the key out.
        set("one", "fourth\nhunter2").await;
        soon(|| keys.choose(now).is_missing()).await;
        keys.lock_out(&keys.choose(now), now);
        assert_eq!(keys.readiness(now), Readiness::LockedOut);
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused() {
        assert_eq!(Key::fixed("a", "x\ny").unwrap_err(), Unsendable);
    }
}
