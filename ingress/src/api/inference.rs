//! Operations that a model answers: accept, wait, answer whole or streamed.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::StatusCode;
use hyper::body::Incoming;
use runtime::codec::Codec;
use runtime::log::AppendError;
use runtime::objects::Objects;
use runtime::store::keys::{Key, KeySnapshot};
use runtime::telemetry::{self, Chain};
use schemas::event::{ErrorBody, Terminal};
use schemas::fold::End;
use schemas::header::TRACEPARENT;
use schemas::id::RequestId;
use schemas::request::{Body, Lane, OnTakeover, Request};
use schemas::time::Timestamp;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::admission::{self, Admission};
use crate::answer::Answer;
use crate::body::{self, Limits};
use crate::call::Call;
use crate::canceller::{Canceller, HangUp};
use crate::directives::Directives;
use crate::forecast::Forecast;
use crate::metrics::Metrics;
use crate::models::InForce;
use crate::operation::{Asked, Operation};
use crate::publisher::{PublishError, Publisher};
use crate::reply::{self, Reply};
use crate::resume::ResumeTokens;
use crate::shape::Shape;
use crate::sse::{Begin, EventStream, Patience};
use crate::waiters::Waiters;
use crate::{auth, error};

/// Past the deadline, processors have this long to say that it passed.
const GIVE_UP_AFTER: Duration = Duration::from_secs(2);

/// What a request for a model's answer passes through.
#[derive(Debug)]
pub(crate) struct Inference {
    pub(crate) keys: KeySnapshot,
    pub(crate) models: InForce,
    pub(crate) admission: Arc<Admission>,
    pub(crate) forecast: Forecast,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) publisher: Publisher,
    pub(crate) canceller: Canceller,
    pub(crate) codec: Codec,
    pub(crate) objects: Objects,
    pub(crate) tokens: Arc<OnceLock<ResumeTokens>>,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    pub(crate) request_timeout: Duration,
    pub(crate) silence_max: Duration,
    pub(crate) on_takeover: OnTakeover,
}

/// A request on its way: what must be kept while somebody waits for it.
struct Waiting {
    answer: Answer,
    shape: Shape,
    hang_up: HangUp,
    place: admission::Place,
    give_up_at: Instant,
}

/// What was decided before a request is written down.
struct Accepting {
    id: RequestId,
    operation: Operation,
    key: Arc<Key>,
    asked: Asked,
    accepted_at: Timestamp,
    deadline: Timestamp,
    attributes: BTreeMap<String, String>,
    /// The trace that the client is in, as it says.
    traceparent: Option<String>,
}

