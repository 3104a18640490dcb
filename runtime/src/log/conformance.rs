//! What every backend promises, as functions over [`Log`]: the tests of each backend run them all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use schemas::topic::DEAD_LETTERS;
pub(super) use schemas::topic::REQUESTS_INTERACTIVE as TOPIC;

use super::*;

/// A log that can be closed, killed and opened again.
pub(super) trait Bed {
    /// Opens it with all topics.
    async fn open(&mut self) -> Log;
    /// Ends the process that has it open, without warning.
    async fn kill(&mut self, log: Log);
    /// Closes it in good order.
    async fn close(&mut self, log: Log) {
        log.close(Duration::from_secs(10)).await;
    }
}

const WAIT: Duration = Duration::from_secs(60);

pub(super) fn record(text: &str) -> Record {
    Record {
        key: Bytes::from(text.to_owned()),
        headers: vec![("request-id".into(), Bytes::from(text.to_owned()))],
        value: Bytes::from(format!("value of {text}")),
    }
}

pub(super) fn options(batch_max: usize) -> ConsumeOptions {
    ConsumeOptions {
        batch_max,
        ..ConsumeOptions::default()
    }
}

pub(super) async fn append(log: &Log, partition: i32, text: &str) -> Position {
    let place = Place::Partition(partition);
    log.append(TOPIC, place, record(text), Durability::Durable)
        .await
        .unwrap()
}

/// Everything in a partition from `from` to its high watermark.
pub(super) async fn read_from(log: &Log, partition: i32, from: i64) -> Vec<Delivery> {
    let mut all = Vec::new();
    let high = log.watermarks(TOPIC, partition).await.unwrap().high;
    let mut tail = log.tail(TOPIC, partition, from).await.unwrap();
    while tail.position() < high {
        all.extend(
            tokio::time::timeout(WAIT, tail.recv())
                .await
                .unwrap()
                .unwrap(),
        );
    }
    all
}

pub(super) async fn read_all(log: &Log, partition: i32) -> Vec<Delivery> {
    let low = log.watermarks(TOPIC, partition).await.unwrap().low;
    read_from(log, partition, low).await
}

fn texts(deliveries: &[Delivery]) -> Vec<String> {
    let text = |delivery: &Delivery| String::from_utf8(delivery.record.key.to_vec()).unwrap();
    deliveries.iter().map(text).collect()
}

pub(super) async fn join(log: &Log, group: &str, start: StartAt) -> (Consumer, Vec<i32>) {
    let mut consumer = log
        .consume(group, TOPIC, ConsumeOptions::default())
        .await
        .unwrap();
    match recv(&mut consumer).await {
        Polled::Assigned { epoch, partitions } => {
            let starts: Vec<_> = partitions.iter().map(|number| (*number, start)).collect();
            consumer.start(epoch, &starts).await.unwrap();
            (consumer, partitions)
        }
        other => panic!("expected an assignment, got {other:?}"),
    }
}

async fn recv(consumer: &mut Consumer) -> Polled {
    tokio::time::timeout(WAIT, consumer.recv())
        .await
        .unwrap()
        .unwrap()
}

pub(super) async fn take(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        match recv(consumer).await {
            Polled::Deliveries(deliveries) => all.extend(deliveries),
            other => panic!("expected deliveries, got {other:?}"),
        }
    }
    all
}

