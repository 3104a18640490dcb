//! One request from the moment it is in hand to its terminal.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use runtime::config::Price;
use runtime::objects::{Kind, ObjectsError};
use schemas::event::{Abandoned, Attempt, ErrorBody, Event, Run, Sign, Started, Terminal, Usage};
use schemas::fold::Fold;
use schemas::request::{Body, OnTakeover, Request};
use schemas::time::Timestamp;
use tokio::time::Instant;
use tracing::{Instrument, Span, debug, info_span, warn};

use crate::adapters::Calling;
use crate::adapters::assembly::Assembly;
use crate::adoption::Prior;
use crate::config::Deployment;
use crate::config::Models;
use crate::emitter::{Emitter, Unfit};
use crate::price::cost_nanos;
use crate::signal::{CANCELLED, RELEASED};
use crate::trace;
use crate::work::{Reason, Task, Work};

/// Between two tries to keep a large answer while object storage is down.
const STORE_RETRY: Duration = Duration::from_millis(500);
/// Longest that giving a request back may take.
const RELEASE_MAX: Duration = Duration::from_millis(1_500);

/// A request being worked on.
pub(crate) struct Job<'t> {
    pub(crate) work: &'t Arc<Work>,
    pub(crate) task: &'t Task,
    /// Those in force when the work on it began.
    pub(crate) models: Arc<Models>,
    pub(crate) emitter: Emitter,
    pub(crate) attempts: Vec<Attempt>,
    /// The call in progress.
    pub(crate) current: Option<Current>,
    /// What the call in progress, or the last one, brought.
    pub(crate) assembly: Assembly,
    /// The call that answered, whose body may not have ended.
    pub(crate) rest: Option<Box<dyn Calling>>,
    /// The run began: it is ours, whoever owns the partition.
    pub(crate) started: bool,
    /// The deployment that answered.
    pub(crate) deployment: Option<Arc<str>>,
}

/// A call in progress.
pub(crate) struct Current {
    pub(crate) deployment: Arc<str>,
    /// What it costs; none: not known.
    pub(crate) price: Option<Price>,
    pub(crate) since: Instant,
    /// As it stands in the terminal.
    pub(crate) attempt: Attempt,
}

/// How the work on a request ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It never began here and somebody else will do it.
    Left,
    /// This process gives it back.
    Released,
    /// With the whole answer.
    Completed {
        /// In the client's rendering.
        body: Bytes,
        /// As reported, or estimated.
        usage: Usage,
    },
    /// With an error, after the part of the answer that was shown.
    Failed(ErrorBody),
    /// By its owner's wish.
    Cancelled,
    /// At its deadline.
    Expired,
}

/// Works on a request until it has its terminal, or is left to somebody else.
pub(crate) async fn run(work: Arc<Work>, task: Task) {
    let request = &task.request;
    let span = info_span!(
        "request",
        request.id = %request.id,
        model = %request.model,
        lane = ?request.lane,
    );
    trace::adopt(&span, task.traceparent.as_ref());
    let working = AssertUnwindSafe(Box::pin(finish(&work, &task)).instrument(span));
    let finished = match working.catch_unwind().await {
        Ok(finished) => finished,
        Err(_) => {
            // A fault of ours on this one request: it ends, and the others go on.
            let text = "the work on it panicked".to_owned();
            work.set_request_aside(request, Reason::Panicked, text)
                .await;
            let mut run = Prior::new(&Fold::default(), request);
            run.run = *task.run.lock();
            run.given_up = true;
            refuse_takeover(&work, &task, &run, ErrorBody::internal()).await;
            true
        }
    };
    let Task { hold, share, .. } = task;
    if finished {
        hold.finish();
    }
    drop(share);
}

