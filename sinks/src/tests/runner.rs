//! The runner over a real log, with a sink that counts its effects and with the results sink.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use runtime::codec::{self, Codec};
use runtime::config::Bodies;
use runtime::log::{self, Durability, Log, Place, Record};
use runtime::store::results::{Advance, Status as RowStatus};
use runtime::telemetry::Readiness;
use schemas::dead_letter::DeadLetter;
use schemas::framing;
use schemas::id::RequestId;
use schemas::topic;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::samples::*;
use crate::Error;
use crate::results::Results;
use crate::runner::Runner;
use crate::sink::{Input, Refused, Sink};
use crate::status::Status;

/// No step of a test takes so long.
const LONG: Duration = Duration::from_secs(30);

/// A log with its codec, in a folder of its own.
struct Site {
    log: Log,
    codec: Codec,
    readiness: Readiness,
    folder: TempDir,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = log::Settings::Embedded(log::embedded::Settings {
            folder: folder.path().join("log"),
            bytes_max: 1 << 30,
        });
        let log = Log::open(&settings).await.unwrap();
        log.ensure_topics(&topic::ALL).await.unwrap();
        let codec = codec::Settings::Local(folder.path().join("schemas"));
        Self {
            log,
            codec: Codec::connect(&codec).await.unwrap(),
            readiness: Readiness::new(["sinks"]),
            folder,
        }
    }

    async fn append<R: framing::Record>(&self, topic: &str, partition: i32, record: &R) {
        let value = self.codec.encode(record).unwrap();
        self.append_bytes(topic, partition, value).await;
    }

    async fn append_bytes(&self, topic: &str, partition: i32, value: Bytes) {
        let record = Record {
            value,
            ..Record::default()
        };
        self.log
            .append(
                topic,
                Place::Partition(partition),
                record,
                Durability::Durable,
            )
            .await
            .unwrap();
    }

    async fn runner<S: Sink>(&self, sink: S) -> Runner<S> {
        let status = Status::new(S::NAME, self.readiness.clone());
        let (log, codec) = (self.log.clone(), self.codec.clone());
        Runner::join(sink, log, codec, status).await.unwrap()
    }

    /// A runner at work, and how to stop it.
    async fn start<S: Sink + 'static>(
        &self,
        sink: S,
    ) -> (CancellationToken, JoinHandle<Result<(), Error>>) {
        let stop = CancellationToken::new();
        let runner = self.runner(sink).await;
        let task = TaskTracker::new().spawn(runner.run(stop.clone()));
        (stop, task)
    }
}

/// Waits for `condition` to become true.
async fn until(condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LONG, wait).await.expect("it becomes true");
}

/// What a counting sink has done, with its positions: one mutex is its transaction.
#[derive(Debug, Default)]
struct Tally {
    positions: HashMap<(String, i32), i64>,
    effects: HashMap<RequestId, u32>,
    order: Vec<RequestId>,
    dice: Option<StdRng>,
}

impl Tally {
    fn apply(&mut self, inputs: &[Input], advances: &[Advance]) -> Result<(), Refused> {
        let place = |step: &Advance| (step.topic.clone(), step.partition);
        let is_ours = |step: &Advance| self.positions.get(&place(step)).copied() == step.expected;
        if !advances.iter().all(is_ours) {
            return Err(Refused::Fenced);
        }
        for step in advances {
            self.positions.insert(place(step), step.next);
        }
        for input in inputs {
            let id = match input {
                Input::Request(request) => request.id,
                Input::Events(events) => events.id,
            };
            *self.effects.entry(id).or_default() += 1;
            self.order.push(id);
        }
        Ok(())
    }

    fn throw(&mut self, sides: u32) -> u32 {
        self.dice
            .as_mut()
            .map_or(sides, |dice| dice.random_range(0..sides))
    }
}

#[derive(Debug, Clone, Default)]
struct Counting(Arc<Mutex<Tally>>);

