//! Client connections: accepted within a bound, served, and closed when it is time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use schemas::event::ErrorBody;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::config::Settings;
use crate::metrics::Metrics;
use crate::routes::Routes;
use crate::socket::Socket;

/// After an accept failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Smallest buffer of a connection, both ways.
const BUFFER_BYTES: usize = 64 * 1024;
/// Longest that the last words to a client may take.
const FAREWELL_MAX: Duration = Duration::from_millis(500);
/// Connections beyond the maximum that are told so at once; further ones are closed without a word.
const REFUSALS_MAX: usize = 64;
/// What a client beyond the maximum is told to wait.
const REFUSED_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Most of what a refused client sends that is read, so that it gets to read the answer instead of a reset.
const REFUSED_BYTES_MAX: u64 = 64 * 1024;

/// What connections are served with.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    routes: Arc<Routes>,
    http: http1::Builder,
    write_timeout: Duration,
    metrics: Metrics,
    /// Cancelled: idle connections close, others after their answer.
    stop: CancellationToken,
    /// Cancelled: all connections close at once.
    end: CancellationToken,
}

impl Connections {
    pub(crate) fn new(
        settings: &Settings,
        routes: Arc<Routes>,
        metrics: Metrics,
        stop: CancellationToken,
        end: CancellationToken,
    ) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(settings.head_timeout)
            .max_buf_size(BUFFER_BYTES.max(settings.head_bytes_max.saturating_mul(2)));
        Self {
            routes,
            http,
            write_timeout: settings.write_timeout,
            metrics,
            stop,
            end,
        }
    }

    /// Accepts connections until all shall end; each runs on `tasks`. Goes on after the stop,
    /// so that whoever comes then is told so.
    pub(crate) async fn accept(
        self,
        listener: TcpListener,
        connections_max: usize,
        tasks: TaskTracker,
    ) {
        let room = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        loop {
            let accepted = tokio::select! {
                () = self.end.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                self.metrics.connection_refused();
                debug!("too many connections, one refused");
                if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    let socket = Socket::new(stream, self.write_timeout);
                    let words = self
                        .routes
                        .bare(&ErrorBody::overloaded(REFUSED_RETRY_AFTER));
                    tasks.spawn(async move {
                        farewell(socket, &words).await;
                        drop(permit);
                    });
                }
                continue;
            };
            let connections = self.clone();
            tasks.spawn(async move {
                connections.serve(stream).await;
                drop(permit);
            });
        }
    }

    async fn serve(&self, stream: TcpStream) {
        let _present = self.metrics.connection();
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "connection was gone before it was served");
            return;
        }
        let closing = self.end.child_token();
        let service = service_fn(|request| {
            let (routes, closing) = (Arc::clone(&self.routes), closing.clone());
            async move { Ok::<_, Infallible>(routes.serve(request, closing).await) }
        });
        let socket = TokioIo::new(Socket::new(stream, self.write_timeout));
        let mut http = self.http.clone();
        let mut stopping = self.stop.is_cancelled();
        if stopping {
            // Whoever comes now is told that we stop, and nothing more.
            http.keep_alive(false).header_read_timeout(FAREWELL_MAX);
        }
        let mut connection = http.serve_connection(socket, service);
        let mut stopped = std::pin::pin!(self.stop.cancelled());
        let mut closed = std::pin::pin!(closing.cancelled());
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut connection => break outcome,
                () = &mut stopped, if !stopping => {
                    stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                // Dropping the connection drops what it waits for: a hang-up like the client's.
                () = &mut closed => return,
            }
        };
        match outcome {
            Ok(()) => {}
            Err(error) if error.is_timeout() => {
                let parts = connection.into_parts();
                // An idle connection just ends; one within a head is told why.
                if !parts.read_buf.is_empty() {
                    let words = self.routes.bare(&ErrorBody::request_timeout());
                    farewell(parts.io.into_inner(), &words).await;
                }
            }
            Err(error) => debug!(%error, "connection ended"),
        }
    }
}

/// Best effort: the client may be gone.
async fn farewell(mut socket: Socket, words: &[u8]) {
    let say = async {
        socket.write_all(words).await?;
        socket.shutdown().await?;
        // Closing with bytes unread would reset the connection, and the answer could be lost with it.
        let mut unread = socket.take(REFUSED_BYTES_MAX);
        tokio::io::copy(&mut unread, &mut tokio::io::sink()).await
    };
    match tokio::time::timeout(FAREWELL_MAX, say).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => debug!(%error, "client was gone"),
        Err(_) => debug!("client does not read or does not stop"),
    }
}
