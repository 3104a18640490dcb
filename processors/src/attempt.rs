//! The calls of one request: what is asked, and what comes back in time.

use std::time::Duration;

use bytes::Bytes;
use runtime::config::Timeouts;
use runtime::objects::ObjectsError;
use schemas::event::{Chunk, ErrorBody, Usage};
use schemas::request::{Body, Endpoint};
use tokio::time::Instant;

use crate::adapters::failure::Failure;
use crate::adapters::operation::{self, Operation};
use crate::adapters::{Ask, Calling, Prefix, Step};
use crate::config::Deployment;
use crate::gate::Permit;
use crate::request::{Job, Outcome, micros};
use crate::signal::FENCED;
use crate::{trace, wish};

/// Between two tries to fetch a body while object storage is down.
const LOAD_RETRY: Duration = Duration::from_millis(500);
/// Chunks held before the first token (roles and the like); more are shown.
const PREFACE_MAX: usize = 256;

/// What one call came to.
pub(crate) enum Called {
    /// With the whole answer.
    Answered {
        /// In the client's rendering.
        body: Bytes,
        /// As reported, or estimated.
        usage: Usage,
    },
    /// Nothing of it reached the client.
    Failed(Failure),
    /// Part of it reached the client.
    Broken(Failure),
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
        let models = std::sync::Arc::clone(&self.models);
        let Some(model) = models.get(&request.model) else {
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

    /// Waits, while what has to be told is told.
    pub(crate) async fn meanwhile<F: Future>(&mut self, waiting: F) -> F::Output {
        tokio::select! {
            biased;
            output = waiting => output,
            never = self.emitter.pump() => match never {},
        }
    }

    /// Makes one call; with `prefix` the answer goes on with that text.
    pub(crate) async fn call(
        &mut self,
        deployment: &Deployment,
        body: &Bytes,
        operation: &Operation<'_>,
        permit: &Permit,
        prefix: Option<&str>,
        span: &tracing::Span,
    ) -> Called {
        let prefix = if let Some(text) = prefix {
            let tokens = self.assembly.go_on();
            Some(Prefix { text, tokens })
        } else {
            self.assembly.begin(operation, body, &deployment.model);
            None
        };
        let mut calling = deployment.adapter.call(&Ask {
            id: self.task.request.id,
            traceparent: trace::onward(span, self.task.traceparent.as_ref()),
            body,
            operation,
            attributes: &self.task.request.attributes,
            prefix,
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
        // A guarded stream is held back until it is whole: then any failover stays unseen.
        let guarded = wish::is_guarded(&self.task.request);
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
                return Called::Broken(Failure::ours());
            }
            match step {
                Step::Sign => {}
                Step::Chunk { chunk, token } => {
                    if token && !clock.spoke {
                        clock.spoke = true;
                        self.first_token(permit);
                    }
                    if guarded {
                        self.task.share.add(chunk.raw.len());
                        preface.push(chunk);
                    } else if clock.spoke || preface.len() >= PREFACE_MAX {
                        clock.spoke = true;
                        self.show(&mut preface).await;
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
                    self.show(&mut preface).await;
                    let usage = self.assembly.whole_usage();
                    self.assembly.finish(&usage);
                    while let Some((chunk, _)) = self.assembly.chunk() {
                        self.emitter.chunk(chunk);
                    }
                    let body = self.assembly.completion(&usage);
                    return Called::Answered { body, usage };
                }
                Step::Failed(failure) if clock.spoke && !guarded => return Called::Broken(failure),
                Step::Failed(failure) => return Called::Failed(failure),
            }
        }
    }

    /// Passes on what was held back, as fast as the log takes it.
    async fn show(&mut self, held_back: &mut Vec<Chunk>) {
        for chunk in held_back.drain(..) {
            self.emitter.make_room().await;
            self.emitter.chunk(chunk);
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

/// 400: no deployment of the model serves the operation.
fn not_served(model: &str, endpoint: Endpoint) -> ErrorBody {
    let name = operation::name(endpoint);
    let message = format!("the model `{model}` does not serve {name}: no deployment of it does");
    ErrorBody {
        code: Some("operation_not_served".to_owned()),
        ..ErrorBody::invalid_request(Some("model"), message)
    }
}
