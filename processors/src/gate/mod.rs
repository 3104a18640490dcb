//! The admission gate of a deployment: so many calls at once and in a minute, lanes strictly
//! before each other, tenants in turn within a lane.
//!
//! What is decided is in [`state`], pure; here are the lock, the waiting and the giving back.

mod bucket;
mod capacity;
mod pace;
mod queue;
mod slack;
mod state;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use runtime::config::Limits;
use runtime::leases::{Demand, Part};
use schemas::request::Lane;
use schemas::status::LaneStatus;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

pub(crate) use slack::Slack;
pub(crate) use state::Verdict;

use state::{Next, Pass, State};

/// A rate is looked at again after this long at the latest, since the part of this process may have grown meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Bounds the calls to one deployment; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `provider/model`, for metrics.
    name: Arc<str>,
    limits: Limits,
    state: Mutex<State<oneshot::Sender<Permit>>>,
    /// Those who really wait, by lane.
    waiting: [AtomicUsize; 3],
    slack: Arc<Slack>,
    /// Whether time alone can let somebody through.
    is_paced: bool,
    /// Calls at once, where that is not found out.
    fixed: Option<AtomicUsize>,
    /// Its part of the limits was given to it at least once.
    has_part: AtomicBool,
    /// Nobody knows what others use, so that nobody is to be sent here.
    is_shut: AtomicBool,
    /// Held by the one of those who wait who looks at the clock for all.
    clock: tokio::sync::Mutex<()>,
    /// Somebody waits for a rate, of which the one at the clock may not know.
    paced: Notify,
}

/// The right to make one call; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Option<Arc<Inner>>,
    pass: Pass,
    /// Whether it has reached the one who waited for it.
    arrived: bool,
    verdict: Option<Verdict>,
}

/// A gate at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Snapshot {
    /// Calls at once, as of now.
    pub(crate) capacity: usize,
    /// Calls in progress.
    pub(crate) in_flight: usize,
    /// What waits, most urgent lane first.
    pub(crate) lanes: [LaneStatus; 3],
}

/// A call that waits before a gate; leaves the count when dropped.
struct Waiting<'a> {
    gate: &'a Inner,
    lane: Lane,
}

impl<'a> Waiting<'a> {
    fn new(gate: &'a Inner, lane: Lane) -> Self {
        gate.waiting[lane as usize].fetch_add(1, Ordering::Relaxed);
        gate.slack.enter(lane);
        Self { gate, lane }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate.waiting[self.lane as usize].fetch_sub(1, Ordering::Relaxed);
        self.gate.slack.leave(self.lane);
    }
}

impl Gate {
    /// A gate with these limits, all of them its own until it is told its part.
    pub(crate) fn new(name: Arc<str>, limits: Limits, slack: Arc<Slack>) -> Self {
        let state = State::new(limits, Instant::now());
        let fixed = (!limits.adaptive).then(|| AtomicUsize::new(state.capacity.get()));
        Self {
            inner: Arc::new(Inner {
                fixed,
                has_part: AtomicBool::new(false),
                is_shut: AtomicBool::new(false),
                name,
                limits,
                is_paced: state.is_paced(),
                state: Mutex::new(state),
                waiting: [const { AtomicUsize::new(0) }; 3],
                slack,
                clock: tokio::sync::Mutex::default(),
                paced: Notify::new(),
            }),
        }
    }

    /// Waits until a call may be made whose prompt has about so many tokens.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue, and a permit that was on its way.
    pub(crate) async fn enter(&self, lane: Lane, tenant: &str, prompt_tokens: u64) -> Permit {
        let inner = &self.inner;
        let (waiting, mut granted) = {
            let mut state = inner.state.lock();
            let now = Instant::now();
            if let Some(pass) = state.enter(prompt_tokens, now) {
                return Permit::arrived(Arc::clone(inner), pass);
            }
            let (grant, granted) = oneshot::channel();
            let waits = |other: &oneshot::Sender<Permit>| !other.is_closed();
            state.wait(lane, tenant, grant, prompt_tokens, waits);
            let waiting = Waiting::new(inner, lane);
            inner.let_through(&mut state, now);
            (waiting, granted)
        };
        let permit = if inner.is_paced {
            tokio::select! {
                biased;
                permit = &mut granted => permit,
                never = inner.keep_time() => match never {},
            }
        } else {
            granted.await
        };
        drop(waiting);
        match permit {
            Ok(mut permit) => {
                permit.arrived = true;
                permit
            }
            // The sender lives in the gate, which this handle keeps: it is never dropped unsent.
            Err(_) => Permit::void(),
        }
    }

