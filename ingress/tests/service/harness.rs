//! A door, and what the test plays: the client on one side, the processor on the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ingress::{CONDITION, Error, Parts, Settings, run};
use runtime::codec::{self, Codec};
use runtime::config::{Model, Origin, RoutingDocument};
use runtime::log::{self, Delivery, Durability, Log, Place, Record, Tail};
use runtime::objects::Objects;
use runtime::store::Store;
use runtime::store::keys::{KeySnapshot, NewKey, Role};
use runtime::telemetry::Readiness;
use schemas::control::Cancel;
use schemas::event::{Channel, Chunk, Delta, Event, EventRecord, Piece, Run, Started, Terminal};
use schemas::request::{Body, OnTakeover, Request};
use schemas::status::Status;
use schemas::time::Timestamp;
use schemas::{header, topic};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const MODEL: &str = "demo";

pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) member: String,
    pub(crate) admin: String,
    pub(crate) stranger: String,
    pub(crate) disabled: String,
    pub(crate) expired: String,
    pub(crate) store: Store,
    /// Puts another routing document into force.
    pub(crate) routing: watch::Sender<Arc<RoutingDocument>>,
    pub(crate) stop: CancellationToken,
    pub(crate) log: Log,
    codec: Codec,
    client: reqwest::Client,
    requests: Vec<Tail>,
    control: Tail,
    running: Option<JoinHandle<Result<(), Error>>>,
    following: CancellationToken,
    folder: tempfile::TempDir,
}

/// Settings that tests begin with: as shipped, but quick to stop.
fn settings() -> Settings {
    Settings {
        models: [MODEL, "meta/llama"]
            .map(|name| Model::new(name, Vec::new()))
            .into(),
        reply_partition: None,
        request_timeout: Duration::from_secs(60),
        requests_max: 1_000,
        body_bytes_max: 1024 * 1024,
        bodies_bytes_max: 64 * 1024 * 1024,
        stream_buffer_max: 64 * 1024,
        silence_max: Duration::from_secs(10),
        on_takeover: OnTakeover::Retry,
        grace: Duration::from_secs(5),
        connections_max: 1_000,
        head_bytes_max: 16 * 1024,
        head_timeout: Duration::from_secs(30),
        body_timeout: Duration::from_secs(30),
        write_timeout: Duration::from_secs(30),
    }
}

