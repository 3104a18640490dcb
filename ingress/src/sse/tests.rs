use super::*;

use bytes::Bytes;
use runtime::codec::{Codec, Settings};
use schemas::event::{Channel, Chunk, EventRecord, Piece, Run, Started, Terminal};
use schemas::id::RequestId;
use schemas::request::{Endpoint, Lane, OnDisconnect};
use schemas::time::Timestamp;
use schemas::topic::{ReplyPlace, ReplyTopic};
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::canceller;
use crate::waiters::{Arrived, Waiters};

/// A stream whose events the test appends by hand.
struct Scene {
    _folder: tempfile::TempDir,
    codec: Codec,
    waiters: Arc<Waiters>,
    id: RequestId,
    tokens: ResumeTokens,
    offset: i64,
}

impl Scene {
    async fn open(patience: Patience) -> (Self, EventStream) {
        Self::open_in(Shape::OpenAi, patience).await
    }

    async fn open_in(shape: Shape, patience: Patience) -> (Self, EventStream) {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::Local(folder.path().to_owned());
        let codec = Codec::connect(&settings).await.unwrap();
        let waiters = Arc::new(Waiters::new(1024 * 1024));
        let metrics = Metrics::new();
        let id = RequestId::new(ReplyPlace {
            topic: ReplyTopic::Responses,
            partition: 1,
        });
        let inflow = waiters.register(id, CancellationToken::new());
        let answer = Answer::new(id, inflow, codec.clone(), metrics.clone());
        let (canceller, _orders) = canceller::channel();
        let hang_up = canceller.on_hang_up(OnDisconnect::Cancel, id, Timestamp::now());
        let admission = Arc::new(Admission::new(1, 1, metrics.clone()));
        let tokens = ResumeTokens::new(b"secret");
        let known = Arc::new(OnceLock::from(tokens.clone()));
        let place = admission.enter().unwrap();
        let stream = EventStream::new(answer, shape, hang_up, place, known, patience, metrics);
        let scene = Self {
            _folder: folder,
            codec,
            waiters,
            id,
            tokens,
            offset: 0,
        };
        (scene, stream)
    }

    fn append(&mut self, events: Vec<Event>) {
        let record = EventRecord {
            id: self.id,
            tenant: "acme".to_owned(),
            key_id: "k".to_owned(),
            endpoint: Endpoint::ChatCompletions,
            model: "m".to_owned(),
            lane: Lane::Interactive,
            accepted_at: Timestamp::now(),
            shadow_of: None,
            events,
        };
        let value = self.codec.encode(&record).unwrap();
        let offset = self.offset;
        self.offset += 1;
        assert!(self.waiters.deliver(self.id, Arrived { offset, value }));
    }
}

fn patient() -> Patience {
    Patience {
        silence_max: Duration::from_secs(60),
        give_up_at: Instant::now() + Duration::from_secs(60),
    }
}

fn run(number: i32) -> Run {
    Run { number, nonce: 7 }
}

fn started(number: i32) -> Event {
    Event::Started(Started {
        run: run(number),
        attempt: 1,
        deployment: "p/m".to_owned(),
        config_version: "v1".to_owned(),
        at: Timestamp::now(),
        continues_from: None,
    })
}

/// A chunk per text; an empty text is a role alone.
fn delta(number: i32, sequence: i64, texts: &[&str]) -> Event {
    let chunk = |text: &&str| Chunk {
        pieces: (!text.is_empty())
            .then(|| Piece {
                choice: 0,
                channel: Channel::Text,
                index: 0,
                text: (*text).to_owned(),
            })
            .into_iter()
            .collect(),
        raw: Bytes::from(format!("{{\"t\":\"{text}\"}}")),
    };
    Event::Delta(Delta {
        run: run(number),
        attempt: 1,
        sequence,
        chunks: texts.iter().map(chunk).collect(),
    })
}

