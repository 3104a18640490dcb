//! The conformance suite on power cuts, on `kill -9` of a real process, and the proof that it notices.

use std::path::PathBuf;
use std::process::Stdio;

use super::*;
use crate::log::{Durability, Polled, Settings as LogSettings};

/// A folder whose power is cut; of what was not synced, blocks chosen by the seed stay.
struct PowerCut {
    folder: Simulated,
    tuning: Tuning,
    seed: u64,
}

impl PowerCut {
    fn new(seed: u64) -> Self {
        Self {
            folder: Simulated::new(),
            tuning: small(),
            seed,
        }
    }
}

impl Bed for PowerCut {
    async fn open(&mut self) -> Log {
        open_with(&self.folder, self.tuning.clone()).await
    }

    async fn kill(&mut self, log: Log) {
        self.folder.power_cut(self.seed);
        drop(log);
    }
}

/// The real disk.
struct RealDisk {
    folder: tempfile::TempDir,
}

impl RealDisk {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }
}

/// Held to start a process, and shared to open a folder: between fork and exec a child holds every file of this process, and so
/// the lock of a log that was closed meanwhile. The start returns after the exec.
static STARTING: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

async fn open_folder(folder: PathBuf) -> Log {
    let _nobody_starts = STARTING.read().await;
    let settings = Settings {
        folder,
        bytes_max: 1 << 30,
    };
    let log = Log::open(&LogSettings::Embedded(settings)).await.unwrap();
    log.ensure_topics(&schemas::topic::ALL).await.unwrap();
    log
}

impl Bed for RealDisk {
    async fn open(&mut self) -> Log {
        open_folder(self.folder.path().to_owned()).await
    }

