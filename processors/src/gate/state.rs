//! What a gate knows, and what it decides: who may call now, who is next, how long the others
//! wait. Pure: the clock is passed in.

use std::time::Duration;

use runtime::config::Limits;
use runtime::leases::{Demand, Part};
use schemas::request::Lane;
use schemas::status::LaneStatus;
use tokio::time::Instant;

use super::bucket::Bucket;
use super::capacity::Capacity;
use super::pace::Pace;
use super::queue::Queue;

/// Weight of one more observation in a mean.
const WEIGHT: f64 = 1.0 / 16.0;
/// What an answer is taken to cost before any has ended, in tokens.
const ANSWER_UNKNOWN: f64 = 256.0;

/// The state of one gate; `W` is whoever waits.
#[derive(Debug)]
pub(crate) struct State<W> {
    pub(super) capacity: Capacity,
    queue: Queue<Waiting<W>>,
    in_flight: usize,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    /// Nobody is let through: what others use is not known.
    is_shut: bool,
    /// What comes, whether it is let through or not.
    arrivals: Pace,
    /// How long a place is taken, in seconds; none before the first was given back.
    service: Option<f64>,
    /// Tokens of an answer.
    answer: f64,
    /// Tokens reserved for a call.
    reserved: f64,
}

#[derive(Debug)]
struct Waiting<W> {
    who: W,
    prompt_tokens: u64,
}

/// What a call was let through with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    /// When it was let through.
    pub(super) since: Instant,
    /// See [`Capacity::epoch`].
    pub(super) epoch: u64,
    /// Tokens reserved for it.
    tokens: f64,
}

/// Who is let through next.
#[derive(Debug)]
pub(crate) enum Next<W> {
    /// This one, now.
    Pass(W, Pass),
    /// Nobody before a rate allows it, after so long.
    After(Duration),
    /// Nobody before somebody comes or leaves.
    Nobody,
}

/// How a call ended, as far as a gate cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The provider answered, with so many tokens in all and so many in the answer.
    Answered {
        /// Prompt and answer.
        total_tokens: u64,
        /// The answer alone.
        answer_tokens: u64,
    },
    /// The provider was too busy: 429, 5xx, or silent until a time-out.
    PushedBack,
    /// It failed otherwise; the provider is none the busier for it.
    Failed,
}

impl Pass {
    /// Of no gate.
    pub(super) fn none() -> Self {
        Self {
            since: Instant::now(),
            epoch: 0,
            tokens: 0.0,
        }
    }
}

