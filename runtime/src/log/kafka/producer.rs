//! Two producers: one that sends at once, one that waits a little to send more together.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use schemas::topic;

use super::context::Context;
use super::{RECORD_BYTES_MAX, Settings, client_config};
use crate::log::{AppendError, LogError, Place, Position, Record};

/// `message.timeout.ms` of the interactive producer: librdkafka's default of 5 minutes would hang an HTTP request.
const INTERACTIVE_TIMEOUT: Duration = Duration::from_secs(15);
/// The same for background work, which can wait.
const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(120);

pub(super) struct Producers {
    interactive: FutureProducer<Context>,
    background: FutureProducer<Context>,
}

impl Producers {
    pub(super) fn new(settings: &Settings, context: &Context) -> Result<Self, LogError> {
        let make = |linger: &str, compression: &str, timeout: Duration| {
            let mut config = client_config(settings);
            config
                .set("acks", "all")
                .set("enable.idempotence", "true")
                // As Kafka's Java client, so that a key names the same partition for everybody.
                .set("partitioner", "murmur2_random")
                .set("linger.ms", linger)
                .set("compression.type", compression)
                .set("message.timeout.ms", timeout.as_millis().to_string())
                .set("request.timeout.ms", "5000")
                .set("queue.buffering.max.messages", "20000")
                .set("queue.buffering.max.kbytes", "65536")
                .set("message.max.bytes", RECORD_BYTES_MAX.to_string());
            config
                .create_with_context::<_, FutureProducer<Context>>(context.clone())
                .map_err(|error| LogError::Fatal {
                    reason: error.to_string(),
                })
        };
        Ok(Self {
            interactive: make("0", "lz4", INTERACTIVE_TIMEOUT)?,
            background: make("10", "zstd", BACKGROUND_TIMEOUT)?,
        })
    }

    pub(super) fn interactive(&self) -> &FutureProducer<Context> {
        &self.interactive
    }

    /// Sends what is queued; blocks for at most `grace`.
    pub(super) fn flush(&self, grace: Duration) {
        for producer in [&self.interactive, &self.background] {
            if let Err(error) = producer.flush(grace) {
                tracing::warn!(%error, "records were not flushed to Kafka");
            }
        }
    }

    pub(super) async fn append(
        &self,
        full_name: &str,
        topic: &str,
        place: Place,
        record: Record,
    ) -> Result<Position, AppendError> {
        let (producer, timeout) = if is_background(topic) {
            (&self.background, BACKGROUND_TIMEOUT)
        } else {
            (&self.interactive, INTERACTIVE_TIMEOUT)
        };
        let headers = record.headers.iter().fold(
            OwnedHeaders::new_with_capacity(record.headers.len()),
            |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(&value[..]),
                })
            },
        );
        let mut message = FutureRecord::to(full_name)
            .key(&record.key[..])
            .payload(&record.value[..])
            .headers(headers);
        if let Place::Partition(partition) = place {
            message = message.partition(partition);
        }
        // `send` would retry a full queue with sleeps of 100 ms; this answers at once.
        let bytes = record.key.len() + record.value.len();
        let sent = producer
            .send_result(message)
            .map_err(|(error, _)| failed(&error, topic, place, bytes, timeout))?;
        match sent.await {
            Ok(Ok(delivery)) => Ok(Position {
                partition: delivery.partition,
                offset: delivery.offset,
            }),
            Ok(Err((error, _))) => Err(failed(&error, topic, place, bytes, timeout)),
            // The producer is gone, and with it the answer.
            Err(_) => Err(AppendError::Unknown { waited: timeout }),
        }
    }
}

/// Topics whose records can wait for company.
fn is_background(name: &str) -> bool {
    matches!(
        name,
        topic::REQUESTS_BACKGROUND
            | topic::REQUESTS_BATCH
            | topic::RESPONSES_BACKGROUND
            | topic::BATCHES
            | topic::DEAD_LETTERS
    ) || topic::REQUESTS_DELAYED.contains(&name)
}

/// What a failed delivery means for the record.
fn failed(
    error: &KafkaError,
    topic: &str,
    place: Place,
    bytes: usize,
    waited: Duration,
) -> AppendError {
    let unavailable = |reason: String| AppendError::Unavailable {
        reason: reason.into(),
    };
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
            AppendError::TooLarge {
                bytes,
                bytes_max: RECORD_BYTES_MAX,
            }
        }
        Some(
            RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition,
        ) => AppendError::NoSuchPlace {
            topic: topic.into(),
            partition: place,
        },
        // Never left this process.
        Some(RDKafkaErrorCode::QueueFull) => unavailable("its queue is full".into()),
        Some(RDKafkaErrorCode::PurgeQueue) => unavailable("it is being closed".into()),
        // Refused by the broker before it was written.
        Some(
            RDKafkaErrorCode::NotEnoughReplicas
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::InvalidRequiredAcks,
        ) => unavailable(error.to_string()),
        // Everything else, time-outs first, leaves open whether it was written.
        _ => AppendError::Unknown { waited },
    }
}