pub(super) async fn records_come_back_whole_and_in_order(bed: &mut impl Bed) {
    let log = bed.open().await;
    let appender = |number: usize| {
        let log = &log;
        async move {
            let mut own = Vec::new();
            for index in 0..60 {
                let text = format!("{number}-{index}");
                let durability = if index % 3 == 0 {
                    Durability::Durable
                } else {
                    Durability::Buffered
                };
                let place = if number.is_multiple_of(2) {
                    Place::ByKey
                } else {
                    Place::Partition(1)
                };
                let position = log
                    .append(TOPIC, place, record(&text), durability)
                    .await
                    .unwrap();
                own.push((position, text));
            }
            own
        }
    };
    let own = futures::future::join_all((0..6).map(appender)).await;
    let mut found = BTreeMap::new();
    for partition in 0..log.partitions(TOPIC) {
        let deliveries = read_all(&log, partition).await;
        assert!(deliveries.is_sorted_by(|a, b| a.position.offset < b.position.offset));
        found.extend(
            deliveries
                .into_iter()
                .map(|delivery| (delivery.position, delivery)),
        );
    }
    assert_eq!(found.len(), 360);
    for own in own {
        let in_one = own
            .iter()
            .filter(|(position, _)| position.partition == 1)
            .collect::<Vec<_>>();
        assert!(
            in_one.is_sorted_by(|a, b| a.0.offset < b.0.offset),
            "order of the calls"
        );
        for (position, text) in own {
            assert_eq!(found[&position].record, record(&text));
            assert!(found[&position].timestamp.0 > 0);
            assert_eq!(&*found[&position].topic, TOPIC);
        }
    }
    bed.close(log).await;
}

/// Appends until the process is killed; returns what was acknowledged and is not there afterwards.
pub(super) async fn lost_by_a_kill(bed: &mut impl Bed) -> Vec<(Position, String)> {
    let log = bed.open().await;
    let appender = |number: usize| {
        let log = &log;
        async move {
            let mut own = Vec::new();
            for index in 0..40 {
                let text = format!("{number}-{index}");
                own.push((append(log, index % 2, &text).await, text));
            }
            own
        }
    };
    let acknowledged = futures::future::join_all((0..4).map(appender))
        .await
        .concat();
    bed.kill(log).await;
    let log = bed.open().await;
    let mut found = BTreeMap::new();
    for partition in 0..2 {
        let deliveries = read_all(&log, partition).await;
        found.extend(
            deliveries
                .into_iter()
                .map(|delivery| (delivery.position, delivery.record)),
        );
    }
    let mut seen = BTreeSet::new();
    for (position, _) in &acknowledged {
        assert!(seen.insert(*position), "{position:?} was given twice");
    }
    // Nor is a position of the time before ever used for another record.
    assert!(!seen.contains(&append(&log, 0, "after").await));
    bed.close(log).await;
    let missing =
        |(position, text): &(Position, String)| found.get(position) != Some(&record(text));
    acknowledged.into_iter().filter(missing).collect()
}

pub(super) async fn what_was_acknowledged_survives_a_kill(bed: &mut impl Bed) {
    assert_eq!(lost_by_a_kill(bed).await, []);
}

pub(super) async fn a_group_goes_on_where_it_committed(bed: &mut impl Bed) {
    let log = bed.open().await;
    let mut offsets = Vec::new();
    for index in 0..10 {
        offsets.push(append(&log, 0, &index.to_string()).await.offset);
    }
    let (mut consumer, partitions) = join(&log, "group", StartAt::Committed).await;
    assert_eq!(partitions.len() as i32, log.partitions(TOPIC));
    assert_eq!(texts(&take(&mut consumer, 10).await).len(), 10);
    consumer.commit(&[(0, offsets[4])]).await.unwrap();
    consumer.close(Duration::from_secs(10)).await;

    let (mut again, _) = join(&log, "group", StartAt::Committed).await;
    assert_eq!(
        texts(&take(&mut again, 6).await),
        ["4", "5", "6", "7", "8", "9"]
    );
    again.close(Duration::from_secs(10)).await;
    bed.close(log).await;

    let log = bed.open().await;
    let (mut again, _) = join(&log, "group", StartAt::Committed).await;
    assert_eq!(texts(&take(&mut again, 6).await)[0], "4");
    let (mut other, _) = join(&log, "other", StartAt::Committed).await;
    assert_eq!(
        take(&mut other, 10).await.len(),
        10,
        "another group has its own position"
    );
    again.commit(&[(0, offsets[6])]).await.unwrap();
    other.close(Duration::from_secs(10)).await;
    bed.kill(log).await;
    drop(again);

    let log = bed.open().await;
    let (mut again, _) = join(&log, "group", StartAt::Committed).await;
    let first = take(&mut again, 1).await[0].position.offset;
    assert!(
        offsets[4..=6].contains(&first),
        "nothing is skipped, at most repeated"
    );
    again.close(Duration::from_secs(10)).await;
    bed.close(log).await;
}

