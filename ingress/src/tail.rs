//! The one reader of this process's reply partition: it wakes the waiters.

use std::sync::Arc;
use std::time::Duration;

use runtime::log::{Delivery, Log, LogError, Tail};
use schemas::id::RequestId;
use schemas::{header, topic};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::Error;
use crate::waiters::{Arrived, Closed, Waiters};

/// Between two tries to reach the log at start.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The partition of `responses` to tail: the one asked for, or any.
///
/// # Errors
/// [`Error::NoSuchPartition`] when the topic has no such partition.
pub(crate) fn pick_partition(log: &Log, asked: Option<i32>) -> Result<i32, Error> {
    let partitions = log.partitions(topic::RESPONSES);
    let picked = match asked {
        Some(partition) => partition,
        None if partitions > 0 => rand::random_range(0..partitions),
        None => 0,
    };
    if (0..partitions).contains(&picked) {
        return Ok(picked);
    }
    Err(Error::NoSuchPartition {
        partition: picked,
        partitions,
    })
}

/// Opens the tail at the end of the partition; what was appended before is for nobody here.
/// While the log does not answer it is tried again; none when `stop` came first.
///
/// # Errors
/// [`Error::Tail`] when trying again would not help.
pub(crate) async fn open(
    log: &Log,
    partition: i32,
    stop: &CancellationToken,
) -> Result<Option<Tail>, Error> {
    let mut pause = RETRY.0;
    loop {
        let opened = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            opened = open_once(log, partition) => opened,
        };
        match opened {
            Ok(tail) => {
                info!(partition, offset = tail.position(), "following replies");
                return Ok(Some(tail));
            }
            Err(error) if error.is_retryable() => {
                warn!(partition, %error, "replies cannot be followed yet, trying again");
            }
            Err(error) => return Err(Error::Tail(error)),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(RETRY.1);
    }
}

async fn open_once(log: &Log, partition: i32) -> Result<Tail, LogError> {
    let end = log.watermarks(topic::RESPONSES, partition).await?.high;
    log.tail(topic::RESPONSES, partition, end).await
}

/// Hands every record to the one who waits for it, until reading fails for good; then nobody
/// waits any more, and the failure is returned. Outages of the log are waited out.
pub(crate) async fn run(mut tail: Tail, waiters: Arc<Waiters>) -> LogError {
    loop {
        match tail.recv().await {
            Ok(deliveries) => {
                for delivery in deliveries {
                    deliver(&waiters, delivery);
                }
            }
            Err(error) => {
                waiters.close_all(Closed::TailFailed);
                return error;
            }
        }
    }
}

/// The id is read from the header, so that records for others cost no decoding.
fn deliver(waiters: &Waiters, delivery: Delivery) {
    let id = delivery
        .header(header::REQUEST_ID)
        .and_then(|id| std::str::from_utf8(id).ok())
        .and_then(|id| id.parse::<RequestId>().ok());
    let Some(id) = id else {
        let offset = delivery.position.offset;
        warn!(offset, "reply without a request id in its header skipped");
        return;
    };
    waiters.deliver(
        id,
        Arrived {
            offset: delivery.position.offset,
            value: delivery.record.value,
        },
    );
}
