//! Providers over HTTP: what is the same whatever they speak.

mod call;

use std::sync::Arc;
use std::time::Duration;

use ::http::header::{ACCEPT, CONTENT_TYPE};
use ::http::{HeaderValue, Method};
use reqwest::redirect::Policy;
use schemas::dialect::openai;
use schemas::header;
use schemas::request::Endpoint;
use tokio::time::Instant;

use super::failure::Failure;
use super::keys::Keys;
use super::operation::Operation;
use super::told::Told;
use super::wire::{Whole, Wire};
use super::{Adapter, Ask, Calling, Trace};
use crate::router::Readiness;
use call::Call;

/// Idle connections are closed before the usual servers and proxies do.
const IDLE: Duration = Duration::from_secs(55);
/// HTTP/2 has one connection for many calls; one whose other end is gone must not take in the next ones.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(5);
const REQUEST_ID: &str = "x-request-id";
const EVENT_STREAM: &str = "text/event-stream";
const JSON: &str = "application/json";

/// One model at one provider.
#[derive(Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
    wire: Arc<dyn Wire>,
    keys: Keys,
}

/// A pooled client for one provider; HTTP/2 where the server offers it by TLS.
///
/// # Errors
/// When the TLS backend cannot be set up.
pub(crate) fn client(connect: Duration) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .connect_timeout(connect)
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .tcp_nodelay(true)
        .pool_idle_timeout(IDLE)
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PONG_WITHIN)
        .user_agent(concat!("lockgate/", env!("CARGO_PKG_VERSION")))
        .build()
}

impl Http {
    /// The deployment that `wire` speaks to.
    pub(crate) fn new(client: reqwest::Client, wire: Arc<dyn Wire>, keys: Keys) -> Self {
        Self { client, wire, keys }
    }
}

impl Adapter for Http {
    fn serves(&self, endpoint: Endpoint) -> bool {
        self.wire.serves(endpoint)
    }

    fn readiness(&self, now: Instant) -> Readiness {
        self.keys.readiness(now)
    }

    fn call(&self, ask: &Ask<'_>) -> Box<dyn Calling> {
        if let Operation::CountTokens(asked) = ask.operation
            && !self.wire.counts_tokens()
        {
            let tokens = openai::estimate_tokens(asked.prompt_bytes);
            return Box::new(Told::answer(Whole::Tokens(tokens)));
        }
        let outgoing = match self.wire.request(ask) {
            Ok(outgoing) => outgoing,
            Err(error) => return Box::new(Told::failed(Failure::unfit(error))),
        };
        let chosen = self.keys.choose(Instant::now());
        if chosen.is_missing() {
            return Box::new(Told::failed(Failure::keyless()));
        }
        let stream = ask.operation.stream();
        let mut request = reqwest::Request::new(Method::POST, outgoing.url);
        *request.body_mut() = Some(outgoing.body.into());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        let accept = if stream { EVENT_STREAM } else { JSON };
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if let Ok(id) = HeaderValue::try_from(ask.id.to_string()) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(traceparent) = &ask.traceparent {
            headers.insert(header::TRACEPARENT, traceparent.clone());
        }
        self.wire.headers(chosen.credential.as_ref(), headers);
        for (name, value) in outgoing.headers {
            headers.insert(name, value);
        }
        let trace = Trace {
            key_name: chosen.key.as_ref().map(|key| Arc::clone(&key.name)),
            ..Trace::default()
        };
        Box::new(Call::new(
            Box::pin(self.client.execute(request)),
            stream,
            Arc::clone(&self.wire),
            outgoing.reader,
            self.keys.clone(),
            chosen,
            trace,
        ))
    }
}