impl Door {
    pub(crate) async fn open() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::built(change, None).await
    }

    /// A door that knows its keys, but whose store is `store`.
    pub(crate) async fn with_store(store: Store) -> Self {
        Self::built(|_| {}, Some(store)).await
    }

    async fn built(change: impl FnOnce(&mut Settings), other_store: Option<Store>) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path();
        let log = Log::open(&log::Settings::Embedded(log::embedded::Settings {
            folder: data_dir.join("log"),
            bytes_max: 1 << 30,
        }))
        .await
        .unwrap();
        log.ensure_topics(&topic::ALL).await.unwrap();
        let local = codec::Settings::Local(data_dir.join("schemas"));
        let codec = Codec::connect(&local).await.unwrap();
        let objects = runtime::config::Objects {
            url: None,
            shared: false,
            aws: std::collections::BTreeMap::new(),
        };
        let objects = Objects::open(&objects, data_dir).unwrap();
        let store = runtime::config::Store { url: None };
        let store = Store::open(&store, data_dir).await.unwrap();
        let member = key(&store, "member", "acme", Role::Member).await;
        let admin = key(&store, "admin", "acme", Role::Admin).await;
        let stranger = key(&store, "stranger", "other", Role::Member).await;
        let disabled = key(&store, "disabled", "acme", Role::Member).await;
        let id = disabled.split('_').nth(1).unwrap();
        store.disable_key(id).await.unwrap().unwrap();
        let expired = NewKey {
            expires_at: Some(Timestamp(1)),
            ..new_key("expired", "acme", Role::Member)
        };
        let (_, expired) = store.create_key(&expired).await.unwrap();
        let tasks = TaskTracker::new();
        let following = CancellationToken::new();
        let keys = KeySnapshot::follow(&store, data_dir, &tasks, following.clone()).await;

        let mut requests = Vec::new();
        for partition in 0..log.partitions(topic::REQUESTS_INTERACTIVE) {
            requests.push(tail(&log, topic::REQUESTS_INTERACTIVE, partition).await);
        }
        let control = tail(&log, topic::CONTROL, 0).await;

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (routing, documents) = watch::channel(Arc::new(RoutingDocument {
            providers: Vec::new(),
            models: settings.models.clone(),
            version: "v1".to_owned(),
            origin: Origin::File,
        }));
        let parts = Parts {
            log: log.clone(),
            codec: codec.clone(),
            objects,
            store: other_store.unwrap_or_else(|| store.clone()),
            keys,
            routing: documents,
            readiness: Readiness::new([CONDITION]),
        };
        let stop = CancellationToken::new();
        let running = tasks.spawn(run(settings, listener, parts, stop.clone()));
        Self {
            address,
            routing,
            member,
            admin,
            stranger,
            disabled,
            expired: expired.expose_secret().to_owned(),
            store,
            stop,
            log,
            codec,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            requests,
            control,
            running: Some(running),
            following,
            folder,
        }
    }

    // The client.

    pub(crate) fn request(&self, method: &str, path: &str, key: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.address);
        let method = method.parse().unwrap();
        self.client.request(method, url).bearer_auth(key)
    }

    pub(crate) fn get(&self, path: &str, key: &str) -> reqwest::RequestBuilder {
        self.request("GET", path, key)
    }

    pub(crate) fn chat(&self, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        self.post("/v1/chat/completions", body)
    }

    pub(crate) fn post(
        &self,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::RequestBuilder {
        self.request("POST", path, &self.member)
            .header("content-type", "application/json")
            .body(body)
    }

    /// As Anthropic's SDKs send it.
    pub(crate) fn message(
        &self,
        path: &str,
        key: &str,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.address);
        self.client
            .post(url)
            .header("x-api-key", key)
            .header("anthropic-version", "2023-06-01")
            .header("content-type", "application/json")
            .body(body)
    }

    /// A good request, sent while the test goes on.
    pub(crate) fn sent(&self, stream: bool) -> JoinHandle<reqwest::Response> {
        going(self.chat(question(stream)))
    }

    // The processor.

    /// The next request that was accepted.
    pub(crate) async fn accepted(&mut self) -> Request {
        let any = self.requests.iter_mut().map(|tail| Box::pin(tail.recv()));
        let (deliveries, _, _) = soon(futures::future::select_all(any)).await;
        let deliveries = deliveries.unwrap();
        assert_eq!(deliveries.len(), 1, "one request at a time");
        self.decoded(&deliveries[0]).await
    }

    /// The next request, and the header of its record.
    pub(crate) async fn accepted_with(&mut self, name: &str) -> (Request, Option<Bytes>) {
        let any = self.requests.iter_mut().map(|tail| Box::pin(tail.recv()));
        let (deliveries, _, _) = soon(futures::future::select_all(any)).await;
        let delivery = &deliveries.unwrap()[0];
        (self.decoded(delivery).await, delivery.header(name).cloned())
    }

    /// The next cancel that was ordered.
    pub(crate) async fn cancelled(&mut self) -> Cancel {
        let deliveries = soon(self.control.recv()).await.unwrap();
        self.codec
            .decode(&deliveries[0].record.value)
            .await
            .unwrap()
    }

    /// Whether no cancel has been ordered, by now.
    pub(crate) async fn nothing_cancelled(&mut self) -> bool {
        let end = self.log.watermarks(topic::CONTROL, 0).await.unwrap().high;
        end == self.control.position()
    }

    async fn decoded(&self, delivery: &Delivery) -> Request {
        self.codec.decode(&delivery.record.value).await.unwrap()
    }

    /// Appends events of a request to its reply place.
    pub(crate) async fn append(&self, request: &Request, events: Vec<Event>) {
        let record = EventRecord {
            id: request.id,
            tenant: request.tenant.clone(),
            key_id: request.key_id.clone(),
            endpoint: request.endpoint,
            model: request.model.clone(),
            lane: request.lane,
            accepted_at: request.accepted_at,
            shadow_of: None,
            events,
        };
        let name = Bytes::from(request.id.to_string());
        let record = Record {
            headers: vec![(header::REQUEST_ID.into(), name.clone())],
            key: name,
            value: self.codec.encode(&record).unwrap(),
        };
        let place = request.id.reply();
        self.log
            .append(
                place.topic.topic(),
                Place::Partition(place.partition),
                record,
                Durability::Durable,
            )
            .await
            .unwrap();
    }

    /// A processor says how it is.
    pub(crate) async fn heartbeat(&self, status: &Status) {
        let record = Record {
            key: Bytes::from(status.process.clone()),
            headers: Vec::new(),
            value: self.codec.encode(status).unwrap(),
        };
        self.log
            .append(topic::STATUS, Place::ByKey, record, Durability::Buffered)
            .await
            .unwrap();
    }

    /// Waits for the end of the door after its stop.
    pub(crate) async fn ended(&mut self) -> Result<(), Error> {
        soon(self.running.take().unwrap()).await.unwrap()
    }

    /// Ends everything in order.
    pub(crate) async fn close(mut self) {
        self.stop.cancel();
        if self.running.is_some() {
            self.ended().await.unwrap();
        }
        self.following.cancel();
        self.log.close(PATIENCE).await;
        drop(self.folder);
    }
}

