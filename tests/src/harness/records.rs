//! What is on the log, read past everything else.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use runtime::codec::{self, Codec};
use runtime::log::{Log, Settings};
use schemas::dead_letter::DeadLetter;
use schemas::event::{Event, EventRecord};
use schemas::fold::{End, Fold, Step};
use schemas::id::RequestId;
use schemas::request::{Lane, Request};

use super::gateway::{Gateway, LogKind};

/// Everything on the log of a gateway that concerns requests.
#[derive(Debug, Default)]
pub struct Records {
    /// The accepted requests.
    pub requests: Vec<Request>,
    /// The events of each request, in log order.
    pub events: HashMap<RequestId, Vec<Event>>,
    /// What nobody could read.
    pub dead_letters: Vec<DeadLetter>,
}

impl Records {
    /// Reads the whole log of `gateway`.
    pub(super) async fn open(gateway: &Gateway) -> anyhow::Result<Self> {
        let config = gateway.config();
        let data = gateway.folder.path().join("data");
        let (settings, codec) = match gateway.log_kind() {
            LogKind::Embedded => (
                Settings::Embedded(runtime::log::embedded::Settings {
                    folder: data.join("log"),
                    bytes_max: 10 << 30,
                }),
                codec::Settings::Local(data.clone()),
            ),
            LogKind::Kafka => {
                let stack = gateway.stack().context("the stack")?;
                let text =
                    |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                (
                    Settings::Kafka(runtime::log::kafka::Settings {
                        brokers: stack.brokers.split(',').map(str::to_owned).collect(),
                        topic_prefix: text(&config["log"]["topic_prefix"]),
                        replication: 1,
                        partitions: serde_json::from_value(config["log"]["partitions"].clone())?,
                        properties: BTreeMap::new(),
                    }),
                    codec::Settings::Registry {
                        url: stack.registry.parse()?,
                        register: false,
                    },
                )
            }
        };
        let log = Log::open(&settings).await?;
        log.ensure_topics(&schemas::topic::ALL).await?;
        let codec = Codec::connect(&codec).await?;
        let mut records = Self::default();
        for lane in Lane::ALL {
            for value in read_topic(&log, lane.topic()).await? {
                // What a test put there on purpose is not a request.
                if let Ok(request) = codec.decode::<Request>(&value).await {
                    records.requests.push(request);
                }
            }
        }
        for topic in [
            schemas::topic::RESPONSES,
            schemas::topic::RESPONSES_BACKGROUND,
        ] {
            for value in read_topic(&log, topic).await? {
                let record: EventRecord = codec.decode(&value).await?;
                records
                    .events
                    .entry(record.id)
                    .or_default()
                    .extend(record.events);
            }
        }
        for value in read_topic(&log, schemas::topic::DEAD_LETTERS).await? {
            records.dead_letters.push(codec.decode(&value).await?);
        }
        log.close(std::time::Duration::from_secs(5)).await;
        Ok(records)
    }

    /// How a request ended by the fold, and how many terminals counted (1, or 0 while it is open).
    #[must_use]
    pub fn end(&self, id: RequestId) -> (Option<End>, usize) {
        let mut fold = Fold::default();
        let mut ends = 0;
        for event in self.events.get(&id).map(Vec::as_slice).unwrap_or_default() {
            if matches!(fold.apply(event), Step::Ended { .. }) {
                ends += 1;
            }
        }
        (fold.end, ends)
    }
}

/// The values of all records of a topic.
async fn read_topic(log: &Log, topic: &str) -> anyhow::Result<Vec<bytes::Bytes>> {
    let mut values = Vec::new();
    for partition in 0..log.partitions(topic) {
        let marks = log.watermarks(topic, partition).await?;
        let mut tail = log.tail(topic, partition, marks.low).await?;
        while tail.position() < marks.high {
            let next = tail.recv();
            // The last offsets before the high watermark may hold no record.
            match tokio::time::timeout(std::time::Duration::from_secs(2), next).await {
                Ok(deliveries) => {
                    values.extend(
                        deliveries?
                            .into_iter()
                            .map(|delivery| delivery.record.value),
                    );
                }
                Err(_) => break,
            }
        }
    }
    Ok(values)
}
