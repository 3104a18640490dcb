//! Processors on an embedded log of their own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use processors::{Parts, Settings};
use runtime::codec::{self, Codec};
use runtime::config::{
    self, Api, Deployment, Http, KeySource, Model, Origin, Provider, ProviderKind, RoutingDocument,
    Timeouts,
};
use runtime::log::{self, Durability, Log, Place, Record};
use runtime::objects::Objects;
use runtime::store::Store;
use runtime::store::results::{Advance, ResultRow, Status};
use runtime::store::secrets::SecretSnapshot;
use runtime::telemetry::Readiness;
use schemas::control::Cancel;
use schemas::dead_letter::DeadLetter;
use schemas::event::{Event, EventRecord, Run, Started, Terminal};
use schemas::fold::{Fold, Step};
use schemas::header;
use schemas::id::RequestId;
use schemas::request::{Body, Dialect, Endpoint, Lane, OnDisconnect, OnTakeover, Request};
use schemas::time::Timestamp;
use schemas::topic::{self, ReplyPlace, ReplyTopic};
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Rig {
    pub(crate) log: Log,
    pub(crate) codec: Codec,
    pub(crate) objects: Objects,
    pub(crate) store: Store,
    pub(crate) folder: tempfile::TempDir,
}

/// Processors at work in a runtime of their own, so that they can be killed.
pub(crate) struct Processors {
    runtime: Option<tokio::runtime::Runtime>,
    stop: CancellationToken,
    outcome: Option<JoinHandle<Result<(), processors::Error>>>,
    /// Puts another routing document into force.
    pub(crate) routing: watch::Sender<Arc<RoutingDocument>>,
}

impl Rig {
    pub(crate) async fn new() -> Self {
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
        let store = Store::open(&config::Store { url: None }, folder.path())
            .await
            .unwrap();
        let objects = objects(folder.path());
        Self {
            log,
            codec,
            objects,
            store,
            folder,
        }
    }

    pub(crate) fn start(&self, settings: Settings) -> Processors {
        self.start_with(settings, SecretSnapshot::none())
    }

    /// With provider keys that are sealed in the store.
    pub(crate) fn start_with(&self, settings: Settings, secrets: SecretSnapshot) -> Processors {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let stop = CancellationToken::new();
        let (routing, documents) = watch::channel(Arc::new(settings.routing.clone()));
        let parts = Parts {
            log: self.log.clone(),
            codec: self.codec.clone(),
            objects: objects(self.folder.path()),
            store: self.store.clone(),
            secrets,
            routing: documents,
            readiness: Readiness::new([processors::READY]),
        };
        let outcome = runtime.spawn(processors::run(settings, parts, stop.clone()));
        Processors {
            runtime: Some(runtime),
            stop,
            outcome: Some(outcome),
            routing,
        }
    }

    pub(crate) async fn submit(&self, request: &Request) -> RequestId {
        let record = Record {
            key: Bytes::from(request.id.to_string()),
            headers: vec![(
                header::TRACEPARENT.into(),
                Bytes::from_static(TRACE.as_bytes()),
            )],
            value: self.codec.encode(request).unwrap(),
        };
        self.append(request.lane.topic(), record).await;
        request.id
    }

    pub(crate) async fn append(&self, topic: &str, record: Record) {
        self.log
            .append(topic, Place::ByKey, record, Durability::Durable)
            .await
            .unwrap();
    }

    pub(crate) async fn cancel(&self, request: &Request) {
        let cancel = Cancel {
            id: request.id,
            reason: "client disconnected".into(),
            at: Timestamp::now(),
            deadline: request.deadline,
        };
        let record = Record {
            key: Bytes::from(request.id.to_string()),
            headers: Vec::new(),
            value: self.codec.encode(&cancel).unwrap(),
        };
        self.append(topic::CONTROL, record).await;
    }