impl Counting {
    fn tally<T>(&self, look: impl FnOnce(&mut Tally) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl Sink for Counting {
    const NAME: &'static str = "counting";
    const TOPICS: &'static [&'static str] = &[topic::REQUESTS_INTERACTIVE, topic::RESPONSES];

    async fn positions(&mut self, topic: &'static str) -> Result<Vec<(i32, i64)>, Refused> {
        tokio::task::yield_now().await;
        self.tally(|tally| {
            if tally.throw(8) == 0 {
                return Err(Refused::Down("asked at a bad time".to_owned()));
            }
            let positions = tally.positions.iter();
            Ok(positions
                .filter(|((other, _), _)| other == topic)
                .map(|((_, partition), next)| (*partition, *next))
                .collect())
        })
    }

    /// Sometimes down, and sometimes down after it has committed.
    async fn write(&mut self, inputs: &[Input], advances: &[Advance]) -> Result<(), Refused> {
        tokio::task::yield_now().await;
        let outcome = self.tally(|tally| match tally.throw(8) {
            0 => Err(Refused::Down("before the commit".to_owned())),
            1 => tally
                .apply(inputs, advances)
                .and(Err(Refused::Down("after the commit".to_owned()))),
            _ => tally.apply(inputs, advances),
        });
        tokio::task::yield_now().await;
        outcome
    }

    fn forget(&mut self) {}
}

#[tokio::test]
async fn killed_and_restarted_at_any_point_it_leaves_no_gap_and_no_double() {
    for seed in 0..6 {
        let site = Site::new().await;
        let sink = Counting::default();
        sink.tally(|tally| tally.dice = Some(StdRng::seed_from_u64(seed)));
        let mut dice = StdRng::seed_from_u64(seed + 1_000);
        let mut sent: HashMap<i32, Vec<RequestId>> = HashMap::new();
        for _ in 0..12 {
            for _ in 0..dice.random_range(0..40) {
                let partition = dice.random_range(0..2);
                let id = id(partition);
                if dice.random_range(0..2) == 0 {
                    let topic = topic::REQUESTS_INTERACTIVE;
                    site.append(topic, partition, &request(id)).await;
                } else {
                    let record = events(id, vec![started(run(1, 1), 1)]);
                    site.append(topic::RESPONSES, partition, &record).await;
                }
                sent.entry(partition).or_default().push(id);
            }
            let runner = site.runner(sink.clone()).await;
            let life = Duration::from_micros(dice.random_range(0..60_000));
            // Dropped in the middle of whatever it does then.
            drop(timeout(life, runner.run(CancellationToken::new())).await);
        }
        sink.tally(|tally| tally.dice = None);
        let (stop, task) = site.start(sink.clone()).await;
        let all: usize = sent.values().map(Vec::len).sum();
        until(async || sink.tally(|tally| tally.effects.len()) == all).await;
        stop.cancel();
        task.await.unwrap().unwrap();
        sink.tally(|tally| {
            assert_eq!(tally.order.len(), all, "seed {seed}: each once");
            assert!(
                tally.effects.values().all(|count| *count == 1),
                "seed {seed}"
            );
        });
    }
}

#[tokio::test]
async fn of_two_runners_on_one_partition_each_record_is_written_by_one() {
    let site = Site::new().await;
    let sink = Counting::default();
    let (stop, task) = site.start(sink.clone()).await;
    let mut all = 0;
    for round in 0..20 {
        let ids: Vec<RequestId> = (0..5).map(|_| id(0)).collect();
        for &id in &ids {
            site.append(topic::REQUESTS_INTERACTIVE, 0, &request(id))
                .await;
        }
        // Somebody else who reads the same partition, and is sometimes quicker.
        let marks = site
            .log
            .watermarks(topic::REQUESTS_INTERACTIVE, 0)
            .await
            .unwrap();
        sink.tally(|tally| {
            let place = (topic::REQUESTS_INTERACTIVE.to_owned(), 0);
            let stored = tally.positions.get(&place).copied();
            let is_behind = stored.unwrap_or(marks.low) == marks.high - 5;
            if round % 2 == 0 && is_behind {
                tally.positions.insert(place, marks.high);
                for id in ids {
                    *tally.effects.entry(id).or_default() += 1;
                }
            }
        });
        all += 5;
        until(async || sink.tally(|tally| tally.effects.len()) == all).await;
    }
    stop.cancel();
    task.await.unwrap().unwrap();
    assert!(sink.tally(|tally| tally.effects.values().all(|count| *count == 1)));
}

#[tokio::test]
async fn what_nobody_can_read_is_set_aside_and_the_rest_flows() {
    let site = Site::new().await;
    let sink = Counting::default();
    let (stop, task) = site.start(sink.clone()).await;
    let (first, last) = (id(0), id(0));
    site.append(topic::REQUESTS_INTERACTIVE, 0, &request(first))
        .await;
    let garbage = Bytes::from_static(b"not avro at all");
    site.append_bytes(topic::REQUESTS_INTERACTIVE, 0, garbage.clone())
        .await;
    // A whole record, of another kind.
    let stranger = site
        .codec
        .encode(&events(id(0), vec![completed(run(1, 1))]))
        .unwrap();
    site.append_bytes(topic::REQUESTS_INTERACTIVE, 0, stranger.slice(..20))
        .await;
    site.append(topic::REQUESTS_INTERACTIVE, 0, &request(last))
        .await;
    until(async || sink.tally(|tally| tally.effects.contains_key(&last))).await;
    assert_eq!(sink.tally(|tally| tally.order.clone()), [first, last]);
    stop.cancel();
    task.await.unwrap().unwrap();

    let marks = site.log.watermarks(topic::DEAD_LETTERS, 0).await.unwrap();
    let mut tail = site
        .log
        .tail(topic::DEAD_LETTERS, 0, marks.low)
        .await
        .unwrap();
    let mut letters = Vec::new();
    while letters.len() < 2 {
        for delivery in timeout(LONG, tail.recv()).await.unwrap().unwrap() {
            let letter: DeadLetter = site.codec.decode(&delivery.record.value).await.unwrap();
            letters.push(letter);
        }
    }
    assert_eq!(letters[0].value, garbage);
    assert_eq!(letters[0].topic, topic::REQUESTS_INTERACTIVE);
    assert_eq!(letters[0].group, "sink.counting");
    assert_eq!(letters[1].offset, letters[0].offset + 1);
}

#[tokio::test]
async fn a_position_that_is_not_on_the_log_stops_its_partition_alone() {
    let site = Site::new().await;
    let sink = Counting::default();
    let lost = (topic::REQUESTS_INTERACTIVE.to_owned(), 0);
    sink.tally(|tally| tally.positions.insert(lost.clone(), i64::MAX / 2));
    let (stop, task) = site.start(sink.clone()).await;
    let (unseen, seen) = (id(0), id(1));
    site.append(topic::REQUESTS_INTERACTIVE, 0, &request(unseen))
        .await;
    site.append(topic::REQUESTS_INTERACTIVE, 1, &request(seen))
        .await;
    until(async || sink.tally(|tally| tally.effects.contains_key(&seen))).await;
    assert!(!site.readiness.is_ready(), "somebody has to act");
    stop.cancel();
    task.await.unwrap().unwrap();
    sink.tally(|tally| {
        assert!(!tally.effects.contains_key(&unseen));
        assert_eq!(tally.positions[&lost], i64::MAX / 2, "no silent jump");
    });
}

#[tokio::test]
async fn while_the_store_is_down_the_sink_is_not_ready_and_then_catches_up() {
    /// Down while the flag is set.
    struct Switched(Counting, Arc<Mutex<bool>>);

    impl Sink for Switched {
        const NAME: &'static str = "switched";
        const TOPICS: &'static [&'static str] = Counting::TOPICS;

        async fn positions(&mut self, topic: &'static str) -> Result<Vec<(i32, i64)>, Refused> {
            self.0.positions(topic).await
        }

        async fn write(&mut self, inputs: &[Input], advances: &[Advance]) -> Result<(), Refused> {
            if *self.1.lock().unwrap() {
                return Err(Refused::Down("switched off".to_owned()));
            }
            self.0.write(inputs, advances).await
        }

        fn forget(&mut self) {}
    }

