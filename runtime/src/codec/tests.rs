use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use schemas::id::RequestId;
use schemas::time::Timestamp;
use schemas::topic::{ReplyPlace, ReplyTopic};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::*;

fn cancel() -> Cancel {
    Cancel {
        id: RequestId::new(ReplyPlace {
            topic: ReplyTopic::Responses,
            partition: 0,
        }),
        reason: "client disconnected".to_owned(),
        at: Timestamp(1),
        deadline: Timestamp(2),
    }
}

/// As a later program would write cancels: one more field, with a default.
fn newer_cancel() -> Schema {
    let mut json: Value = serde_json::from_str(Cancel::SCHEMA).unwrap();
    let field = json!({ "name": "note", "type": ["null", "string"], "default": null });
    json["fields"].as_array_mut().unwrap().push(field);
    Schema::parse_str(&json.to_string()).unwrap()
}

#[derive(Debug, Default)]
struct Registry {
    /// Subject and schema; the id is the place plus 100.
    schemas: Mutex<Vec<(String, String)>>,
    compatibility: Mutex<BTreeMap<String, String>>,
    questions: Mutex<u32>,
    refuses: bool,
}

type Answered = Result<Json<Value>, (StatusCode, Json<Value>)>;

fn error(status: StatusCode, code: u32) -> (StatusCode, Json<Value>) {
    (status, Json(json!({ "error_code": code, "message": "no" })))
}

impl Registry {
    fn find(&self, subject: &str, schema: &Value) -> Option<usize> {
        let schemas = self.schemas.lock().unwrap();
        schemas
            .iter()
            .position(|(known, text)| known == subject && text == schema)
    }
}

async fn look_up(
    State(registry): State<Arc<Registry>>,
    Path(subject): Path<String>,
    Json(body): Json<Value>,
) -> Answered {
    let place = registry.find(&subject, &body["schema"]);
    let place = place.ok_or_else(|| error(StatusCode::NOT_FOUND, 40_403))?;
    Ok(Json(json!({ "id": place + 100, "version": 1 })))
}

async fn register(
    State(registry): State<Arc<Registry>>,
    Path(subject): Path<String>,
    Json(body): Json<Value>,
) -> Answered {
    if registry.refuses {
        return Err(error(StatusCode::CONFLICT, 409));
    }
    let mut schemas = registry.schemas.lock().unwrap();
    schemas.push((subject, body["schema"].as_str().unwrap().to_owned()));
    Ok(Json(json!({ "id": schemas.len() + 99 })))
}

async fn by_id(State(registry): State<Arc<Registry>>, Path(id): Path<usize>) -> Answered {
    *registry.questions.lock().unwrap() += 1;
    let schemas = registry.schemas.lock().unwrap();
    let found = schemas.get(id.wrapping_sub(100));
    let (_, schema) = found.ok_or_else(|| error(StatusCode::NOT_FOUND, 40_403))?;
    Ok(Json(json!({ "schema": schema })))
}

async fn compatibility(
    State(registry): State<Arc<Registry>>,
    Path(subject): Path<String>,
    Json(body): Json<Value>,
) -> Answered {
    let level = body["compatibility"].as_str().unwrap().to_owned();
    registry
        .compatibility
        .lock()
        .unwrap()
        .insert(subject, level);
    Ok(Json(body))
}

/// A registry that runs until it is dropped.
struct Running {
    registry: Arc<Registry>,
    address: SocketAddr,
    tasks: TaskTracker,
    stop: DropGuard,
}

impl Running {
    async fn start(registry: Registry) -> Self {
        let registry = Arc::new(registry);
        let routes = Router::new()
            .route("/api/subjects/{subject}", post(look_up))
            .route("/api/subjects/{subject}/versions", post(register))
            .route("/api/schemas/ids/{id}", get(by_id))
            .route("/api/config/{subject}", put(compatibility))
            .with_state(Arc::clone(&registry));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(async move {
            axum::serve(listener, routes)
                .with_graceful_shutdown(stopped)
                .await
        });
        Self {
            registry,
            address,
            tasks,
            stop: stop.drop_guard(),
        }
    }

    fn settings(&self, register: bool) -> Settings {
        Settings::Registry {
            url: format!("http://me:hunter2@{}/api/", self.address)
                .parse()
                .unwrap(),
            register,
        }
    }

