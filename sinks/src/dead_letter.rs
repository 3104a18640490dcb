//! Setting aside what nobody can read.

use std::sync::Arc;

use bytes::Bytes;
use runtime::codec::{Codec, CodecError};
use runtime::log::{AppendError, Delivery, Durability, Log, Place, Record};
use schemas::dead_letter::DeadLetter;
use schemas::header;
use schemas::time::Timestamp;
use schemas::topic;
use tracing::warn;

use runtime::telemetry::Chain;

/// The dead letter of a delivery.
pub(crate) fn of(group: String, delivery: &Delivery, fault: &CodecError) -> DeadLetter {
    let id = delivery
        .header(header::REQUEST_ID)
        .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    let schema_id = match fault {
        CodecError::Undecodable { schema_id, .. } => *schema_id,
        CodecError::RegistryUnavailable { .. } | CodecError::Refused { .. } => None,
    };
    DeadLetter {
        id,
        topic: delivery.topic.to_string(),
        partition: delivery.position.partition,
        offset: delivery.position.offset,
        schema_id,
        key: delivery.record.key.clone(),
        value: delivery.record.value.clone(),
        group,
        reason: Chain(fault).to_string(),
        at: Timestamp::now(),
    }
}

/// Appends a dead letter, durably.
///
/// # Errors
/// Why it is not on the log, in words; trying again may help.
pub(crate) async fn append(log: &Log, codec: &Codec, mut letter: DeadLetter) -> Result<(), String> {
    let key = match letter.id {
        Some(id) => Bytes::from(id.to_string()),
        None => letter.key.clone(),
    };
    loop {
        let record = Record {
            key: key.clone(),
            headers: vec![(
                Arc::from(header::CONTENT_TYPE),
                Bytes::from_static(header::AVRO.as_bytes()),
            )],
            value: codec
                .encode(&letter)
                .map_err(|fault| Chain(&fault).to_string())?,
        };
        let appended = log
            .append(
                topic::DEAD_LETTERS,
                Place::ByKey,
                record,
                Durability::Durable,
            )
            .await;
        match appended {
            Ok(_) => break,
            // Where it was and why can be kept at least.
            Err(AppendError::TooLarge { .. }) if !letter.value.is_empty() => {
                letter.value = Bytes::new();
                letter
                    .reason
                    .push_str("; the value is too large to be kept");
            }
            Err(fault) => return Err(Chain(&fault).to_string()),
        }
    }
    warn!(
        topic = letter.topic,
        partition = letter.partition,
        offset = letter.offset,
        reason = letter.reason,
        "record set aside as a dead letter"
    );
    Ok(())
}