/// True once the request has its terminal.
async fn finish(work: &Arc<Work>, task: &Task) -> bool {
    let request = &task.request;
    let signal = task.hold.signal();
    let run = task.prior.as_ref().map_or(Run::NONE, |prior| prior.run);
    let mut job = Job {
        emitter: Emitter::new(&work.channel, request, run, task.traceparent.as_ref()),
        models: work.models.load_full(),
        work,
        task,
        attempts: Vec::new(),
        current: None,
        assembly: Assembly::new(request),
        rest: None,
        started: false,
        deployment: None,
    };
    let left = request.deadline.since(Timestamp::now());
    let outcome = if work.cancels.reason(request.id).is_some() {
        Outcome::Cancelled
    } else if left.is_zero() {
        Outcome::Expired
    } else if let Some(error) = &task.refusal {
        Outcome::Failed(error.clone())
    } else {
        let deadline = Instant::now() + left;
        tokio::select! {
            biased;
            () = signal.raised(CANCELLED | RELEASED) => {
                if signal.is_raised(CANCELLED) { Outcome::Cancelled } else { Outcome::Released }
            }
            () = tokio::time::sleep_until(deadline) => Outcome::Expired,
            outcome = Box::pin(job.drive()) => outcome,
        }
    };
    let started = job.started;
    let concluding = Box::pin(job.conclude(outcome));
    tokio::select! {
        biased;
        finished = concluding => finished,
        // A process that goes leaves what the log does not take; it is adopted later.
        () = gone(signal, started) => false,
    }
}

/// Resolves when a process that is asked to give everything back has waited long enough.
async fn gone(signal: &crate::signal::Signal, started: bool) {
    signal.raised(RELEASED).await;
    if started {
        tokio::time::sleep(RELEASE_MAX).await;
    }
}