/// Sends while the test goes on.
pub(crate) fn going(sending: reqwest::RequestBuilder) -> JoinHandle<reqwest::Response> {
    TaskTracker::new().spawn(async move { sending.send().await.unwrap() })
}

async fn key(store: &Store, name: &str, tenant: &str, role: Role) -> String {
    let (_, secret) = store
        .create_key(&new_key(name, tenant, role))
        .await
        .unwrap();
    secret.expose_secret().to_owned()
}

fn new_key(name: &str, tenant: &str, role: Role) -> NewKey {
    NewKey {
        name: name.to_owned(),
        tenant: tenant.to_owned(),
        role,
        expires_at: None,
    }
}

async fn tail(log: &Log, topic: &str, partition: i32) -> Tail {
    let end = log.watermarks(topic, partition).await.unwrap().high;
    log.tail(topic, partition, end).await.unwrap()
}

/// Fails the test when something takes too long.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, work).await;
    outcome.expect("it takes too long")
}

pub(crate) fn question(stream: bool) -> String {
    let messages = json!([{"role": "user", "content": "hello"}]);
    json!({"model": MODEL, "messages": messages, "stream": stream}).to_string()
}

pub(crate) const RUN: Run = Run {
    number: 1,
    nonce: 42,
};

pub(crate) fn started() -> Event {
    Event::Started(Started {
        run: RUN,
        attempt: 1,
        deployment: "p/m".to_owned(),
        config_version: "v1".to_owned(),
        at: Timestamp::now(),
        continues_from: None,
    })
}

pub(crate) fn token(sequence: i64, text: &str) -> Event {
    chunk(sequence, text, &json!({"t": text}))
}

/// A chunk as `raw`; without a text it is no token.
pub(crate) fn chunk(sequence: i64, text: &str, raw: &Value) -> Event {
    let piece = Piece {
        choice: 0,
        channel: Channel::Text,
        index: 0,
        text: text.to_owned(),
    };
    Event::Delta(Delta {
        run: RUN,
        attempt: 1,
        sequence,
        chunks: vec![Chunk {
            pieces: (!text.is_empty()).then_some(piece).into_iter().collect(),
            raw: Bytes::from(raw.to_string()),
        }],
    })
}

pub(crate) fn terminal(chunks: i64, body: Option<&Value>) -> Terminal {
    Terminal {
        run: RUN,
        at: Timestamp::now(),
        status: 200,
        body: body.map(|body| Body::Inline(Bytes::from(body.to_string()))),
        partial: false,
        chunks,
        error: None,
        usage: None,
        cost_nanos: None,
        deployment: Some("p/m".to_owned()),
        config_version: Some("v1".to_owned()),
        attempts: Vec::new(),
    }
}

/// The header's text.
pub(crate) fn header_of<'a>(response: &'a reqwest::Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// Status, `type`, `code` and `param` of an error, whose shape is checked.
pub(crate) async fn error_of(
    response: reqwest::Response,
) -> (u16, String, Option<String>, Option<String>) {
    let status = response.status().as_u16();
    let id = header_of(&response, "x-request-id").unwrap_or_default();
    assert!(id.starts_with("req_"), "{status} without a request id");
    assert!(header_of(&response, "openai-processing-ms").is_some());
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    let error = body["error"].as_object().expect("an error object");
    let mut names: Vec<_> = error.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["code", "message", "param", "type"]);
    let text = |name: &str| error[name].as_str().map(str::to_owned);
    (status, text("type").unwrap(), text("code"), text("param"))
}

/// Status, `type` and `message` of an error in Anthropic's shape, which is checked.
pub(crate) async fn anthropic_error_of(response: reqwest::Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    let id = header_of(&response, "request-id").unwrap_or_default();
    assert!(id.starts_with("req_"), "{status} without a request id");
    assert_eq!(header_of(&response, "x-request-id"), Some(id));
    let id = id.to_owned();
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    let text = |name: &str| body["error"][name].as_str().unwrap().to_owned();
    let (kind, message) = (text("type"), text("message"));
    let error = json!({"type": kind, "message": message});
    assert_eq!(
        body,
        json!({"type": "error", "error": error, "request_id": id})
    );
    (status, kind, message)
}
