//! The log on a Kafka cluster.

use std::collections::BTreeMap;

/// How to reach the cluster and what to create there.
#[derive(Debug, Clone)]
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

/// Handle on a Kafka cluster.
#[derive(Debug, Clone)]
pub(super) struct Kafka;
