//! Start and stop of the door.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use runtime::codec::Codec;
use runtime::config::RoutingDocument;
use runtime::fleet::Fleet;
use runtime::log::{Log, LogError};
use runtime::objects::Objects;
use runtime::store::Store;
use runtime::store::keys::KeySnapshot;
use runtime::telemetry::Readiness;
use schemas::topic::{ReplyPlace, ReplyTopic};
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admission::Admission;
use crate::api::health::Health;
use crate::api::inference::Inference;
use crate::api::keys::Keys;
use crate::api::models::ModelList;
use crate::api::requests::Requests;
use crate::body::Limits;
use crate::canceller;
use crate::config::Settings;
use crate::connections::Connections;
use crate::error::Error;
use crate::forecast::Forecast;
use crate::metrics::Metrics;
use crate::models::InForce;
use crate::publisher::Publisher;
use crate::resume::ResumeTokens;
use crate::routes::Routes;
use crate::tail;
use crate::waiters::{Closed, Waiters};

/// The condition of readiness that the door answers for.
pub const CONDITION: &str = "ingress";
/// For answers to reach their clients, and for cancels to reach the log, once all is decided.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Between two tries to get the secret of resume tokens.
const SECRET_RETRY: Duration = Duration::from_secs(1);

/// What the door is built from.
#[derive(Debug)]
pub struct Parts {
    /// Where requests go and answers come from; its topics exist.
    pub log: Log,
    /// Encodes and decodes records.
    pub codec: Codec,
    /// Large bodies.
    pub objects: Objects,
    /// Requests and keys by id.
    pub store: Store,
    /// Who may call.
    pub keys: KeySnapshot,
    /// Routing documents that replace the models of the settings.
    pub routing: watch::Receiver<Arc<RoutingDocument>>,
    /// Its condition [`CONDITION`] holds while requests are taken.
    pub readiness: Readiness,
}