    /// What the deployment takes from all processes.
    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Keeps to this part of the limits from now on; none: nobody is let through, and nobody to be sent here, until there is one
    /// again. Calls in progress go on.
    pub(crate) fn keep_to(&self, part: Option<Part>) {
        let inner = &self.inner;
        inner.is_shut.store(part.is_none(), Ordering::Relaxed);
        inner.has_part.store(true, Ordering::Relaxed);
        let mut state = inner.state.lock();
        let now = Instant::now();
        state.keep_to(part, now);
        if let Some(fixed) = &inner.fixed {
            fixed.store(state.capacity.get(), Ordering::Relaxed);
        }
        inner.let_through(&mut state, now);
    }

    /// What it could use of the limits.
    pub(crate) fn demand(&self) -> Demand {
        let waiting = self.waiting();
        self.inner.state.lock().demand(waiting, Instant::now())
    }

    /// Whether somebody waits for more than its part, or it was never given one.
    pub(crate) fn is_short(&self) -> bool {
        !self.inner.has_part.load(Ordering::Relaxed) || self.waiting() > 0
    }

    /// Whether nobody is to be sent here for now.
    pub(crate) fn is_shut(&self) -> bool {
        self.inner.is_shut.load(Ordering::Relaxed)
    }

    fn waiting(&self) -> usize {
        let lanes = self.inner.waiting.iter();
        lanes.map(|lane| lane.load(Ordering::Relaxed)).sum()
    }

    /// Calls at once, as of now.
    pub(crate) fn capacity(&self) -> usize {
        match &self.inner.fixed {
            Some(capacity) => capacity.load(Ordering::Relaxed),
            None => self.inner.state.lock().capacity.get(),
        }
    }

    /// How it is now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let waiting = [0, 1, 2].map(|lane: usize| self.inner.waiting[lane].load(Ordering::Relaxed));
        let mut state = self.inner.state.lock();
        let now = Instant::now();
        Snapshot {
            capacity: state.capacity.get(),
            in_flight: state.in_flight(),
            lanes: Lane::ALL.map(|lane| state.lane(lane, &waiting, now)),
        }
    }

    /// `provider/model`.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.inner.name
    }
}

impl Inner {
    /// Lets through whoever may; how long until a rate lets the next one through, when that is what holds it up.
    fn let_through(
        self: &Arc<Self>,
        state: &mut State<oneshot::Sender<Permit>>,
        now: Instant,
    ) -> Option<Duration> {
        loop {
            match state.next(now, |other| !other.is_closed()) {
                Next::Nobody => return None,
                Next::After(due) => {
                    self.paced.notify_one();
                    return Some(due);
                }
                Next::Pass(grant, pass) => {
                    let permit = Permit {
                        gate: Some(Arc::clone(self)),
                        pass,
                        arrived: false,
                        verdict: None,
                    };
                    // Who has left meanwhile gives it back here, under the lock that is held already.
                    if let Err(mut refused) = grant.send(permit) {
                        refused.gate = None;
                        state.withdraw(pass, now);
                    }
                }
            }
        }
    }

    /// Lets calls through as time allows. Everybody who waits runs it, and one at a time really does: whichever leaves, there is
    /// always another.
    async fn keep_time(self: &Arc<Self>) -> Infallible {
        let _at_the_clock = self.clock.lock().await;
        loop {
            let due = {
                let mut state = self.state.lock();
                self.let_through(&mut state, Instant::now())
            };
            match due {
                Some(due) => tokio::time::sleep(due.min(LOOK_EVERY)).await,
                None => self.paced.notified().await,
            }
        }
    }
}

impl Permit {
    fn arrived(gate: Arc<Inner>, pass: Pass) -> Self {
        Self {
            gate: Some(gate),
            pass,
            arrived: true,
            verdict: None,
        }
    }

    fn void() -> Self {
        Self {
            gate: None,
            pass: Pass::none(),
            arrived: false,
            verdict: None,
        }
    }

    /// The first token of the answer came so long after the call.
    pub(crate) fn first_token(&self, after: Duration) {
        if let Some(gate) = &self.gate {
            let (now, epoch) = (Instant::now(), self.pass.epoch);
            gate.state.lock().capacity.first_token(after, epoch, now);
        }
    }

    /// Gives the place back and says how the call ended.
    pub(crate) fn end(mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(gate) = self.gate.take() else {
            return;
        };
        let mut state = gate.state.lock();
        let now = Instant::now();
        if self.arrived {
            state.leave(self.pass, self.verdict, now);
        } else {
            state.withdraw(self.pass, now);
        }
        gate.let_through(&mut state, now);
    }
}

#[cfg(test)]
mod tests;