    /// The results sink records the end of a request and stands at the end of its partition.
    pub(crate) async fn store_end(&self, request: &Request) {
        let row = ResultRow {
            id: request.id,
            tenant: request.tenant.clone(),
            key_id: request.key_id.clone(),
            endpoint: request.endpoint,
            model: request.model.clone(),
            lane: request.lane,
            stream: None,
            status: Status::Completed,
            accepted_at: request.accepted_at,
            deadline: None,
            started_at: Some(request.accepted_at),
            finished_at: Some(request.accepted_at),
            run: Run {
                number: 1,
                nonce: 1,
            },
            attempt: 1,
            next_sequence: 0,
            given_up: false,
            http_status: Some(200),
            error: None,
            usage: None,
            cost_nanos: None,
            deployment: None,
            config_version: None,
            attempts: Vec::new(),
            answer: None,
            partial: false,
            request_body: None,
            request_bytes: None,
            answer_bytes: None,
        };
        let place = request.id.reply();
        let advance = Advance {
            topic: place.topic.topic().to_owned(),
            partition: place.partition,
            expected: None,
            next: 0,
        };
        let (rows, advances) = ([row], [advance]);
        let stored = self.store.apply_results("results", &[], &rows, &advances);
        stored.await.unwrap();
    }

    /// Another process has started run `number` of a request, and is gone.
    pub(crate) async fn start_elsewhere(&self, request: &Request, number: i32) {
        let record = EventRecord {
            id: request.id,
            tenant: request.tenant.clone(),
            key_id: request.key_id.clone(),
            endpoint: request.endpoint,
            model: request.model.clone(),
            lane: request.lane,
            accepted_at: request.accepted_at,
            shadow_of: None,
            events: vec![Event::Started(Started {
                run: Run { number, nonce: 1 },
                attempt: 1,
                deployment: "p0/m0".into(),
                config_version: "v".into(),
                at: Timestamp::now(),
                continues_from: None,
            })],
        };
        let id = Bytes::from(request.id.to_string());
        let record = Record {
            key: id.clone(),
            headers: vec![(header::REQUEST_ID.into(), id)],
            value: self.codec.encode(&record).unwrap(),
        };
        let place = request.id.reply();
        let topic = place.topic.topic();
        let place = Place::Partition(place.partition);
        let append = self.log.append(topic, place, record, Durability::Durable);
        append.await.unwrap();
    }

    /// The first record that was set aside.
    pub(crate) async fn dead_letter(&self) -> DeadLetter {
        let mut tail = self.log.tail(topic::DEAD_LETTERS, 0, 0).await.unwrap();
        let letter = tail.recv().await.unwrap().remove(0);
        self.codec.decode(&letter.record.value).await.unwrap()
    }

    /// The copy of a request that was made for a shadow.
    pub(crate) async fn shadow_of(&self, id: RequestId) -> Request {
        let partitions = self.log.partitions(topic::REQUESTS_BACKGROUND);
        let tails = (0..partitions).map(|partition| async move {
            let tail = self.log.tail(topic::REQUESTS_BACKGROUND, partition, 0);
            let mut tail = tail.await.unwrap();
            loop {
                for delivery in tail.recv().await.unwrap() {
                    let request: Request = self.codec.decode(&delivery.record.value).await.unwrap();
                    if request.shadow_of == Some(id) {
                        return request;
                    }
                }
            }
        });
        let found = futures::future::select_all(tails.map(Box::pin));
        let found = tokio::time::timeout(Duration::from_secs(20), found).await;
        found.expect("a copy").0
    }

    /// Every event of a request up to its terminal, record by record.
    pub(crate) async fn answer(&self, id: RequestId) -> Answer {
        tokio::time::timeout(
            Duration::from_secs(20),
            self.read(id, |fold, _| fold.end.is_some()),
        )
        .await
        .expect("a terminal")
    }

    /// The events of a request until `enough`.
    pub(crate) async fn until(&self, id: RequestId, enough: impl Fn(&Event) -> bool) -> Answer {
        tokio::time::timeout(
            Duration::from_secs(20),
            self.read(id, |_, event| enough(event)),
        )
        .await
        .expect("the event")
    }

