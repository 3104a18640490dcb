//! Measures the embedded log through its public interface:
//! `cargo run --release -p runtime --example embedded_log -- FOLDER [SECONDS]` (none for 0 seconds: it only opens).
//!
//! One line per number of appenders: durable appends of 1 KiB per second, their latency, and how long after the append had
//! resolved the record was in the hands of a waiting tail (negative: before).

#![expect(clippy::print_stdout, reason = "the lines are what it is for")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use runtime::log::{Durability, Log, LogError, Place, Record, Settings, embedded};
use schemas::topic;
use tokio_util::task::TaskTracker;

#[tokio::main]
async fn main() -> Result<(), LogError> {
    let mut arguments = std::env::args().skip(1);
    let folder: PathBuf = arguments
        .next()
        .unwrap_or_else(|| "data/measure".to_owned())
        .into();
    let seconds = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20);
    let began = Instant::now();
    let log = Log::open(&Settings::Embedded(embedded::Settings {
        folder,
        bytes_max: 4 << 30,
    }))
    .await?;
    log.ensure_topics(&topic::ALL).await?;
    println!("opened in {:?}", began.elapsed());
    for appenders in [1, 10, 64] {
        if seconds == 0 {
            break;
        }
        measure(&log, appenders, Duration::from_secs(seconds)).await?;
    }
    log.close(Duration::from_secs(10)).await;
    Ok(())
}

async fn measure(log: &Log, appenders: usize, period: Duration) -> Result<(), LogError> {
    let wakes = Arc::new(Mutex::new(Vec::new()));
    let tasks = TaskTracker::new();
    for number in 0..appenders {
        let (log, wakes) = (log.clone(), wakes.clone());
        tasks.spawn(append(log, number, period, wakes));
    }
    tasks.close();
    let reader = read(log.clone(), appenders, tasks);
    let received = reader.await?;
    let mut latencies = Vec::new();
    let mut wake = Vec::new();
    for (began, resolved, key) in wakes.lock().drain(..) {
        let latency: Duration = resolved - began;
        latencies.push(latency);
        if let Some(seen) = received.get(&key) {
            wake.push(
                seen.saturating_duration_since(resolved).as_micros() as i64
                    - resolved.saturating_duration_since(*seen).as_micros() as i64,
            );
        }
    }
    latencies.sort_unstable();
    wake.sort_unstable();
    let at = |share: usize| {
        latencies
            .get(latencies.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{appenders:3} appenders: {:7.0}/s  p50 {:?}  p99 {:?}  reader has it after: p50 {:?} µs, p99 {:?} µs",
        latencies.len() as f64 / period.as_secs_f64(),
        at(50),
        at(99),
        wake.get(wake.len() / 2),
        wake.get(wake.len() * 99 / 100),
    );
    Ok(())
}

type Appends = Arc<Mutex<Vec<(Instant, Instant, i64)>>>;

async fn append(log: Log, number: usize, period: Duration, done: Appends) {
    let place = Place::Partition(0);
    let value = bytes::Bytes::from(vec![7; 1024]);
    let end = Instant::now() + period;
    let mut own = Vec::new();
    while Instant::now() < end {
        let record = Record {
            key: bytes::Bytes::from_owner(number.to_be_bytes()),
            headers: Vec::new(),
            value: value.clone(),
        };
        let began = Instant::now();
        match log
            .append(topic::RESPONSES, place, record, Durability::Durable)
            .await
        {
            Ok(position) => own.push((began, Instant::now(), position.offset)),
            Err(error) => {
                println!("append failed: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    done.lock().append(&mut own);
}

/// When each offset was received, until the appenders are done.
async fn read(
    log: Log,
    appenders: usize,
    tasks: TaskTracker,
) -> Result<std::collections::HashMap<i64, Instant>, LogError> {
    let marks = log.watermarks(topic::RESPONSES, 0).await?;
    let mut received = std::collections::HashMap::new();
    let mut tail = log.tail(topic::RESPONSES, 0, marks.high).await?;
    loop {
        tokio::select! {
            deliveries = tail.recv() => {
                let now = Instant::now();
                // With many appenders a sample is enough.
                for delivery in deliveries?.iter().step_by(appenders) {
                    received.insert(delivery.position.offset, now);
                }
            }
            () = tasks.wait() => return Ok(received),
        }
    }
}