impl Job<'_> {
    /// Begins a run with its first attempt, or the next attempt of the run: `Started`. One that
    /// `goes_on` appends to the text so far.
    pub(crate) fn begin(&mut self, deployment: &Deployment, goes_on: bool) -> bool {
        let name = &deployment.name;
        if !self.started {
            if !self.task.hold.start() {
                return false;
            }
            self.started = true;
        }
        let at = Timestamp::now();
        let number = i32::try_from(self.attempts.len())
            .unwrap_or(i32::MAX)
            .saturating_add(1);
        let run = if number == 1 {
            self.take_over(at);
            Run {
                number: self.emitter.run().number.saturating_add(1),
                nonce: rand::random(),
            }
        } else {
            self.emitter.run()
        };
        *self.task.run.lock() = run;
        self.emitter.event(Event::Started(Started {
            run,
            attempt: number,
            deployment: name.to_string(),
            config_version: self.models.version.clone(),
            at,
            continues_from: goes_on.then(|| self.emitter.chunks()),
        }));
        self.current = Some(Current {
            deployment: Arc::clone(name),
            price: deployment.price,
            since: Instant::now(),
            attempt: Attempt {
                number,
                deployment: name.to_string(),
                key_name: None,
                started_at: at,
                first_token_micros: None,
                duration_micros: 0,
                status: None,
                upstream_request_id: None,
                usage: None,
                cost_nanos: None,
                error: None,
            },
        });
        true
    }

    /// Says that the run of a lost process is over.
    fn take_over(&mut self, at: Timestamp) {
        if let Some(prior) = &self.task.prior
            && !prior.given_up
        {
            self.emitter.event(Event::Abandoned(Abandoned {
                run: prior.run,
                at,
                usage: prior.usage(),
            }));
        }
    }

    /// Whether `Started` has to be durable before the provider is called.
    pub(crate) fn calls_at_most_once(&self) -> bool {
        self.task.request.on_takeover == OnTakeover::Fail
    }

    /// Closes the books on the call in progress.
    pub(crate) fn close(
        &mut self,
        error: Option<ErrorBody>,
        usage: Option<Usage>,
        outcome: &'static str,
    ) {
        let Some(mut current) = self.current.take() else {
            return;
        };
        current.attempt.duration_micros = micros(current.since.elapsed());
        current.attempt.error = error;
        current.attempt.usage = usage;
        let price = current.price.as_ref().zip(usage.as_ref());
        current.attempt.cost_nanos = price.map(|(price, usage)| cost_nanos(price, usage));
        self.work.metrics.attempted(&current.deployment, outcome);
        if current.attempt.error.is_none() || self.emitter.chunks() > 0 {
            self.deployment = Some(current.deployment);
        }
        self.attempts.push(current.attempt);
    }

    /// Appends the terminal; true once it is there.
    async fn conclude(mut self, outcome: Outcome) -> bool {
        let terminal = match outcome {
            Outcome::Left => return false,
            Outcome::Released => return self.release().await,
            Outcome::Completed { body, usage } => {
                let terminal = self.terminal(200, None, Some(usage));
                self.with_body(terminal, Some(body), Event::Completed).await
            }
            Outcome::Failed(error) => {
                let usage = self.usage();
                let body = self.partial();
                self.close(Some(error.clone()), usage, "failed");
                let terminal = self.terminal(error.status, Some(error), usage);
                self.with_body(terminal, body, Event::Failed).await
            }
            Outcome::Cancelled => {
                let reason = self.work.cancels.reason(self.task.request.id);
                let error = ErrorBody::cancelled(reason.as_deref().unwrap_or("asked for"));
                let usage = self.usage();
                let body = self.partial();
                self.close(Some(error.clone()), usage, "cancelled");
                let terminal = self.terminal(error.status, Some(error), usage);
                self.with_body(terminal, body, Event::Cancelled).await
            }
            Outcome::Expired => {
                let error = ErrorBody::expired();
                let usage = self.usage();
                let body = self.partial();
                self.close(Some(error.clone()), usage, "expired");
                let terminal = self.terminal(error.status, Some(error), usage);
                self.with_body(terminal, body, Event::Expired).await
            }
        };
        self.emitter.event(terminal);
        let rest = self.rest.take();
        let appended = tokio::select! {
            biased;
            appended = self.emitter.flush() => appended,
            never = read_on(rest) => match never {},
        };
        match appended {
            Ok(()) => debug!("request ended"),
            Err(unfit) => self.fall_back(unfit).await,
        }
        true
    }

    /// Gives a started run back, for anybody to take over at once.
    async fn release(&mut self) -> bool {
        if self.started {
            self.close(None, None, "released");
            self.emitter.event(Event::Released(Sign {
                run: self.emitter.run(),
                at: Timestamp::now(),
            }));
            if let Err(unfit) = self.emitter.flush().await {
                warn!(error = %unfit, "a run could not be given back");
            }
        }
        false
    }

    /// What the tokens that came in the call in progress amount to; without one, those of the
    /// last call whose text was shown.
    fn usage(&self) -> Option<Usage> {
        match &self.current {
            Some(_) => Some(self.assembly.usage()),
            None => self.attempts.iter().rev().find_map(|attempt| attempt.usage),
        }
    }

    /// The part of the answer that came.
    fn partial(&self) -> Option<Bytes> {
        if self.emitter.chunks() == 0 || self.assembly.is_empty() {
            return None;
        }
        Some(self.assembly.completion(&self.assembly.usage()))
    }

    /// Cost of all attempts; none when no price is known.
    fn cost(&self) -> Option<i64> {
        let costs = self
            .attempts
            .iter()
            .filter_map(|attempt| attempt.cost_nanos);
        costs.reduce(i64::saturating_add)
    }

    fn terminal(
        &mut self,
        status: i32,
        error: Option<ErrorBody>,
        usage: Option<Usage>,
    ) -> Terminal {
        Terminal {
            run: self.emitter.run(),
            at: Timestamp::now(),
            status,
            body: None,
            partial: false,
            chunks: self.emitter.chunks(),
            error,
            usage,
            cost_nanos: self.cost(),
            deployment: self.deployment.as_deref().map(str::to_owned),
            config_version: self.started.then(|| self.models.version.clone()),
            attempts: std::mem::take(&mut self.attempts),
        }
    }

    /// Puts the body into the terminal; a large one is kept in object storage before.
    async fn with_body(
        &mut self,
        mut terminal: Terminal,
        body: Option<Bytes>,
        event: fn(Terminal) -> Event,
    ) -> Event {
        if let Some(bytes) = body {
            terminal.partial = terminal.error.is_some();
            terminal.body = Some(keep(self.work, &self.task.request, terminal.run, bytes).await);
        }
        event(terminal)
    }

    /// The answer can never be appended: a small error takes its place, and if that cannot
    /// either, a dead letter does.
    async fn fall_back(&mut self, unfit: Unfit) {
        warn!(error = %unfit, "an answer cannot be appended as it is");
        if matches!(unfit, Unfit::TooLarge) {
            let chunks = self.emitter.appended_chunks();
            self.emitter.keep_beginnings();
            let mut terminal = self.terminal(500, Some(ErrorBody::internal()), None);
            terminal.chunks = chunks;
            self.emitter.event(Event::Failed(terminal));
            if self.emitter.flush().await.is_ok() {
                return;
            }
        }
        self.work
            .set_request_aside(&self.task.request, Reason::Unanswerable, unfit.to_string())
            .await;
    }
}

