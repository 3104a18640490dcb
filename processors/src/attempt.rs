//! The calls of one request: one deployment after the other until one answers, or its text
//! has reached the client.

use std::time::Duration;

use bytes::Bytes;
use runtime::config::Timeouts;
use runtime::objects::ObjectsError;
use schemas::event::{AttemptFailed, Chunk, ErrorBody, Event, Usage};
use schemas::request::{Body, Endpoint};
use tokio::time::Instant;
use tracing::Instrument;

use crate::adapters::failure::Failure;
use crate::adapters::operation::{self, Operation};
use crate::adapters::{Ask, Calling, Step};
use crate::config::{Deployment, Model};
use crate::gate::{Permit, Verdict};
use crate::request::{Job, Outcome, call_span, micros};
use crate::router::{Class, Next, Plan, Readiness};
use crate::signal::FENCED;
use crate::trace;

/// Between two tries to fetch a body while object storage is down.
const LOAD_RETRY: Duration = Duration::from_millis(500);
/// Shortest wait that is told to a client.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// Chunks held before the first token (roles and the like); more are shown.
const PREFACE_MAX: usize = 256;

/// What one call came to.
enum Called {
    Answered {
        body: Bytes,
        usage: Usage,
    },
    /// Nothing of it reached the client.
    Failed(Failure),
    /// Part of it reached the client.
    Broken(ErrorBody),
}

