//! Orders to whichever process runs a request. Topic `control`, compacted, keyed by
//! request id, read from the start by every processor before it is ready.

use serde::{Deserialize, Serialize};

use crate::id::RequestId;
use crate::time::Timestamp;

/// Stop working on a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The request.
    pub id: RequestId,
    /// Why, in words: `client disconnected`, `accept unknown`, …
    pub reason: String,
    /// When it was asked for.
    pub at: Timestamp,
    /// The request's deadline; the order can be forgotten after it.
    pub deadline: Timestamp,
}