    async fn stop(self) {
        drop(self.stop);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[tokio::test]
async fn records_survive_a_registry() {
    let running = Running::start(Registry::default()).await;
    let refused = Codec::connect(&running.settings(false)).await.unwrap_err();
    assert!(
        matches!(
            &refused,
            CodecError::Refused {
                subject: "lockgate.request",
                ..
            }
        ),
        "{refused:?}"
    );
    let codec = Codec::connect(&running.settings(true)).await.unwrap();
    let levels = running.registry.compatibility.lock().unwrap().clone();
    assert_eq!(levels["lockgate.cancel"], "BACKWARD_TRANSITIVE");
    let framed = codec.encode(&cancel()).unwrap();
    assert_eq!(&framed[..5], [0, 0, 0, 0, 103]);
    let decoded: Cancel = codec.decode_cached(&framed).unwrap().unwrap();
    assert_eq!(decoded.reason, "client disconnected");
    // All are there now, and are found.
    let other = Codec::connect(&running.settings(false)).await.unwrap();
    assert_eq!(other.encode(&decoded).unwrap(), framed);
    assert_eq!(running.registry.schemas.lock().unwrap().len(), 5);
    assert_eq!(*running.registry.questions.lock().unwrap(), 0);
    running.stop().await;
}

#[tokio::test]
async fn an_id_not_seen_before_is_asked_for_once() {
    let running = Running::start(Registry::default()).await;
    let codec = Codec::connect(&running.settings(true)).await.unwrap();
    let text = serde_json::to_string(&newer_cancel()).unwrap();
    running
        .registry
        .schemas
        .lock()
        .unwrap()
        .push(("lockgate.cancel".to_owned(), text));
    let mut framed = codec.encode(&cancel()).unwrap().to_vec();
    framed[4] = 105;
    // The new field at the end: the first branch of its union.
    framed.push(0);
    assert!(codec.decode_cached::<Cancel>(&framed).is_none());
    let decoded = futures::future::join_all((0..5).map(|_| codec.decode::<Cancel>(&framed))).await;
    assert!(
        decoded
            .iter()
            .all(|it| it.as_ref().unwrap().deadline == Timestamp(2))
    );
    assert_eq!(*running.registry.questions.lock().unwrap(), 1);
    assert!(codec.decode_cached::<Cancel>(&framed).is_some());

    framed[4] = 200;
    let unknown = codec.decode::<Cancel>(&framed).await.unwrap_err();
    assert!(matches!(
        unknown,
        CodecError::Undecodable {
            schema_id: Some(200),
            source: Cause::UnknownSchema
        }
    ));
    assert!(!unknown.is_retryable());
    running.stop().await;
}

#[tokio::test]
async fn a_registry_that_is_down_is_waited_for_unless_the_schema_is_cached() {
    let running = Running::start(Registry::default()).await;
    let settings = running.settings(true);
    let codec = Codec::connect(&settings).await.unwrap();
    let framed = codec.encode(&cancel()).unwrap();
    running.stop().await;
    assert!(codec.decode::<Cancel>(&framed).await.is_ok());
    let mut unknown = framed.to_vec();
    unknown[4] = 200;
    let error = codec.decode::<Cancel>(&unknown).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
    let error = Codec::connect(&settings).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn an_error_of_a_proxy_is_not_an_answer_of_the_registry() {
    let running = Running::start(Registry::default()).await;
    let settings = Settings::Registry {
        url: format!("http://{}/elsewhere", running.address)
            .parse()
            .unwrap(),
        register: true,
    };
    let error = Codec::connect(&settings).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    running.stop().await;
}

#[tokio::test]
async fn an_incompatible_schema_is_refused() {
    let running = Running::start(Registry {
        refuses: true,
        ..Registry::default()
    })
    .await;
    let error = Codec::connect(&running.settings(true)).await.unwrap_err();
    assert!(matches!(&error, CodecError::Refused { .. }), "{error:?}");
    running.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_record_are_undecodable() {
    let folder = tempfile::tempdir().unwrap();
    let codec = Codec::connect(&Settings::Local(folder.path().to_owned()))
        .await
        .unwrap();
    for bytes in [
        &b""[..],
        &[0, 0, 0],
        &[1, 0, 0, 0, 1, 9],
        &[0, 0, 0, 0, 4, 9, 9, 9],
        &[0, 255, 255, 255, 255],
    ] {
        let error = codec.decode::<Cancel>(bytes).await.unwrap_err();
        assert!(
            matches!(error, CodecError::Undecodable { .. }),
            "{bytes:?}: {error:?}"
        );
    }
}

#[tokio::test]
async fn local_ids_stay_over_restarts_and_changes() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::Local(folder.path().join("schemas"));
    let framed = Codec::connect(&settings)
        .await
        .unwrap()
        .encode(&cancel())
        .unwrap();
    let again = Codec::connect(&settings).await.unwrap();
    assert_eq!(again.encode(&cancel()).unwrap()[..5], framed[..5]);

    let json: &'static str = Box::leak(
        serde_json::to_string(&newer_cancel())
            .unwrap()
            .into_boxed_str(),
    );
    let newer = |json: &'static str| Own {
        subject: Cancel::SUBJECT,
        json,
        schema: Box::leak(Box::new(Schema::parse_str(json).unwrap())),
    };
    let later = Codec::connect_with(&settings, &[newer(json)])
        .await
        .unwrap();
    assert_eq!(later.shared.own, [(Cancel::SUBJECT, 6)]);
    assert!(later.decode::<Cancel>(&framed).await.is_ok());

    let other = r#"{"type":"record","name":"Cancel","namespace":"lockgate","fields":[{"name":"x","type":"int"}]}"#;
    let refused = Codec::connect_with(&settings, &[newer(other)])
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, CodecError::Refused { .. }),
        "{refused:?}"
    );
    let back = Codec::connect(&settings).await;
    // The older program finds its own schema and is not asked to read the newer one.
    assert_eq!(back.unwrap().encode(&cancel()).unwrap()[..5], framed[..5]);
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests alone know of this variable"
)]
fn registry_url() -> Option<String> {
    let url = std::env::var("LOCKGATE_TEST_REGISTRY_URL").ok();
    url.filter(|url| !url.is_empty())
}

/// With a real registry, when `LOCKGATE_TEST_REGISTRY_URL` names one.
#[tokio::test]
async fn records_survive_a_real_registry() {
    let Some(url) = registry_url() else { return };
    let settings = |register| Settings::Registry {
        url: url.parse().unwrap(),
        register,
    };
    let codec = Codec::connect(&settings(true)).await.unwrap();
    let framed = codec.encode(&cancel()).unwrap();
    let other = Codec::connect(&settings(false)).await.unwrap();
    assert_eq!(
        other.decode::<Cancel>(&framed).await.unwrap(),
        codec.decode::<Cancel>(&framed).await.unwrap()
    );
    let mut unknown = framed.to_vec();
    unknown[1..5].copy_from_slice(&1_999_999_999_i32.to_be_bytes());
    let error = codec.decode::<Cancel>(&unknown).await.unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
}