    async fn kill(&mut self, log: Log) {
        // Not the mark of a clean end, but everything else that a process leaves; a real `kill -9` is below.
        self.close(log).await;
        std::fs::remove_file(self.folder.path().join("clean")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_whole_and_in_order() {
    conformance::records_come_back_whole_and_in_order(&mut PowerCut::new(0)).await;
    conformance::records_come_back_whole_and_in_order(&mut RealDisk::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_power_cut() {
    for seed in 0..20 {
        conformance::what_was_acknowledged_survives_a_kill(&mut PowerCut::new(seed)).await;
    }
    conformance::what_was_acknowledged_survives_a_kill(&mut RealDisk::new()).await;
}

/// Counter-proof: with syncs that take their time the suite must notice an appender that does not wait for them.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledging_before_the_sync_is_noticed() {
    for acknowledge_before_sync in [false, true] {
        let mut bed = PowerCut::new(0);
        bed.tuning.acknowledge_before_sync = acknowledge_before_sync;
        bed.folder
            .set(|faults| faults.sync_takes = Duration::from_millis(3));
        let lost = conformance::lost_by_a_kill(&mut bed).await;
        assert_eq!(!lost.is_empty(), acknowledge_before_sync, "{lost:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_where_it_committed() {
    conformance::a_group_goes_on_where_it_committed(&mut PowerCut::new(3)).await;
    conformance::a_group_goes_on_where_it_committed(&mut RealDisk::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_delivered_before_start_or_while_paused() {
    conformance::nothing_is_delivered_before_start_or_while_paused(&mut PowerCut::new(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_reads_from_any_position_and_is_woken() {
    conformance::a_tail_reads_from_any_position_and_is_woken(&mut PowerCut::new(0)).await;
    conformance::a_tail_reads_from_any_position_and_is_woken(&mut RealDisk::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_that_are_not_there_are_errors() {
    conformance::positions_that_are_not_there_are_errors(&mut PowerCut::new(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_is_what_lies_from_a_position_on_and_does_not_count_the_jump_of_a_power_cut() {
    let mut bed = PowerCut::new(0);
    let log = bed.open().await;
    let lag = async |log: &Log, offset| log.lag(conformance::TOPIC, 0, offset).await.unwrap();
    let mut position = 0;
    for number in 0..5 {
        position = conformance::append(&log, 0, &number.to_string())
            .await
            .offset;
    }
    assert_eq!(lag(&log, position - 1).await, 2);
    assert_eq!(lag(&log, position + 1).await, 0);
    bed.kill(log).await;
    let log = bed.open().await;
    assert_eq!(lag(&log, position + 1).await, 0);
    let after = conformance::append(&log, 0, "after").await.offset;
    assert!(after > position + 1_000_000);
    assert_eq!(lag(&log, position + 1).await, 1);
    assert_eq!(lag(&log, after + 1).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_appended_is_said_at_once() {
    conformance::what_can_never_be_appended_is_said_at_once(&mut PowerCut::new(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_gets_everything_in_bounded_batches() {
    conformance::a_slow_consumer_gets_everything_in_bounded_batches(&mut PowerCut::new(0)).await;
    conformance::a_slow_consumer_gets_everything_in_bounded_batches(&mut RealDisk::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_may_linger_come_together() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_folder(folder.path().to_owned()).await;
    let topic = schemas::topic::REQUESTS_INTERACTIVE;
    let options = crate::log::ConsumeOptions {
        linger: Duration::from_millis(100),
        ..Default::default()
    };
    let mut consumer = log.consume("patient", topic, options).await.unwrap();
    let Polled::Assigned { epoch, .. } = consumer.recv().await.unwrap() else {
        panic!("expected an assignment");
    };
    let from = [(0, crate::log::StartAt::Committed)];
    consumer.start(epoch, &from).await.unwrap();
    let mut receiving = std::pin::pin!(consumer.recv());
    assert!(futures::poll!(receiving.as_mut()).is_pending());
    conformance::append(&log, 0, "a").await;
    let look = futures::poll!(receiving.as_mut());
    assert!(look.is_pending(), "handed out at once: {look:?}");
    conformance::append(&log, 0, "b").await;
    let Polled::Deliveries(deliveries) = receiving.await.unwrap() else {
        panic!("expected records");
    };
    let keys: Vec<_> = deliveries.iter().map(|one| &one.record.key[..]).collect();
    assert_eq!(keys, [b"a", b"b"]);
}

#[tokio::test]
async fn a_second_member_and_a_second_process_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_folder(folder.path().to_owned()).await;
    let (member, _) = conformance::join(&log, "group", crate::log::StartAt::Committed).await;
    let options = crate::log::ConsumeOptions::default;
    let second = log
        .consume("group", schemas::topic::REQUESTS_INTERACTIVE, options())
        .await;
    assert!(matches!(&second, Err(LogError::Fatal { reason }) if reason.contains("one member")));
    drop(member);
    drop(
        log.consume("group", schemas::topic::REQUESTS_INTERACTIVE, options())
            .await
            .unwrap(),
    );
    let settings = Settings {
        folder: folder.path().to_owned(),
        bytes_max: 1 << 30,
    };
    let second = Log::open(&LogSettings::Embedded(settings)).await;
    assert!(
        matches!(&second, Err(LogError::Fatal { reason }) if reason.contains("another process"))
    );
}

const CHILD: &str = "LOCKGATE_TEST_LOG_CHILD";

#[expect(
    clippy::disallowed_methods,
    reason = "tells the child of a test from the test"
)]
fn child_folder() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// Appends until it is killed, when it is the child of the test below; else nothing.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_appends_until_it_is_killed() {
    let Some(folder) = child_folder() else { return };
    let log = open_folder(folder.clone()).await;
    let appender = |number: usize| {
        let (log, folder) = (&log, &folder);
        async move {
            let durability = if number.is_multiple_of(2) {
                Durability::Durable
            } else {
                Durability::Buffered
            };
            let acknowledged = folder.join(format!("acknowledged-{number}"));
            let mut lines = String::new();
            for index in 0.. {
                let text = format!("{number}-{index}");
                let place = Place::Partition(number as i32 % 2);
                let topic = schemas::topic::REQUESTS_INTERACTIVE;
                let position = log
                    .append(topic, place, conformance::record(&text), durability)
                    .await
                    .unwrap();
                lines = format!("{lines}{} {text}\n", position.offset);
                // Written at once: `kill -9` loses nothing that was written.
                std::fs::write(&acknowledged, &lines).unwrap();
            }
        }
    };
    futures::future::join_all((0..4).map(appender)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_nine_of_a_real_process() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let starting = STARTING.write().await;
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["child_that_appends_until_it_is_killed", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        drop(starting);
        let grown = async {
            let lines = |number: u32| {
                let name = folder.path().join(format!("acknowledged-{number}"));
                std::fs::read_to_string(name)
                    .unwrap_or_default()
                    .lines()
                    .count()
            };
            while (0..4).any(|number| lines(number) < 30) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), grown)
            .await
            .unwrap();
        child.kill().await.unwrap();
        let log = open_folder(folder.path().to_owned()).await;
        for number in 0..4 {
            let name = folder.path().join(format!("acknowledged-{number}"));
            let text = std::fs::read_to_string(&name).unwrap();
            let found = conformance::read_all(&log, number % 2).await;
            // The last line may be cut by the kill.
            for line in text.lines().rev().skip(1) {
                let (offset, text) = line.split_once(' ').unwrap();
                let delivery = found
                    .iter()
                    .find(|delivery| delivery.position.offset.to_string() == offset);
                assert_eq!(
                    delivery.map(|delivery| &delivery.record),
                    Some(&conformance::record(text))
                );
            }
            std::fs::remove_file(name).unwrap();
        }
        // Left as a crash would leave it.
        log.close(Duration::from_secs(10)).await;
    }
}
