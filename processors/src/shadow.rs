//! Copies of some requests for another model, whose answers go to analytics only.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use runtime::log::{Durability, Place, Record};
use schemas::header;
use schemas::id::RequestId;
use schemas::request::{Lane, OnDisconnect, OnTakeover, Request};
use schemas::topic::{self, ReplyPlace, ReplyTopic};
use tracing::warn;

use crate::router::hash;
use crate::work::Work;

/// Whether the request is among the share that is copied; the same each time it is asked.
pub(crate) fn is_mirrored(id: RequestId, share: f64) -> bool {
    let drawn = hash::fraction(hash::mix(hash::bytes(id.to_string().as_bytes()), 1));
    drawn <= share
}

/// Appends a copy of `request` for `model`. It is done without when the log does not take it.
pub(crate) async fn mirror(
    work: Arc<Work>,
    request: Request,
    model: String,
    traceparent: Option<Bytes>,
) {
    let copy = copy(&work, request, model);
    let value = match work.channel.codec.encode(&copy) {
        Ok(value) => value,
        Err(error) => {
            warn!(%error, "a copy for a shadow does not fit its schema");
            return;
        }
    };
    let key = Bytes::from(copy.id.to_string());
    let mut headers = vec![
        (header::REQUEST_ID.into(), key.clone()),
        (
            header::CONTENT_TYPE.into(),
            Bytes::from_static(header::AVRO.as_bytes()),
        ),
    ];
    if let Some(traceparent) = traceparent {
        headers.push((header::TRACEPARENT.into(), traceparent));
    }
    let record = Record {
        key,
        headers,
        value,
    };
    let appended = work
        .log
        .append(
            copy.lane.topic(),
            Place::ByKey,
            record,
            Durability::Buffered,
        )
        .await;
    work.metrics.mirrored(appended.is_ok());
    if let Err(error) = appended {
        warn!(%error, "a copy for a shadow could not be appended");
    }
}

fn copy(work: &Work, request: Request, model: String) -> Request {
    let partitions = work.log.partitions(topic::RESPONSES_BACKGROUND).max(1);
    Request {
        id: RequestId::new(ReplyPlace {
            topic: ReplyTopic::Background,
            partition: request.id.reply().partition % partitions,
        }),
        model,
        lane: Lane::Background,
        on_disconnect: OnDisconnect::Drain,
        // Nobody waits for it: it is not worth a second call.
        on_takeover: OnTakeover::Fail,
        shadow_of: Some(request.id),
        attributes: BTreeMap::new(),
        ..request
    }
}
