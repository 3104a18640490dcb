//! A bare two-hop echo on Kafka, written against rdkafka alone: what no gateway of this shape can
//! beat. A caller produces to one topic, an echo fetches that and produces to a second, and the
//! caller has its answer once its own record is acknowledged and the second is fetched.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::Message as _;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tests::load::{Errors, Report, Times};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// Partitions of each topic, as in the other scenarios on Kafka.
const PARTITIONS: i32 = 4;
/// Size of a record, near that of a small request with its headers.
const RECORD_BYTES: usize = 512;
const ANSWER_MAX: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Brokers, `host:port` joined by commas
    #[arg(long, env = "LOCKGATE_TEST_KAFKA_BROKERS")]
    brokers: String,
    /// Round trips at a time
    #[arg(long, short, default_value_t = 10)]
    concurrency: usize,
    /// Seconds measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds of load before that
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
}

type Waiters = Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>;

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let name = uuid::Uuid::new_v4().simple().to_string();
    let (there, back) = (
        format!("bench-{name}.echo.there"),
        format!("bench-{name}.echo.back"),
    );
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &arguments.brokers);
    create_topics(&client, &[&there, &back]).await?;

    let producer: FutureProducer = client
        .clone()
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .set("compression.type", "lz4")
        .set("message.timeout.ms", "15000")
        .create()?;
    let waiters = Waiters::default();
    let tasks = TaskTracker::new();
    let echo = echo(
        consumer(&client, &there)?,
        producer.clone(),
        back.clone(),
        tasks.clone(),
    );
    let answers = answers(consumer(&client, &back)?, Arc::clone(&waiters));
    tokio::select! {
        ended = echo => ended.context("the echo ended"),
        ended = answers => ended.context("the reader of answers ended"),
        report = callers(&arguments, &producer, &there, &waiters, &tasks) => crate::print(&report?),
    }
}

async fn create_topics(client: &ClientConfig, topics: &[&str]) -> anyhow::Result<()> {
    let admin: AdminClient<_> = client.create()?;
    let new: Vec<_> = topics
        .iter()
        .map(|topic| NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1)))
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(15)));
    for created in admin.create_topics(&new, &options).await? {
        created.map_err(|(topic, code)| anyhow::anyhow!("cannot create {topic}: {code}"))?;
    }
    Ok(())
}

fn consumer(client: &ClientConfig, topic: &str) -> anyhow::Result<StreamConsumer> {
    let consumer: StreamConsumer = client
        .clone()
        .set("group.id", "bench-echo")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "20")
        .set("fetch.wait.max.ms", "100")
        .create()?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&partitions)?;
    Ok(consumer)
}

async fn echo(
    consumer: StreamConsumer,
    producer: FutureProducer,
    back: String,
    tasks: TaskTracker,
) -> anyhow::Result<()> {
    let back: Arc<str> = back.into();
    loop {
        let message = consumer.recv().await?;
        let (partition, payload) = (message.partition(), message.payload().unwrap_or_default());
        let (producer, back, payload) = (producer.clone(), Arc::clone(&back), payload.to_vec());
        tasks.spawn(async move {
            let record = FutureRecord::<(), [u8]>::to(&back)
                .partition(partition)
                .payload(&payload);
            if producer.send(record, Duration::ZERO).await.is_err() {
                // The caller counts the answer that does not come.
            }
        });
    }
}

async fn answers(consumer: StreamConsumer, waiters: Waiters) -> anyhow::Result<()> {
    loop {
        let message = consumer.recv().await?;
        let id = message.payload().and_then(|payload| payload.first_chunk());
        let id = u64::from_le_bytes(*id.context("a record without an id")?);
        let waiter = waiters.lock().remove(&id);
        if let Some(waiter) = waiter
            && waiter.send(()).is_err()
        {
            // The caller has given up and counted that.
        }
    }
}

async fn callers(
    arguments: &Arguments,
    producer: &FutureProducer,
    there: &str,
    waiters: &Waiters,
    tasks: &TaskTracker,
) -> anyhow::Result<Report> {
    let begin = Instant::now() + Duration::from_secs_f64(arguments.warm_up);
    let end = begin + Duration::from_secs_f64(arguments.seconds);
    let ids = Arc::new(AtomicU64::new(0));
    let mut callers = Vec::new();
    for _ in 0..arguments.concurrency {
        let (producer, waiters, ids) = (producer.clone(), Arc::clone(waiters), Arc::clone(&ids));
        let there = there.to_owned();
        callers.push(tasks.spawn(async move {
            let (mut times, mut errors) = (Times::new(), Errors::new());
            let mut payload = vec![b'x'; RECORD_BYTES];
            loop {
                let sent = Instant::now();
                if sent >= end {
                    return (times, errors);
                }
                let id = ids.fetch_add(1, Ordering::Relaxed);
                payload[..8].copy_from_slice(&id.to_le_bytes());
                let (waiter, answer) = oneshot::channel();
                waiters.lock().insert(id, waiter);
                let partition = i32::try_from(id % 4).unwrap_or_default();
                let record = FutureRecord::<(), [u8]>::to(&there)
                    .partition(partition)
                    .payload(&payload);
                let trip = async {
                    let (sent, answered) =
                        futures::join!(producer.send(record, Duration::ZERO), answer);
                    sent.is_ok() && answered.is_ok()
                };
                let good = tokio::time::timeout(ANSWER_MAX, trip).await;
                if sent < begin {
                    continue;
                }
                if matches!(good, Ok(true)) {
                    times.record(sent.elapsed());
                } else {
                    *errors.entry("transport".into()).or_default() += 1;
                }
            }
        }));
    }
    let (mut times, mut errors) = (Times::new(), Errors::new());
    for caller in callers {
        let (of_one, errors_of_one) = caller.await?;
        times.merge(&of_one);
        for (name, count) in errors_of_one {
            *errors.entry(name).or_default() += count;
        }
    }
    let latency = times.quantiles();
    let seconds = begin.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 53 bits")]
    let per_second = latency.count as f64 / seconds;
    Ok(Report {
        per_second,
        latency,
        errors,
        seconds,
    })
}
