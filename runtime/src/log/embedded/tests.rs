//! Faults below the log, and what must survive them.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::log::{Consumer, Delivery, Log, Polled, Settings as LogSettings, StartAt};

const TOPIC: &str = schemas::topic::REQUESTS_INTERACTIVE;

async fn open(folder: &std::path::Path) -> Log {
    let settings = Settings {
        folder: folder.to_owned(),
        bytes_max: 1 << 30,
    };
    let log = Log::open(&LogSettings::Embedded(settings)).await.unwrap();
    log.ensure_topics(&schemas::topic::ALL).await.unwrap();
    log
}

fn record(text: &str) -> Record {
    Record {
        key: Bytes::from(text.to_owned()),
        headers: Vec::new(),
        value: Bytes::from(text.to_owned()),
    }
}

async fn append(log: &Log, text: &str) -> Position {
    log.append(
        TOPIC,
        Place::Partition(0),
        record(text),
        Durability::Durable,
    )
    .await
    .unwrap()
}

async fn values(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut all: Vec<Delivery> = Vec::new();
    while all.len() < count {
        match consumer.recv().await.unwrap() {
            Polled::Assigned { epoch, partitions } => {
                let starts: Vec<_> = partitions
                    .iter()
                    .map(|p| (*p, StartAt::Committed))
                    .collect();
                consumer.start(epoch, &starts).await.unwrap();
            }
            Polled::Deliveries(deliveries) => all.extend(deliveries),
            Polled::Revoked { .. } => unreachable!("one process"),
        }
    }
    all.iter()
        .map(|d| String::from_utf8(d.record.value.to_vec()).unwrap())
        .collect()
}

#[tokio::test]
async fn what_was_appended_is_consumed_in_order_and_again_until_committed() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let first = append(&log, "a").await;
    append(&log, "b").await;
    let mut consumer = log
        .consume("g", TOPIC, ConsumeOptions::default())
        .await
        .unwrap();
    assert_eq!(values(&mut consumer, 2).await, ["a", "b"]);
    consumer.commit(&[(0, first.offset + 1)]).await.unwrap();
    consumer.close(Duration::from_secs(1)).await;
    let mut again = log
        .consume("g", TOPIC, ConsumeOptions::default())
        .await
        .unwrap();
    assert_eq!(values(&mut again, 1).await, ["b"]);
    again.close(Duration::from_secs(1)).await;
    log.close(Duration::from_secs(5)).await;
    drop(log);

    let log = open(folder.path()).await;
    let next = append(&log, "c").await;
    assert_eq!(next.offset, 2, "a clean end goes on counting");
    let mut consumer = log
        .consume("g", TOPIC, ConsumeOptions::default())
        .await
        .unwrap();
    assert_eq!(values(&mut consumer, 2).await, ["b", "c"]);
}

#[tokio::test]
async fn a_waiting_tail_is_woken_and_ends_at_the_high_watermark() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let marks = log.watermarks(TOPIC, 1).await.unwrap();
    let mut tail = log.tail(TOPIC, 1, marks.high).await.unwrap();
    let (received, _) = tokio::join!(tail.recv(), async {
        log.append(
            TOPIC,
            Place::Partition(1),
            record("x"),
            Durability::Buffered,
        )
        .await
        .unwrap()
    });
    assert_eq!(received.unwrap()[0].record.value, "x");
    assert_eq!(
        tail.position(),
        log.watermarks(TOPIC, 1).await.unwrap().high
    );
    let beyond = log.tail(TOPIC, 1, 99).await;
    assert!(matches!(beyond, Err(LogError::BeyondEnd { high: 1, .. })));
}
