//! The settings of the door.

use std::time::Duration;

use runtime::config::{Config, Model};
use schemas::request::OnTakeover;

/// Connections beyond those that wait for an answer: keep-alive ones, and ones that send.
const IDLE_CONNECTIONS_MAX: usize = 10_000;

/// What the door needs to know; [`Settings::from`] takes it from the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The models that clients may ask for, in the order they are listed.
    pub models: Vec<Model>,
    /// Partition of `responses` to tail; none: any.
    pub reply_partition: Option<i32>,
    /// Longest that a request may take over all attempts; the header `lockgate-timeout` lowers it.
    pub request_timeout: Duration,
    /// Requests waiting for an answer at once.
    pub requests_max: usize,
    /// Largest request body in bytes.
    pub body_bytes_max: usize,
    /// Bytes of request bodies held at once, over all requests.
    pub bodies_bytes_max: usize,
    /// Bytes of an answer held for a client that does not read; past it its connection is closed.
    pub stream_buffer_max: usize,
    /// Longest silence on a stream before a comment tells the client that it is still served.
    pub silence_max: Duration,
    /// What a takeover does, where the key does not say.
    pub on_takeover: OnTakeover,
    /// Longest that requests in flight may take after the stop.
    pub grace: Duration,
    /// Open connections at once; more are answered with 503 and closed.
    pub connections_max: usize,
    /// Largest head of a request in bytes.
    pub head_bytes_max: usize,
    /// From the wish for a request (a new or an idle connection) to the end of its head.
    pub head_timeout: Duration,
    /// From the head of a request to the end of its body.
    pub body_timeout: Duration,
    /// Longest that the network may take nothing of an answer before its connection is closed.
    pub write_timeout: Duration,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let server = &config.server;
        let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let body_bytes_max = bytes(server.body_bytes_max);
        Self {
            models: config.models.clone(),
            reply_partition: config.replies.partition,
            request_timeout: server.request_timeout,
            requests_max: server.requests_max,
            body_bytes_max,
            bodies_bytes_max: body_bytes_max.saturating_mul(4).max(256 * 1024 * 1024),
            stream_buffer_max: bytes(server.stream_buffer_max),
            silence_max: Duration::from_secs(10),
            on_takeover: config.processors.on_takeover,
            grace: config.shutdown.grace,
            connections_max: server.requests_max.saturating_add(IDLE_CONNECTIONS_MAX),
            head_bytes_max: 32 * 1024,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
        }
    }
}
