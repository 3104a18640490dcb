//! Faults below the log: full disks, failed syncs, files that cannot be cut, damage.

use proptest::prelude::*;

use super::*;
use crate::log::{Durability, Health, Position};
use conformance::{append, read_all, record};

const TOPIC: &str = schemas::topic::REQUESTS_INTERACTIVE;

async fn try_append(
    log: &Log,
    text: &str,
    durability: Durability,
) -> Result<Position, AppendError> {
    log.append(TOPIC, Place::Partition(0), record(text), durability)
        .await
}

async fn keys(log: &Log) -> Vec<String> {
    let deliveries = read_all(log, 0).await;
    let text =
        |delivery: crate::log::Delivery| String::from_utf8(delivery.record.key.to_vec()).unwrap();
    deliveries.into_iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_recovers_without_a_restart() {
    let mut folder = Simulated::new();
    let log = open(&folder).await;
    append(&log, 0, "before").await;
    // Room for a part of the frame.
    folder.set(|faults| faults.space = Some(30));
    let refused = try_append(&log, "refused", Durability::Durable).await;
    assert!(
        matches!(refused, Err(AppendError::Unavailable { .. })),
        "{refused:?}"
    );
    until_down(&log).await;
    let refused = try_append(&log, "refused at once", Durability::Buffered).await;
    assert!(
        matches!(refused, Err(AppendError::Unavailable { .. })),
        "{refused:?}"
    );
    assert_eq!(keys(&log).await, ["before"], "reading goes on");
    folder.set(|faults| faults.space = None);
    until_up(&log).await;
    append(&log, 0, "after").await;
    assert_eq!(keys(&log).await, ["before", "after"]);
    folder.power_cut(5);
    drop(log);
    assert_eq!(keys(&open(&folder).await).await, ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_loses_nothing_that_was_shown() {
    let mut folder = Simulated::new();
    let log = open(&folder).await;
    append(&log, 0, "durable").await;
    let shown = try_append(&log, "buffered", Durability::Buffered)
        .await
        .unwrap();
    folder.set(|faults| faults.syncs_fail = 1);
    let refused = try_append(&log, "refused", Durability::Durable).await;
    assert!(
        matches!(refused, Err(AppendError::Unavailable { .. })),
        "the cut was synced: {refused:?}"
    );
    until_up(&log).await;
    let next = append(&log, 0, "after").await;
    assert_eq!(next.offset, shown.offset + 1);
    assert_eq!(keys(&log).await, ["durable", "buffered", "after"]);
    // What was shown is durable by now, although the failed sync had dropped it.
    folder.power_cut(0);
    drop(log);
    assert_eq!(
        keys(&open(&folder).await).await,
        ["durable", "buffered", "after"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cut_the_outcome_is_unknown() {
    let mut folder = Simulated::new();
    let log = open(&folder).await;
    append(&log, 0, "before").await;
    folder.set(|faults| {
        faults.syncs_fail = 1;
        faults.cuts_fail = true;
    });
    let unknown = try_append(&log, "unknown", Durability::Durable).await;
    assert!(
        matches!(unknown, Err(AppendError::Unknown { .. })),
        "{unknown:?}"
    );
    assert!(matches!(*log.health().borrow(), Health::Down { .. }));
    folder.kill();
    drop(log);
    let found = keys(&open(&folder).await).await;
    assert_eq!(found[0], "before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_disk_fills_a_bounded_queue() {
    let folder = Simulated::new();
    let log = open(&folder).await;
    append(&log, 0, "before").await;
    folder.set(|faults| faults.stalled = true);
    let value = bytes::Bytes::from(vec![0; 1 << 20]);
    let large = || Record {
        value: value.clone(),
        ..Record::default()
    };
    let mut refused = 0;
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let mut append =
            Box::pin(log.append(TOPIC, Place::Partition(0), large(), Durability::Durable));
        match futures::poll!(append.as_mut()) {
            std::task::Poll::Ready(Err(AppendError::Unavailable { .. })) => refused += 1,
            std::task::Poll::Ready(other) => panic!("{other:?}"),
            std::task::Poll::Pending => waiting.push(append),
        }
    }
    assert!(
        (60..=75).contains(&waiting.len()),
        "{} wait, {refused} were refused",
        waiting.len()
    );
    folder.set(|faults| faults.stalled = false);
    for result in futures::future::join_all(waiting).await {
        result.unwrap();
    }
    append(&log, 0, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_before_the_tail_is_an_error_and_never_a_gap() {
    let mut folder = Simulated::new();
    let log = open(&folder).await;
    for index in 0..400 {
        append(&log, 0, &index.to_string()).await;
    }
    sealed(&log).await;
    folder.kill();
    drop(log);
    folder.damage("0000000000000000.segment", 5_000);
    // Sealed: it opens, and the read that meets the damage says so.
    let log = open(&folder).await;
    let mut tail = log.tail(TOPIC, 0, 0).await.unwrap();
    let error = loop {
        match tail.recv().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, LogError::Fatal { reason } if reason.contains("damaged")),
        "{error}"
    );
    drop(log);
    // Not sealed and not the newest: it does not open.
    folder.kill();
    folder.remove("0000000000000000.index").unwrap();
    let refused = Embedded::on(Arc::new(folder.clone()), small());
    assert!(matches!(refused, Err(LogError::Fatal { reason }) if reason.contains("damaged")));
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_go_on_after_a_clean_end_and_jump_after_another() {
    let mut folder = Simulated::new();
    let log = open(&folder).await;
    assert_eq!(append(&log, 0, "a").await.offset, 0);
    log.close(Duration::from_secs(10)).await;
    let closed = try_append(&log, "late", Durability::Durable).await;
    assert!(matches!(closed, Err(AppendError::Unavailable { .. })));
    let log = open(&folder).await;
    assert_eq!(append(&log, 0, "b").await.offset, 1);
    folder.kill();
    drop(log);
    let log = open(&folder).await;
    assert_eq!(log.watermarks(TOPIC, 0).await.unwrap().high, 1 << 40);
    let beyond = log.tail(TOPIC, 0, (1 << 40) + 1).await;
    assert!(matches!(beyond, Err(LogError::BeyondEnd { .. })));
    let mut tail = log.tail(TOPIC, 0, 2).await.unwrap();
    assert_eq!(tail.position(), 1 << 40, "a gap at the end is jumped over");
    assert_eq!(append(&log, 0, "c").await.offset, 1 << 40);
    assert_eq!(tail.recv().await.unwrap()[0].position.offset, 1 << 40);
    assert_eq!(keys(&log).await, ["a", "b", "c"]);
}

/// One thing that happens to the log.
#[derive(Debug, Clone)]
enum Step {
    Append {
        durable: bool,
        partition: i32,
        large: bool,
    },
    Full,
    SyncFails,
    PowerCut(u64),
    Kill,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any::<bool>(), 0..2, prop::bool::weighted(0.1))
            .prop_map(|(durable, partition, large)| Step::Append { durable, partition, large }),
        1 => Just(Step::Full),
        1 => Just(Step::SyncFails),
        1 => any::<u64>().prop_map(Step::PowerCut),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever happens: durable records stay, buffered ones stay unless the power is cut, refused ones never
    /// appear, no position is used twice, order is the order of the appends.
    #[test]
    fn any_schedule_of_faults_keeps_the_promises(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}

async fn run(steps: Vec<Step>) {
    let mut folder = Simulated::new();
    let mut log = open(&folder).await;
    // By position: the text, and whether it must be there.
    let mut given: std::collections::BTreeMap<Position, (String, bool)> = Default::default();
    let mut refused = std::collections::BTreeSet::new();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Append {
                durable,
                partition,
                large,
            } => {
                let text = format!(
                    "{number}{}",
                    if large {
                        "-".repeat(7_000)
                    } else {
                        String::new()
                    }
                );
                let durability = if durable {
                    Durability::Durable
                } else {
                    Durability::Buffered
                };
                let place = Place::Partition(partition);
                match log.append(TOPIC, place, record(&text), durability).await {
                    Ok(position) => {
                        if durable {
                            // A sync covers everything before it, in all partitions.
                            given.values_mut().for_each(|(_, kept)| *kept = true);
                        }
                        let before = given.insert(position, (text, durable));
                        assert_eq!(before, None, "{position:?} was used twice");
                    }
                    Err(AppendError::Unavailable { .. }) => drop(refused.insert(text)),
                    // One fault after the other: the cut failed, too.
                    Err(AppendError::Unknown { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            Step::Full => folder.set(|faults| faults.space = Some(100)),
            Step::SyncFails => folder.set(|faults| faults.syncs_fail = 1),
            Step::PowerCut(seed) => {
                folder.power_cut(seed);
                log = open(&folder).await;
                let found = all(&log).await;
                given.retain(|position, (_, kept)| {
                    let there = found.contains_key(position);
                    assert!(there || !*kept, "{position:?} was lost by a power cut");
                    *kept = true;
                    there
                });
            }
            Step::Kill => {
                folder.kill();
                log = open(&folder).await;
                given.values_mut().for_each(|(_, kept)| *kept = true);
            }
            Step::Close => {
                folder.set(|faults| *faults = Default::default());
                until_up(&log).await;
                log.close(Duration::from_secs(10)).await;
                log = open(&folder).await;
                given.values_mut().for_each(|(_, kept)| *kept = true);
            }
        }
    }
    folder.set(|faults| *faults = Default::default());
    let found = all(&log).await;
    for (position, (text, _)) in &given {
        assert_eq!(found.get(position), Some(text), "{position:?}");
    }
    for text in found.values() {
        assert!(!refused.contains(text), "{text} was refused and is there");
    }
    let mut numbers = std::collections::BTreeMap::new();
    for (position, text) in &found {
        let number: usize = text.trim_end_matches('-').parse().unwrap();
        let before = numbers.insert(position.partition, number);
        assert!(before.is_none_or(|before| before < number), "order");
    }
}

async fn all(log: &Log) -> std::collections::BTreeMap<Position, String> {
    let mut found = std::collections::BTreeMap::new();
    for partition in 0..2 {
        for delivery in read_all(log, partition).await {
            let text = String::from_utf8(delivery.record.key.to_vec()).unwrap();
            found.insert(delivery.position, text);
        }
    }
    found
}
