//! What nobody could read or finish.

use std::sync::LazyLock;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::framing::{Format, Record};
use crate::id::RequestId;
use crate::time::Timestamp;

/// A record set aside: raw bytes, where they came from and why. Topic `dead-letters`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The request, when it could be told.
    pub id: Option<RequestId>,
    /// Topic of the original record.
    pub topic: String,
    /// Partition of the original record.
    pub partition: i32,
    /// Offset of the original record.
    pub offset: i64,
    /// Confluent schema id of the value, when it had one.
    pub schema_id: Option<i32>,
    /// The record's key as it was.
    #[serde(with = "crate::framing::avro_bytes")]
    pub key: Bytes,
    /// The record's value as it was.
    #[serde(with = "crate::framing::avro_bytes")]
    pub value: Bytes,
    /// Consumer group that set it aside.
    pub group: String,
    /// Why, in words.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

impl Record for DeadLetter {
    const SUBJECT: &'static str = "lockgate.dead-letter";
    const SCHEMA: &'static str = include_str!("../avro/dead-letter.avsc");

    fn format() -> &'static Format {
        static FORMAT: LazyLock<Format> = LazyLock::new(|| Format::of(DeadLetter::SCHEMA));
        &FORMAT
    }
}