impl Job<'_> {
    /// Works on the request until it is answered or cannot be.
    pub(crate) async fn drive(&mut self) -> Outcome {
        let body = match self.load().await {
            Ok(body) => body,
            Err(error) => return Outcome::Failed(error),
        };
        let request = &self.task.request;
        let operation = match Operation::parse(request.endpoint, request.dialect, &body) {
            Ok(operation) => operation,
            Err(error) => return Outcome::Failed(error),
        };
        let work = std::sync::Arc::clone(self.work);
        let Some(model) = work.models.get(&request.model) else {
            return Outcome::Failed(ErrorBody::model_not_found(&request.model));
        };
        if !model.serves(operation.endpoint()) {
            return Outcome::Failed(not_served(&request.model, operation.endpoint()));
        }
        // From its second takeover on, a request that took its process down runs alone.
        let alone = self
            .task
            .prior
            .as_ref()
            .is_some_and(|prior| prior.runs_alone());
        let _alone = if alone {
            tokio::select! {
                biased;
                () = self.task.hold.signal().raised(FENCED) => return Outcome::Left,
                alone = work.alone.lock() => Some(alone),
            }
        } else {
            None
        };
        let live = operation.stream().then(|| work.channel.pace.enter());
        let outcome = self.route(model, &body, &operation).await;
        drop(live);
        outcome
    }

    async fn load(&mut self) -> Result<Bytes, ErrorBody> {
        loop {
            match self.work.objects.load(&self.task.request.body).await {
                Ok(body) => {
                    if let Body::Claim(_) = self.task.request.body {
                        self.task.share.add(body.len());
                    }
                    return Ok(body);
                }
                Err(ObjectsError::Unavailable(error)) => {
                    tracing::warn!(%error, "a request waits for object storage");
                    tokio::time::sleep(LOAD_RETRY).await;
                }
                Err(
                    error @ (ObjectsError::Missing { .. }
                    | ObjectsError::Damaged { .. }
                    | ObjectsError::Refused { .. }),
                ) => {
                    tracing::error!(%error, "the body of a request is lost");
                    return Err(ErrorBody::internal());
                }
            }
        }
    }

    /// Tries one deployment after the other, as the router says.
    async fn route(&mut self, model: &Model, body: &Bytes, operation: &Operation<'_>) -> Outcome {
        let mut plan = model.router.route();
        let mut last: Option<Failure> = None;
        loop {
            let now = Instant::now();
            let next = plan.next(|index| {
                let adapter = model.deployments.get(index).map(|one| &one.adapter);
                adapter
                    .filter(|adapter| adapter.serves(operation.endpoint()))
                    .map_or(Readiness::Unfit, |adapter| adapter.readiness(now))
            });
            let Next::Call {
                deployment: index,
                pause,
            } = next
            else {
                return Outcome::Failed(last_word(last, &plan));
            };
            let Some(deployment) = model.deployments.get(index) else {
                return Outcome::Failed(ErrorBody::internal());
            };
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
            if !self.begin(&deployment.name) {
                return Outcome::Left;
            }
            if self.calls_at_most_once() && self.emitter.flush().await.is_err() {
                return Outcome::Failed(ErrorBody::internal());
            }
            let span = call_span(&deployment.name, self.attempts.len() + 1);
            let called = self
                .call(deployment, body, operation, &permit, &span)
                .instrument(span.clone())
                .await;
            permit.end(verdict(&called));
            match called {
                Called::Answered { body, usage } => {
                    self.close(None, Some(usage), "answered");
                    return Outcome::Completed { body, usage };
                }
                Called::Broken(error) => return Outcome::Failed(error),
                Called::Failed(failure) => {
                    self.attempt_failed(&failure);
                    plan.failed(index, failure.class);
                    last = Some(worse(last, failure));
                }
            }
        }
    }

    /// Waits, while what has to be told is told.
    async fn meanwhile<F: Future>(&mut self, waiting: F) -> F::Output {
        tokio::select! {
            biased;
            output = waiting => output,
            never = self.emitter.pump() => match never {},
        }
    }

    /// Makes one call.
    async fn call(
        &mut self,
        deployment: &Deployment,
        body: &Bytes,
        operation: &Operation<'_>,
        permit: &Permit,
        span: &tracing::Span,
    ) -> Called {
        self.assembly.begin(operation, body, &deployment.model);
        let mut calling = deployment.adapter.call(&Ask {
            id: self.task.request.id,
            traceparent: trace::onward(span, self.task.traceparent.as_ref()),
            body,
            operation,
            attributes: &self.task.request.attributes,
        });
        let called = self
            .listen(
                calling.as_mut(),
                deployment.timeouts,
                operation.stream(),
                permit,
            )
            .await;
        self.note(calling.as_ref());
        if let Called::Answered { .. } = called {
            self.rest = Some(calling);
        }
        called
    }

    /// Takes in what the provider sends, up to the end of the call.
    async fn listen(
        &mut self,
        calling: &mut dyn Calling,
        timeouts: Option<Timeouts>,
        stream: bool,
        permit: &Permit,
    ) -> Called {
        let mut clock = Clock::new(timeouts, stream);
        let mut timer = std::pin::pin!(tokio::time::sleep_until(clock.due()));
        let mut preface: Vec<Chunk> = Vec::new();
        let signal = self.task.hold.signal();
        let mut fenced = false;
        loop {
            let has_room = self.emitter.has_room();
            let (emitter, assembly) = (&mut self.emitter, &mut self.assembly);
            let next = std::future::poll_fn(|context| calling.poll_step(context, assembly));
            let step = tokio::select! {
                biased;
                step = next, if has_room => step,
                () = timer.as_mut() => {
                    let due = clock.due();
                    if due <= Instant::now() && (has_room || clock.is_over()) {
                        Step::Failed(Failure::silent())
                    } else {
                        // While the log makes us wait the provider is not to blame.
                        clock.heard_if(!has_room);
                        timer.as_mut().reset(clock.due());
                        continue;
                    }
                }
                // On a rebalance what is held back goes out, so that the next owner sees it.
                () = signal.raised(FENCED), if !fenced => {
                    fenced = true;
                    self.emitter.hurry();
                    continue;
                }
                () = async {
                    if has_room {
                        match emitter.pump().await {}
                    }
                    // Back to reading as soon as the log has taken enough, not only at the next time-out.
                    emitter.make_room().await;
                } => {
                    clock.heard();
                    continue;
                }
            };
            clock.heard();
            if self.emitter.is_refused() {
                return Called::Broken(ErrorBody::internal());
            }
            match step {
                Step::Sign => {}
                Step::Chunk { chunk, token } => {
                    if clock.spoke || token || preface.len() >= PREFACE_MAX {
                        if !clock.spoke {
                            clock.spoke = true;
                            self.first_token(permit);
                        }
                        preface
                            .drain(..)
                            .for_each(|chunk| self.emitter.chunk(chunk));
                        self.emitter.chunk(chunk);
                    } else {
                        preface.push(chunk);
                    }
                }
                Step::Answer { body } => {
                    let usage = self.assembly.whole_usage();
                    return Called::Answered { body, usage };
                }
                Step::End => {
                    preface
                        .drain(..)
                        .for_each(|chunk| self.emitter.chunk(chunk));
                    let usage = self.assembly.whole_usage();
                    self.assembly.finish(&usage);
                    while let Some((chunk, _)) = self.assembly.chunk() {
                        self.emitter.chunk(chunk);
                    }
                    let body = self.assembly.completion(&usage);
                    return Called::Answered { body, usage };
                }
                Step::Failed(failure) if clock.spoke => return Called::Broken(failure.error),
                Step::Failed(failure) => return Called::Failed(failure),
            }
        }
    }

    fn first_token(&mut self, permit: &Permit) {
        if let Some(current) = &mut self.current {
            let after = current.since.elapsed();
            permit.first_token(after);
            current.attempt.first_token_micros = Some(micros(after));
            self.work.metrics.first_token(&current.deployment, after);
        }
    }

    /// Notes what the call told about itself.
    fn note(&mut self, calling: &dyn Calling) {
        let trace = calling.trace();
        self.work.metrics.events_broken(trace.broken_events);
        if let Some(current) = &mut self.current {
            current.attempt.key_name = trace.key_name.as_deref().map(str::to_owned);
            current.attempt.status = trace.status.map(i32::from);
            current.attempt.upstream_request_id = trace.upstream_request_id.clone();
        }
    }

    fn attempt_failed(&mut self, failure: &Failure) {
        let outcome = match failure.class {
            Class::Passing => "failed",
            Class::Silent => "timed_out",
            Class::Key => "key_refused",
            Class::Refused => "refused",
            Class::Unfit => "unfit",
        };
        self.close(Some(failure.error.clone()), None, outcome);
        if let Some(attempt) = self.attempts.last() {
            self.emitter.event(Event::AttemptFailed(AttemptFailed {
                run: self.emitter.run(),
                attempt: attempt.clone(),
            }));
        }
    }
}

