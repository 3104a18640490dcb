//! The conformance suite on a real broker, when `LOCKGATE_TEST_KAFKA_BROKERS` names one (`make test` sets it).

use std::time::Duration;

use schemas::topic::{self, Topic};

use crate::log::conformance::{self, Bed};
use crate::log::{
    ConsumeOptions, Consumer, Health, Log, LogError, Polled, Settings as LogSettings, StartAt,
};

use super::Settings;

/// Topics and groups of its own on the broker.
pub(super) struct Broker {
    pub(super) settings: Settings,
}

#[expect(clippy::disallowed_methods, reason = "where the tests' broker is")]
fn brokers() -> Option<String> {
    std::env::var("LOCKGATE_TEST_KAFKA_BROKERS")
        .ok()
        .filter(|brokers| !brokers.is_empty())
}

impl Broker {
    /// None when no broker is there to test with.
    pub(super) fn new() -> Option<Self> {
        let settings = Settings {
            brokers: brokers()?.split(',').map(str::to_owned).collect(),
            topic_prefix: format!("test-{}.", uuid::Uuid::new_v4().simple()),
            replication: 1,
            partitions: topic::ALL
                .iter()
                .map(|topic| (topic.name.to_owned(), 2))
                .collect(),
            properties: [("session.timeout.ms".to_owned(), "6000".to_owned())].into(),
        };
        Some(Self { settings })
    }
}

/// Few, so that a test does not wait for hundreds of partitions.
pub(super) fn topics() -> Vec<Topic> {
    let used = [
        topic::REQUESTS_INTERACTIVE,
        topic::DEAD_LETTERS,
        topic::CONTROL,
    ];
    topic::ALL
        .into_iter()
        .filter(|topic| used.contains(&topic.name))
        .collect()
}

