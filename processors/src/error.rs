//! Why the processors ended.

/// Why [`crate::run`] could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log failed for good, or a position is not there any more.
    #[error("could not consume {topic}")]
    Consume {
        /// Topic without prefix.
        topic: &'static str,
        /// The cause.
        #[source]
        source: runtime::log::LogError,
    },
    /// The orders on the control topic could not be followed.
    #[error("could not follow the control topic")]
    Control(#[source] runtime::log::LogError),
    /// A provider's HTTP client could not be built.
    #[error("could not set up provider {provider}")]
    Provider {
        /// Name of the provider.
        provider: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// A base URL that is not from the configuration file leads where it may not.
    #[error("providers[{place}].base_url of provider {provider} is refused")]
    BaseUrl {
        /// Place in the routing document's list.
        place: usize,
        /// Name of the provider.
        provider: String,
        /// What is wrong with it, and what to do.
        #[source]
        source: runtime::upstream::Refused,
    },
    /// A provider key could not be read.
    #[error("could not read key {key} of provider {provider}: {reason}")]
    Key {
        /// Name of the provider.
        provider: String,
        /// Name of the key, never the key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A model names a provider that is not configured.
    #[error("model {model} names provider {provider}, which is not configured")]
    UnknownProvider {
        /// Name of the model.
        model: String,
        /// Name of the provider.
        provider: String,
    },
    /// Limits could not be shared over Redis.
    #[error("could not set up the sharing of limits")]
    Leases(#[from] runtime::leases::LeaseError),
    /// A part of the processors panicked; the log tells where.
    #[error("a part of the processors panicked")]
    Panicked,
}
