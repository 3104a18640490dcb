//! What goes wrong, and what clients are told: the one place that gives errors a status.

use std::time::Duration;

use hyper::Method;
use runtime::codec::CodecError;
use runtime::log::{AppendError, LogError};
use runtime::objects::ObjectsError;
use runtime::store::StoreError;
use runtime::store::keys::Refusal;
use schemas::event::{ErrorBody, Terminal};
use schemas::fold::End;
use schemas::id::RequestId;

use crate::publisher::PublishError;
use crate::waiters::Closed;

/// Why the door had to close.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `replies.partition` names a partition that is not there.
    #[error("there is no partition {partition} of responses: it has {partitions}")]
    NoSuchPartition {
        /// As configured.
        partition: i32,
        /// As many as there are.
        partitions: i32,
    },
    /// Replies cannot be read any more; a restart reads from the end again.
    #[error("replies cannot be followed")]
    Tail(#[source] LogError),
}

/// What a client is told while something that is needed does not answer: long enough not to
/// add to its trouble, short enough that nobody notices a hiccup.
const OUTAGE_RETRY_AFTER: Duration = Duration::from_secs(2);
/// After this long another replica, or this one restarted, takes requests.
const DRAIN_RETRY_AFTER: Duration = Duration::from_secs(1);

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

pub(crate) fn unknown_route(method: &Method, path: &str) -> ErrorBody {
    ErrorBody {
        code: Some("unknown_url".to_owned()),
        ..ErrorBody::not_found(format!("unknown request URL: {method} {path}"))
    }
}

pub(crate) fn headers_too_large(bytes_max: usize) -> ErrorBody {
    ErrorBody::new(
        431,
        INVALID,
        Some("headers_too_large"),
        format!("the headers are larger than {bytes_max} bytes"),
    )
}

pub(crate) fn body_too_large(bytes_max: usize) -> ErrorBody {
    ErrorBody::request_too_large(u64::try_from(bytes_max).unwrap_or(u64::MAX))
}

pub(crate) fn body_cut() -> ErrorBody {
    ErrorBody::invalid_request(None, "the body ended early")
}

/// Which fault a key has is not told, but that it cannot be checked is no fault of the caller.
pub(crate) fn key_refused(refusal: Refusal) -> ErrorBody {
    match refusal {
        Refusal::Unknown | Refusal::Disabled | Refusal::Expired => ErrorBody::invalid_api_key(),
        Refusal::StoreUnavailable => ErrorBody::store_unavailable(OUTAGE_RETRY_AFTER),
    }
}

pub(crate) fn admins_only() -> ErrorBody {
    ErrorBody::permission_denied("this needs a key with the role admin")
}

pub(crate) fn admins_only_header(name: &str) -> ErrorBody {
    ErrorBody::permission_denied(format!("the header {name} needs a key with the role admin"))
}

pub(crate) fn unknown_request(id: &str) -> ErrorBody {
    ErrorBody::not_found(format!("there is no request `{id}`"))
}

pub(crate) fn unknown_key(id: &str) -> ErrorBody {
    ErrorBody::not_found(format!("there is no key `{id}`"))
}

/// Said to a request that would wait past its deadline.
pub(crate) fn too_long(retry_after: Duration) -> ErrorBody {
    ErrorBody::rate_limited(
        retry_after,
        "so many requests wait for this model that yours would not begin before its deadline: try again later, or allow it \
         more time by the header lockgate-timeout",
    )
}

/// Said to requests that come while the process stops.
pub(crate) fn shutting_down() -> ErrorBody {
    ErrorBody::shutting_down(DRAIN_RETRY_AFTER)
}

/// The end came, but not all that was said before it.
pub(crate) fn stream_incomplete(id: RequestId) -> ErrorBody {
    ErrorBody {
        should_retry: Some(false),
        ..ErrorBody::new(
            502,
            SERVER,
            Some("stream_incomplete"),
            format!("part of the stream is missing; GET /v1/requests/{id} has the whole answer"),
        )
    }
}

