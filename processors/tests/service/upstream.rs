//! A provider that does exactly what a test says, byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// What the provider does, in order, for one call.
pub(crate) enum Act {
    Send(String),
    Pause(Duration),
    /// Waits until it is told to go on.
    Wait(Arc<Notify>),
    /// Waits until the client closes the connection.
    Hang,
    Close,
}

/// A call as it came.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) number: usize,
    pub(crate) head: String,
    pub(crate) body: serde_json::Value,
}

type Script = dyn Fn(&Call) -> Vec<Act> + Send + Sync;

pub(crate) struct Upstream {
    pub(crate) url: String,
    calls: Arc<AtomicUsize>,
    seen: mpsc::Receiver<Call>,
    closed: mpsc::Receiver<Instant>,
}

impl Upstream {
    pub(crate) async fn start(script: impl Fn(&Call) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let (saw, seen) = mpsc::channel(1_000);
        let (closing, closed) = mpsc::channel(1_000);
        let script: Arc<Script> = Arc::new(script);
        let tasks = TaskTracker::new();
        let counted = Arc::clone(&calls);
        tasks.clone().spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let one = Connection {
                    stream,
                    script: Arc::clone(&script),
                    calls: Arc::clone(&counted),
                    saw: saw.clone(),
                    closing: closing.clone(),
                };
                tasks.spawn(one.serve());
            }
        });
        Self {
            url,
            calls,
            seen,
            closed,
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// The next call that came.
    pub(crate) async fn call(&mut self) -> Call {
        tokio::time::timeout(Duration::from_secs(10), self.seen.recv())
            .await
            .expect("a call")
            .unwrap()
    }

    /// When the client closed a connection that hung.
    pub(crate) async fn closed(&mut self) -> Instant {
        tokio::time::timeout(Duration::from_secs(10), self.closed.recv())
            .await
            .expect("a closed connection")
            .unwrap()
    }
}

struct Connection {
    stream: TcpStream,
    script: Arc<Script>,
    calls: Arc<AtomicUsize>,
    saw: mpsc::Sender<Call>,
    closing: mpsc::Sender<Instant>,
}

impl Connection {
    async fn serve(mut self) {
        self.stream.set_nodelay(true).unwrap();
        let mut read = Vec::new();
        while let Some((head, body)) = self.request(&mut read).await {
            let call = Call {
                number: self.calls.fetch_add(1, Ordering::SeqCst) + 1,
                head,
                body: serde_json::from_slice(&body).unwrap_or_default(),
            };
            let acts = (self.script)(&call);
            self.saw.send(call).await.unwrap();
            for act in acts {
                match act {
                    Act::Send(text) => {
                        if self.stream.write_all(text.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                    Act::Wait(go) => go.notified().await,
                    Act::Pause(pause) => tokio::time::sleep(pause).await,
                    Act::Hang => {
                        let mut byte = [0];
                        let ended = self.stream.read(&mut byte).await;
                        assert!(matches!(ended, Ok(0) | Err(_)), "nothing else is sent");
                        self.closing.send(Instant::now()).await.unwrap();
                        return;
                    }
                    Act::Close => return,
                }
            }
        }
    }

    async fn request(&mut self, read: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
        loop {
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(read[..end].to_vec()).unwrap();
                let length: usize = head
                    .lines()
                    .find_map(|line| {
                        let (name, value) = line.split_once(':')?;
                        (name.eq_ignore_ascii_case("content-length")).then(|| value.trim())
                    })
                    .map_or(0, |value| value.parse().unwrap());
                let whole = end + 4 + length;
                if read.len() >= whole {
                    let body = read[end + 4..whole].to_vec();
                    read.drain(..whole);
                    return Some((head, body));
                }
            }
            if self.stream.read_buf(read).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// A response with a body.
pub(crate) fn response(status: u16, content_type: &str, headers: &str, body: &str) -> Act {
    let length = body.len();
    Act::Send(format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    ))
}

/// A whole answer.
pub(crate) fn answer(text: &str) -> Vec<Act> {
    let body = serde_json::json!({
        "id": "up-1", "object": "chat.completion", "created": 1, "model": "served-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    });
    vec![response(200, "application/json", "", &body.to_string())]
}

/// The head of a stream whose end is the end of the connection.
pub(crate) fn stream_head() -> Act {
    Act::Send(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".into(),
    )
}

pub(crate) fn event(data: &str) -> Act {
    Act::Send(format!("data: {data}\n\n"))
}

pub(crate) fn token(text: &str) -> Act {
    let chunk = serde_json::json!({
        "id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": "served-1",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}],
    });
    event(&chunk.to_string())
}

pub(crate) fn finish() -> Act {
    event(r#"{"id":"up-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#)
}

pub(crate) fn usage() -> Act {
    event(
        r#"{"id":"up-1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#,
    )
}

pub(crate) fn done() -> Act {
    event("[DONE]")
}
