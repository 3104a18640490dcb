//! What the results sink remembers of requests, so that it seldom has to ask the store. Pure.

use std::collections::HashMap;

use runtime::store::results::ResultRow;
use schemas::id::RequestId;
use schemas::time::Timestamp;

/// What is known of a request.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    /// It goes on; the row as it stands.
    Open(Box<ResultRow>),
    /// It has ended: nothing changes its row any more.
    Ended,
}

/// Requests seen lately, bounded.
///
/// Two generations: an entry that is used moves to the young one; when that is full, it becomes the old one, and what
/// the old one still held is forgotten.
#[derive(Debug)]
pub(crate) struct Memory {
    generation_max: usize,
    young: HashMap<RequestId, Known>,
    old: HashMap<RequestId, Known>,
    /// Every id made later than this is remembered if any event of it was ever seen.
    horizon: Timestamp,
}

impl Memory {
    /// Remembers between `generation_max` and twice as many requests; ids made up to `horizon` may have been seen by
    /// others.
    pub(crate) fn new(generation_max: usize, horizon: Timestamp) -> Self {
        Self {
            generation_max,
            young: HashMap::new(),
            old: HashMap::new(),
            horizon,
        }
    }

    pub(crate) fn get(&self, id: RequestId) -> Option<&Known> {
        self.young.get(&id).or_else(|| self.old.get(&id))
    }

    /// Whether a request that is not remembered is certainly new.
    pub(crate) fn is_new(&self, id: RequestId) -> bool {
        id.made_at() > self.horizon
    }

    pub(crate) fn insert(&mut self, id: RequestId, known: Known) {
        self.old.remove(&id);
        self.young.insert(id, known);
        if self.young.len() >= self.generation_max {
            let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            let newest = forgotten.into_keys().map(RequestId::made_at).max();
            self.horizon = self.horizon.max(newest.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::topic::{ReplyPlace, ReplyTopic};

    fn id() -> RequestId {
        RequestId::new(ReplyPlace {
            topic: ReplyTopic::Responses,
            partition: 0,
        })
    }

    #[test]
    fn what_is_forgotten_is_never_taken_for_new() {
        let mut memory = Memory::new(4, Timestamp(0));
        let ids: Vec<RequestId> = (0..40).map(|_| id()).collect();
        for &id in &ids {
            assert!(
                memory.get(id).is_some() || memory.is_new(id) || id.made_at() == memory.horizon
            );
            memory.insert(id, Known::Ended);
        }
        for &id in &ids {
            assert!(memory.get(id).is_some() || !memory.is_new(id));
        }
        assert!(memory.young.len() + memory.old.len() <= 8);
    }

    #[test]
    fn what_is_used_stays() {
        let mut memory = Memory::new(4, Timestamp(0));
        let used = id();
        for _ in 0..20 {
            memory.insert(used, Known::Ended);
            memory.insert(id(), Known::Ended);
        }
        assert!(memory.get(used).is_some());
    }

    #[test]
    fn nothing_up_to_the_horizon_is_new() {
        let horizon = Timestamp::now().plus(std::time::Duration::from_secs(60));
        assert!(!Memory::new(4, horizon).is_new(id()));
        assert!(Memory::new(4, Timestamp(0)).is_new(id()));
    }
}
