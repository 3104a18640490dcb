use bytes::Bytes;
use parking_lot::Mutex;
use runtime::codec::{self, Codec};
use runtime::log::{self, Delivery, Durability, Ledger, Log, Place, Position, Record};
use schemas::event::{Event, EventRecord, Run, Sign, Terminal};
use schemas::fold::Fold;
use schemas::header;
use schemas::request::{Body, Endpoint, Lane, Request};
use schemas::time::Timestamp;
use schemas::topic::{self, ReplyTopic};

use super::*;
use crate::adopter::Open;
use crate::cancel::Cancels;
use crate::config::Models;
use crate::decode::Decoder;
use crate::emitter::Channel;
use crate::held::Held;
use crate::metrics::Metrics;
use crate::runs::{Completion, Runs, Source};
use crate::samples;

const PLACE: ReplyPlace = ReplyPlace {
    topic: ReplyTopic::Responses,
    partition: 0,
};
const SOURCE: Source = Source {
    lane: Lane::Interactive,
    partition: 0,
};
const ELSEWHERE: Run = Run {
    number: 1,
    nonce: 99,
};

struct Rig {
    work: Arc<Work>,
    tasks: TaskTracker,
    ledger: Arc<Mutex<Ledger>>,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(&log::Settings::Embedded(log::embedded::Settings {
            folder: folder.path().join("log"),
            bytes_max: 1 << 30,
        }))
        .await
        .unwrap();
        log.ensure_topics(&topic::ALL).await.unwrap();
        let codec = Codec::connect(&codec::Settings::Local(folder.path().join("schemas")))
            .await
            .unwrap();
        let settings = runtime::config::Objects {
            url: None,
            shared: false,
            aws: Default::default(),
        };
        let runs = Runs::default();
        let metrics = Metrics::new();
        let work = Arc::new(Work {
            log: log.clone(),
            channel: Channel {
                log: Arc::new(log),
                codec: codec.clone(),
                pace: Arc::default(),
                metrics: Arc::clone(&metrics),
            },
            decoder: Decoder::new(codec),
            objects: runtime::objects::Objects::open(&settings, folder.path()).unwrap(),
            models: Arc::new(arc_swap::ArcSwap::new(Models::none())),
            tasks: TaskTracker::new(),
            cancels: Cancels::new(runs.clone()),
            runs,
            metrics,
            alone: tokio::sync::Mutex::default(),
        });
        let mut ledger = Ledger::default();
        ledger.assign(1, 0);
        Self {
            work,
            tasks: TaskTracker::new(),
            ledger: Arc::new(Mutex::new(ledger)),
            _folder: folder,
        }
    }

    /// A request that another process runs; a takeover of it ends at once, since no model is configured.
    fn open(&self) -> (RequestId, Lot) {
        let now = Timestamp::now();
        let id = RequestId::new(PLACE);
        let ticket = self.ledger.lock().begin(0, 0).unwrap();
        let completion = Completion {
            ledger: Arc::clone(&self.ledger),
            ticket,
        };
        let hold = self.work.runs.enter(id, SOURCE, completion).unwrap();
        let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
        let open = Open {
            delivery: Delivery {
                topic: topic::REQUESTS_INTERACTIVE.into(),
                position: Position {
                    partition: 0,
                    offset: 0,
                },
                timestamp: now,
                record: Record::default(),
            },
            request: Request {
                id,
                body: Body::Inline(Bytes::from(body)),
                ..samples::request()
            },
            hold,
            share: Held::new(1, 1).take(0),
            fold: Fold {
                run: ELSEWHERE,
                attempt: 1,
                ..Fold::default()
            },
        };
        (id, Lot::from([(id, open)]))
    }

    async fn append(&self, id: RequestId, event: Event) {
        let record = EventRecord {
            id,
            tenant: "t".into(),
            key_id: "k".into(),
            endpoint: Endpoint::ChatCompletions,
            model: "m".into(),
            lane: Lane::Interactive,
            accepted_at: Timestamp::now(),
            shadow_of: None,
            events: vec![event],
        };
        let record = Record {
            key: Bytes::from(id.to_string()),
            headers: vec![(header::REQUEST_ID.into(), Bytes::from(id.to_string()))],
            value: self.work.channel.codec.encode(&record).unwrap(),
        };
        let place = Place::Partition(PLACE.partition);
        let append = self
            .work
            .log
            .append(PLACE.topic.topic(), place, record, Durability::Durable);
        append.await.unwrap();
    }

    fn follow(&self, lot: Lot, silent_max: Duration) {
        let (work, tasks) = (Arc::clone(&self.work), self.tasks.clone());
        let following = follow(work, tasks, PLACE, 0, lot, silent_max);
        self.tasks.spawn(following);
    }

    /// Waits for the end of everything.
    async fn end(&self) {
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(20), self.tasks.wait())
            .await
            .expect("an end");
    }

    /// Every event of the request by other runs than the one elsewhere, or about it.
    async fn events(&self) -> Vec<Event> {
        let topic = PLACE.topic.topic();
        let ends = self.work.log.watermarks(topic, 0).await.unwrap();
        let mut tail = self.work.log.tail(topic, 0, 0).await.unwrap();
        let mut events = Vec::new();
        while let Some(deliveries) = crate::catch_up::next(&mut tail, ends.high).await.unwrap() {
            for delivery in deliveries {
                let codec = &self.work.channel.codec;
                let record: EventRecord = codec.decode(&delivery.record.value).await.unwrap();
                events.extend(record.events);
            }
        }
        events
    }
}

