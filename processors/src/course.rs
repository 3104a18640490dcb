//! The course of one request: over the deployments of its model, and of the models that step
//! in, until an attempt answers or none is left.

use std::time::Duration;

use runtime::config::Fallbacks;
use schemas::dialect::openai;
use schemas::event::ErrorBody;
use schemas::request::Endpoint;
use tokio::time::Instant;

use crate::adapters::failure::Failure;
use crate::config::{Deployment, Model, Models};
use crate::router::load::Call;
use crate::router::{Class, Fleet, Misfit, Plan, Readiness, View, Wish};

/// Shortest wait that is told to a client.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// Longest wait that is told when all deployments are out: whoever is back is found sooner than
/// its rest is over.
const RETRY_AFTER_OUT_MAX: Duration = Duration::from_secs(5);
/// When a deployment is looked at again whose limits nobody shares: parts are asked for several times a second.
const SHUT_FOR: Duration = Duration::from_secs(1);

/// Where a request has been, and where it may go yet.
#[derive(Debug)]
pub(crate) struct Course<'m> {
    models: &'m Models,
    /// The model that was asked for.
    origin: &'m Model,
    /// It, or the one that stepped in.
    current: &'m Model,
    plan: Plan,
    endpoint: Endpoint,
    wish: Wish,
    /// Models that had their turn; each has one, so that no course goes in circles.
    visited: Vec<usize>,
    last: Option<Failure>,
    /// The current model refused the request.
    is_refused: bool,
    /// Shortest waits that were met with in earlier models.
    rest: Option<Duration>,
    out: Option<Duration>,
    /// A text has begun, and only deployments that can go on with it will do.
    goes_on: bool,
}

/// The next attempt.
#[derive(Debug)]
pub(crate) struct Turn<'m> {
    /// Whom to call.
    pub(crate) deployment: &'m Deployment,
    /// Its place among the deployments of its model.
    pub(crate) place: usize,
    /// To be waited before, jittered.
    pub(crate) pause: Duration,
    /// Counts the call as in flight.
    pub(crate) load: Call<'m>,
}

/// The deployments of a model at one moment.
struct Live<'m> {
    model: &'m Model,
    now: Instant,
    /// As the models' clock has it.
    time: Duration,
    endpoint: Endpoint,
    goes_on: bool,
}

impl Fleet for Live<'_> {
    fn view(&self, deployment: usize) -> View {
        self.model.deployments[deployment].view(self.time)
    }

    fn first_token_micros(&self, deployment: usize) -> u64 {
        let load = &self.model.deployments[deployment].load;
        load.first_token_micros(self.time)
    }

    fn take(&self, deployment: usize, trial: bool) -> Readiness {
        let deployment = &self.model.deployments[deployment];
        let adapter = &deployment.adapter;
        if !adapter.serves(self.endpoint) || (self.goes_on && !adapter.can_continue()) {
            return Readiness::Unfit;
        }
        if deployment.gate.is_shut() {
            return Readiness::Rests(SHUT_FOR);
        }
        match adapter.readiness(self.now) {
            Readiness::Ready if trial && !deployment.health.take_trial(self.time) => {
                Readiness::LockedOut
            }
            readiness => readiness,
        }
    }
}

impl<'m> Course<'m> {
    /// The course of a request for `model`.
    ///
    /// # Errors
    /// 400 when no deployment is what it asks for.
    pub(crate) fn new(
        models: &'m Models,
        model: &'m Model,
        endpoint: Endpoint,
        wish: Wish,
    ) -> Result<Self, ErrorBody> {
        let unknown = || {
            let message = "no deployment of this model has the name, tags or version that the \
                           request asks for";
            ErrorBody::invalid_request(None, message)
        };
        let (plan, is_too_long) = match model.router.plan(&wish) {
            Ok(plan) => (plan, false),
            Err(Misfit::Unknown) => return Err(unknown()),
            Err(Misfit::TooLong) => {
                let plan = model.router.plan_regardless(&wish);
                (plan.map_err(|_| unknown())?, true)
            }
        };
        let mut course = Self {
            models,
            origin: model,
            current: model,
            plan,
            endpoint,
            wish,
            visited: vec![model.place],
            last: None,
            is_refused: false,
            rest: None,
            out: None,
            goes_on: false,
        };
        if is_too_long {
            // An estimate is no reason to refuse: without another model the provider decides.
            course.step_in(|fallbacks| &fallbacks.context_length);
        }
        Ok(course)
    }

