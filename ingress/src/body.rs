//! Reading request bodies within bounds of size, time and memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use schemas::event::ErrorBody;

use crate::admission::{Admission, HeldBytes};
use crate::error;

/// What is read and thrown away of a refused body, so that the client gets to read the answer
/// instead of a reset connection.
const DISCARD_BYTES_MAX: usize = 64 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Bounds of one request body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes_max: usize,
    /// From the head of the request to the last byte of its body.
    pub(crate) timeout: Duration,
}

/// The whole body, and the room it takes.
pub(crate) async fn read(
    body: &mut Incoming,
    limits: Limits,
    admission: &Arc<Admission>,
) -> Result<(Bytes, HeldBytes), ErrorBody> {
    let Limits { bytes_max, timeout } = limits;
    let announced = body.size_hint().exact().unwrap_or(0);
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    if announced > bytes_max {
        return Err(error::body_too_large(bytes_max));
    }
    let full = |full: crate::admission::Full| ErrorBody::overloaded(full.retry_after);
    let mut held = admission.hold(announced).map_err(full)?;
    let read = async {
        let mut first: Option<Bytes> = None;
        let mut all = BytesMut::new();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| error::body_cut())?.into_data() else {
                continue;
            };
            length += data.len();
            if length > bytes_max {
                return Err(error::body_too_large(bytes_max));
            }
            if length > announced {
                held.grow(data.len()).map_err(full)?;
            }
            // Most bodies come in one piece, which is passed on as it is.
            match first.take() {
                None if all.is_empty() => first = Some(data),
                None => all.extend_from_slice(&data),
                Some(start) => {
                    all.reserve(announced.max(start.len() + data.len()));
                    all.extend_from_slice(&start);
                    all.extend_from_slice(&data);
                }
            }
        }
        Ok(first.unwrap_or_else(|| all.freeze()))
    };
    let bytes = tokio::time::timeout(timeout, read)
        .await
        .map_err(|_| ErrorBody::request_timeout())??;
    Ok((bytes, held))
}

/// Reads what is left of a body and forgets it; gives up silently after a while.
pub(crate) async fn discard(mut body: Incoming, headers: &HeaderMap) {
    // A client that waits for `100 Continue` has not sent anything, and reading would ask for it.
    if body.is_end_stream() || headers.contains_key(EXPECT) {
        return;
    }
    let drain = async {
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > DISCARD_BYTES_MAX {
                return;
            }
        }
    };
    if tokio::time::timeout(DISCARD_TIMEOUT, drain).await.is_err() {
        tracing::debug!("a refused request body did not end in time");
    }
}
