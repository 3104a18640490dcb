//! A provider behind TLS that offers HTTP/2 or does not, and tells how it was called: by what version of HTTP, over which
//! connection. It speaks as much of OpenAI's chat as that takes.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The provider's model whose streams wait after their first token until as many are open as the provider was told.
pub const TOGETHER: &str = "together";

/// The text of every answer.
pub const TEXT: &str = "hello there";

/// An authority that signs certificates, made for one test.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one, which nobody trusts.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self(issuer))
    }

    /// Its certificate, as `SSL_CERT_FILE` has it.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// How a server for `localhost` accepts connections, offering `protocols` by ALPN.
    fn acceptor(&self, protocols: &[&str]) -> anyhow::Result<TlsAcceptor> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec!["localhost".to_owned()])?;
        let certificate = params.signed_by(&key, &self.0)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())?;
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().into())
            .collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// A call as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The version of HTTP.
    pub version: Version,
    /// Number of its connection, from 0 in the order of their handshakes.
    pub connection: usize,
}

/// A running provider; it ends when it is dropped.
#[derive(Debug)]
pub struct Secure {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    together: Barrier,
    connections: AtomicUsize,
    calls: Mutex<Vec<Seen>>,
}

impl Secure {
    /// Starts one with a certificate of `authority` for `localhost`, which offers `protocols` (`h2`, `http/1.1`) by ALPN and
    /// lets streams of [`TOGETHER`] end when `together` of them are open.
    ///
    /// # Errors
    /// When no certificate can be made, or no port is free.
    pub async fn start(
        authority: &Authority,
        protocols: &[&str],
        together: usize,
    ) -> anyhow::Result<Self> {
        let acceptor = authority.acceptor(protocols)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            together: Barrier::new(together),
            connections: AtomicUsize::new(0),
            calls: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let running = run(
            listener,
            acceptor,
            Arc::clone(&shared),
            tasks.clone(),
            stop.clone(),
        );
        tasks.spawn(stop.clone().run_until_cancelled_owned(running));
        Ok(Self {
            addr,
            shared,
            _stop: stop.drop_guard(),
        })
    }

    /// Base URL for the configuration.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("https://localhost:{}/v1", self.addr.port())
    }

    /// The address it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Every call so far, in the order in which they came.
    #[must_use]
    pub fn calls(&self) -> Vec<Seen> {
        self.shared.calls.lock().clone()
    }
}

async fn run(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        let serving = async move {
            // A caller that does not trust us ends here.
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
            let answer = service_fn(|request| answer(request, connection, Arc::clone(&shared)));
            let server = auto::Builder::new(TokioExecutor::new());
            // How a connection ends is the caller's matter.
            drop(server.serve_connection(TokioIo::new(stream), answer).await);
        };
        tasks.spawn(stop.clone().run_until_cancelled_owned(serving));
    }
}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

async fn answer(
    request: Request<Incoming>,
    connection: usize,
    shared: Arc<Shared>,
) -> hyper::Result<Response<Body>> {
    shared.calls.lock().push(Seen {
        version: request.version(),
        connection,
    });
    let asked = request.into_body().collect().await?.to_bytes();
    let asked: Value = serde_json::from_slice(&asked).unwrap_or_default();
    let parts = if asked["stream"] == true {
        let waits = asked["model"] == TOGETHER;
        let rest = async move {
            if waits {
                shared.together.wait().await;
            }
            format!("{}data: [DONE]\n\n", chunk("", json!("stop")))
        };
        let first = stream::iter([chunk(TEXT, Value::Null)]);
        ("text/event-stream", first.chain(stream::once(rest)).boxed())
    } else {
        let whole = json!({
            "id": "s", "object": "chat.completion", "created": 1, "model": asked["model"],
            "choices": [ { "index": 0, "message": { "role": "assistant", "content": TEXT }, "finish_reason": "stop" } ],
        });
        let whole = stream::iter([whole.to_string()]);
        ("application/json", whole.boxed())
    };
    let (content_type, parts) = parts;
    let frames = parts.map(|text| Ok(Frame::data(Bytes::from(text))));
    let mut response = Response::new(StreamBody::new(frames.boxed()));
    let content_type = http::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

fn chunk(text: &str, finish: Value) -> String {
    let chunk = json!({
        "id": "s", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [ { "index": 0, "delta": { "content": text }, "finish_reason": finish } ],
    });
    format!("data: {chunk}\n\n")
}
