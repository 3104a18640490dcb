//! The log on a Kafka cluster, through librdkafka.
//!
//! Settings and the traps they avoid are explained where they are set; librdkafka's logs and errors reach
//! `tracing` through one client context. No transactions, no share groups, classic group protocol.

mod consumer;
mod context;
mod producer;
mod tail;
#[cfg(test)]
mod tests;
mod topics;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{AppendError, ConsumeOptions, Health, LogError, Place, Position, Record, Watermarks};
use context::{Context, Pollers};
use producer::Producers;

pub(super) use consumer::Consumer;
pub(super) use tail::Tail;

/// How to reach the cluster and what to create there.
#[derive(Clone)]
pub struct Settings {
    /// `host:port` of some brokers.
    pub brokers: Vec<String>,
    /// Put before every topic and group name.
    pub topic_prefix: String,
    /// Replication of topics that are created.
    pub replication: i32,
    /// Partitions by topic (without prefix) where they differ from the default.
    pub partitions: BTreeMap<String, i32>,
    /// Further librdkafka properties (security, session time-out).
    pub properties: BTreeMap<String, String>,
}

impl std::fmt::Debug for Settings {
    /// Of the properties only the names: values may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("brokers", &self.brokers)
            .field("topic_prefix", &self.topic_prefix)
            .field("replication", &self.replication)
            .field("partitions", &self.partitions)
            .field("properties", &self.properties.keys())
            .finish()
    }
}

/// Largest record, the same for producers, consumers and topics.
const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest that a question to a broker (watermarks, metadata, positions) may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a broker that has nothing holds a fetch; it answers as soon as there is something.
const FETCH_WAIT: Duration = Duration::from_millis(100);
/// Records that may linger are fetched earlier when there are so many bytes of them.
const LINGER_BYTES: usize = 256 * 1024;
/// How often a cluster that does not answer is asked again.
const PROBE_PERIOD: Duration = Duration::from_millis(500);

/// Handle on a Kafka cluster; clones share its producers.
#[derive(Debug, Clone)]
pub(super) struct Kafka {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    /// Partition counts by topic without prefix.
    partitions: RwLock<HashMap<String, i32>>,
    producers: Producers,
    health: watch::Sender<Health>,
    pollers: Pollers,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka")
            .field("brokers", &self.settings.brokers)
            .finish_non_exhaustive()
    }
}

impl Kafka {
    /// Makes the clients; does not wait for a broker.
    pub(super) fn open(settings: &Settings) -> Result<Self, LogError> {
        let (health, _) = watch::channel(Health::Down {
            reason: "no broker has answered yet".into(),
        });
        let context = Context::default();
        let producers = Producers::new(settings, &context)?;
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            partitions: RwLock::default(),
            producers,
            health,
            pollers: Pollers::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        shared.tasks.spawn(watch_health(
            Arc::downgrade(&shared),
            context,
            shared.stop.clone(),
        ));
        Ok(Self { shared })
    }

    /// The broker's name of a topic or group.
    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.shared.settings.topic_prefix)
    }

    pub(super) async fn ensure_topics(
        &self,
        topics: &[schemas::topic::Topic],
    ) -> Result<(), LogError> {
        let counts = topics::ensure(&self.shared.settings, topics).await?;
        self.shared.partitions.write().extend(counts);
        Ok(())
    }

    pub(super) fn partitions(&self, topic: &str) -> i32 {
        self.shared
            .partitions
            .read()
            .get(topic)
            .copied()
            .unwrap_or(0)
    }

    pub(super) async fn append(
        &self,
        topic: &str,
        place: Place,
        record: Record,
    ) -> Result<Position, AppendError> {
        if let Health::Down { reason } | Health::Failed { reason } = &*self.shared.health.borrow() {
            return Err(AppendError::Unavailable {
                reason: reason.clone(),
            });
        }
        // librdkafka would look for an unknown topic until the time-out and could not tell whether it was written.
        let partitions = self.partitions(topic);
        let exists = match place {
            Place::ByKey => partitions > 0,
            Place::Partition(partition) => (0..partitions).contains(&partition),
        };
        if !exists {
            return Err(AppendError::NoSuchPlace {
                topic: topic.into(),
                partition: place,
            });
        }
        self.shared
            .producers
            .append(&self.full_name(topic), topic, place, record)
            .await
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    pub(super) fn consume(
        &self,
        group: &str,
        topic: &str,
        options: ConsumeOptions,
    ) -> Result<Consumer, LogError> {
        Consumer::join(self, group, topic, options)
    }

    pub(super) async fn tail(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<Tail, LogError> {
        Tail::open(self, topic, partition, offset).await
    }

    pub(super) async fn watermarks(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<Watermarks, LogError> {
        let shared = self.shared.clone();
        let topic = self.full_name(topic);
        blocking(move || {
            let client = shared.producers.interactive();
            let (low, high) = client
                .client()
                .fetch_watermarks(&topic, partition, ANSWER_TIMEOUT)
                .map_err(|error| unavailable(&error))?;
            Ok(Watermarks { low, high })
        })
        .await
    }

    pub(super) async fn close(&self, grace: Duration) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        let shared = self.shared.clone();
        // Flushing blocks its thread for up to the grace period; past it what is queued is given up.
        let flushed = blocking(move || {
            shared.producers.flush(grace);
            Ok(())
        });
        if tokio::time::timeout(grace + PROBE_PERIOD, flushed)
            .await
            .is_err()
        {
            tracing::warn!("records were still queued for Kafka when the grace period ended");
        }
    }
}

/// Settings that every client shares.
fn client_config(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", settings.brokers.join(","))
        .set("client.id", "lockgate")
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        // A broker that comes back is found within a second, not after the default of ten.
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "1000");
    for (name, value) in &settings.properties {
        // Consumers' settings on a producer only make librdkafka warn.
        if !is_consumer_property(name) {
            config.set(name, value);
        }
    }
    config
}