impl<W> State<W> {
    /// A state with everything free.
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        let bucket = |limit: Option<u64>| limit.map(|limit| Bucket::new(limit as f64, now));
        let concurrency = limits.concurrency.unwrap_or(Limits::CONCURRENCY_MAX);
        Self {
            capacity: Capacity::new(concurrency, limits.adaptive),
            queue: Queue::default(),
            in_flight: 0,
            requests: bucket(limits.requests_per_minute),
            tokens: bucket(limits.tokens_per_minute),
            is_shut: false,
            arrivals: Pace::new(now),
            service: None,
            answer: ANSWER_UNKNOWN,
            reserved: 0.0,
        }
    }

    /// Whether the calls in a minute are bounded: then time alone can let somebody through.
    pub(crate) fn is_paced(&self) -> bool {
        self.requests.is_some() || self.tokens.is_some()
    }

    /// Calls in progress.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Keeps to this part of the limits from now on; none: lets nobody through. Calls in progress go on, also those beyond it.
    pub(crate) fn keep_to(&mut self, part: Option<Part>, now: Instant) {
        self.is_shut = part.is_none();
        let Some(part) = part else { return };
        if let Some(calls) = part.calls {
            self.capacity.set_ceiling(calls);
        }
        let set = |bucket: &mut Option<Bucket>, rate: Option<f64>| {
            if let (Some(bucket), Some(rate)) = (bucket, rate) {
                bucket.set_rate(rate, now);
            }
        };
        set(&mut self.requests, part.requests_per_minute);
        set(&mut self.tokens, part.tokens_per_minute);
    }

    /// What it could use while `waiting` calls wait: what comes of late, and those within a second.
    pub(crate) fn demand(&mut self, waiting: usize, now: Instant) -> Demand {
        let (calls, tokens) = self.arrivals.per_minute(now);
        let backlog = waiting as f64 * 60.0;
        Demand {
            calls_used: self.in_flight,
            calls_wanted: self.capacity.bears(self.in_flight + waiting),
            requests_per_minute: calls + backlog,
            tokens_per_minute: tokens + backlog * self.reserved,
        }
    }

    /// Lets a call through at once, when nobody waits and nothing forbids it.
    pub(crate) fn enter(&mut self, prompt_tokens: u64, now: Instant) -> Option<Pass> {
        let free = self.queue.is_empty() && self.has_place();
        let tokens = self.reservation(prompt_tokens);
        (free && self.due(tokens, now).is_none()).then(|| {
            self.arrivals.count(tokens);
            self.pass(tokens, now)
        })
    }

    /// Puts a call into the queue.
    pub(crate) fn wait(
        &mut self,
        lane: Lane,
        tenant: &str,
        who: W,
        prompt_tokens: u64,
        waits: impl Fn(&W) -> bool,
    ) {
        let tokens = self.reservation(prompt_tokens);
        self.arrivals.count(tokens);
        let call = Waiting { who, prompt_tokens };
        self.queue.push(lane, tenant, call, |call| waits(&call.who));
    }

    /// Lets the next call through, if there is one and nothing forbids it.
    pub(crate) fn next(&mut self, now: Instant, waits: impl Fn(&W) -> bool) -> Next<W> {
        if !self.has_place() {
            return Next::Nobody;
        }
        let head = self.queue.head(|call| waits(&call.who));
        let Some(prompt_tokens) = head.map(|call| call.prompt_tokens) else {
            return Next::Nobody;
        };
        let tokens = self.reservation(prompt_tokens);
        if let Some(due) = self.due(tokens, now) {
            return Next::After(due);
        }
        match self.queue.pop() {
            Some(call) => Next::Pass(call.who, self.pass(tokens, now)),
            None => Next::Nobody,
        }
    }

    /// Takes a place back from one who left without having called.
    pub(crate) fn withdraw(&mut self, pass: Pass, now: Instant) {
        self.in_flight -= 1;
        if let Some(requests) = &mut self.requests {
            requests.give_back(1.0, now);
        }
        self.settle(pass, 0.0, now);
    }

    /// Takes a place back from a call that ended; no verdict when it was ended from our side.
    pub(crate) fn leave(&mut self, pass: Pass, verdict: Option<Verdict>, now: Instant) {
        let took = now.saturating_duration_since(pass.since).as_secs_f64();
        let service = self.service.get_or_insert(took);
        *service += (took - *service) * WEIGHT;
        match verdict {
            Some(Verdict::Answered {
                total_tokens,
                answer_tokens,
            }) => {
                self.capacity.succeeded(self.in_flight);
                self.answer += (answer_tokens as f64 - self.answer) * WEIGHT;
                self.settle(pass, total_tokens as f64, now);
            }
            Some(Verdict::PushedBack) => {
                self.capacity.pushed_back(pass.epoch);
                self.settle(pass, 0.0, now);
            }
            Some(Verdict::Failed) => self.settle(pass, 0.0, now),
            // It may have cost whatever was reserved for it.
            None => {}
        }
        self.in_flight -= 1;
    }

    /// What waits in `lane`, of `waiting` calls in each, and how long one more would.
    pub(crate) fn lane(&mut self, lane: Lane, waiting: &[usize; 3], now: Instant) -> LaneStatus {
        let own = waiting[lane as usize];
        let urgent: usize = waiting[..lane as usize].iter().sum();
        let turns = self.queue.tenants(lane).min(own);
        let micros = |wait: Duration| i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
        LaneStatus {
            waiting: i32::try_from(own).unwrap_or(i32::MAX),
            wait_micros: micros(self.wait_behind(urgent + own, now)),
            turn_micros: micros(self.wait_behind(urgent + turns, now)),
        }
    }

    /// How long a call behind `ahead` others would wait: for as many places as they need, and for the rates. An estimate from
    /// means of the calls that ended; zero while there are none.
    fn wait_behind(&mut self, ahead: usize, now: Instant) -> Duration {
        let calls = ahead as f64 + 1.0;
        // Without any place of its own, it waits for one.
        let capacity = self.capacity.get().max(1);
        let places = if ahead == 0 && self.in_flight < capacity {
            0.0
        } else {
            self.service.unwrap_or(0.0) * calls / capacity as f64
        };
        let reserved = self.reserved;
        let rate = |bucket: &mut Option<Bucket>, amount: f64| {
            bucket
                .as_mut()
                .map_or(0.0, |bucket| bucket.seconds_for(amount, now))
        };
        let requests = rate(&mut self.requests, calls);
        let tokens = rate(&mut self.tokens, calls * reserved);
        let seconds = places.max(requests).max(tokens);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    fn has_place(&self) -> bool {
        !self.is_shut && self.in_flight < self.capacity.get()
    }

    fn reservation(&self, prompt_tokens: u64) -> f64 {
        prompt_tokens as f64 + self.answer
    }

    fn due(&mut self, tokens: f64, now: Instant) -> Option<Duration> {
        let due = |bucket: &mut Option<Bucket>, amount: f64| {
            bucket.as_mut().and_then(|bucket| bucket.due(amount, now))
        };
        due(&mut self.requests, 1.0).max(due(&mut self.tokens, tokens))
    }

    fn pass(&mut self, tokens: f64, now: Instant) -> Pass {
        self.in_flight += 1;
        self.reserved += (tokens - self.reserved) * WEIGHT;
        if let Some(requests) = &mut self.requests {
            requests.take(1.0, now);
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.take(tokens, now);
        }
        Pass {
            since: now,
            epoch: self.capacity.epoch(),
            tokens,
        }
    }

    /// Corrects what was reserved by what was used.
    fn settle(&mut self, pass: Pass, used: f64, now: Instant) {
        if let Some(tokens) = &mut self.tokens {
            tokens.give_back(pass.tokens - used, now);
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
