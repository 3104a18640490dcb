use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::Target;

/// Pause before a worker connects again, so that a dead server is not stormed.
const RECONNECT_AFTER: Duration = Duration::from_millis(10);

/// Why a request did not bring its answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// An answer that is not a 2xx.
    Status(StatusCode),
    /// The connection could not be made, or broke.
    Transport,
    /// A stream that did not end as it should.
    BrokenStream,
}

/// One keep-alive connection, made again when it breaks.
#[derive(Debug)]
pub(super) struct Client {
    addr: SocketAddr,
    uri: Uri,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    sender: Option<SendRequest<Full<Bytes>>>,
    tasks: TaskTracker,
}

impl Client {
    pub(super) async fn connect(target: &Target, tasks: &TaskTracker) -> io::Result<Self> {
        let authorization = match &target.api_key {
            Some(key) => Some(HeaderValue::try_from(format!("Bearer {key}")).map_err(invalid)?),
            None => None,
        };
        let mut client = Self {
            addr: target.addr,
            uri: target.path.parse().map_err(invalid)?,
            host: HeaderValue::try_from(target.addr.to_string()).map_err(invalid)?,
            authorization,
            sender: None,
            tasks: tasks.clone(),
        };
        client.sender = Some(client.open().await?);
        Ok(client)
    }

    async fn open(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        self.tasks.spawn(async move {
            if connection.await.is_err() {
                // The request in flight on it reports the failure.
            }
        });
        Ok(sender)
    }

    /// Sends a request and returns the head of its 2xx answer.
    pub(super) async fn send(&mut self, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let ready = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !ready {
            self.sender = None;
            match self.open().await {
                Ok(sender) => self.sender = Some(sender),
                Err(_) => {
                    tokio::time::sleep(RECONNECT_AFTER).await;
                    return Err(Failure::Transport);
                }
            }
        }
        let Some(sender) = &mut self.sender else {
            return Err(Failure::Transport);
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let Ok(response) = sender.send_request(request).await else {
            self.sender = None;
            return Err(Failure::Transport);
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        // Read to the end, so that the connection can be used again.
        if response.into_body().collect().await.is_err() {
            self.sender = None;
        }
        Err(Failure::Status(status))
    }

    /// Sends a request and reads its whole answer.
    pub(super) async fn whole(&mut self, body: Bytes) -> Result<(), Failure> {
        let mut body = self.send(body).await?.into_body();
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                self.sender = None;
                return Err(Failure::Transport);
            }
        }
        Ok(())
    }

    /// Gives the connection up.
    pub(super) fn abandon(&mut self) {
        self.sender = None;
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