    let site = Site::new().await;
    let (sink, is_down) = (Counting::default(), Arc::new(Mutex::new(true)));
    let (stop, task) = site
        .start(Switched(sink.clone(), Arc::clone(&is_down)))
        .await;
    until(async || site.readiness.is_ready()).await;
    let mut sent = Vec::new();
    // More than one batch.
    for _ in 0..2_500 {
        let id = id(0);
        site.append(topic::REQUESTS_INTERACTIVE, 0, &request(id))
            .await;
        sent.push(id);
    }
    until(async || !site.readiness.is_ready()).await;
    assert_eq!(sink.tally(|tally| tally.order.len()), 0);
    *is_down.lock().unwrap() = false;
    until(async || sink.tally(|tally| tally.order.len()) == sent.len()).await;
    until(async || site.readiness.is_ready()).await;
    assert_eq!(
        sink.tally(|tally| tally.order.clone()),
        sent,
        "in order, each once"
    );
    stop.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_has_arrived_before_the_stop_is_in_the_store_after_it() {
    let site = Site::new().await;
    let store = super::samples::store_in(&site.folder).await;
    let sink = Results::new(store.clone(), Bodies::Full);
    let (stop, task) = site.start(sink).await;
    let first = id(0);
    site.append(topic::REQUESTS_INTERACTIVE, 0, &request(first))
        .await;
    until(async || store.result(first).await.unwrap().is_some()).await;

    let ids: Vec<RequestId> = (0..200).map(|count| id(count % 2)).collect();
    for &id in &ids {
        let partition = id.reply().partition;
        site.append(topic::REQUESTS_INTERACTIVE, partition, &request(id))
            .await;
        let record = events(id, vec![started(run(1, 1), 1), completed(run(1, 1))]);
        site.append(topic::RESPONSES, partition, &record).await;
    }
    stop.cancel();
    task.await.unwrap().unwrap();
    let rows = store.results(&ids).await.unwrap();
    assert_eq!(rows.len(), ids.len());
    assert!(
        rows.iter()
            .all(|row| row.status == RowStatus::Completed && row.stream == Some(true))
    );
}