/// Serves clients on `listener` until `stop`, then drains: what ends within the grace period
/// is answered, everybody else is told where to find the answer.
///
/// # Errors
/// [`Error`] when replies cannot be followed any more, or never could.
///
/// # Cancel safety
/// Dropping the future closes everything at once, as a crash would.
pub async fn run(
    settings: Settings,
    listener: TcpListener,
    parts: Parts,
    stop: CancellationToken,
) -> Result<(), Error> {
    let partition = tail::pick_partition(&parts.log, settings.reply_partition)?;
    let Some(tail) = tail::open(&parts.log, partition, &stop).await? else {
        return Ok(());
    };
    let metrics = Metrics::new();
    let waiters = Arc::new(Waiters::new(settings.stream_buffer_max));
    let admission = Arc::new(Admission::new(
        settings.requests_max,
        settings.bodies_bytes_max,
        metrics.clone(),
    ));
    let (canceller, orders) = canceller::channel();
    let leaving = canceller.leaving();
    // Refusing new requests comes before anything else that a stop does, also after a failure.
    let refusing = stop.child_token();
    let readiness = parts.readiness.clone();
    let (log, codec) = (parts.log.clone(), parts.codec.clone());

    let fleet = Fleet::default();
    let end = CancellationToken::new();
    let heartbeats = fleet
        .clone()
        .follow(log.clone(), codec.clone(), end.clone());

    let tokens = Arc::new(OnceLock::new());
    let secret = resume_tokens(parts.store.clone(), Arc::clone(&tokens));

    let models = InForce::new(&settings.models);
    metrics.observe(fleet.clone(), models.clone());
    let inference = Inference {
        keys: parts.keys.clone(),
        models: models.clone(),
        admission: Arc::clone(&admission),
        forecast: Forecast::new(fleet.clone(), metrics.clone()),
        waiters: Arc::clone(&waiters),
        publisher: Publisher::new(parts.log, parts.codec.clone(), parts.objects.clone()),
        canceller,
        codec: parts.codec,
        objects: parts.objects.clone(),
        tokens: Arc::clone(&tokens),
        metrics: metrics.clone(),
        limits: Limits {
            bytes_max: settings.body_bytes_max,
            timeout: settings.body_timeout,
        },
        request_timeout: settings.request_timeout,
        silence_max: settings.silence_max,
        on_takeover: settings.on_takeover,
    };
    let routes = Arc::new(Routes {
        inference,
        models: ModelList::new(parts.keys.clone(), models.clone()),
        requests: Requests {
            keys: parts.keys.clone(),
            store: parts.store.clone(),
            objects: parts.objects,
        },
        health: Health {
            keys: parts.keys.clone(),
            fleet,
        },
        keys: Keys {
            keys: parts.keys,
            store: parts.store,
        },
        admission: Arc::clone(&admission),
        metrics: metrics.clone(),
        reply_place: ReplyPlace {
            topic: ReplyTopic::Responses,
            partition,
        },
        head_bytes_max: settings.head_bytes_max,
        stop: refusing.clone(),
    });

    let tasks = TaskTracker::new();
    let connection_tasks = TaskTracker::new();
    // Whatever way this function is left, no task of it stays.
    let _end = end.clone().drop_guard();
    let following = until(end.clone(), tail::run(tail, Arc::clone(&waiters)));
    let mut following = tasks.spawn(following);
    tasks.spawn(until(end.clone(), secret));
    tasks.spawn(heartbeats);
    tasks.spawn(until(end.clone(), models.follow(parts.routing)));
    let cancelling = tasks.spawn(canceller::run(orders, log, codec, metrics.clone()));
    let connections = Connections::new(&settings, routes, metrics, refusing.clone(), end.clone());
    let accepting =
        connections.accept(listener, settings.connections_max, connection_tasks.clone());
    let accepting = tasks.spawn(accepting);
    tasks.close();
    connection_tasks.close();
    readiness.set(CONDITION, true);
    info!(partition, "taking requests");

    let failure = tokio::select! {
        () = stop.cancelled() => None,
        failed = &mut following => Some(match failed {
            Ok(Some(error)) => error,
            Ok(None) | Err(_) => LogError::Fatal {
                reason: "the reader of replies ended without a reason".to_owned(),
            },
        }),
    };

    // 1. Unready, and no more requests; idle connections close.
    readiness.set(CONDITION, false);
    refusing.cancel();
    // 2. What ends within the grace period is answered; everybody else is told.
    let inside = admission.inside();
    info!(inside, "draining");
    if tokio::time::timeout(settings.grace, admission.empty())
        .await
        .is_err()
    {
        let left = admission.inside();
        warn!(
            left,
            "the grace period is over, requests go on without their connections"
        );
        waiters.close_all(Closed::Draining);
    }
    // 3. The last bytes reach their clients, then every connection ends.
    let flushed = async {
        admission.empty().await;
        connection_tasks.wait().await;
    };
    if tokio::time::timeout(LAST_WORDS, flushed).await.is_err() {
        let left = connection_tasks.len();
        info!(left, "connections did not end by themselves");
    }
    leaving.begin();
    end.cancel();
    connection_tasks.wait().await;
    // 4. Cancels of clients that hung up are on the log: with the last connection the last
    //    sender is gone.
    if accepting.await.is_err() {
        warn!("the accept loop failed");
    }
    match tokio::time::timeout(LAST_WORDS, cancelling).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => warn!("some cancels did not reach the log"),
    }
    info!("drained");
    match failure {
        Some(error) => Err(Error::Tail(error)),
        None => Ok(()),
    }
}

/// Fetches the secret of resume tokens, however long the store does not answer; until then
/// streams carry no tokens, since nobody could check them.
async fn resume_tokens(store: Store, tokens: Arc<OnceLock<ResumeTokens>>) {
    loop {
        match store.resume_secret().await {
            Ok(secret) => {
                tokens.get_or_init(|| ResumeTokens::new(secret.expose_secret()));
                return;
            }
            Err(error) => warn!(%error, "streams carry no resume tokens yet"),
        }
        tokio::time::sleep(SECRET_RETRY).await;
    }
}

/// The outcome of `work`; none when `end` came first.
async fn until<T>(end: CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        () = end.cancelled() => None,
        outcome = work => Some(outcome),
    }
}