/// The body as it goes into the terminal; a large one waits for object storage.
async fn keep(work: &Work, request: &Request, run: Run, bytes: Bytes) -> Body {
    if bytes.len() <= runtime::objects::INLINE_BYTES_MAX {
        return Body::Inline(bytes);
    }
    let mut told = false;
    loop {
        let kept = work
            .objects
            .store(
                &request.tenant,
                request.id,
                request.accepted_at,
                Kind::Answer(run),
                bytes.clone(),
            )
            .await;
        match kept {
            Ok(body) => return body,
            Err(
                error @ (ObjectsError::Unavailable(_)
                | ObjectsError::Refused { .. }
                | ObjectsError::Missing { .. }
                | ObjectsError::Damaged { .. }),
            ) => {
                if !told {
                    warn!(%error, "a large answer waits for object storage");
                    told = true;
                }
                tokio::time::sleep(STORE_RETRY).await;
            }
        }
    }
}

/// Ends a request whose takeover its policy forbids, or that killed too many processes.
pub(crate) async fn refuse_takeover(work: &Work, task: &Task, prior: &Prior, error: ErrorBody) {
    let mut emitter = Emitter::new(
        &work.channel,
        &task.request,
        prior.run,
        task.traceparent.as_ref(),
    );
    let at = Timestamp::now();
    if !prior.given_up {
        emitter.event(Event::Abandoned(Abandoned {
            run: prior.run,
            at,
            usage: prior.usage(),
        }));
    }
    emitter.event(Event::Failed(Terminal {
        run: prior.run,
        at,
        status: error.status,
        body: None,
        partial: false,
        chunks: prior.chunks,
        error: Some(error),
        usage: Some(prior.usage()),
        cost_nanos: None,
        deployment: None,
        config_version: None,
        attempts: Vec::new(),
    }));
    if let Err(unfit) = emitter.flush().await {
        work.set_request_aside(&task.request, Reason::Unanswerable, unfit.to_string())
            .await;
    }
}

/// Reads the end of the body of a call that answered: then its connection can serve the next.
async fn read_on(rest: Option<Box<dyn Calling>>) -> Infallible {
    if let Some(mut calling) = rest {
        std::future::poll_fn(|context| calling.poll_rest(context)).await;
    }
    std::future::pending().await
}

/// The span of a call to a provider.
pub(crate) fn call_span(deployment: &str, attempt: usize) -> Span {
    info_span!("call", deployment, attempt)
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