impl Inference {
    /// Accepts the request, waits, and answers. Nothing is answered before the request is durable.
    ///
    /// # Cancel safety
    /// Dropping the future is the client's hang-up: the request is cancelled if its key says so.
    pub(crate) async fn create(
        &self,
        call: &Call,
        operation: Operation,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Result<Reply, ErrorBody> {
        let key = auth::caller(headers, &self.keys)?;
        let directives = Directives::read(headers, key.role, self.request_timeout)?;
        let place = self
            .admission
            .enter()
            .map_err(|full| ErrorBody::overloaded(full.retry_after))?;
        let (bytes, held) = body::read(body, self.limits, &self.admission).await?;
        let asked = operation.parse(&bytes)?;
        let queued = {
            let models = self.models.load();
            let Some(model) = models.resolve(&asked.model) else {
                return Err(ErrorBody::model_not_found(&asked.model));
            };
            self.forecast
                .enter(model, &key.tenant, directives.timeout)
                .map_err(|too_long| error::too_long(too_long.retry_after))?
        };

        let traceparent = headers
            .get(TRACEPARENT)
            .and_then(|value| value.to_str().ok());
        let accepted_at = Timestamp::now();
        let accepting = Accepting {
            id: call.id,
            operation,
            key,
            asked,
            accepted_at,
            deadline: accepted_at.plus(directives.timeout),
            attributes: directives.attributes,
            traceparent: traceparent.map(str::to_owned),
        };
        let give_up_at = Instant::now() + directives.timeout + GIVE_UP_AFTER;
        let mut waiting = self
            .accept(call, &accepting, place, bytes, give_up_at)
            .await?;
        waiting.answer.keep_in_line(queued);
        drop(held);
        if accepting.asked.stream {
            Ok(self.streamed(waiting).await)
        } else {
            Ok(self.whole(waiting).await)
        }
    }

    /// Writes the request down; returns once it is durable and somebody waits for its events.
    async fn accept(
        &self,
        call: &Call,
        accepting: &Accepting,
        place: admission::Place,
        bytes: Bytes,
        give_up_at: Instant,
    ) -> Result<Waiting, ErrorBody> {
        let Accepting { id, key, .. } = accepting;
        let (id, deadline) = (*id, accepting.deadline);
        // Before the append: the answer may come before its append is confirmed.
        let inflow = self.waiters.register(id, call.connection.clone());
        let mut answer = Answer::new(id, inflow, self.codec.clone(), self.metrics.clone());
        let body = self
            .publisher
            .body(&key.tenant, id, accepting.accepted_at, bytes)
            .await
            .map_err(|cause| refused(id, &cause))?;
        let request = self.record(accepting, body);
        let traceparent = telemetry::traceparent_or(accepting.traceparent.as_deref());

        // From the first poll of the append on, a hang-up has something to cancel.
        let mut hang_up = self.canceller.on_hang_up(key.on_disconnect, id, deadline);
        let began = Instant::now();
        let outcome = tokio::select! {
            outcome = self.publisher.publish(&request, traceparent.map(Bytes::from)) => outcome,
            why = answer.closed() => {
                hang_up.disarm();
                self.canceller.cancel(id, deadline, "accept unknown");
                return Err(error::closed_before_accept(why));
            }
        };
        match outcome {
            Ok(()) => {}
            Err(cause) => {
                hang_up.disarm();
                if let PublishError::Append(AppendError::Unknown { .. }) = &cause {
                    self.canceller.cancel(id, deadline, "accept unknown");
                }
                return Err(refused(id, &cause));
            }
        }
        self.metrics.appended(began.elapsed());
        debug!(request.id = %id, model = %request.model, tenant = %request.tenant, "request accepted");
        Ok(Waiting {
            answer,
            shape: call.shape,
            hang_up,
            place,
            give_up_at,
        })
    }

    fn record(&self, accepting: &Accepting, body: Body) -> Request {
        let key = &accepting.key;
        Request {
            id: accepting.id,
            tenant: key.tenant.clone(),
            key_id: key.id.clone(),
            endpoint: accepting.operation.endpoint(),
            dialect: accepting.operation.dialect(),
            model: accepting.asked.model.clone(),
            lane: Lane::Interactive,
            stream: accepting.asked.stream,
            accepted_at: accepting.accepted_at,
            deadline: accepting.deadline,
            on_disconnect: key.on_disconnect,
            on_takeover: key.on_takeover.unwrap_or(self.on_takeover),
            shadow_of: None,
            body,
            attributes: accepting.attributes.clone(),
        }
    }

    /// Waits for the end and answers with it.
    async fn whole(&self, waiting: Waiting) -> Reply {
        let Waiting {
            mut answer,
            shape,
            mut hang_up,
            place: _place,
            give_up_at,
        } = waiting;
        let id = answer.id();
        let ended = tokio::time::timeout_at(give_up_at, answer.end()).await;
        hang_up.disarm();
        let outcome = match ended {
            Err(_) => Err(ErrorBody::expired()),
            Ok(Err(lost)) => Err(answer.lost(lost)),
            Ok(Ok((End::Completed, terminal))) => self.completed(id, terminal).await,
            Ok(Ok((end, terminal))) => Err(error::ended(end, &terminal)),
        };
        let mut reply = outcome.unwrap_or_else(|error| reply::error(&error, shape, id));
        answer.facts().write(reply.headers_mut());
        reply
    }

    async fn completed(&self, id: RequestId, terminal: Terminal) -> Result<Reply, ErrorBody> {
        let status = u16::try_from(terminal.status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok())
            .unwrap_or(StatusCode::OK);
        let bytes = match terminal.body {
            Some(Body::Inline(bytes)) => bytes,
            Some(claim @ Body::Claim(_)) => self.objects.load(&claim).await.map_err(|cause| {
                warn!(request.id = %id, error = %cause, "answer could not be fetched");
                error::objects(&cause)
            })?,
            None => {
                warn!(request.id = %id, "completed without an answer");
                return Err(ErrorBody::internal());
            }
        };
        Ok(reply::json_bytes(status, bytes))
    }

    /// Waits for the first token or the end, and answers with a stream or an error.
    async fn streamed(&self, waiting: Waiting) -> Reply {
        let (id, shape) = (waiting.answer.id(), waiting.shape);
        let mut events = EventStream::new(
            waiting.answer,
            waiting.shape,
            waiting.hang_up,
            waiting.place,
            Arc::clone(&self.tokens),
            Patience {
                silence_max: self.silence_max,
                give_up_at: waiting.give_up_at,
            },
            self.metrics.clone(),
        );
        match events.begin().await {
            Begin::Stream => {
                let facts = events.facts().clone();
                let mut reply = reply::events(events);
                facts.write(reply.headers_mut());
                reply
            }
            Begin::Refused(error) => {
                let mut reply = reply::error(&error, shape, id);
                events.facts().write(reply.headers_mut());
                reply
            }
        }
    }
}

fn refused(id: RequestId, cause: &PublishError) -> ErrorBody {
    let error = Chain(cause);
    match cause {
        // The log itself says that it is down, once; here it would be said for every request.
        PublishError::Append(AppendError::Unavailable { .. }) => {
            debug!(request.id = %id, %error, "request not accepted");
        }
        PublishError::Append(_) | PublishError::Body(_) | PublishError::Encode(_) => {
            warn!(request.id = %id, %error, "request not accepted");
        }
    }
    error::publish(cause)
}
