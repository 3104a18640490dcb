//! Providers over HTTP: what is the same whatever they speak.

mod call;
mod connections;

use std::sync::Arc;

use ::http::header::{ACCEPT, CONTENT_TYPE};
use ::http::{HeaderValue, Method};
use futures::future::BoxFuture;
use schemas::dialect::openai;
use schemas::header;
use schemas::request::Endpoint;
use tokio::time::Instant;
use url::Url;

use super::failure::Failure;
use super::keys::Keys;
use super::operation::Operation;
use super::told::Told;
use super::wire::{Whole, Wire, under};
use super::{Adapter, Ask, Calling};
use crate::router::Readiness;
use call::Call;
pub(crate) use connections::Connections;

const REQUEST_ID: &str = "x-request-id";
const EVENT_STREAM: &str = "text/event-stream";
const JSON: &str = "application/json";

/// One model at one provider.
#[derive(Debug)]
pub(crate) struct Http {
    connections: Connections,
    wire: Arc<dyn Wire>,
    keys: Keys,
    /// The list of the provider's models.
    models: Url,
    /// The provider's models go on with an assistant message that comes last.
    continues: bool,
}

impl Http {
    /// The deployment that `wire` speaks to.
    pub(crate) fn new(
        connections: Connections,
        wire: Arc<dyn Wire>,
        keys: Keys,
        base_url: &Url,
        continues: bool,
    ) -> Self {
        Self {
            connections,
            wire,
            keys,
            models: under(base_url, "/models"),
            continues,
        }
    }
}

impl Adapter for Http {
    fn serves(&self, endpoint: Endpoint) -> bool {
        self.wire.serves(endpoint)
    }

    fn readiness(&self, now: Instant) -> Readiness {
        self.keys.readiness(now)
    }

    fn can_continue(&self) -> bool {
        self.continues && self.wire.takes_prefix()
    }

    fn probe(&self) -> Option<BoxFuture<'static, bool>> {
        let mut request = reqwest::Request::new(Method::GET, self.models.clone());
        let chosen = self.keys.choose(Instant::now());
        let headers = request.headers_mut();
        self.wire.headers(chosen.credential.as_ref(), headers);
        let (client, place) = self.connections.enter();
        Some(Box::pin(async move {
            let response = client.execute(request).await;
            drop(place);
            // One that refuses our key or has no such list is there all the same.
            response.is_ok_and(|response| !response.status().is_server_error())
        }))
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
        Box::new(Call::begin(self, request, stream, outgoing.reader, chosen))
    }
}

#[cfg(test)]
mod tests {
    use runtime::upstream::Policy;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::adapters::wire;
    use crate::samples;

    /// A deployment at `localhost`, called as `policy` has it.
    fn deployment(port: u16, policy: Option<Policy>) -> Http {
        let settings = samples::http(&format!("http://localhost:{port}/v1"));
        let connections = Connections::new(settings.timeouts.connect, policy).unwrap();
        let wire = wire::of(&settings, "m");
        let keys = Keys::new(Vec::new());
        Http::new(connections, wire, keys, &settings.base_url, false)
    }

    #[tokio::test]
    async fn a_probe_goes_where_calls_may_go_and_nowhere_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let probe = |policy| deployment(port, policy).probe().unwrap();
        let answer = async || {
            let (mut connection, _) = listener.accept().await.unwrap();
            assert!(connection.read(&mut [0; 1024]).await.unwrap() > 0);
            let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            connection.write_all(answer).await.unwrap();
            connection
        };
        tokio::select! {
            is_there = probe(Some(Policy::default())) => assert!(!is_there),
            _ = answer() => panic!("the server saw a connection"),
        }
        let policy = Policy::new(&["localhost".parse().unwrap()]);
        for policy in [None, Some(policy)] {
            let (is_there, _connection) = tokio::join!(probe(policy), answer());
            assert!(is_there);
        }
    }
}
