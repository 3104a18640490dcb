//! A load generator over bare keep-alive connections, one per worker, in three modes:
//! [`closed_loop`] (each worker sends its next request when it has its answer),
//! [`constant_rate`] (requests are due by the clock, and a late one counts from when it was due:
//! no coordinated omission), and [`streams`] (time to first token, gaps, transit of each token);
//! [`streams_in_turn`] compares streams of several kinds.
//!
//! Everything runs on the caller's runtime; for measurements that is a single-threaded one.

mod client;
mod report;
mod stream;
#[cfg(test)]
mod tests;

pub use report::{Errors, Quantiles, Report, StreamReport, Times};
pub use stream::{Streams, streams, streams_in_turn};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use client::Client;
use report::Samples;

/// Requests that may wait for a worker in [`constant_rate`]; beyond it the clock waits, and what
/// is late still counts from when it was due.
const DUE_MAX: usize = 100_000;

/// What is sent, and where to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server.
    pub addr: SocketAddr,
    /// Path of the request.
    pub path: String,
    /// The API key, sent as a bearer token.
    pub api_key: Option<String>,
    /// The body; every `{n}` in it becomes a number of its own, so that no two requests are twins.
    pub body: String,
}

impl Target {
    /// A chat completion of `model` with `prompt` as its only message.
    #[must_use]
    pub fn chat(addr: SocketAddr, model: &str, prompt: &str, stream: bool) -> Self {
        let body = serde_json::json!({
            "model": model,
            "stream": stream,
            "messages": [{ "role": "user", "content": format!("{prompt} {{n}}") }],
        });
        Self {
            addr,
            path: "/v1/chat/completions".into(),
            api_key: None,
            body: body.to_string(),
        }
    }

    /// The same with an API key.
    #[must_use]
    pub fn with_key(mut self, api_key: &str) -> Self {
        self.api_key = Some(api_key.into());
        self
    }

    fn body(&self, number: u64) -> Bytes {
        self.body.replace("{n}", &number.to_string()).into()
    }
}

/// How long a measurement takes.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Load that is not measured yet.
    pub warm_up: Duration,
    /// Load that is measured.
    pub measured: Duration,
}

/// Keeps `concurrency` requests in flight.
///
/// # Errors
/// When no connection can be made to begin with; later failures are counted.
pub async fn closed_loop(target: &Target, concurrency: usize, span: Span) -> io::Result<Report> {
    let begin = Instant::now() + span.warm_up;
    let end = begin + span.measured;
    let numbers = Arc::new(AtomicU64::new(0));
    let tasks = TaskTracker::new();
    let mut workers = Vec::with_capacity(concurrency);
    for _ in 0..concurrency {
        let mut client = Client::connect(target, &tasks).await?;
        let (target, numbers) = (target.clone(), Arc::clone(&numbers));
        workers.push(tasks.spawn(async move {
            let mut samples = Samples::new();
            loop {
                let sent = Instant::now();
                if sent >= end {
                    return samples;
                }
                let body = target.body(numbers.fetch_add(1, Ordering::Relaxed));
                let outcome = client.whole(body).await;
                if sent >= begin {
                    samples.record(&outcome, sent.elapsed());
                }
            }
        }));
    }
    let mut samples = Samples::new();
    for worker in workers {
        samples.merge(worker.await?);
    }
    tasks.close();
    Ok(samples.report(begin.elapsed()))
}

/// Sends `rate` requests a second over at most `connections` connections. The latency of each
/// counts from when it was due, also when every connection was busy then.
///
/// # Errors
/// When no connection can be made to begin with; later failures are counted.
pub async fn constant_rate(
    target: &Target,
    rate: f64,
    connections: usize,
    span: Span,
) -> io::Result<Report> {
    let tasks = TaskTracker::new();
    let (due, dues) = mpsc::channel::<Instant>(DUE_MAX);
    let dues = Arc::new(tokio::sync::Mutex::new(dues));
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        clients.push(Client::connect(target, &tasks).await?);
    }
    let start = Instant::now();
    let begin = start + span.warm_up;
    let end = begin + span.measured;
    // A thread of its own: the runtime's timer rounds up to milliseconds, too coarse for a clock.
    let clock = std::thread::spawn(move || {
        for number in 0_u32.. {
            let at = start + Duration::from_secs_f64(f64::from(number) / rate);
            if at >= end {
                return;
            }
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if due.blocking_send(at).is_err() {
                return;
            }
        }
    });
    let numbers = Arc::new(AtomicU64::new(0));
    let mut workers = Vec::with_capacity(connections);
    for mut client in clients {
        let (target, numbers, dues) = (target.clone(), Arc::clone(&numbers), Arc::clone(&dues));
        workers.push(tasks.spawn(async move {
            let mut samples = Samples::new();
            loop {
                let next = dues.lock().await.recv().await;
                let Some(at) = next else {
                    return samples;
                };
                let body = target.body(numbers.fetch_add(1, Ordering::Relaxed));
                let outcome = client.whole(body).await;
                if at >= begin {
                    samples.record(&outcome, at.elapsed());
                }
            }
        }));
    }
    let mut samples = Samples::new();
    for worker in workers {
        samples.merge(worker.await?);
    }
    tasks.close();
    if clock.join().is_err() {
        return Err(io::Error::other(
            "the clock of the load generator ended early",
        ));
    }
    Ok(samples.report(begin.elapsed()))
}