    async fn read(&self, id: RequestId, enough: impl Fn(&Fold, &Event) -> bool) -> Answer {
        let place = id.reply();
        let mut tail = self
            .log
            .tail(place.topic.topic(), place.partition, 0)
            .await
            .unwrap();
        let mut answer = Answer::default();
        let mut fold = Fold::default();
        loop {
            for delivery in tail.recv().await.unwrap() {
                let record: EventRecord = self.codec.decode(&delivery.record.value).await.unwrap();
                if record.id != id {
                    continue;
                }
                assert_eq!(
                    delivery.header(header::REQUEST_ID).unwrap(),
                    id.to_string().as_bytes()
                );
                let mut over = false;
                for event in &record.events {
                    match fold.apply(event) {
                        Step::Delta { delta, from } => {
                            answer.frames.extend(
                                delta.chunks[from..]
                                    .iter()
                                    .map(|chunk| String::from_utf8(chunk.raw.to_vec()).unwrap()),
                            );
                        }
                        Step::Ended { terminal, .. } => answer.terminal = Some(terminal.clone()),
                        _ => {}
                    }
                    over |= enough(&fold, event);
                }
                answer.records.push(record.events);
                if over {
                    answer.fold = fold;
                    return answer;
                }
            }
        }
    }
}

fn objects(folder: &Path) -> Objects {
    let settings = config::Objects {
        url: None,
        shared: false,
        aws: Default::default(),
    };
    Objects::open(&settings, folder).unwrap()
}

/// What was read of a request.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) records: Vec<Vec<Event>>,
    pub(crate) frames: Vec<String>,
    pub(crate) fold: Fold,
    pub(crate) terminal: Option<Terminal>,
}

impl Answer {
    pub(crate) fn terminal(&self) -> &Terminal {
        self.terminal.as_ref().expect("a terminal")
    }

    pub(crate) fn body(&self) -> serde_json::Value {
        match self.terminal().body.as_ref().expect("a body") {
            Body::Inline(bytes) => serde_json::from_slice(bytes).unwrap(),
            Body::Claim(_) => panic!("a large body"),
        }
    }

    pub(crate) fn code(&self) -> &str {
        let error = self.terminal().error.as_ref().expect("an error");
        error.code.as_deref().expect("a code")
    }

    /// The kinds of events that count, as one word each. What was sent again because its append was not confirmed in time
    /// does not: readers go by the fold.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        let mut fold = Fold::default();
        let events = self.records.iter().flatten();
        events
            .filter(|event| fold.apply(event) != Step::Ignored)
            .map(|event| match event {
                Event::Started(_) => "started",
                Event::Delta(_) => "delta",
                Event::AttemptFailed(_) => "attempt_failed",
                Event::Deferred(_) => "deferred",
                Event::Alive(_) => "alive",
                Event::Released(_) => "released",
                Event::Abandoned(_) => "abandoned",
                Event::Completed(_) => "completed",
                Event::Failed(_) => "failed",
                Event::Cancelled(_) => "cancelled",
                Event::Expired(_) => "expired",
            })
            .collect()
    }

    pub(crate) fn text(&self) -> String {
        let text = |frame: &String| {
            let frame: serde_json::Value = serde_json::from_str(frame).unwrap();
            let content = frame["choices"][0]["delta"]["content"].as_str();
            content.unwrap_or_default().to_owned()
        };
        self.frames.iter().map(text).collect()
    }
}

impl Processors {
    /// As SIGTERM.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.outcome.take().unwrap().await.unwrap().unwrap();
        self.end();
    }

    /// Why they could not start.
    pub(crate) async fn failure(mut self) -> processors::Error {
        let outcome = self.outcome.take().unwrap();
        let outcome = tokio::time::timeout(Duration::from_secs(20), outcome).await;
        self.end();
        outcome.expect("an end").unwrap().unwrap_err()
    }

    /// As `kill -9`: no task runs on.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            let ending =
                std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5)));
            ending.join().unwrap();
        }
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
pub(crate) const KEY: &str = "sk-very-secret-key-of-the-provider-1";