impl Bed for Broker {
    async fn open(&mut self) -> Log {
        let log = Log::open(&LogSettings::Kafka(self.settings.clone()))
            .await
            .unwrap();
        let ready = async {
            while let Err(error) = log.ensure_topics(&topics()).await {
                assert!(error.is_retryable(), "{error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            log.health()
                .wait_for(|health| *health == Health::Up)
                .await
                .unwrap();
        };
        tokio::time::timeout(Duration::from_secs(60), ready)
            .await
            .unwrap();
        log
    }

    async fn kill(&mut self, log: Log) {
        drop(log);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_whole_and_in_order() {
    let Some(mut broker) = Broker::new() else {
        return;
    };
    conformance::records_come_back_whole_and_in_order(&mut broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    let Some(mut broker) = Broker::new() else {
        return;
    };
    conformance::what_was_acknowledged_survives_a_kill(&mut broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_where_it_committed() {
    let Some(mut broker) = Broker::new() else {
        return;
    };
    conformance::a_group_goes_on_where_it_committed(&mut broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_delivered_before_start_or_while_paused() {
    let Some(mut broker) = Broker::new() else {
        return;
    };
    conformance::nothing_is_delivered_before_start_or_while_paused(&mut broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_reads_from_any_position_and_is_woken() {
    let Some(mut broker) = Broker::new() else {
        return;
    };
    conformance::a_tail_reads_from_any_position_and_is_woken(&mut broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_that_are_not_there_are_errors() {
    let Some(mut broker) = Broker::new() else {
        return;
    };
    conformance::positions_that_are_not_there_are_errors(&mut broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_appended_is_said_at_once() {
    let Some(mut broker) = Broker::new() else {
        return;
    };
    conformance::what_can_never_be_appended_is_said_at_once(&mut broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_gets_everything_in_bounded_batches() {
    let Some(mut broker) = Broker::new() else {
        return;
    };
    conformance::a_slow_consumer_gets_everything_in_bounded_batches(&mut broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_move_with_the_members_and_late_commits_are_left_out() {
    let Some(mut broker) = Broker::new() else {
        return;
    };
    let log = broker.open().await;
    let (mut first, all) = conformance::join(&log, "shared", StartAt::Committed).await;
    assert_eq!(all, [0, 1]);
    for partition in 0..2 {
        conformance::append(&log, partition, "before").await;
    }
    conformance::take(&mut first, 2).await;
    let mut second = log
        .consume(
            "shared",
            topic::REQUESTS_INTERACTIVE,
            ConsumeOptions::default(),
        )
        .await
        .unwrap();
    // Both are polled until each has one partition.
    let moved = async {
        let (mut of_first, mut of_second) = (all.clone(), Vec::new());
        while of_first.len() != 1 || of_second.len() != 1 {
            tokio::select! {
                polled = first.recv() => follow(&mut first, polled.unwrap(), &mut of_first).await,
                polled = second.recv() => follow(&mut second, polled.unwrap(), &mut of_second).await,
            }
        }
        (of_first, of_second)
    };
    let (of_first, of_second) = tokio::time::timeout(Duration::from_secs(60), moved)
        .await
        .unwrap();
    assert_ne!(of_first, of_second);
    // Not its partition any more: left out, so that the other goes on from the start.
    let moved = of_second[0];
    first.commit(&[(moved, 1)]).await.unwrap();
    first.close(Duration::from_secs(10)).await;
    second.close(Duration::from_secs(10)).await;
    let (mut again, _) = conformance::join(&log, "shared", StartAt::Committed).await;
    let found = conformance::take(&mut again, 2).await;
    assert!(
        found.iter().all(|delivery| delivery.position.offset == 0),
        "nothing was committed: {found:?}"
    );
    again.close(Duration::from_secs(10)).await;
    log.close(Duration::from_secs(10)).await;
}

/// Notes what a member owns and starts what it was given.
async fn follow(consumer: &mut Consumer, polled: Polled, owned: &mut Vec<i32>) {
    match polled {
        Polled::Assigned { epoch, partitions } => {
            let starts: Vec<_> = partitions
                .iter()
                .map(|number| (*number, StartAt::Committed))
                .collect();
            consumer.start(epoch, &starts).await.unwrap();
            owned.extend(partitions);
        }
        Polled::Revoked { partitions, .. } => owned.retain(|number| !partitions.contains(number)),
        Polled::Deliveries(_) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_fit_says_what_to_do() {
    let Some(mut broker) = Broker::new() else {
        return;
    };
    let log = broker.open().await;
    log.close(Duration::from_secs(5)).await;
    let mut longer = topics();
    for topic in &mut longer {
        topic.retention *= 2;
    }
    let log = Log::open(&LogSettings::Kafka(broker.settings.clone()))
        .await
        .unwrap();
    let refused = log.ensure_topics(&longer).await;
    assert!(
        matches!(&refused, Err(LogError::TopicDoesNotFit { remedy, .. }) if !remedy.is_empty()),
        "{refused:?}"
    );
    broker
        .settings
        .partitions
        .insert(topic::DEAD_LETTERS.to_owned(), 5);
    let log = Log::open(&LogSettings::Kafka(broker.settings.clone()))
        .await
        .unwrap();
    let refused = log.ensure_topics(&topics()).await;
    assert!(
        matches!(&refused, Err(LogError::TopicDoesNotFit { topic, .. }) if topic.ends_with(topic::DEAD_LETTERS)),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_appends_fail_at_once() {
    let settings = Settings {
        brokers: vec!["127.0.0.1:1".to_owned()],
        topic_prefix: String::new(),
        replication: 1,
        partitions: Default::default(),
        properties: Default::default(),
    };
    let log = Log::open(&LogSettings::Kafka(settings)).await.unwrap();
    let began = std::time::Instant::now();
    let refused = log
        .append(
            topic::REQUESTS_INTERACTIVE,
            crate::log::Place::ByKey,
            conformance::record("a"),
            crate::log::Durability::Durable,
        )
        .await;
    assert!(
        matches!(refused, Err(crate::log::AppendError::Unavailable { .. })),
        "{refused:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[test]
fn only_records_that_may_linger_are_waited_for_by_the_broker() {
    let settings = Settings {
        brokers: vec!["localhost:1".to_owned()],
        topic_prefix: String::new(),
        replication: 1,
        partitions: Default::default(),
        properties: Default::default(),
    };
    let fetch = |linger| {
        let config = super::consumer_config(&settings, "group", linger);
        ["fetch.min.bytes", "fetch.wait.max.ms"].map(|key| config.get(key).map(str::to_owned))
    };
    let told = |bytes: &str, wait: &str| [Some(bytes.to_owned()), Some(wait.to_owned())];
    assert_eq!(fetch(Duration::ZERO), told("1", "100"));
    assert_eq!(fetch(Duration::from_millis(50)), told("262144", "50"));
}
