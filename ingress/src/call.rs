//! One HTTP call: what every route knows of it.

use std::time::Instant;

use schemas::id::RequestId;
use tokio_util::sync::CancellationToken;

use crate::shape::Shape;

/// A call from its head to its answer.
#[derive(Debug)]
pub(crate) struct Call {
    /// Names the call in its answer, and the request that it makes, if it makes one.
    pub(crate) id: RequestId,
    /// When its head had been read.
    pub(crate) began: Instant,
    /// What its answer looks like.
    pub(crate) shape: Shape,
    /// Cancelled, it closes the client's connection.
    pub(crate) connection: CancellationToken,
}