fn is_consumer_property(name: &str) -> bool {
    const CONSUMER: [&str; 6] = [
        "session.",
        "heartbeat.",
        "max.poll.",
        "fetch.",
        "group.",
        "partition.assignment.",
    ];
    CONSUMER.iter().any(|prefix| name.starts_with(prefix))
}

/// Settings of a consumer in `group`.
///
/// Fetch settings: `fetch.queue.backoff.ms` defaults to 1 s and bites as soon as the queue is small; a broker answers as soon as
/// data is there, so `fetch.wait.max.ms` adds no delay on a live topic, unless records may `linger`.
fn consumer_config(settings: &Settings, group: &str, linger: Duration) -> ClientConfig {
    let mut config = client_config(settings);
    let (bytes_min, wait) = if linger.is_zero() {
        (1, FETCH_WAIT)
    } else {
        (LINGER_BYTES, linger)
    };
    config
        .set("group.id", group)
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "range,roundrobin")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Where a position does not exist any more the consumer must stop, not jump.
        .set("auto.offset.reset", "error")
        .set("max.poll.interval.ms", "120000")
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "2000")
        .set("queued.min.messages", "500")
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.queue.backoff.ms", "20")
        .set("fetch.min.bytes", bytes_min.to_string())
        .set("fetch.wait.max.ms", wait.as_millis().to_string())
        .set("fetch.message.max.bytes", RECORD_BYTES_MAX.to_string())
        .set("isolation.level", "read_uncommitted");
    for (name, value) in &settings.properties {
        config.set(name, value);
    }
    config
}

/// Keeps `health` true: asks the cluster after every client error and while it is down.
async fn watch_health(shared: std::sync::Weak<Shared>, context: Context, stop: CancellationToken) {
    let mut stalled = tokio::time::interval(Duration::from_secs(5));
    loop {
        let Some(strong) = shared.upgrade() else {
            return;
        };
        let down = *strong.health.borrow() != Health::Up;
        drop(strong);
        if !down {
            tokio::select! {
                () = stop.cancelled() => return,
                () = context.trouble() => {}
                _ = stalled.tick() => {}
            }
        }
        let Some(strong) = shared.upgrade() else {
            return;
        };
        let health = probe(strong.clone()).await;
        if *strong.health.borrow() != health {
            match &health {
                Health::Up => tracing::info!("Kafka answers"),
                Health::Down { reason } => tracing::warn!(%reason, "Kafka is down"),
                Health::Failed { reason } => tracing::error!(%reason, "Kafka's client has failed"),
            }
            strong.health.send_replace(health.clone());
        }
        drop(strong);
        if health != Health::Up
            && stop
                .run_until_cancelled(tokio::time::sleep(PROBE_PERIOD))
                .await
                .is_none()
        {
            return;
        }
    }
}

/// One question to the cluster.
async fn probe(shared: Arc<Shared>) -> Health {
    if let Some(standing) = shared.pollers.standing_still() {
        return standing;
    }
    let brokers = shared.settings.brokers.join(",");
    let answer = blocking(move || {
        let client = shared.producers.interactive().client();
        if let Some((_, reason)) = client.fatal_error() {
            return Err(LogError::Fatal { reason });
        }
        // Of one topic only: the list of all topics of a large cluster is no probe.
        let topic = format!(
            "{}{}",
            shared.settings.topic_prefix,
            schemas::topic::CONTROL
        );
        client
            .fetch_metadata(Some(&topic), Duration::from_secs(2))
            .map_err(|error| unavailable(&error))?;
        Ok(())
    })
    .await;
    match answer {
        Ok(()) => Health::Up,
        Err(LogError::Fatal { reason }) => Health::Failed {
            reason: reason.into(),
        },
        Err(error) => Health::Down {
            reason: format!("brokers {brokers}: {error}").into(),
        },
    }
}

/// Runs a call of librdkafka that blocks.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(LogError::Unavailable {
            reason: "the runtime is shutting down".into(),
        }),
    }
}

fn unavailable(error: &KafkaError) -> LogError {
    LogError::Unavailable {
        reason: error.to_string(),
    }
}