/// The time-outs of one call.
struct Clock {
    timeouts: Option<Timeouts>,
    stream: bool,
    since: Instant,
    last: Instant,
    /// The first token came.
    spoke: bool,
}

impl Clock {
    fn new(timeouts: Option<Timeouts>, stream: bool) -> Self {
        let now = Instant::now();
        Self {
            timeouts,
            stream,
            since: now,
            last: now,
            spoke: false,
        }
    }

    fn heard(&mut self) {
        if self.stream {
            self.last = Instant::now();
        }
    }

    fn heard_if(&mut self, heard: bool) {
        if heard {
            self.heard();
        }
    }

    /// When the provider has been silent for too long, or the attempt has lasted too long.
    fn due(&self) -> Instant {
        // No bound of its own: the request's deadline ends it.
        let Some(timeouts) = self.timeouts else {
            return self.since + Duration::from_secs(24 * 60 * 60);
        };
        let total = self.since + timeouts.total;
        match (self.stream, self.spoke) {
            (false, _) => total,
            (true, false) => total.min(self.since + timeouts.first_token),
            (true, true) => total.min(self.last + timeouts.idle),
        }
    }

    /// Whether the attempt as a whole has lasted too long.
    fn is_over(&self) -> bool {
        self.timeouts
            .is_some_and(|timeouts| self.since + timeouts.total <= Instant::now())
    }
}

/// What the prompt comes to, by the usual four bytes a token; the gate is told the truth when the answer is there.
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
            Class::Passing | Class::Silent => Verdict::PushedBack,
            Class::Key if failure.error.status == 429 => Verdict::PushedBack,
            Class::Key | Class::Refused | Class::Unfit => Verdict::Failed,
        },
        // A fault of ours is a 500; what the provider did is one of these.
        Called::Broken(error) => match error.status {
            429 | 502..=504 | 529 => Verdict::PushedBack,
            _ => Verdict::Failed,
        },
    }
}

/// Of two failures, the one that tells the client more: a limit or a key of ours says little, and that a deployment has no
/// way to say what was asked for says nothing while another could have served it.
fn worse(last: Option<Failure>, failure: Failure) -> Failure {
    let weight = |failure: &Failure| match failure.class {
        Class::Passing | Class::Silent | Class::Refused => 2,
        Class::Key => 1,
        Class::Unfit => 0,
    };
    match last {
        Some(last) if weight(&last) > weight(&failure) => last,
        Some(_) | None => failure,
    }
}

/// 400: no deployment of the model serves the operation.
fn not_served(model: &str, endpoint: Endpoint) -> ErrorBody {
    let name = operation::name(endpoint);
    let message = format!("the model `{model}` does not serve {name}: no deployment of it does");
    ErrorBody {
        code: Some("operation_not_served".to_owned()),
        ..ErrorBody::invalid_request(Some("model"), message)
    }
}

/// The error that the client gets when no attempt is left.
fn last_word(last: Option<Failure>, plan: &Plan) -> ErrorBody {
    let limited = |rest: Duration| {
        let message = "every provider of this model has reached its rate limit: try again later";
        ErrorBody::rate_limited(rest.max(RETRY_AFTER_MIN), message)
    };
    match (last, plan.shortest_rest()) {
        (Some(failure), rest) if failure.error.status == 429 => {
            limited(rest.unwrap_or(RETRY_AFTER_MIN))
        }
        (Some(failure), _) => failure.error,
        (None, Some(rest)) => limited(rest),
        (None, None) => ErrorBody::upstream_credentials(),
    }
}
