use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio_util::task::TaskTracker;

use super::client::{Client, Failure};
use super::report::{Errors, StreamReport, Times, count_error};
use super::{Span, Target};

/// Digits of a time stamp in a token.
const STAMP_DIGITS: usize = 19;

/// Settings of a run of streams.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    /// Streams at a time.
    pub concurrency: usize,
    /// Tokens that make a stream whole; one with another number counts as broken.
    pub tokens: u64,
    /// The workers begin evenly spread over this time, so that they do not march in step.
    pub spread: Duration,
}

/// Keeps `concurrency` streams open and measures when their tokens come.
///
/// # Errors
/// When no connection can be made to begin with; later failures are counted.
pub async fn streams(target: &Target, streams: Streams, span: Span) -> io::Result<StreamReport> {
    let start = tokio::time::Instant::now();
    let begin = start.into_std() + span.warm_up;
    let end = begin + span.measured;
    let numbers = Arc::new(AtomicU64::new(0));
    let tasks = TaskTracker::new();
    let mut workers = Vec::with_capacity(streams.concurrency);
    for index in 0..streams.concurrency {
        let mut client = Client::connect(target, &tasks).await?;
        let (target, numbers) = (target.clone(), Arc::clone(&numbers));
        #[expect(clippy::cast_precision_loss, reason = "a few thousand workers")]
        let share = index as f64 / streams.concurrency as f64;
        let first = start + streams.spread.mul_f64(share);
        workers.push(tasks.spawn(async move {
            tokio::time::sleep_until(first).await;
            let mut samples = Samples::new();
            // What comes before the measurement goes here and is forgotten.
            let mut unmeasured = Samples::new();
            while Instant::now() < end {
                let measured = Instant::now() >= begin;
                let into = if measured {
                    &mut samples
                } else {
                    &mut unmeasured
                };
                let body = target.body(numbers.fetch_add(1, Ordering::Relaxed));
                into.stream(&mut client, body, streams.tokens).await;
            }
            samples
        }));
    }
    let mut all = Samples::new();
    for worker in workers {
        all.merge(worker.await?);
    }
    tasks.close();
    Ok(all.report(begin.elapsed()))
}

/// Sends so many streams in a row to each target, again and again, one stream at a time. One report
/// for each target, in their order: what is compared is measured under the same conditions.
///
/// # Errors
/// When no connection can be made to begin with; later failures are counted.
pub async fn streams_in_turn(
    turns: &[(Target, usize)],
    tokens: u64,
    measured: Duration,
) -> io::Result<Vec<StreamReport>> {
    let tasks = TaskTracker::new();
    let mut measurements = Vec::with_capacity(turns.len());
    for (target, in_a_row) in turns {
        let client = Client::connect(target, &tasks).await?;
        measurements.push((target, *in_a_row, client, Samples::new()));
    }
    let begin = Instant::now();
    let mut number = 0;
    while begin.elapsed() < measured {
        for (target, in_a_row, client, samples) in &mut measurements {
            for _ in 0..*in_a_row {
                samples.stream(client, target.body(number), tokens).await;
                number += 1;
            }
        }
    }
    tasks.close();
    let samples = measurements.into_iter().map(|(.., samples)| samples);
    Ok(samples
        .map(|samples| samples.report(begin.elapsed()))
        .collect())
}

struct Samples {
    streams: u64,
    tokens: u64,
    first_token: Times,
    gap: Times,
    transit: Times,
    refused: Times,
    errors: Errors,
}

impl Samples {
    fn new() -> Self {
        Self {
            streams: 0,
            tokens: 0,
            first_token: Times::new(),
            gap: Times::new(),
            transit: Times::new(),
            refused: Times::new(),
            errors: Errors::new(),
        }
    }

    /// Sends one stream, which is whole with so many tokens, and counts what becomes of it.
    async fn stream(&mut self, client: &mut Client, body: Bytes, tokens: u64) {
        let sent = Instant::now();
        let failure = match one(client, body, self).await {
            Ok(brought) if brought == tokens => {
                self.streams += 1;
                return;
            }
            Ok(_) => Failure::BrokenStream,
            Err(failure) => failure,
        };
        match failure {
            // Its body was read to the end, so the connection is as good as new.
            Failure::Status(_) => self.refused.record(sent.elapsed()),
            Failure::Transport | Failure::BrokenStream => client.abandon(),
        }
        count_error(&mut self.errors, &failure);
    }

    fn merge(&mut self, other: Self) {
        self.streams += other.streams;
        self.tokens += other.tokens;
        self.first_token.merge(&other.first_token);
        self.gap.merge(&other.gap);
        self.transit.merge(&other.transit);
        self.refused.merge(&other.refused);
        for (name, count) in other.errors {
            *self.errors.entry(name).or_default() += count;
        }
    }

    fn report(self, measured: Duration) -> StreamReport {
        StreamReport {
            streams: self.streams,
            tokens: self.tokens,
            first_token: self.first_token.quantiles(),
            gap: self.gap.quantiles(),
            transit: self.transit.quantiles(),
            refused: self.refused.quantiles(),
            errors: self.errors,
            seconds: measured.as_secs_f64(),
        }
    }
}

/// Reads one stream to its end; the number of tokens it brought.
async fn one(client: &mut Client, body: Bytes, into: &mut Samples) -> Result<u64, Failure> {
    let sent = Instant::now();
    let mut body = client.send(body).await?.into_body();
    let mut inbox = BytesMut::new();
    let mut tokens = 0;
    let mut last: Option<Instant> = None;
    let mut done = false;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(Failure::BrokenStream);
        };
        let (now, now_nanos) = (Instant::now(), crate::unix_nanos());
        let Some(data) = frame.data_ref() else {
            continue;
        };
        inbox.extend_from_slice(data);
        let mut brought = 0;
        while let Some(end) = inbox.windows(2).position(|pair| pair == b"\n\n") {
            let event = inbox.split_to(end + 2);
            let Some(data) = data_of(&event) else {
                continue;
            };
            if data == b"[DONE]" {
                done = true;
                continue;
            }
            let Ok(chunk) = serde_json::from_slice::<Chunk>(data) else {
                return Err(Failure::BrokenStream);
            };
            for word in chunk.content().split_whitespace() {
                if let Some(stamp) = stamp_of(word) {
                    into.transit
                        .record(Duration::from_nanos(now_nanos.saturating_sub(stamp)));
                } else {
                    brought += 1;
                }
            }
        }
        if brought > 0 {
            match last {
                None => into.first_token.record(now - sent),
                Some(last) => into.gap.record(now - last),
            }
            last = Some(now);
            tokens += brought;
            into.tokens += brought;
        }
    }
    if done {
        Ok(tokens)
    } else {
        Err(Failure::BrokenStream)
    }
}

/// The `data:` line of an event; there may be `id:` lines and comments around it.
fn data_of(event: &[u8]) -> Option<&[u8]> {
    let mut lines = event.split(|&b| b == b'\n');
    lines.find_map(|line| line.strip_prefix(b"data: "))
}

fn stamp_of(word: &str) -> Option<u64> {
    let stamped = word.len() == STAMP_DIGITS && word.bytes().all(|b| b.is_ascii_digit());
    if stamped { word.parse().ok() } else { None }
}

#[derive(Deserialize)]
struct Chunk {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
}

#[derive(Deserialize, Default)]
struct Delta {
    content: Option<String>,
}

impl Chunk {
    fn content(&self) -> &str {
        let choice = self.choices.first();
        choice
            .and_then(|choice| choice.delta.content.as_deref())
            .unwrap_or("")
    }
}
