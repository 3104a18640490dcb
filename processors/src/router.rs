//! Which deployment a call goes to. Pure: no clock, no I/O.
//!
//! The first choice is by weight (smooth weighted round robin: exact over a cycle, and
//! spread out within it), then the model's other deployments follow in their order.

use std::time::Duration;

use parking_lot::Mutex;

/// Pause before the last deployment is called a second time; doubled each time after.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Longest pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// The router of one model.
#[derive(Debug)]
pub(crate) struct Router {
    weights: Vec<i64>,
    attempts_max: u32,
    current: Mutex<Vec<i64>>,
}

/// What a failed attempt means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Another deployment may succeed, and later this one too.
    Passing,
    /// It was silent until a time-out: another deployment may succeed, this one is not asked again.
    Silent,
    /// A key was refused or has to rest: the next key, then the next deployment.
    Key,
    /// The request itself was refused; a twin would refuse it too.
    Refused,
    /// It was not called: it has no way to say what is asked for. Another may have.
    Unfit,
}

/// Whether a deployment can be called now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It can.
    Ready,
    /// Every key of it rests, for that long at least.
    Rests(Duration),
    /// The provider refused every key of it.
    LockedOut,
    /// It does not serve the operation that is asked for.
    Unfit,
}

/// What to do next for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Call this deployment after a pause (to be jittered by the caller).
    Call {
        /// Index among the model's deployments.
        deployment: usize,
        /// Zero except before a second call of the same deployment.
        pause: Duration,
    },
    /// No further attempt.
    GiveUp,
}

/// The attempts of one request.
#[derive(Debug)]
pub(crate) struct Plan {
    order: Vec<usize>,
    place: usize,
    attempts: u32,
    attempts_max: u32,
    failed: Option<(usize, Class)>,
    again: u32,
    rest: Option<Duration>,
}

impl Router {
    /// A router over deployments with these weights; zeros everywhere count as ones.
    pub(crate) fn new(weights: &[u32], attempts_max: u32) -> Self {
        let mut weights: Vec<i64> = weights.iter().copied().map(i64::from).collect();
        if weights.iter().all(|weight| *weight == 0) {
            weights.fill(1);
        }
        Self {
            current: Mutex::new(vec![0; weights.len()]),
            weights,
            attempts_max: attempts_max.max(1),
        }
    }

    /// Chooses the order of the deployments for one request.
    pub(crate) fn route(&self) -> Plan {
        let first = self.choose();
        let mut order = Vec::with_capacity(self.weights.len());
        order.extend(first);
        order.extend((0..self.weights.len()).filter(|index| Some(*index) != first));
        Plan {
            order,
            place: 0,
            attempts: 0,
            attempts_max: self.attempts_max,
            failed: None,
            again: 0,
            rest: None,
        }
    }

    fn choose(&self) -> Option<usize> {
        if self.weights.len() < 2 {
            return (!self.weights.is_empty()).then_some(0);
        }
        let total: i64 = self.weights.iter().sum();
        let mut current = self.current.lock();
        let mut best: Option<usize> = None;
        for (index, weight) in self.weights.iter().enumerate() {
            current[index] += weight;
            if *weight > 0 && best.is_none_or(|best| current[index] > current[best]) {
                best = Some(index);
            }
        }
        if let Some(best) = best {
            current[best] -= total;
        }
        best
    }
}

impl Plan {
    /// The next attempt; `readiness` tells whether a deployment can be called now.
    pub(crate) fn next(&mut self, mut readiness: impl FnMut(usize) -> Readiness) -> Next {
        if self.attempts >= self.attempts_max {
            return Next::GiveUp;
        }
        let failed = self.failed;
        match failed {
            Some((_, Class::Refused)) => return Next::GiveUp,
            Some((deployment, Class::Key)) if self.is_ready(deployment, &mut readiness) => {
                return self.call(deployment, Duration::ZERO);
            }
            Some(_) | None => {}
        }
        while let Some(deployment) = self.order.get(self.place).copied() {
            self.place += 1;
            if self.is_ready(deployment, &mut readiness) {
                return self.call(deployment, Duration::ZERO);
            }
        }
        match self.failed {
            Some((deployment, Class::Passing)) => {
                let pause = BACK_OFF.saturating_mul(1 << self.again.min(8));
                self.again += 1;
                self.call(deployment, pause.min(BACK_OFF_MAX))
            }
            Some((_, Class::Silent | Class::Key | Class::Refused | Class::Unfit)) | None => {
                Next::GiveUp
            }
        }
    }

    /// Tells how the last attempt failed.
    pub(crate) fn failed(&mut self, deployment: usize, class: Class) {
        self.failed = Some((deployment, class));
    }

    /// The shortest time that a deployment which was passed over has to rest.
    pub(crate) fn shortest_rest(&self) -> Option<Duration> {
        self.rest
    }

    fn call(&mut self, deployment: usize, pause: Duration) -> Next {
        self.attempts += 1;
        Next::Call { deployment, pause }
    }

    fn is_ready(
        &mut self,
        deployment: usize,
        readiness: &mut impl FnMut(usize) -> Readiness,
    ) -> bool {
        match readiness(deployment) {
            Readiness::Ready => true,
            Readiness::LockedOut | Readiness::Unfit => false,
            Readiness::Rests(rest) => {
                self.rest = Some(self.rest.map_or(rest, |shortest| shortest.min(rest)));
                false
            }
        }
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
