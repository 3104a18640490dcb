//! The admission gate of a deployment: so many calls at once, lanes strictly before each
//! other, first come first served within a lane.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use schemas::request::Lane;
use tokio::sync::{Notify, oneshot};

/// Queues longer than this are searched for waiters that left.
const SWEEP_FROM: usize = 64;

/// Bounds the calls to one deployment; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `provider/model`, for metrics.
    name: Arc<str>,
    concurrency_max: usize,
    state: Mutex<State>,
    slack: Arc<Slack>,
}

#[derive(Debug)]
struct State {
    free: usize,
    waiting: [Queue; 3],
}

#[derive(Debug)]
struct Queue {
    waiters: VecDeque<oneshot::Sender<Permit>>,
    sweep_at: usize,
}

/// The right to make one call; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Option<Arc<Inner>>,
}

/// How many calls wait before the gates of the process, by lane: what says whether a
/// consumer of a patient lane should pull more.
#[derive(Debug)]
pub(crate) struct Slack {
    waiting: [AtomicUsize; 3],
    waiting_max: usize,
    relieved: Notify,
}

/// A call that waits before a gate; leaves the count when dropped.
struct Waiting<'a> {
    slack: &'a Slack,
    lane: usize,
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

    fn waiting_before(&self, lane: Lane) -> usize {
        self.waiting[..=lane as usize]
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.slack.waiting[self.lane].fetch_sub(1, Ordering::Relaxed);
        self.slack.relieved.notify_waiters();
    }
}

impl Gate {
    /// A gate that lets `concurrency_max` calls through at once.
    pub(crate) fn new(name: Arc<str>, concurrency_max: usize, slack: Arc<Slack>) -> Self {
        let concurrency_max = concurrency_max.max(1);
        let queue = || Queue {
            waiters: VecDeque::new(),
            sweep_at: SWEEP_FROM,
        };
        Self {
            inner: Arc::new(Inner {
                name,
                concurrency_max,
                state: Mutex::new(State {
                    free: concurrency_max,
                    waiting: [queue(), queue(), queue()],
                }),
                slack,
            }),
        }
    }

    /// Waits for a free place; calls of a more urgent lane go first.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue, and a permit that was on its way.
    pub(crate) async fn enter(&self, lane: Lane) -> Permit {
        let lane = lane as usize;
        let granted = {
            let mut state = self.inner.state.lock();
            if state.free > 0 {
                state.free -= 1;
                return Permit {
                    gate: Some(Arc::clone(&self.inner)),
                };
            }
            let (grant, granted) = oneshot::channel();
            state.waiting[lane].push(grant);
            granted
        };
        self.inner.slack.waiting[lane].fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting {
            slack: &self.inner.slack,
            lane,
        };
        let permit = granted.await;
        drop(waiting);
        // The sender lives in the gate, which this handle keeps: it is never dropped unsent.
        permit.unwrap_or(Permit { gate: None })
    }

    /// Calls in progress.
    pub(crate) fn in_flight(&self) -> usize {
        self.inner.concurrency_max - self.inner.state.lock().free
    }

    /// `provider/model`.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.inner.name
    }
}

impl Queue {
    fn push(&mut self, grant: oneshot::Sender<Permit>) {
        if self.waiters.len() >= self.sweep_at {
            self.waiters.retain(|waiter| !waiter.is_closed());
            self.sweep_at = (self.waiters.len() * 2).max(SWEEP_FROM);
        }
        self.waiters.push_back(grant);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(gate) = self.gate.take() else {
            return;
        };
        let mut permit = Self { gate: Some(gate) };
        // Hands the place to the first who still waits; one who left gives it back here.
        while let Some(gate) = permit.gate.take() {
            let next = {
                let mut state = gate.state.lock();
                let next = state
                    .waiting
                    .iter_mut()
                    .find_map(|queue| queue.waiters.pop_front());
                if next.is_none() {
                    state.free += 1;
                }
                next
            };
            let Some(next) = next else {
                return;
            };
            match next.send(Self { gate: Some(gate) }) {
                Ok(()) => return,
                Err(refused) => permit = refused,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    fn gate(concurrency_max: usize) -> (Gate, Arc<Slack>) {
        let slack = Slack::new(2);
        let gate = Gate::new("p/m".into(), concurrency_max, Arc::clone(&slack));
        (gate, slack)
    }

    fn enter(gate: &Gate, lane: Lane) -> BoxFuture<'static, Permit> {
        let gate = gate.clone();
        let mut entering = async move { gate.enter(lane).await }.boxed();
        assert!((&mut entering).now_or_never().is_none(), "has to wait");
        entering
    }

    #[test]
    fn lanes_go_strictly_before_each_other_and_first_come_within_a_lane() {
        let (gate, _) = gate(1);
        let held = gate.enter(Lane::Batch).now_or_never().unwrap();
        let mut batch = enter(&gate, Lane::Batch);
        let mut first = enter(&gate, Lane::Interactive);
        let mut second = enter(&gate, Lane::Interactive);
        drop(held);
        assert!((&mut batch).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        drop((&mut first).now_or_never().unwrap());
        drop((&mut second).now_or_never().unwrap());
        drop((&mut batch).now_or_never().unwrap());
        assert_eq!(gate.in_flight(), 0);
    }

    #[test]
    fn a_place_is_not_lost_when_those_who_waited_for_it_have_left() {
        let (gate, slack) = gate(1);
        let held = gate.enter(Lane::Interactive).now_or_never().unwrap();
        drop(enter(&gate, Lane::Interactive));
        let granted = enter(&gate, Lane::Background);
        drop(held);
        // The permit is on its way to a waiter who leaves without having looked.
        drop(granted);
        assert_eq!(gate.in_flight(), 0);
        assert!(slack.is_relieved(Lane::Batch));
    }

    #[test]
    fn patient_lanes_are_held_up_while_calls_wait() {
        let (gate, slack) = gate(1);
        let held = gate.enter(Lane::Interactive).now_or_never().unwrap();
        let _one = enter(&gate, Lane::Interactive);
        assert!(slack.has_slack(Lane::Background));
        let _two = enter(&gate, Lane::Background);
        assert!(!slack.has_slack(Lane::Background));
        assert!(!slack.has_slack(Lane::Batch));
        assert!(slack.has_slack(Lane::Interactive));
        drop(held);
    }
}