fn sign() -> Sign {
    Sign {
        run: ELSEWHERE,
        at: Timestamp::now(),
    }
}

#[tokio::test]
async fn a_run_that_ends_elsewhere_completes_the_delivery() {
    let rig = Rig::new().await;
    let (id, lot) = rig.open();
    rig.follow(lot, Duration::from_secs(60));
    rig.append(id, Event::Alive(sign())).await;
    let terminal = Terminal {
        run: ELSEWHERE,
        at: Timestamp::now(),
        status: 200,
        body: None,
        partial: false,
        chunks: 0,
        error: None,
        usage: None,
        cost_nanos: None,
        deployment: None,
        config_version: None,
        attempts: Vec::new(),
    };
    rig.append(id, Event::Completed(terminal)).await;
    rig.end().await;
    assert_eq!(rig.ledger.lock().open(), 0);
    assert_eq!(rig.events().await.len(), 2, "nothing was added");
}

#[tokio::test]
async fn a_run_that_is_given_back_is_taken_over_at_once() {
    let rig = Rig::new().await;
    let (id, lot) = rig.open();
    rig.follow(lot, Duration::from_secs(60));
    rig.append(id, Event::Released(sign())).await;
    rig.end().await;
    assert_eq!(rig.ledger.lock().open(), 0);
    let events = rig.events().await;
    assert!(
        matches!(events[..], [Event::Released(_), Event::Failed(_)]),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_run_that_is_silent_is_taken_over_and_one_that_gives_signs_is_not() {
    let rig = Rig::new().await;
    let (id, lot) = rig.open();
    let since = Instant::now();
    rig.follow(lot, Duration::from_millis(700));
    let mut signs = tokio::time::interval(Duration::from_millis(200));
    for _ in 0..6 {
        signs.tick().await;
        rig.append(id, Event::Alive(sign())).await;
    }
    assert_eq!(rig.ledger.lock().open(), 1);
    rig.end().await;
    assert!(since.elapsed() >= Duration::from_millis(1_700));
    assert_eq!(rig.ledger.lock().open(), 0);
    // No model is configured here: the takeover ends with an error, by nobody's new run.
    assert!(matches!(rig.events().await.last(), Some(Event::Failed(_))));
}

#[tokio::test]
async fn a_run_whose_partition_went_away_is_left_alone() {
    let rig = Rig::new().await;
    let (_, lot) = rig.open();
    rig.follow(lot, Duration::from_secs(60));
    rig.work.runs.fence(SOURCE);
    rig.end().await;
    assert_eq!(rig.ledger.lock().open(), 1);
    assert!(rig.events().await.is_empty());
}
