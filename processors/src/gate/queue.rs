//! Who waits, and who is next: lanes strictly before each other, tenants in turn within a
//! lane, first come first served within a tenant. Pure, and each step takes constant time.
//!
//! A turn is one call, whatever it costs: what is scarce before a gate is a place, and every
//! call takes one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use schemas::request::Lane;

/// Queues longer than this are searched for those who left.
const SWEEP_FROM: usize = 64;

/// The calls that wait before one gate. Those who leave stay in it unseen, but never more of them than of others and a few.
#[derive(Debug)]
pub(crate) struct Queue<W> {
    lanes: [Turns<W>; 3],
}

/// One lane.
#[derive(Debug)]
struct Turns<W> {
    /// Of each tenant that has any, its calls in their order.
    tenants: HashMap<Arc<str>, VecDeque<W>>,
    /// The same tenants; the first is next.
    turns: VecDeque<Arc<str>>,
    len: usize,
    sweep_at: usize,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self {
            lanes: std::array::from_fn(|_| Turns {
                tenants: HashMap::new(),
                turns: VecDeque::new(),
                len: 0,
                sweep_at: SWEEP_FROM,
            }),
        }
    }
}

impl<W> Queue<W> {
    /// Puts a call at the end of its tenant's; `waits` tells whether one that came before still waits.
    pub(crate) fn push(&mut self, lane: Lane, tenant: &str, call: W, waits: impl Fn(&W) -> bool) {
        self.lanes[lane as usize].push(tenant, call, waits);
    }

    /// Whether nobody is in it, not even somebody who left.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.len == 0)
    }

    /// Who is next of those who still wait.
    pub(crate) fn head(&mut self, waits: impl Fn(&W) -> bool) -> Option<&W> {
        self.lanes.iter_mut().find_map(|lane| lane.head(&waits))
    }

    /// Takes the one whom [`Queue::head`] has just named.
    pub(crate) fn pop(&mut self) -> Option<W> {
        self.lanes.iter_mut().find_map(Turns::pop)
    }

    /// Tenants that wait in a lane.
    pub(crate) fn tenants(&self, lane: Lane) -> usize {
        self.lanes[lane as usize].turns.len()
    }
}

impl<W> Turns<W> {
    fn push(&mut self, tenant: &str, call: W, waits: impl Fn(&W) -> bool) {
        if self.len >= self.sweep_at {
            self.sweep(waits);
        }
        self.len += 1;
        if let Some(calls) = self.tenants.get_mut(tenant) {
            calls.push_back(call);
            return;
        }
        let tenant: Arc<str> = tenant.into();
        self.turns.push_back(Arc::clone(&tenant));
        self.tenants.insert(tenant, VecDeque::from([call]));
    }

    fn head(&mut self, waits: &impl Fn(&W) -> bool) -> Option<&W> {
        loop {
            let calls = self.tenants.get_mut(self.turns.front()?)?;
            while calls.front().is_some_and(|call| !waits(call)) {
                calls.pop_front();
                self.len -= 1;
            }
            if !calls.is_empty() {
                break;
            }
            if let Some(tenant) = self.turns.pop_front() {
                self.tenants.remove(&tenant);
            }
        }
        self.tenants.get(self.turns.front()?)?.front()
    }

    fn pop(&mut self) -> Option<W> {
        let tenant = self.turns.pop_front()?;
        let calls = self.tenants.get_mut(&tenant)?;
        let call = calls.pop_front();
        if calls.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        self.len -= usize::from(call.is_some());
        call
    }

    fn sweep(&mut self, waits: impl Fn(&W) -> bool) {
        self.tenants.retain(|_, calls| {
            calls.retain(&waits);
            !calls.is_empty()
        });
        self.turns
            .retain(|tenant| self.tenants.contains_key(tenant));
        self.len = self.tenants.values().map(VecDeque::len).sum();
        self.sweep_at = (self.len * 2).max(SWEEP_FROM);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pop(queue: &mut Queue<u32>) -> Option<u32> {
        queue.head(|_| true)?;
        queue.pop()
    }

    #[test]
    fn a_tenant_with_one_call_waits_for_one_turn_of_each_other_and_no_more() {
        let mut queue = Queue::default();
        for call in 0..1_000 {
            queue.push(Lane::Interactive, "flood", call, |_| true);
        }
        queue.push(Lane::Interactive, "quiet", 5_000, |_| true);
        assert_eq!(pop(&mut queue), Some(0));
        assert_eq!(pop(&mut queue), Some(5_000));
        assert_eq!(pop(&mut queue), Some(1));
    }

    #[test]
    fn those_who_left_are_skipped_cost_nobody_a_turn_and_are_not_kept() {
        let mut queue = Queue::default();
        let waits = |call: &u32| call.is_multiple_of(100);
        for call in 0..100_000 {
            queue.push(
                Lane::Batch,
                if call < 50_000 { "a" } else { "b" },
                call,
                waits,
            );
            assert!(queue.lanes[2].len <= 2 * (call as usize / 100 + 1) + SWEEP_FROM);
        }
        let order: Vec<u32> = std::iter::from_fn(|| {
            queue.head(waits)?;
            queue.pop()
        })
        .collect();
        assert_eq!(order[..4], [0, 50_000, 100, 50_100]);
        assert_eq!(order.len(), 1_000);
        assert!(queue.is_empty() && queue.lanes[2].tenants.is_empty());
        assert_eq!(queue.tenants(Lane::Batch), 0);
    }

    proptest! {
        /// Under any order of arrivals: a more urgent lane always goes first; between two turns of a tenant that waits all along,
        /// every other tenant of its lane has at most one.
        #[test]
        fn lanes_are_strict_and_tenants_take_turns(
            steps in prop::collection::vec((any::<bool>(), 0..3_usize, 0..4_u32), 1..400),
        ) {
            let mut queue: Queue<(usize, u32, usize)> = Queue::default();
            let mut waiting: Vec<(usize, u32, usize)> = Vec::new();
            // By lane and tenant that waits: turns of each other tenant since its own last one.
            let mut since: HashMap<(usize, u32), HashMap<u32, u32>> = HashMap::new();
            for (number, (push, lane, tenant)) in steps.into_iter().enumerate() {
                if push {
                    let call = (lane, tenant, number);
                    queue.push(Lane::ALL[lane], &tenant.to_string(), call, |_| true);
                    waiting.push(call);
                    since.entry((lane, tenant)).or_default();
                    continue;
                }
                let head = queue.head(|_| true).copied();
                let taken = queue.pop();
                prop_assert_eq!(head, taken);
                let Some((lane, tenant, number)) = taken else {
                    prop_assert!(waiting.is_empty());
                    continue;
                };
                prop_assert!(waiting.iter().all(|other| other.0 >= lane), "lanes are strict");
                let first = waiting.iter().position(|other| (other.0, other.1) == (lane, tenant));
                let own = waiting.remove(first.unwrap());
                prop_assert_eq!(own.2, number, "first come first served within a tenant");
                for ((other_lane, other), turns) in &mut since {
                    if *other_lane == lane && *other != tenant {
                        let turns = turns.entry(tenant).or_insert(0);
                        *turns += 1;
                        prop_assert!(*turns <= 1, "tenant {tenant} had two turns of {other}");
                    }
                }
                since.remove(&(lane, tenant));
                if waiting.iter().any(|left| (left.0, left.1) == (lane, tenant)) {
                    since.insert((lane, tenant), HashMap::new());
                }
            }
        }
    }
}
