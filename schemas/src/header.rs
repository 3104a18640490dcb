//! Names of the record headers.

/// W3C trace context of the span that appended the record.
pub const TRACEPARENT: &str = "traceparent";
/// The request id as text, so that readers can skip a record without decoding it.
pub const REQUEST_ID: &str = "request-id";
/// Media type of the value: [`AVRO`].
pub const CONTENT_TYPE: &str = "content-type";
/// Avro in Confluent framing.
pub const AVRO: &str = "application/vnd.confluent.avro";
