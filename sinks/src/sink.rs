//! What a sink is: an effect of the log with positions of its own.

use schemas::event::EventRecord;
use schemas::request::Request;

use runtime::store::StoreError;
use runtime::store::results::Advance;
use runtime::telemetry::Chain;

/// One record as sinks see it.
#[derive(Debug)]
pub(crate) enum Input {
    /// From one of the `requests` topics.
    Request(Request),
    /// From one of the `responses` topics.
    Events(EventRecord),
}

/// Why an effect was not written; nothing of it was.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Somebody else moved one of the positions.
    Fenced,
    /// The place it goes to does not answer, in words; trying again may help.
    Down(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fenced => f.write_str("somebody else moved the position"),
            Self::Down(reason) => f.write_str(reason),
        }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced { .. } => Self::Fenced,
            StoreError::Unavailable(_)
            | StoreError::Exists { .. }
            | StoreError::Secret { .. }
            | StoreError::Migration { .. } => Self::Down(Chain(&error).to_string()),
        }
    }
}

/// An effect of the log.
pub(crate) trait Sink: Send + Sync {
    /// Name of the sink; its group is `sink.<name>`.
    const NAME: &'static str;
    /// Topics that it reads.
    const TOPICS: &'static [&'static str];

    /// The offset of the next record to read, by partition of `topic`; a partition without one is read from the
    /// start of the log.
    fn positions(
        &mut self,
        topic: &'static str,
    ) -> impl Future<Output = Result<Vec<(i32, i64)>, Refused>> + Send;

    /// Writes the effect of `inputs` and the steps of the positions: both or nothing. After a refusal the same inputs
    /// come again, alone or with more.
    fn write(
        &mut self,
        inputs: &[Input],
        advances: &[Advance],
    ) -> impl Future<Output = Result<(), Refused>> + Send;

    /// Somebody else may write for partitions that were read: what is remembered does not hold any more.
    fn forget(&mut self);
}