/// Settings with one model, `m`, over providers at `urls`.
pub(crate) fn settings(urls: &[&str]) -> Settings {
    let timeouts = Timeouts {
        connect: Duration::from_secs(1),
        first_token: Duration::from_millis(400),
        idle: Duration::from_millis(400),
        total: Duration::from_secs(5),
    };
    let providers = urls.iter().enumerate().map(|(index, url)| Provider {
        name: format!("p{index}"),
        kind: ProviderKind::Http(Http {
            api: Api::OpenAi,
            base_url: url.parse().unwrap(),
            api_version: None,
            keys: vec![KeySource::Env {
                name: format!("KEY_{index}"),
                value: Some(SecretString::from(KEY.to_owned())),
            }],
            timeouts,
        }),
        // Tests of failures want to see each of them.
        health: config::Health {
            failures_in_a_row: 1_000,
            error_ratio: 2.0,
            ..config::Health::default()
        },
        continues: false,
    });
    let deployments = (0..urls.len()).map(|index| Deployment {
        weight: u32::from(index == 0),
        ..Deployment::new(format!("p{index}"), format!("m{index}"))
    });
    Settings {
        processors: config::Processors {
            held_max: 4_000,
            held_bytes_max: bytesize::ByteSize::mib(64),
            on_takeover: OnTakeover::Retry,
        },
        routing: RoutingDocument {
            providers: providers.collect(),
            models: vec![Model::new("m", deployments.collect())],
            version: "v1".into(),
            origin: Origin::File,
        },
        grace: Duration::from_secs(5),
        redis: config::Redis::default(),
        deadline: Default::default(),
    }
}

/// A request for model `m`.
pub(crate) fn request(stream: bool) -> Request {
    let now = Timestamp::now();
    let body = serde_json::json!({
        "model": "m", "stream": stream, "messages": [{"role": "user", "content": "hello"}],
    });
    Request {
        id: RequestId::new(ReplyPlace {
            topic: ReplyTopic::Responses,
            partition: 1,
        }),
        tenant: "t".into(),
        key_id: "k".into(),
        endpoint: Endpoint::ChatCompletions,
        dialect: Dialect::OpenAi,
        model: "m".into(),
        lane: Lane::Interactive,
        stream,
        accepted_at: now,
        deadline: now.plus(Duration::from_secs(30)),
        on_disconnect: OnDisconnect::Cancel,
        on_takeover: OnTakeover::Retry,
        shadow_of: None,
        body: Body::Inline(Bytes::from(body.to_string())),
        attributes: BTreeMap::new(),
    }
}

/// A request for model `m` by another operation.
pub(crate) fn asks(endpoint: Endpoint, mut body: serde_json::Value) -> Request {
    let stream = body["stream"] == true;
    body["model"] = "m".into();
    Request {
        endpoint,
        dialect: match endpoint {
            Endpoint::Messages | Endpoint::CountTokens => Dialect::Anthropic,
            _ => Dialect::OpenAi,
        },
        body: Body::Inline(Bytes::from(body.to_string())),
        ..request(stream)
    }
}

/// The provider of number `index` speaks `api`.
pub(crate) fn speaks(settings: &mut Settings, index: usize, api: Api) {
    let ProviderKind::Http(http) = &mut settings.routing.providers[index].kind else {
        panic!("another kind");
    };
    http.api = api;
    http.api_version = match api {
        Api::Anthropic => Some("2023-06-01".into()),
        Api::Azure => Some("2024-10-21".into()),
        Api::OpenAi | Api::DeepSeek | Api::Gemini => None,
    };
    if let Api::Azure = api {
        http.base_url.set_path("");
    }
}

/// The first provider, which is called over HTTP.
pub(crate) fn http(settings: &mut Settings) -> &mut Http {
    match &mut settings.routing.providers[0].kind {
        ProviderKind::Http(http) => http,
        ProviderKind::Scripted { .. } => panic!("another kind"),
    }
}

/// The first provider's time-outs.
pub(crate) fn timeouts(settings: &mut Settings) -> &mut Timeouts {
    &mut http(settings).timeouts
}