fn terminal(number: i32, chunks: i64) -> Terminal {
    Terminal {
        run: run(number),
        at: Timestamp::now(),
        status: 200,
        body: None,
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

fn failed(number: i32, chunks: i64, error: ErrorBody) -> Event {
    Event::Failed(Terminal {
        error: Some(error),
        ..terminal(number, chunks)
    })
}

async fn frame(stream: &mut EventStream) -> Option<String> {
    let bytes = std::future::poll_fn(|cx| stream.poll_frame(cx)).await?;
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

/// The frame without its `id:` lines.
fn plain(frame: &str) -> String {
    let lines = frame.split_inclusive('\n');
    lines.filter(|line| !line.starts_with("id: ")).collect()
}

#[tokio::test]
async fn the_head_waits_for_a_token_and_what_is_ready_goes_out_together() {
    let (mut scene, mut stream) = Scene::open(patient()).await;
    scene.append(vec![started(1), delta(1, 0, &[""])]);
    {
        let mut begin = std::pin::pin!(stream.begin());
        assert!(futures::poll!(begin.as_mut()).is_pending());
        scene.append(vec![delta(1, 1, &["a", "b"])]);
        assert!(matches!(begin.await, Begin::Stream));
    }
    let first = frame(&mut stream).await.unwrap();
    assert_eq!(
        plain(&first),
        "data: {\"t\":\"\"}\n\ndata: {\"t\":\"a\"}\n\ndata: {\"t\":\"b\"}\n\n"
    );
    scene.append(vec![Event::Completed(terminal(1, 3))]);
    assert_eq!(frame(&mut stream).await.unwrap(), "data: [DONE]\n\n");
    assert!(stream.is_over());
    assert_eq!(frame(&mut stream).await, None);
}

#[tokio::test]
async fn each_frame_names_its_place_on_the_log() {
    let (mut scene, mut stream) = Scene::open(patient()).await;
    scene.append(vec![started(1)]);
    scene.append(vec![delta(1, 0, &["a"]), delta(1, 1, &["b"])]);
    stream.begin().await;
    let text = frame(&mut stream).await.unwrap();
    let points: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .map(|token| scene.tokens.open(token).unwrap())
        .map(|point| {
            (
                point.id,
                point.partition,
                point.run,
                point.offset,
                point.sequence,
            )
        })
        .collect();
    assert_eq!(points, [(scene.id, 1, 1, 1, 0), (scene.id, 1, 1, 1, 1)]);
}

#[tokio::test]
async fn a_failure_before_the_first_token_has_its_true_status() {
    let (mut scene, mut stream) = Scene::open(patient()).await;
    let error = ErrorBody::upstream_failed("nobody answered");
    scene.append(vec![
        started(1),
        delta(1, 0, &[""]),
        failed(1, 1, error.clone()),
    ]);
    match stream.begin().await {
        Begin::Refused(refused) => assert_eq!(refused, error),
        Begin::Stream => panic!("a failed answer began"),
    }
}

#[tokio::test]
async fn a_failure_after_a_token_is_an_event_without_done() {
    let (mut scene, mut stream) = Scene::open(patient()).await;
    scene.append(vec![started(1), delta(1, 0, &["a"])]);
    stream.begin().await;
    frame(&mut stream).await.unwrap();
    scene.append(vec![failed(1, 1, ErrorBody::upstream_cut())]);
    let last = frame(&mut stream).await.unwrap();
    assert!(last.starts_with("data: {\"error\":{"), "{last}");
    assert!(last.contains("upstream_cut") && !last.contains("[DONE]"));
    assert_eq!(frame(&mut stream).await, None);
}

#[tokio::test]
async fn text_of_a_replaced_run_is_never_spliced() {
    let (mut scene, mut stream) = Scene::open(patient()).await;
    scene.append(vec![started(1), delta(1, 0, &["a"])]);
    stream.begin().await;
    frame(&mut stream).await.unwrap();
    scene.append(vec![started(2), delta(2, 0, &["b"])]);
    let last = frame(&mut stream).await.unwrap();
    assert!(last.contains("run_replaced"), "{last}");
    assert!(!last.contains("{\"t\":\"b\"}") && !last.contains("[DONE]"));
    assert_eq!(frame(&mut stream).await, None);
}

#[tokio::test]
async fn a_run_replaced_before_anything_was_sent_goes_unnoticed() {
    let (mut scene, mut stream) = Scene::open(patient()).await;
    scene.append(vec![started(1), delta(1, 0, &["a"])]);
    scene.append(vec![started(2), delta(2, 0, &["b"])]);
    scene.append(vec![Event::Completed(terminal(2, 1))]);
    assert!(matches!(stream.begin().await, Begin::Stream));
    let all = frame(&mut stream).await.unwrap();
    assert_eq!(plain(&all), "data: {\"t\":\"b\"}\n\ndata: [DONE]\n\n");
}

#[tokio::test]
async fn an_end_that_counts_more_chunks_than_came_is_no_clean_end() {
    let (mut scene, mut stream) = Scene::open(patient()).await;
    scene.append(vec![started(1), delta(1, 0, &["a"])]);
    stream.begin().await;
    frame(&mut stream).await.unwrap();
    scene.append(vec![Event::Completed(terminal(1, 2))]);
    let last = frame(&mut stream).await.unwrap();
    assert!(
        last.contains("stream_incomplete") && !last.contains("[DONE]"),
        "{last}"
    );
}

#[tokio::test]
async fn silence_brings_the_head_and_comments_and_later_errors_are_events() {
    let patience = Patience {
        silence_max: Duration::from_millis(30),
        ..patient()
    };
    let (mut scene, mut stream) = Scene::open(patience).await;
    scene.append(vec![started(1), delta(1, 0, &[""])]);
    assert!(matches!(stream.begin().await, Begin::Stream));
    assert_eq!(frame(&mut stream).await.unwrap(), ": waiting\n\n");
    assert_eq!(frame(&mut stream).await.unwrap(), ": waiting\n\n");
    scene.append(vec![failed(1, 1, ErrorBody::upstream_timeout())]);
    let last = frame(&mut stream).await.unwrap();
    assert!(last.starts_with("data: {\"error\":{"), "{last}");
}

#[tokio::test]
async fn nothing_until_the_deadline_is_504() {
    let patience = Patience {
        give_up_at: Instant::now() + Duration::from_millis(30),
        ..patient()
    };
    let (_scene, mut stream) = Scene::open(patience).await;
    match stream.begin().await {
        Begin::Refused(error) => assert_eq!(error.status, 504),
        Begin::Stream => panic!("nothing began"),
    }
}

#[tokio::test]
async fn a_drain_ends_a_stream_with_the_name_of_its_request() {
    let (mut scene, mut stream) = Scene::open(patient()).await;
    scene.append(vec![started(1), delta(1, 0, &["a"])]);
    stream.begin().await;
    frame(&mut stream).await.unwrap();
    scene.waiters.close_all(Closed::Draining);
    let last = frame(&mut stream).await.unwrap();
    assert!(
        last.contains("draining") && last.contains(&scene.id.to_string()),
        "{last}"
    );
}

#[tokio::test]
async fn anthropics_stream_ends_with_its_last_chunk_and_names_its_places_too() {
    let (mut scene, mut stream) = Scene::open_in(Shape::Anthropic, patient()).await;
    scene.append(vec![started(1), delta(1, 0, &["a"])]);
    assert!(matches!(stream.begin().await, Begin::Stream));
    let first = frame(&mut stream).await.unwrap();
    assert!(first.starts_with("id: "), "{first}");
    assert_eq!(plain(&first), "data: {\"t\":\"a\"}\n\n");
    scene.append(vec![Event::Completed(terminal(1, 1))]);
    assert_eq!(frame(&mut stream).await, None);
    assert!(stream.is_over());
}

#[tokio::test]
async fn silence_on_anthropics_stream_is_filled_with_pings() {
    let patience = Patience {
        silence_max: Duration::from_millis(30),
        ..patient()
    };
    let (mut scene, mut stream) = Scene::open_in(Shape::Anthropic, patience).await;
    assert!(matches!(stream.begin().await, Begin::Stream));
    let ping = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
    assert_eq!(frame(&mut stream).await.unwrap(), ping);
    scene.append(vec![started(1)]);
    scene.append(vec![failed(1, 0, ErrorBody::upstream_timeout())]);
    let last = frame(&mut stream).await.unwrap();
    assert!(last.starts_with("event: error\ndata: {"), "{last}");
    assert_eq!(frame(&mut stream).await, None);
}