pub(super) async fn nothing_is_delivered_before_start_or_while_paused(bed: &mut impl Bed) {
    let log = bed.open().await;
    let first = append(&log, 0, "a").await.offset;
    append(&log, 0, "b").await;
    let mut consumer = log.consume("paused", TOPIC, options(1)).await.unwrap();
    let Polled::Assigned { epoch, partitions } = recv(&mut consumer).await else {
        panic!("expected an assignment");
    };
    let quiet = Duration::from_millis(200);
    assert!(
        tokio::time::timeout(quiet, consumer.recv()).await.is_err(),
        "not started"
    );
    let mut starts: Vec<_> = partitions
        .iter()
        .map(|number| (*number, StartAt::Committed))
        .collect();
    consumer.start(epoch + 7, &starts).await.unwrap();
    assert!(
        tokio::time::timeout(quiet, consumer.recv()).await.is_err(),
        "of no epoch"
    );
    consumer.pause();
    starts.retain(|(number, _)| *number != 0);
    starts.push((0, StartAt::Offset(first + 1)));
    consumer.start(epoch, &starts).await.unwrap();
    assert!(
        tokio::time::timeout(quiet, consumer.recv()).await.is_err(),
        "paused"
    );
    consumer.resume();
    assert_eq!(texts(&take(&mut consumer, 1).await), ["b"]);
    consumer.seek(0, first).await.unwrap();
    assert_eq!(texts(&take(&mut consumer, 1).await), ["a"]);
    assert_eq!(
        texts(&take(&mut consumer, 1).await),
        ["b"],
        "one at a time, as asked"
    );
    consumer.close(Duration::from_secs(10)).await;
    bed.close(log).await;
}

pub(super) async fn a_tail_reads_from_any_position_and_is_woken(bed: &mut impl Bed) {
    let log = bed.open().await;
    let mut offsets = Vec::new();
    for index in 0..30 {
        offsets.push(append(&log, 0, &index.to_string()).await.offset);
    }
    for (index, offset) in offsets.iter().enumerate().step_by(7) {
        let deliveries = read_from(&log, 0, *offset).await;
        assert_eq!(deliveries.len(), 30 - index);
        assert_eq!(texts(&deliveries)[0], index.to_string());
    }
    let high = log.watermarks(TOPIC, 0).await.unwrap().high;
    let mut tail = log.tail(TOPIC, 0, high).await.unwrap();
    let (received, position) = tokio::join!(
        async {
            tokio::time::timeout(WAIT, tail.recv())
                .await
                .unwrap()
                .unwrap()
        },
        append(&log, 0, "awaited"),
    );
    assert_eq!(
        (received[0].position, texts(&received)),
        (position, vec!["awaited".to_owned()])
    );
    assert_eq!(
        tail.position(),
        log.watermarks(TOPIC, 0).await.unwrap().high
    );
    bed.close(log).await;
}

