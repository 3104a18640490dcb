//! The way of an accepted request onto the log.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use runtime::codec::{Codec, CodecError};
use runtime::log::{AppendError, Durability, Health, Log, Place, Record};
use runtime::objects::{Kind, Objects, ObjectsError};
use schemas::header;
use schemas::id::RequestId;
use schemas::request::{Body, Request};
use schemas::time::Timestamp;
use tokio::sync::watch;

/// Writes request records.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    log: Log,
    health: watch::Receiver<Health>,
    codec: Codec,
    objects: Objects,
}

/// Why a request is not on the log, or not known to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// It is on the log or it is not, or it certainly is not: [`AppendError`] says which.
    #[error("request was not appended")]
    Append(#[from] AppendError),
    /// Its body is too large for a record and could not be kept elsewhere.
    #[error("request body could not be stored")]
    Body(#[from] ObjectsError),
    /// The record does not fit its own schema.
    #[error("request record could not be encoded")]
    Encode(#[from] CodecError),
}

impl Publisher {
    pub(crate) fn new(log: Log, codec: Codec, objects: Objects) -> Self {
        Self {
            health: log.health(),
            log,
            codec,
            objects,
        }
    }

    /// The body as it goes into the record: large ones are kept in object storage first.
    /// With the log known down nothing is stored, since nothing would point to it.
    pub(crate) async fn body(
        &self,
        tenant: &str,
        id: RequestId,
        accepted_at: Timestamp,
        bytes: Bytes,
    ) -> Result<Body, PublishError> {
        if let Health::Down { reason } | Health::Failed { reason } = &*self.health.borrow() {
            let reason = Arc::clone(reason);
            return Err(AppendError::Unavailable { reason }.into());
        }
        let body = self
            .objects
            .store(tenant, id, accepted_at, Kind::Request, bytes)
            .await?;
        Ok(body)
    }

    /// Appends the request and resolves once it is durable.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the request is on the log.
    pub(crate) async fn publish(
        &self,
        request: &Request,
        traceparent: Option<Bytes>,
    ) -> Result<(), PublishError> {
        let name = request.id.to_string();
        let record = Record {
            headers: headers(&name, traceparent),
            value: self.codec.encode(request)?,
            key: name.into(),
        };
        self.log
            .append(
                request.lane.topic(),
                Place::ByKey,
                record,
                Durability::Durable,
            )
            .await?;
        Ok(())
    }
}

/// The headers of a record about the request named `id`.
pub(crate) fn headers(id: &str, traceparent: Option<Bytes>) -> Vec<(Arc<str>, Bytes)> {
    static REQUEST_ID: LazyLock<Arc<str>> = LazyLock::new(|| header::REQUEST_ID.into());
    static CONTENT_TYPE: LazyLock<Arc<str>> = LazyLock::new(|| header::CONTENT_TYPE.into());
    static TRACEPARENT: LazyLock<Arc<str>> = LazyLock::new(|| header::TRACEPARENT.into());

    let mut headers = Vec::with_capacity(3);
    headers.push((
        Arc::clone(&REQUEST_ID),
        Bytes::copy_from_slice(id.as_bytes()),
    ));
    headers.push((
        Arc::clone(&CONTENT_TYPE),
        Bytes::from_static(header::AVRO.as_bytes()),
    ));
    if let Some(traceparent) = traceparent {
        headers.push((Arc::clone(&TRACEPARENT), traceparent));
    }
    headers
}
