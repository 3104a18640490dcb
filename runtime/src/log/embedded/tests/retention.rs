//! What is deleted, and what is never.

use super::*;
use crate::log::{Durability, StartAt};
use conformance::{append, join, read_all, record, take};
use schemas::time::Timestamp;

const TOPIC: &str = schemas::topic::REQUESTS_INTERACTIVE;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Fills some segments and waits until all but the last are sealed.
async fn fill(log: &Log, partition: i32, count: usize) -> Vec<i64> {
    let mut offsets = Vec::new();
    for index in 0..count {
        offsets.push(
            append(log, partition, &format!("{index:0300}"))
                .await
                .offset,
        );
    }
    sealed(log).await;
    offsets
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_once_they_are_old_and_read_by_every_group() {
    let folder = Simulated::new();
    let log = open(&folder).await;
    let offsets = fill(&log, 0, 200).await;
    let (mut consumer, _) = join(&log, "group", StartAt::Committed).await;
    let later = Timestamp::now().plus(DAY * 2);
    shared(&log).retain(later).unwrap();
    assert_eq!(
        log.watermarks(TOPIC, 0).await.unwrap().low,
        0,
        "old, and not read"
    );
    consumer.commit(&[(0, offsets[150])]).await.unwrap();
    shared(&log).retain(Timestamp::now()).unwrap();
    assert_eq!(
        log.watermarks(TOPIC, 0).await.unwrap().low,
        0,
        "read, and not old"
    );
    shared(&log).retain(later).unwrap();
    let low = log.watermarks(TOPIC, 0).await.unwrap().low;
    assert!(low > 0 && low <= offsets[150], "{low}");
    let below = log.tail(TOPIC, 0, low - 1).await;
    assert!(matches!(below, Err(LogError::BelowStart { .. })));
    let kept = read_all(&log, 0).await;
    assert_eq!(kept[0].position.offset, low);
    assert_eq!(kept.len() as i64, 200 - low);
    // The group started at the beginning and meets the deletion: an error, no jump.
    assert!(matches!(
        consumer.recv().await,
        Err(LogError::BelowStart { .. })
    ));
    drop(consumer);
    log.close(Duration::from_secs(10)).await;
    let log = open(&folder).await;
    assert_eq!(log.watermarks(TOPIC, 0).await.unwrap().low, low);
    let (mut consumer, _) = join(&log, "group", StartAt::Committed).await;
    assert_eq!(
        take(&mut consumer, 50).await[0].position.offset,
        offsets[150]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_dead_letters_do_not_keep_a_segment() {
    let folder = Simulated::new();
    let log = open(&folder).await;
    let dead = |text: &'static str| {
        let topic = schemas::topic::DEAD_LETTERS;
        log.append(
            topic,
            Place::Partition(0),
            record(text),
            Durability::Durable,
        )
    };
    dead("first").await.unwrap();
    fill(&log, 0, 100).await;
    dead("second").await.unwrap();
    fill(&log, 0, 100).await;
    let before = shared(&log).used.load(std::sync::atomic::Ordering::Relaxed);
    shared(&log).retain(Timestamp::now().plus(DAY * 2)).unwrap();
    let after = shared(&log).used.load(std::sync::atomic::Ordering::Relaxed);
    assert!(after < before / 3, "{before} bytes became {after}");
    for log in [log.clone(), {
        log.close(Duration::from_secs(10)).await;
        open(&folder).await
    }] {
        if *shared(&log).ended.borrow() {
            continue;
        }
        let mut tail = log.tail(schemas::topic::DEAD_LETTERS, 0, 0).await.unwrap();
        let mut keys = Vec::new();
        while keys.len() < 2 {
            keys.extend(
                tail.recv()
                    .await
                    .unwrap()
                    .into_iter()
                    .map(|delivery| delivery.record.key),
            );
        }
        assert_eq!(keys, ["first", "second"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_refuses_until_a_group_has_read() {
    let folder = Simulated::new();
    let tuning = Tuning {
        bytes_max: 200_000,
        ..small()
    };
    let log = open_with(&folder, tuning).await;
    let (mut consumer, _) = join(&log, "group", StartAt::Committed).await;
    let mut last = 0;
    let refused = loop {
        let place = Place::Partition(0);
        match log
            .append(TOPIC, place, record(&"x".repeat(500)), Durability::Durable)
            .await
        {
            Ok(position) => last = position.offset,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&refused, AppendError::Unavailable { reason } if reason.contains("full")),
        "{refused}"
    );
    assert!(last > 100);
    until_down(&log).await;
    sealed(&log).await;
    // Nobody has read it, so nothing may go, however old it is.
    shared(&log)
        .retain(Timestamp::now().plus(DAY * 100))
        .unwrap();
    assert_eq!(log.watermarks(TOPIC, 0).await.unwrap().low, 0);
    take(&mut consumer, last as usize + 1).await;
    // Positions are taken also while the log is full.
    consumer.commit(&[(0, last + 1)]).await.unwrap();
    until_up(&log).await;
    append(&log, 0, "after").await;
}
