//! Orders to whichever process runs a request. Topic `control`, compacted, keyed by
//! request id, read from the start by every processor before it is ready.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::framing::{Format, Record};
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

impl Record for Cancel {
    const SUBJECT: &'static str = "lockgate.cancel";
    const SCHEMA: &'static str = include_str!("../avro/cancel.avsc");

    fn format() -> &'static Format {
        static FORMAT: LazyLock<Format> = LazyLock::new(|| Format::of(Cancel::SCHEMA));
        &FORMAT
    }
}
