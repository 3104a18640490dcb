//! Why the sinks could not go on.

use runtime::log::LogError;

/// Ends the process; passing trouble (store, registry, broker) is waited out instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log cannot be read any more.
    #[error("sink {sink} cannot read topic {topic}")]
    Log {
        /// The sink.
        sink: &'static str,
        /// Topic without prefix.
        topic: &'static str,
        /// The cause.
        #[source]
        source: LogError,
    },
}

impl Error {
    pub(crate) fn of<S: crate::sink::Sink>(topic: &'static str, source: LogError) -> Self {
        Self::Log {
            sink: S::NAME,
            topic,
            source,
        }
    }
}
