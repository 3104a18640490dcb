//! One deployment after the other, as the router says, until one answers or its text has
//! reached the client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runtime::config::OnCut;
use schemas::event::{AttemptFailed, ErrorBody, Event, Usage};
use tokio::time::Instant;
use tracing::Instrument;

use crate::adapters::failure::Failure;
use crate::adapters::operation::Operation;
use crate::attempt::Called;
use crate::config::{Deployment, Model};
use crate::course::{Course, Turn};
use crate::gate::Verdict;
use crate::request::{Job, Outcome, call_span};
use crate::router::Class;
use crate::signal::FENCED;
use crate::{shadow, wish};

impl Job<'_> {
    /// Tries one deployment after the other.
    pub(crate) async fn route(
        &mut self,
        model: &Model,
        body: &Bytes,
        operation: &Operation<'_>,
    ) -> Outcome {
        let models = Arc::clone(&self.models);
        let request = &self.task.request;
        let version = models.version(&request.model);
        let sticky = model.sticky;
        let wish = wish::read(request, version, body, sticky, models.estimates);
        let course = wish.and_then(|wish| Course::new(&models, model, operation.endpoint(), wish));
        let mut course = match course {
            Ok(course) => course,
            Err(error) => return Outcome::Failed(error),
        };
        self.mirror(model);
        // The cut that other deployments are asked to mend.
        let mut cut: Option<ErrorBody> = None;
        loop {
            let Some(turn) = course.next(self.attempts.len(), Instant::now()) else {
                return Outcome::Failed(cut.unwrap_or_else(|| course.last_word()));
            };
            let Turn {
                deployment,
                place,
                pause,
                load,
            } = turn;
            if !pause.is_zero() {
                // Half of it at random, so that many requests do not come back at once.
                let pause = pause.mul_f64(rand::random_range(0.5..1.0));
                self.meanwhile(tokio::time::sleep(pause)).await;
            }
            let task = self.task;
            let (lane, tenant) = (task.request.lane, task.request.tenant.as_str());
            let entering = deployment
                .gate
                .enter(lane, tenant, prompt_tokens(operation));
            let permit = if self.started {
                self.meanwhile(entering).await
            } else {
                tokio::select! {
                    biased;
                    () = task.hold.signal().raised(FENCED) => return Outcome::Left,
                    permit = entering => permit,
                }
            };
            let prefix = match &cut {
                None => None,
                Some(error) => match self.assembly.prefix() {
                    Some(prefix) => Some(prefix),
                    // An attempt to mend it left something else.
                    None => return Outcome::Failed(error.clone()),
                },
            };
            if !self.begin(deployment, prefix.is_some()) {
                return Outcome::Left;
            }
            if self.calls_at_most_once() && self.emitter.flush().await.is_err() {
                return Outcome::Failed(ErrorBody::internal());
            }
            let span = call_span(&deployment.name, self.attempts.len() + 1);
            let began = models.clock.now();
            let called = self
                .call(
                    deployment,
                    body,
                    operation,
                    &permit,
                    prefix.as_deref(),
                    &span,
                )
                .instrument(span.clone())
                .await;
            permit.end(verdict(&called));
            drop(load);
            let now = models.clock.now();
            self.learn(deployment, &called, began, now);
            match called {
                Called::Answered { body, usage } => {
                    self.close(None, Some(usage), "answered");
                    return Outcome::Completed { body, usage };
                }
                Called::Broken(failure) => {
                    if model.on_cut != OnCut::Continue
                        || !self.can_be_continued(operation, &failure)
                    {
                        return Outcome::Failed(failure.error);
                    }
                    let usage = self.assembly.usage();
                    self.attempt_failed(&failure, Some(usage));
                    cut.get_or_insert_with(|| failure.error.clone());
                    course.go_on();
                    course.failed(place, failure);
                }
                Called::Failed(failure) => {
                    self.attempt_failed(&failure, None);
                    course.failed(place, failure);
                }
            }
        }
    }

    /// Copies the request for the model's shadow, if it is among those to be copied.
    fn mirror(&self, model: &Model) {
        let request = &self.task.request;
        let Some(shadow) = &model.shadow else {
            return;
        };
        // A shadow has none of its own, and a request that is taken over had its.
        if request.shadow_of.is_some() || self.task.prior.is_some() {
            return;
        }
        if shadow::is_mirrored(request.id, shadow.share) {
            let work = Arc::clone(self.work);
            let traceparent = self.task.traceparent.clone();
            let copying = shadow::mirror(work, request.clone(), shadow.model.clone(), traceparent);
            self.work.tasks.spawn(copying);
        }
    }

    /// Tells the deployment's health and load what the call came to.
    fn learn(&self, deployment: &Deployment, called: &Called, began: Duration, now: Duration) {
        let waited = now.saturating_sub(began);
        let first_token = self.current.as_ref().and_then(|current| {
            let micros = u64::try_from(current.attempt.first_token_micros?).ok()?;
            Some(Duration::from_micros(micros))
        });
        let class = match called {
            Called::Answered { .. } => None,
            Called::Failed(failure) | Called::Broken(failure) => Some(failure.class),
        };
        match class {
            None => {
                deployment.health.answered(began, now);
                // A whole answer comes at once.
                deployment
                    .load
                    .first_token(first_token.unwrap_or(waited), now);
            }
            Some(class) => {
                match class {
                    Class::Passing | Class::Cut | Class::Silent => {
                        deployment.health.failed(began, now);
                    }
                    // It works; the request or the key does not.
                    Class::Refused => deployment.health.answered(began, now),
                    Class::Key | Class::Unfit => {}
                }
                let silent = (class == Class::Silent).then_some(waited);
                if let Some(first_token) = first_token.or(silent) {
                    deployment.load.first_token(first_token, now);
                }
            }
        }
    }

    /// Whether another deployment may go on with the text that the client has.
    fn can_be_continued(&self, operation: &Operation<'_>, failure: &Failure) -> bool {
        let is_cut = match failure.class {
            Class::Cut | Class::Silent => true,
            // The provider said why; the client is told.
            Class::Passing | Class::Key | Class::Refused | Class::Unfit => false,
        };
        let is_single = match operation {
            Operation::Chat(chat) => chat.n == 1,
            Operation::Messages(_) => true,
            Operation::Completion(_) | Operation::Embeddings(_) | Operation::CountTokens(_) => {
                false
            }
        };
        is_cut && is_single && self.assembly.prefix().is_some()
    }

    fn attempt_failed(&mut self, failure: &Failure, usage: Option<Usage>) {
        let outcome = match failure.class {
            Class::Passing => "failed",
            Class::Cut => "cut",
            Class::Silent => "timed_out",
            Class::Key => "key_refused",
            Class::Refused => "refused",
            Class::Unfit => "unfit",
        };
        self.close(Some(failure.error.clone()), usage, outcome);
        if let Some(attempt) = self.attempts.last() {
            self.emitter.event(Event::AttemptFailed(AttemptFailed {
                run: self.emitter.run(),
                attempt: attempt.clone(),
            }));
        }
    }
}

/// What the prompt comes to, by the usual four bytes a token; the gate is told the truth when
/// the answer is there.
fn prompt_tokens(operation: &Operation<'_>) -> u64 {
    u64::try_from(operation.prompt_bytes() / 4).unwrap_or(u64::MAX)
}

/// What the end of a call says of how busy the provider is.
fn verdict(called: &Called) -> Verdict {
    let tokens = |count: i64| u64::try_from(count).unwrap_or(0);
    match called {
        Called::Answered { usage, .. } => Verdict::Answered {
            total_tokens: tokens(usage.prompt_tokens.saturating_add(usage.completion_tokens)),
            answer_tokens: tokens(usage.completion_tokens),
        },
        Called::Failed(failure) => match failure.class {
            Class::Passing | Class::Cut | Class::Silent => Verdict::PushedBack,
            Class::Key if failure.error.status == 429 => Verdict::PushedBack,
            Class::Key | Class::Refused | Class::Unfit => Verdict::Failed,
        },
        // A fault of ours is a 500; what the provider did is one of these.
        Called::Broken(failure) => match failure.error.status {
            429 | 502..=504 | 529 => Verdict::PushedBack,
            _ => Verdict::Failed,
        },
    }
}
