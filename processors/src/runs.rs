//! The requests this process has in hand, by id. It survives rebalances: a run belongs to
//! the process that started it, not to the owner of the partition.

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::Arc;

use parking_lot::Mutex;
use runtime::log::{Ledger, Ticket};
use schemas::id::RequestId;
use schemas::request::Lane;

use crate::signal::{CANCELLED, FENCED, RELEASED, Signal};

/// The registry; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<RequestId, Entry>,
    generation: u64,
    /// Raised for what comes later too.
    raised: u8,
}

#[derive(Debug)]
struct Entry {
    generation: u64,
    source: Source,
    started: bool,
    signal: Arc<Signal>,
    /// Deliveries to complete with the request: its own, and any that came again meanwhile.
    completions: Vec<Completion>,
}

/// Under which assignment a delivery came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    /// Which topic.
    pub(crate) lane: Lane,
    /// Its partition.
    pub(crate) partition: i32,
}

/// How to complete a delivery.
#[derive(Debug, Clone)]
pub(crate) struct Completion {
    /// The ledger of its consumer.
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    /// Its ticket there.
    pub(crate) ticket: Ticket,
}

impl Completion {
    /// Completes the delivery; without effect when its assignment is over.
    pub(crate) fn complete(&self) {
        self.ledger.lock().complete(self.ticket);
    }
}

/// A request in hand. Dropped without [`Hold::finish`], its deliveries stay open and come again elsewhere.
#[derive(Debug)]
pub(crate) struct Hold {
    runs: Runs,
    id: RequestId,
    generation: u64,
    signal: Arc<Signal>,
}

impl Runs {
    /// Takes a request in hand; none when it is in hand already, and then `completion` is
    /// completed with it.
    pub(crate) fn enter(
        &self,
        id: RequestId,
        source: Source,
        completion: Completion,
    ) -> Option<Hold> {
        let mut inner = self.inner.lock();
        inner.generation += 1;
        let generation = inner.generation;
        let raised = inner.raised;
        let signal = Arc::new(Signal::default());
        let entry = Entry {
            generation,
            source,
            started: false,
            signal: Arc::clone(&signal),
            completions: vec![completion],
        };
        match inner.entries.entry(id) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(entry);
            }
            hash_map::Entry::Occupied(mut occupied) => {
                let there = occupied.get_mut();
                // One that was fenced off before it started is on its way out.
                if there.started || !there.signal.is_raised(FENCED) {
                    there.completions.extend(entry.completions);
                    return None;
                }
                occupied.insert(entry);
            }
        }
        drop(inner);
        if raised != 0 {
            signal.raise(raised);
        }
        Some(Hold {
            runs: self.clone(),
            id,
            generation,
            signal,
        })
    }

    /// Ends the call for `id`, when it is in hand.
    pub(crate) fn cancel(&self, id: RequestId) {
        if let Some(entry) = self.inner.lock().entries.get(&id) {
            entry.signal.raise(CANCELLED);
        }
    }

    /// Keeps what came from `source` and has not started from starting.
    pub(crate) fn fence(&self, source: Source) {
        for entry in self.inner.lock().entries.values() {
            if entry.source == source {
                entry.signal.raise(FENCED);
            }
        }
    }

    /// Keeps everything that has not started from starting, also what comes later.
    pub(crate) fn fence_all(&self) {
        self.raise_all(FENCED);
    }

    /// Asks every request to be given back, also those that come later.
    pub(crate) fn release_all(&self) {
        self.raise_all(FENCED | RELEASED);
    }

    fn raise_all(&self, wishes: u8) {
        let mut inner = self.inner.lock();
        inner.raised |= wishes;
        for entry in inner.entries.values() {
            entry.signal.raise(wishes);
        }
    }

    /// Requests in hand.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().entries.len()
    }
}

impl Hold {
    /// What the outside wants.
    pub(crate) fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    /// Marks the request as started: from here on a rebalance does not touch it. False when
    /// it may not start any more.
    pub(crate) fn start(&self) -> bool {
        let mut inner = self.runs.inner.lock();
        match inner.entries.get_mut(&self.id) {
            Some(entry) if entry.generation == self.generation => {
                if !entry.started && self.signal.is_raised(FENCED) {
                    return false;
                }
                entry.started = true;
                true
            }
            Some(_) | None => false,
        }
    }

    /// The request has its terminal: completes every delivery of it.
    pub(crate) fn finish(self) {
        if let Some(entry) = self.remove() {
            for completion in entry.completions {
                completion.complete();
            }
        }
    }

    fn remove(&self) -> Option<Entry> {
        let mut inner = self.runs.inner.lock();
        match inner.entries.entry(self.id) {
            hash_map::Entry::Occupied(occupied) if occupied.get().generation == self.generation => {
                Some(occupied.remove())
            }
            hash_map::Entry::Occupied(_) | hash_map::Entry::Vacant(_) => None,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use schemas::topic::{ReplyPlace, ReplyTopic};

    use super::*;

    struct Consumer {
        ledger: Arc<Mutex<Ledger>>,
        next: i64,
    }

    impl Consumer {
        fn new() -> Self {
            let mut ledger = Ledger::default();
            ledger.assign(1, SOURCE.partition);
            Self {
                ledger: Arc::new(Mutex::new(ledger)),
                next: 0,
            }
        }

        fn delivery(&mut self) -> Completion {
            let ticket = self.ledger.lock().begin(SOURCE.partition, self.next);
            self.next += 1;
            Completion {
                ledger: Arc::clone(&self.ledger),
                ticket: ticket.unwrap(),
            }
        }

        fn open(&self) -> usize {
            self.ledger.lock().open()
        }
    }

    const SOURCE: Source = Source {
        lane: Lane::Interactive,
        partition: 3,
    };

    fn id() -> RequestId {
        RequestId::new(ReplyPlace {
            topic: ReplyTopic::Responses,
            partition: 0,
        })
    }

    #[test]
    fn a_delivery_that_comes_again_is_completed_with_the_run() {
        let (runs, mut consumer, id) = (Runs::default(), Consumer::new(), id());
        let hold = runs.enter(id, SOURCE, consumer.delivery()).unwrap();
        assert!(hold.start());
        runs.fence(SOURCE);
        assert!(runs.enter(id, SOURCE, consumer.delivery()).is_none());
        assert_eq!(consumer.open(), 2);
        hold.finish();
        assert_eq!((consumer.open(), runs.len()), (0, 0));
    }

    #[test]
    fn what_was_fenced_off_does_not_start_and_gives_way() {
        let (runs, mut consumer, id) = (Runs::default(), Consumer::new(), id());
        let old = runs.enter(id, SOURCE, consumer.delivery()).unwrap();
        runs.fence(SOURCE);
        let new = runs.enter(id, SOURCE, consumer.delivery()).unwrap();
        assert!(!old.start());
        drop(old);
        assert!(new.start(), "the old one did not take the new one along");
        new.finish();
        assert_eq!(consumer.open(), 1, "the old delivery stays open");
    }

    #[test]
    fn nothing_starts_after_the_stop() {
        let (runs, mut consumer) = (Runs::default(), Consumer::new());
        let started = runs.enter(id(), SOURCE, consumer.delivery()).unwrap();
        assert!(started.start());
        runs.fence_all();
        assert!(started.start(), "what runs goes on");
        assert!(
            !runs
                .enter(id(), SOURCE, consumer.delivery())
                .unwrap()
                .start()
        );
        assert!(!started.signal().is_raised(RELEASED));
        runs.release_all();
        assert!(started.signal().is_raised(RELEASED));
    }
}
