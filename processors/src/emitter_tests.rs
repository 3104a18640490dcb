use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use runtime::codec;
use schemas::event::{Started, Terminal};
use schemas::fold::{End, Fold, Step};

use super::*;
use crate::samples::request;

/// A log that fails by chance, in every way that leaves the process alive.
#[derive(Debug)]
struct Moody {
    random: Mutex<StdRng>,
    /// Chance of an append to fail, of 100.
    moods: u32,
    records: Arc<Mutex<Vec<Bytes>>>,
    appends: std::sync::atomic::AtomicUsize,
}

impl Appender for Moody {
    fn append(&self, _: &'static str, _: Place, record: Record, _: Durability) -> Append {
        self.appends
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut random = self.random.lock();
        let fails = random.random_range(0..100) < self.moods;
        let lost = random.random_bool(0.5);
        let unknown = random.random_bool(0.5);
        let delay = Duration::from_micros(random.random_range(0..3_000));
        drop(random);
        let records = Arc::clone(&self.records);
        Box::pin(async move {
            // Its place in the order is taken with the first poll.
            if !fails || (unknown && !lost) {
                records.lock().push(record.value);
            }
            tokio::time::sleep(delay).await;
            match (fails, unknown) {
                (false, _) => Ok(Position {
                    partition: 0,
                    offset: 0,
                }),
                (true, true) => Err(AppendError::Unknown { waited: delay }),
                (true, false) => Err(AppendError::Unavailable {
                    reason: "by chance".into(),
                }),
            }
        })
    }
}

async fn channel(seed: u64, moods: u32) -> (Channel, Arc<Moody>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let codec = Codec::connect(&codec::Settings::Local(folder.path().into()))
        .await
        .unwrap();
    let log = Arc::new(Moody {
        random: Mutex::new(StdRng::seed_from_u64(seed)),
        moods,
        records: Arc::default(),
        appends: Default::default(),
    });
    let channel = Channel {
        log: Arc::clone(&log) as Arc<dyn Appender>,
        codec,
        pace: Arc::default(),
        metrics: Metrics::new(),
    };
    (channel, log, folder)
}

fn started(run: Run, attempt: i32) -> Event {
    Event::Started(Started {
        run,
        attempt,
        deployment: "p/m".into(),
        config_version: "v".into(),
        at: Timestamp::now(),
        continues_from: None,
    })
}

fn completed(emitter: &Emitter) -> Event {
    Event::Completed(Terminal {
        run: emitter.run(),
        at: Timestamp::now(),
        status: 200,
        body: None,
        partial: false,
        chunks: emitter.chunks(),
        error: None,
        usage: None,
        cost_nanos: None,
        deployment: None,
        config_version: None,
        attempts: Vec::new(),
    })
}

async fn pump_for(emitter: &mut Emitter, time: Duration) {
    let timeout = tokio::time::timeout(time, emitter.pump()).await;
    assert!(timeout.is_err(), "it pumps for ever");
}

/// What a reader makes of the records.
fn read(channel: &Channel, log: &Moody) -> (Fold, Vec<String>) {
    let (mut fold, mut text) = (Fold::default(), Vec::new());
    for value in log.records.lock().iter() {
        let record: EventRecord = channel.codec.decode_cached(value).unwrap().unwrap();
        for event in &record.events {
            if let Step::Delta { delta, from } = fold.apply(event) {
                let chunks = delta.chunks[from..].iter();
                text.extend(chunks.map(|chunk| String::from_utf8(chunk.raw.to_vec()).unwrap()));
            }
        }
    }
    (fold, text)
}

async fn schedule(seed: u64) {
    let (channel, log, _folder) = channel(seed, 30).await;
    let mut random = StdRng::seed_from_u64(seed);
    let run = Run {
        number: 1,
        nonce: 7,
    };
    let mut emitter = Emitter::new(&channel, &request(), Run::NONE, None);
    emitter.event(started(run, 1));
    let mut written = Vec::new();
    for number in 0..random.random_range(1..60) {
        let text = format!("{seed}-{number}");
        emitter.chunk(Chunk {
            pieces: Vec::new(),
            raw: text.clone().into(),
        });
        written.push(text);
        let time = Duration::from_micros(random.random_range(0..4_000));
        pump_for(&mut emitter, time).await;
    }
    let terminal = completed(&emitter);
    emitter.event(terminal);
    emitter.flush().await.unwrap();
    let (fold, text) = read(&channel, &log);
    assert_eq!(text, written, "seed {seed}");
    assert_eq!(fold.end, Some(End::Completed), "seed {seed}");
    assert_eq!(fold.next_sequence, emitter.chunks(), "seed {seed}");
}

#[tokio::test]
async fn readers_see_every_chunk_once_and_the_end_however_the_log_fails() {
    futures::future::join_all((0..60).map(schedule)).await;
}

#[tokio::test]
async fn an_instant_answer_is_one_append_and_a_slow_one_begins_without_it() {
    let (channel, log, _folder) = channel(1, 0).await;
    let run = Run {
        number: 1,
        nonce: 7,
    };
    let mut emitter = Emitter::new(&channel, &request(), Run::NONE, None);
    emitter.event(started(run, 1));
    let terminal = completed(&emitter);
    emitter.event(terminal);
    emitter.flush().await.unwrap();
    assert_eq!(log.records.lock().len(), 1);

    let mut emitter = Emitter::new(&channel, &request(), Run::NONE, None);
    emitter.event(started(run, 1));
    pump_for(&mut emitter, Duration::from_millis(50)).await;
    assert_eq!(
        log.records.lock().len(),
        2,
        "held back no longer than a moment"
    );
}

#[tokio::test]
async fn text_does_not_pile_up_before_a_log_that_is_down() {
    let (channel, _log, _folder) = channel(1, 100).await;
    let mut emitter = Emitter::new(&channel, &request(), Run::NONE, None);
    emitter.event(started(
        Run {
            number: 1,
            nonce: 7,
        },
        1,
    ));
    let chunk = || Chunk {
        pieces: Vec::new(),
        raw: Bytes::from(vec![b'x'; 64 * 1024]),
    };
    let mut taken = 0;
    while emitter.has_room() {
        emitter.chunk(chunk());
        taken += 1;
        pump_for(&mut emitter, Duration::from_millis(1)).await;
        assert!(taken < 100, "bounded");
    }
}
