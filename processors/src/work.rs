//! What the work on any request shares.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use runtime::log::{AppendError, Delivery, Durability, Log, Place, Record};
use runtime::objects::Objects;
use schemas::dead_letter::DeadLetter;
use schemas::event::{ErrorBody, Run};
use schemas::header;
use schemas::id::RequestId;
use schemas::request::{Lane, Request};
use schemas::time::Timestamp;
use schemas::topic;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::GROUP;
use crate::adoption::Prior;
use crate::cancel::Cancels;
use crate::config::Models;
use crate::decode::Decoder;
use crate::emitter::Channel;
use crate::held::{Over, Share};
use crate::metrics::Metrics;
use crate::runs::{Hold, Runs};

/// Bounds of what the client of a refused request is told; beyond a minute an estimate means nothing.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Shared by all requests of a process.
#[derive(Debug)]
pub(crate) struct Work {
    /// The log.
    pub(crate) log: Log,
    /// Where events go.
    pub(crate) channel: Channel,
    /// Reads records.
    pub(crate) decoder: Decoder,
    /// Large bodies.
    pub(crate) objects: Objects,
    /// The models in force.
    pub(crate) models: Arc<ArcSwap<Models>>,
    /// Orders to stop.
    pub(crate) cancels: Cancels,
    /// What is in hand.
    pub(crate) runs: Runs,
    /// What is done beside the requests, and has to end before the process does.
    pub(crate) tasks: TaskTracker,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Held by a request that runs alone because earlier runs of it died with their process.
    pub(crate) alone: tokio::sync::Mutex<()>,
}

/// A request in hand, with what is known of its past.
#[derive(Debug)]
pub(crate) struct Task {
    /// The request.
    pub(crate) request: Request,
    /// Trace context of the record.
    pub(crate) traceparent: Option<Bytes>,
    /// Its place in the registry.
    pub(crate) hold: Hold,
    /// Its share of the bound.
    pub(crate) share: Share,
    /// The run that is taken over; none when none ever began.
    pub(crate) prior: Option<Prior>,
    /// The current run, known also when the work on it comes to grief.
    pub(crate) run: Mutex<Run>,
    /// The error to end it with instead of working on it; none: work.
    pub(crate) refusal: Option<ErrorBody>,
}

impl Task {
    /// A task for `request` out of the record that brought it.
    pub(crate) fn new(
        request: Request,
        traceparent: Option<Bytes>,
        hold: Hold,
        share: Share,
        prior: Option<Prior>,
    ) -> Self {
        let run = prior.as_ref().map_or(Run::NONE, |prior| prior.run);
        Self {
            request,
            traceparent,
            hold,
            share,
            prior,
            run: Mutex::new(run),
            refusal: None,
        }
    }
}

/// Why a record was set aside, as a metric's label.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reason {
    /// Its bytes are no record.
    Undecodable,
    /// Its runs died with their process too often.
    Poison,
    /// Its answer can never be appended.
    Unanswerable,
    /// The work on it panicked.
    Panicked,
}

impl Reason {
    fn label(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::Poison => "poison",
            Self::Unanswerable => "unanswerable",
            Self::Panicked => "panicked",
        }
    }
}

impl Work {
    /// What the client of a request is told that cannot be held, with the time that its model needs for what waits now.
    pub(crate) fn refusal(&self, over: Over, model: &str) -> ErrorBody {
        let models = self.models.load();
        let deployments = models.get(model).map(|model| &model.deployments);
        let waits = deployments.into_iter().flatten().map(|deployment| {
            let wait = deployment.gate.snapshot().lanes[Lane::Interactive as usize].wait_micros;
            Duration::from_micros(wait.max(0).unsigned_abs())
        });
        let wait = waits.min().unwrap_or_default();
        let retry_after = wait.clamp(RETRY_AFTER.0, RETRY_AFTER.1);
        self.metrics.refused(over);
        match over {
            Over::Tenant => ErrorBody::rate_limited(
                retry_after,
                "too many of your requests wait for their turn: try again later",
            ),
            Over::Model => ErrorBody::overloaded(retry_after),
        }
    }

    /// Sets a delivery aside and resolves once the dead letter is durable.
    pub(crate) async fn set_aside(
        &self,
        delivery: &Delivery,
        id: Option<RequestId>,
        schema_id: Option<i32>,
        reason: Reason,
        text: String,
    ) {
        self.bury(
            DeadLetter {
                id,
                topic: delivery.topic.to_string(),
                partition: delivery.position.partition,
                offset: delivery.position.offset,
                schema_id,
                key: delivery.record.key.clone(),
                value: delivery.record.value.clone(),
                group: GROUP.to_owned(),
                reason: text,
                at: Timestamp::now(),
            },
            reason,
        )
        .await;
    }

    /// Sets aside a request whose record is not at hand any more.
    pub(crate) async fn set_request_aside(&self, request: &Request, reason: Reason, text: String) {
        let value = self.channel.codec.encode(request).unwrap_or_default();
        self.bury(
            DeadLetter {
                id: Some(request.id),
                topic: request.lane.topic().to_owned(),
                partition: -1,
                offset: -1,
                schema_id: None,
                key: Bytes::from(request.id.to_string()),
                value,
                group: GROUP.to_owned(),
                reason: text,
                at: Timestamp::now(),
            },
            reason,
        )
        .await;
    }

    async fn bury(&self, mut letter: DeadLetter, reason: Reason) {
        warn!(
            topic = letter.topic,
            partition = letter.partition,
            offset = letter.offset,
            request.id = letter.id.map(tracing::field::display),
            reason = letter.reason,
            "record set aside as a dead letter"
        );
        self.metrics.dead_lettered(reason.label());
        let mut pause = Duration::from_millis(50);
        loop {
            let value = match self.channel.codec.encode(&letter) {
                Ok(value) => value,
                Err(error) => {
                    error!(%error, "a dead letter does not fit its schema");
                    return;
                }
            };
            let record = Record {
                key: letter.key.clone(),
                headers: vec![(
                    header::CONTENT_TYPE.into(),
                    Bytes::from_static(header::AVRO.as_bytes()),
                )],
                value,
            };
            let appended = self
                .log
                .append(
                    topic::DEAD_LETTERS,
                    Place::ByKey,
                    record,
                    Durability::Durable,
                )
                .await;
            match appended {
                Ok(_) => return,
                Err(AppendError::TooLarge { .. }) if !letter.value.is_empty() => {
                    letter
                        .reason
                        .push_str("; the value is too large to be kept");
                    letter.value = Bytes::new();
                }
                Err(error @ (AppendError::TooLarge { .. } | AppendError::NoSuchPlace { .. })) => {
                    error!(%error, "a dead letter cannot be appended");
                    return;
                }
                Err(AppendError::Unavailable { .. } | AppendError::Unknown { .. }) => {
                    self.metrics.append_retried();
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
            }
        }
    }
}