    /// The attempt after `attempts`; none when none is left or allowed.
    pub(crate) fn next(&mut self, attempts: usize, now: Instant) -> Option<Turn<'m>> {
        let attempts_max = usize::try_from(self.origin.attempts_max).unwrap_or(usize::MAX);
        if attempts >= attempts_max {
            return None;
        }
        let time = self.models.clock.at(now);
        let (place, pause) = loop {
            let current = self.current;
            let live = Live {
                model: current,
                now,
                time,
                endpoint: self.endpoint,
                goes_on: self.goes_on,
            };
            // A twin would refuse it too.
            if !self.is_refused
                && let Some(place) = self.plan.next(&current.router, &live, rand::random())
            {
                break (place, Duration::ZERO);
            }
            if self.fall_back() {
                continue;
            }
            break self.plan.again(&live)?;
        };
        let mut budget = self.origin.budget.lock();
        if attempts == 0 {
            budget.call(time);
        } else if !budget.retry(time) {
            self.models.metrics.retry_denied();
            return None;
        }
        drop(budget);
        let deployment = self.current.deployments.get(place)?;
        Some(Turn {
            deployment,
            place,
            pause,
            load: deployment.load.enter(),
        })
    }

    /// The last attempt, of the deployment at `place`, failed.
    pub(crate) fn failed(&mut self, place: usize, failure: Failure) {
        self.plan.failed(place, failure.class);
        self.is_refused = failure.class == Class::Refused;
        // Of two failures, the one that tells the client more: a limit or a key of ours says
        // little, and that a deployment has no way to say what was asked for says nothing while
        // another could have served it.
        let weight = |failure: &Failure| match failure.class {
            Class::Passing | Class::Cut | Class::Silent | Class::Refused => 2,
            Class::Key => 1,
            Class::Unfit => 0,
        };
        self.last = Some(match self.last.take() {
            Some(last) if weight(&last) > weight(&failure) => last,
            Some(_) | None => failure,
        });
    }

    /// From here on only deployments will do that can go on with the text so far.
    pub(crate) fn go_on(&mut self) {
        self.goes_on = true;
    }

    /// The error that the client gets when no attempt is left.
    pub(crate) fn last_word(self) -> ErrorBody {
        let rest = shorter(self.rest, self.plan.shortest_rest());
        let out = shorter(self.out, self.plan.shortest_out());
        let limited = |rest: Option<Duration>| {
            let message =
                "every provider of this model has reached its rate limit: try again later";
            let rest = rest.unwrap_or_default().max(RETRY_AFTER_MIN);
            ErrorBody::rate_limited(rest, message)
        };
        match self.last {
            Some(failure) if failure.error.status == 429 => limited(rest),
            Some(failure) => failure.error,
            None if out.is_some() => {
                let wait = shorter(rest, out).unwrap_or_default();
                let wait = wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_OUT_MAX);
                ErrorBody::upstream_unavailable(wait)
            }
            None if rest.is_some() => limited(rest),
            None => ErrorBody::upstream_credentials(),
        }
    }

    /// Goes over to the next model that steps in for what went wrong, if there is one.
    fn fall_back(&mut self) -> bool {
        if self.goes_on {
            // Two models do not write one text.
            return false;
        }
        match &self.last {
            Some(last) if last.class == Class::Refused => {
                if openai::is_context_length(&last.error) {
                    self.step_in(|fallbacks| &fallbacks.context_length)
                } else if openai::is_content_policy(&last.error) {
                    self.step_in(|fallbacks| &fallbacks.content_policy)
                } else {
                    false
                }
            }
            Some(_) | None => self.step_in(|fallbacks| &fallbacks.error),
        }
    }

    fn step_in(&mut self, list: impl FnOnce(&'m Fallbacks) -> &'m Vec<String>) -> bool {
        // The lists are those of the model that was asked for: those of models that step in
        // are not followed.
        for name in list(&self.origin.fallbacks) {
            let Some(model) = self.models.get(name) else {
                continue;
            };
            if self.visited.contains(&model.place) || !model.serves(self.endpoint) {
                continue;
            }
            self.visited.push(model.place);
            // Tags may say where data may go, and hold for every model.
            let wish = Wish {
                deployment: None,
                version: None,
                ..self.wish.clone()
            };
            if let Ok(plan) = model.router.plan(&wish) {
                self.rest = shorter(self.rest, self.plan.shortest_rest());
                self.out = shorter(self.out, self.plan.shortest_out());
                self.plan = plan;
                self.current = model;
                self.is_refused = false;
                return true;
            }
        }
        false
    }
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
#[path = "course_tests.rs"]
mod tests;