/// The wait for the answer to `id` ended without it.
pub(crate) fn closed(why: Closed, id: RequestId) -> ErrorBody {
    match why {
        Closed::TooSlow => ErrorBody::new(
            408,
            INVALID,
            Some("client_too_slow"),
            "the answer was not read fast enough",
        ),
        Closed::Draining => ErrorBody::draining(id),
        Closed::TailFailed => ErrorBody {
            // A retry would be a second request beside the first.
            should_retry: Some(false),
            message: format!(
                "the answer to request {id} cannot be followed here; the request goes on and its \
                 answer can be read at GET /v1/requests/{id}"
            ),
            ..ErrorBody::log_unavailable(OUTAGE_RETRY_AFTER)
        },
    }
}

/// The wait ended before it was known whether the request is on the log: a cancel follows it.
pub(crate) fn closed_before_accept(why: Closed) -> ErrorBody {
    match why {
        Closed::Draining => shutting_down(),
        Closed::TooSlow | Closed::TailFailed => ErrorBody::log_unavailable(OUTAGE_RETRY_AFTER),
    }
}

/// How a request ended that did not complete.
pub(crate) fn ended(end: End, terminal: &Terminal) -> ErrorBody {
    if let Some(error) = &terminal.error {
        return error.clone();
    }
    match end {
        End::Expired => ErrorBody::expired(),
        End::Cancelled => ErrorBody::cancelled("by its owner"),
        End::Failed | End::Completed => ErrorBody::upstream_failed("the request failed"),
    }
}

pub(crate) fn publish(error: &PublishError) -> ErrorBody {
    match error {
        PublishError::Append(AppendError::Unavailable { .. } | AppendError::Unknown { .. }) => {
            ErrorBody::log_unavailable(OUTAGE_RETRY_AFTER)
        }
        PublishError::Append(AppendError::TooLarge { bytes_max, .. }) => body_too_large(*bytes_max),
        PublishError::Append(AppendError::NoSuchPlace { .. }) | PublishError::Encode(_) => {
            ErrorBody::internal()
        }
        PublishError::Body(error) => objects(error),
    }
}

pub(crate) fn objects(error: &ObjectsError) -> ErrorBody {
    match error {
        ObjectsError::Unavailable(_) => ErrorBody::storage_unavailable(OUTAGE_RETRY_AFTER),
        ObjectsError::Missing { .. }
        | ObjectsError::Damaged { .. }
        | ObjectsError::Refused { .. } => ErrorBody::internal(),
    }
}

pub(crate) fn store(error: &StoreError) -> ErrorBody {
    match error {
        StoreError::Unavailable(_) => ErrorBody::store_unavailable(OUTAGE_RETRY_AFTER),
        StoreError::Exists { what, name } => ErrorBody::new(
            409,
            INVALID,
            Some("already_exists"),
            format!("there is a {what} named `{name}` already"),
        ),
        StoreError::Fenced { .. } | StoreError::Secret { .. } | StoreError::Migration { .. } => {
            ErrorBody::internal()
        }
    }
}

/// Whether a record may be readable later: its schema is not known here yet.
pub(crate) fn is_passing(error: &CodecError) -> bool {
    match error {
        CodecError::RegistryUnavailable { .. } => true,
        CodecError::Undecodable { .. } | CodecError::Refused { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_store_that_does_not_answer_is_503_and_never_401() {
        let error = key_refused(Refusal::StoreUnavailable);
        assert_eq!(error.status, 503);
        assert!(error.retry_after_millis.is_some());
    }

    #[test]
    fn a_log_that_is_down_says_when_to_come_back() {
        for error in [
            AppendError::Unavailable {
                reason: Arc::from("disk full"),
            },
            AppendError::Unknown {
                waited: Duration::from_secs(15),
            },
        ] {
            let error = publish(&PublishError::Append(error));
            assert_eq!(error.status, 503);
            assert_eq!(error.code.as_deref(), Some("log_unavailable"));
            assert!(error.retry_after_millis.is_some());
            assert!(!error.message.contains("disk"), "no internals to clients");
        }
    }
}
