//! Topics are created at start, and checked when they exist.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use schemas::topic::{Cleanup, Topic};

use super::{ANSWER_TIMEOUT, RECORD_BYTES_MAX, Settings, blocking, client_config, unavailable};
use crate::log::LogError;

/// Longest that new topics may take to have leaders.
const CREATED_WITHIN: Duration = Duration::from_secs(20);

/// Creates what is missing, checks the rest; returns the partitions of each topic by its name without prefix.
pub(super) async fn ensure(
    settings: &Settings,
    topics: &[Topic],
) -> Result<HashMap<String, i32>, LogError> {
    let admin: AdminClient<DefaultClientContext> =
        client_config(settings)
            .create()
            .map_err(|error| LogError::Fatal {
                reason: error.to_string(),
            })?;
    let admin = std::sync::Arc::new(admin);
    let existing = existing(&admin).await?;
    let options = AdminOptions::new()
        .request_timeout(Some(ANSWER_TIMEOUT))
        .operation_timeout(Some(CREATED_WITHIN));

    let missing: Vec<&Topic> = topics
        .iter()
        .filter(|topic| !existing.contains_key(&full_name(settings, topic)))
        .collect();
    if !missing.is_empty() {
        let specifications: Vec<Specification> = missing
            .iter()
            .map(|topic| Specification::new(settings, topic))
            .collect();
        let new: Vec<NewTopic<'_>> = specifications
            .iter()
            .map(Specification::new_topic)
            .collect();
        let results = admin
            .create_topics(&new, &options)
            .await
            .map_err(|error| unavailable(&error))?;
        for result in results {
            match result {
                // Another process of ours was faster.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    return Err(LogError::TopicDoesNotFit {
                        topic,
                        fault: format!("it cannot be created: {code}"),
                        remedy: "create it by hand, or allow this user to, or lower log.replication to the number of brokers".into(),
                    });
                }
            }
        }
    }
    wait_for_leaders(settings, &admin, topics).await?;
    let checked: Vec<&Topic> = topics
        .iter()
        .filter(|topic| existing.contains_key(&full_name(settings, topic)))
        .collect();
    check_retention(settings, &admin, &options, &checked).await?;
    Ok(topics
        .iter()
        .map(|topic| (topic.name.to_owned(), partitions(settings, topic)))
        .collect())
}

fn full_name(settings: &Settings, topic: &Topic) -> String {
    format!("{}{}", settings.topic_prefix, topic.name)
}

fn partitions(settings: &Settings, topic: &Topic) -> i32 {
    settings
        .partitions
        .get(topic.name)
        .copied()
        .unwrap_or(topic.partitions_kafka)
}

/// The cluster's topics that have leaders, with their partition counts.
async fn existing(
    admin: &std::sync::Arc<AdminClient<DefaultClientContext>>,
) -> Result<HashMap<String, i32>, LogError> {
    let admin = admin.clone();
    blocking(move || {
        let metadata = admin
            .inner()
            .fetch_metadata(None, ANSWER_TIMEOUT)
            .map_err(|error| unavailable(&error))?;
        Ok(metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none())
            .filter(|topic| {
                topic
                    .partitions()
                    .iter()
                    .all(|partition| partition.leader() >= 0)
            })
            .map(|topic| {
                let count = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
                (topic.name().to_owned(), count)
            })
            .collect())
    })
    .await
}

async fn wait_for_leaders(
    settings: &Settings,
    admin: &std::sync::Arc<AdminClient<DefaultClientContext>>,
    topics: &[Topic],
) -> Result<(), LogError> {
    let start = tokio::time::Instant::now();
    loop {
        let existing = existing(admin).await?;
        let mut waiting = false;
        for topic in topics {
            let name = full_name(settings, topic);
            let wanted = partitions(settings, topic);
            match existing.get(&name) {
                None => waiting = true,
                Some(count) if *count == wanted => {}
                Some(count) => {
                    return Err(LogError::TopicDoesNotFit {
                        topic: name,
                        fault: format!("it has {count} partitions, configured are {wanted}"),
                        remedy: format!(
                            "set log.partitions.\"{}\" to {count}, or add partitions to the topic",
                            topic.name
                        ),
                    });
                }
            }
        }
        if !waiting {
            return Ok(());
        }
        if start.elapsed() > CREATED_WITHIN {
            return Err(LogError::Unavailable {
                reason: "new topics have no leaders yet".into(),
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn check_retention(
    settings: &Settings,
    admin: &AdminClient<DefaultClientContext>,
    options: &AdminOptions,
    topics: &[&Topic],
) -> Result<(), LogError> {
    if topics.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = topics
        .iter()
        .map(|topic| full_name(settings, topic))
        .collect();
    let resources: Vec<ResourceSpecifier<'_>> = names
        .iter()
        .map(|name| ResourceSpecifier::Topic(name))
        .collect();
    let described = admin
        .describe_configs(&resources, options)
        .await
        .map_err(|error| unavailable(&error))?;
    for (topic, description) in topics.iter().zip(described) {
        let description = match description {
            Ok(description) => description,
            Err(code) => {
                return Err(LogError::Unavailable {
                    reason: code.to_string(),
                });
            }
        };
        let value = |name: &str| {
            description
                .get(name)
                .and_then(|entry| entry.value.as_deref())
                .and_then(|value| value.parse::<i64>().ok())
        };
        let wanted = i64::try_from(topic.retention.as_millis()).unwrap_or(i64::MAX);
        let fault = match (value("retention.ms"), value("max.message.bytes")) {
            (Some(retention), _) if retention >= 0 && retention < wanted => Some((
                format!("retention.ms is {retention}, below {wanted}"),
                format!("retention.ms={wanted}"),
            )),
            (_, Some(bytes)) if bytes < i64::try_from(RECORD_BYTES_MAX).unwrap_or(i64::MAX) => {
                Some((
                    format!("max.message.bytes is {bytes}, below {RECORD_BYTES_MAX}"),
                    format!("max.message.bytes={RECORD_BYTES_MAX}"),
                ))
            }
            _ => None,
        };
        if let Some((fault, setting)) = fault {
            let topic = full_name(settings, topic);
            let remedy = format!("kafka-configs --alter --topic {topic} --add-config {setting}");
            return Err(LogError::TopicDoesNotFit {
                topic,
                fault,
                remedy,
            });
        }
    }
    Ok(())
}

/// A topic as the broker is asked to make it; owns the texts that `NewTopic` borrows.
struct Specification {
    name: String,
    partitions: i32,
    replication: i32,
    settings: Vec<(&'static str, String)>,
}

impl Specification {
    fn new(settings: &Settings, topic: &Topic) -> Self {
        let cleanup = match topic.cleanup {
            Cleanup::Delete => "delete",
            Cleanup::CompactDelete => "compact,delete",
        };
        let mut texts = vec![
            ("retention.ms", topic.retention.as_millis().to_string()),
            ("cleanup.policy", cleanup.to_owned()),
            ("max.message.bytes", RECORD_BYTES_MAX.to_string()),
        ];
        if settings.replication >= 3 {
            texts.push(("min.insync.replicas", "2".to_owned()));
        }
        Self {
            name: full_name(settings, topic),
            partitions: partitions(settings, topic),
            replication: settings.replication,
            settings: texts,
        }
    }

    fn new_topic(&self) -> NewTopic<'_> {
        let replication = TopicReplication::Fixed(self.replication);
        self.settings.iter().fold(
            NewTopic::new(&self.name, self.partitions, replication),
            |topic, (name, value)| topic.set(name, value),
        )
    }
}