pub(super) async fn positions_that_are_not_there_are_errors(bed: &mut impl Bed) {
    let log = bed.open().await;
    append(&log, 0, "a").await;
    let Watermarks { low, high } = log.watermarks(TOPIC, 0).await.unwrap();
    assert!(low < high);
    let beyond = log.tail(TOPIC, 0, high + 1).await;
    assert!(
        matches!(beyond, Err(LogError::BeyondEnd { offset, .. }) if offset == high + 1),
        "{beyond:?}"
    );
    let below = log.tail(TOPIC, 0, low - 1).await;
    assert!(
        matches!(below, Err(LogError::BelowStart { .. })),
        "{below:?}"
    );
    let mut consumer = log
        .consume("astray", TOPIC, ConsumeOptions::default())
        .await
        .unwrap();
    let Polled::Assigned { epoch, .. } = recv(&mut consumer).await else {
        panic!("expected an assignment");
    };
    let beyond = consumer
        .start(epoch, &[(0, StartAt::Offset(high + 5))])
        .await;
    assert!(
        matches!(beyond, Err(LogError::BeyondEnd { .. })),
        "{beyond:?}"
    );
    let below = consumer
        .start(epoch, &[(0, StartAt::Offset(low - 1))])
        .await;
    assert!(
        matches!(below, Err(LogError::BelowStart { .. })),
        "{below:?}"
    );
    consumer.close(Duration::from_secs(10)).await;
    bed.close(log).await;
}

pub(super) async fn what_can_never_be_appended_is_said_at_once(bed: &mut impl Bed) {
    let log = bed.open().await;
    let try_append = |topic, place, record| log.append(topic, place, record, Durability::Durable);
    let nowhere = try_append("nowhere", Place::ByKey, record("a")).await;
    assert!(
        matches!(nowhere, Err(AppendError::NoSuchPlace { .. })),
        "{nowhere:?}"
    );
    let nowhere = try_append(TOPIC, Place::Partition(99), record("a")).await;
    assert!(
        matches!(nowhere, Err(AppendError::NoSuchPlace { .. })),
        "{nowhere:?}"
    );
    let large = Record {
        value: Bytes::from(vec![0; 5 << 20]),
        ..Record::default()
    };
    let large = try_append(TOPIC, Place::ByKey, large).await;
    assert!(
        matches!(large, Err(AppendError::TooLarge { .. })),
        "{large:?}"
    );
    let position = append(&log, 0, "small").await;
    assert_eq!(read_all(&log, 0).await[0].position, position);
    assert_eq!(log.partitions("nowhere"), 0);
    assert!(log.partitions(DEAD_LETTERS) > 0);
    assert_eq!(*log.health().borrow(), Health::Up);
    bed.close(log).await;
}

/// A consumer far behind gets everything, in batches of the asked size, while records keep coming.
pub(super) async fn a_slow_consumer_gets_everything_in_bounded_batches(bed: &mut impl Bed) {
    let log = bed.open().await;
    let value = Bytes::from(vec![7; 2000]);
    let many = (0..3000).map(|index: i32| {
        let record = Record {
            key: Bytes::from(index.to_string()),
            headers: Vec::new(),
            value: value.clone(),
        };
        log.append(TOPIC, Place::Partition(0), record, Durability::Buffered)
    });
    for result in futures::future::join_all(many).await {
        result.unwrap();
    }
    let mut consumer = log.consume("slow", TOPIC, options(64)).await.unwrap();
    let Polled::Assigned { epoch, partitions } = recv(&mut consumer).await else {
        panic!("expected an assignment");
    };
    let starts: Vec<_> = partitions
        .iter()
        .map(|number| (*number, StartAt::Committed))
        .collect();
    consumer.start(epoch, &starts).await.unwrap();
    let mut all = Vec::new();
    while all.len() < 3000 {
        let Polled::Deliveries(deliveries) = recv(&mut consumer).await else {
            panic!("expected deliveries");
        };
        assert!((1..=64).contains(&deliveries.len()));
        all.extend(texts(&deliveries));
        // A future that is dropped before it was ready takes nothing with it.
        let mut cut_short = std::pin::pin!(consumer.recv());
        if let std::task::Poll::Ready(polled) = futures::poll!(cut_short.as_mut()) {
            let Ok(Polled::Deliveries(deliveries)) = polled else {
                panic!("expected deliveries");
            };
            all.extend(texts(&deliveries));
        }
    }
    let expected: Vec<_> = (0..3000).map(|index: i32| index.to_string()).collect();
    assert_eq!(all, expected);
    consumer.close(Duration::from_secs(10)).await;
    bed.close(log).await;
}
