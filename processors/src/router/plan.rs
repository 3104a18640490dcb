//! The attempts of one request at one model.

use std::time::Duration;

use runtime::config::Strategy;

use super::set::Set;
use super::{Class, Fleet, Readiness, Router, Standing, hash};

/// Pause before the last deployment is called a second time; doubled each time after.
pub(super) const BACK_OFF: Duration = Duration::from_millis(100);
/// Longest pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// Which deployments are left for a request, and how the last one failed.
#[derive(Debug)]
pub(crate) struct Plan {
    candidates: Set,
    tried: Set,
    pub(super) strategy: Strategy,
    pub(super) sticky: Option<u64>,
    pub(super) prompt_tokens: i64,
    pub(super) answer_tokens: i64,
    failed: Option<(usize, Class)>,
    again: u32,
    rest: Option<Duration>,
    out: Option<Duration>,
}

/// The deployments that are left, by what can be done with them.
#[derive(Default)]
struct Survey {
    /// To be called like any other.
    ready: Set,
    /// As `ready`, with those that are full or have had their share for now.
    open: Set,
    /// Out of service.
    out: Set,
    /// Out of service, and to be tried now if there is nobody else.
    trial: Set,
    /// Among `ready` and `open`: to be called once to see whether they are back.
    probing: Set,
    full: Set,
}

impl Plan {
    pub(super) fn new(
        candidates: Set,
        strategy: Strategy,
        sticky: Option<u64>,
        prompt_tokens: i64,
        answer_tokens: i64,
    ) -> Self {
        Self {
            candidates,
            tried: Set::default(),
            strategy,
            sticky,
            prompt_tokens,
            answer_tokens,
            failed: None,
            again: 0,
            rest: None,
            out: None,
        }
    }

    /// Tells how the last attempt failed.
    pub(crate) fn failed(&mut self, deployment: usize, class: Class) {
        self.failed = Some((deployment, class));
    }

    /// The shortest time that a deployment which was passed over has to rest for its keys.
    pub(crate) fn shortest_rest(&self) -> Option<Duration> {
        self.rest
    }

    /// The shortest time that a deployment which was passed over is out of service.
    pub(crate) fn shortest_out(&self) -> Option<Duration> {
        self.out
    }

    /// The deployment for the next attempt that has not been tried; after a refused key the
    /// same one, if another key of it is left. None when nobody is ready.
    pub(crate) fn next(
        &mut self,
        router: &Router,
        fleet: &impl Fleet,
        random: u64,
    ) -> Option<usize> {
        if let Some((deployment, Class::Key)) = self.failed
            && self.take(fleet, deployment, false)
        {
            return Some(deployment);
        }
        let survey = self.survey(fleet, random);
        // Those that are well and not full, by their share and then regardless of it; when too
        // many are out and the rest is full, those that are out share the load; then a queue at
        // those that are well; and if nobody is, one call now and then to see who is back.
        let out = survey.out.len() * 1_000;
        let panics = out > router.panic_permille * self.candidates.len();
        let passes = [
            survey.ready,
            survey.open.without(survey.full),
            if panics && !survey.open.is_empty() {
                survey.out.without(survey.full)
            } else {
                Set::default()
            },
            survey.open,
            survey.trial,
        ];
        let last = passes.len() - 1;
        let mut unready = self.tried;
        for (pass, deployments) in passes.into_iter().enumerate() {
            if deployments.without(unready).is_empty() {
                continue;
            }
            for tier in &router.tiers {
                loop {
                    let among = deployments.and(*tier).without(unready);
                    let Some(one) = router.pick(self, among, fleet, random) else {
                        break;
                    };
                    let trial = pass == last || survey.probing.contains(one);
                    if self.take(fleet, one, trial) {
                        self.tried.insert(one);
                        return Some(one);
                    }
                    unready.insert(one);
                    router.unpick(self, among, one);
                }
            }
        }
        None
    }

    /// The deployment that failed last, once more after the pause (to be jittered by the
    /// caller); none when that would not help. For when nobody else is left.
    pub(crate) fn again(&mut self, fleet: &impl Fleet) -> Option<(usize, Duration)> {
        let (deployment, class) = self.failed?;
        match class {
            Class::Passing | Class::Cut => {}
            // It was silent, or it was asked with every key, or it refused the request.
            Class::Silent | Class::Key | Class::Refused | Class::Unfit => return None,
        }
        if let Standing::Out { rest, .. } = fleet.view(deployment).standing {
            self.out = shorter(self.out, rest);
            return None;
        }
        if !self.take(fleet, deployment, false) {
            return None;
        }
        let pause = BACK_OFF.saturating_mul(1 << self.again.min(8));
        self.again += 1;
        Some((deployment, pause.min(BACK_OFF_MAX)))
    }

    fn survey(&mut self, fleet: &impl Fleet, random: u64) -> Survey {
        let mut survey = Survey::default();
        // A request that sticks has the same luck each time.
        let luck = self.sticky.unwrap_or(random);
        let mut out: Option<Duration> = None;
        for one in self.candidates.iter() {
            let view = fleet.view(one);
            if view.full {
                survey.full.insert(one);
            }
            match view.standing {
                Standing::Open(share) => {
                    survey.open.insert(one);
                    let has_luck =
                        share >= 1_000 || hash::mix(luck, one as u64) % 1_000 < u64::from(share);
                    if has_luck && !view.full {
                        survey.ready.insert(one);
                    }
                }
                Standing::Trial => {
                    survey.probing.insert(one);
                    survey.ready.insert(one);
                    survey.open.insert(one);
                }
                Standing::Out { rest, trial } => {
                    survey.out.insert(one);
                    out = shorter(out, rest);
                    if trial {
                        survey.trial.insert(one);
                    }
                }
            }
        }
        if let Some(out) = out {
            self.out = shorter(self.out, out);
        }
        survey
    }

    fn take(&mut self, fleet: &impl Fleet, deployment: usize, trial: bool) -> bool {
        match fleet.take(deployment, trial) {
            Readiness::Ready => true,
            Readiness::LockedOut | Readiness::Unfit => false,
            Readiness::Rests(rest) => {
                self.rest = shorter(self.rest, rest);
                false
            }
        }
    }
}

fn shorter(known: Option<Duration>, other: Duration) -> Option<Duration> {
    Some(known.map_or(other, |known| known.min(other)))
}
