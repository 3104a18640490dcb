//! Every error that a client can be answered with, made in one place so that both sides of the
//! log say the same thing: status, `type`, `code` and what the client's SDK shall do.
//!
//! SDKs retry 408, 409, 429 and 500 upwards by themselves; `x-should-retry: false` stops them
//! where a retry would call a provider again after our own attempts, or never succeed.

use std::time::Duration;

use crate::event::ErrorBody;
use crate::id::RequestId;

const INVALID_REQUEST: &str = "invalid_request_error";
const SERVER: &str = "server_error";
const UPSTREAM: &str = "upstream_error";

impl ErrorBody {
    /// An error with the given status, `type`, `code` and text, and nothing said about retries.
    pub fn new(status: i32, kind: &str, code: Option<&str>, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: kind.to_owned(),
            code: code.map(str::to_owned),
            message: message.into(),
            param: None,
            retry_after_millis: None,
            should_retry: None,
        }
    }

    /// 400: the request is at fault; `param` names the field, none when it is the body as such.
    pub fn invalid_request(param: Option<&str>, message: impl Into<String>) -> Self {
        Self {
            param: param.map(str::to_owned),
            ..Self::new(400, INVALID_REQUEST, None, message)
        }
    }

    /// 401: no key, or one that is unknown, disabled or expired; which of them is not told.
    #[must_use]
    pub fn invalid_api_key() -> Self {
        Self::new(
            401,
            INVALID_REQUEST,
            Some("invalid_api_key"),
            "no valid API key was given: send `Authorization: Bearer <key>` or `x-api-key: <key>` \
             with a key that is neither disabled nor expired",
        )
    }

    /// 403: the caller may not use this model or operation.
    pub fn permission_denied(message: impl Into<String>) -> Self {
        Self::new(403, "permission_error", Some("permission_denied"), message)
    }

    /// 404: no such model, or none that the caller may see.
    #[must_use]
    pub fn model_not_found(model: &str) -> Self {
        Self::new(
            404,
            INVALID_REQUEST,
            Some("model_not_found"),
            format!("the model `{model}` does not exist or you have no access to it"),
        )
    }

    /// 404: no such route or object, or another tenant's.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, INVALID_REQUEST, Some("not_found"), message)
    }

    /// 405: the route exists, but not for this method.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            INVALID_REQUEST,
            Some("method_not_allowed"),
            "this route does not serve this method",
        )
    }

    /// 408: the body did not arrive in time.
    #[must_use]
    pub fn request_timeout() -> Self {
        Self::new(
            408,
            INVALID_REQUEST,
            Some("request_timeout"),
            "the body of the request did not arrive in time",
        )
    }

    /// 413: the body is larger than `bytes_max`.
    #[must_use]
    pub fn request_too_large(bytes_max: u64) -> Self {
        Self::new(
            413,
            INVALID_REQUEST,
            Some("request_too_large"),
            format!("the body is larger than {bytes_max} bytes"),
        )
    }

    /// 429: a limit of the caller is reached.
    pub fn rate_limited(retry_after: Duration, message: impl Into<String>) -> Self {
        Self {
            retry_after_millis: Some(millis(retry_after)),
            ..Self::new(
                429,
                "rate_limit_error",
                Some("rate_limit_exceeded"),
                message,
            )
        }
    }

    /// 429: a budget or quota is used up; a retry does not help.
    pub fn insufficient_quota(message: impl Into<String>) -> Self {
        Self {
            should_retry: Some(false),
            ..Self::new(
                429,
                "insufficient_quota",
                Some("insufficient_quota"),
                message,
            )
        }
    }

    /// 503: more requests are in work than can be held.
    #[must_use]
    pub fn overloaded(retry_after: Duration) -> Self {
        Self::unavailable(
            "overloaded",
            retry_after,
            "too many requests are in work: try again later",
        )
    }

    /// 503: the log does not take the request; nothing was accepted.
    #[must_use]
    pub fn log_unavailable(retry_after: Duration) -> Self {
        Self::unavailable(
            "log_unavailable",
            retry_after,
            "the request could not be recorded and was not accepted: try again later",
        )
    }

    /// 503: the store, which this operation needs, does not answer.
    #[must_use]
    pub fn store_unavailable(retry_after: Duration) -> Self {
        Self::unavailable(
            "store_unavailable",
            retry_after,
            "stored data cannot be read or written at the moment: try again later",
        )
    }

    /// 503: object storage, which a body of this size needs, does not answer.
    #[must_use]
    pub fn storage_unavailable(retry_after: Duration) -> Self {
        Self::unavailable(
            "storage_unavailable",
            retry_after,
            "a body of this size cannot be kept at the moment: try again later",
        )
    }

    /// 503: this process is stopping and takes no new request.
    #[must_use]
    pub fn shutting_down(retry_after: Duration) -> Self {
        Self::unavailable(
            "draining",
            retry_after,
            "this server is restarting: try again",
        )
    }

    /// 503: this process is stopping; the accepted request goes on without this connection.
    #[must_use]
    pub fn draining(id: RequestId) -> Self {
        Self {
            should_retry: Some(false),
            ..Self::new(
                503,
                SERVER,
                Some("draining"),
                format!(
                    "this server is restarting; the request goes on and its answer can be read \
                     at GET /v1/requests/{id}"
                ),
            )
        }
    }

    /// 502: every provider failed; `message` is without secrets.
    pub fn upstream_failed(message: impl Into<String>) -> Self {
        Self {
            should_retry: Some(false),
            ..Self::new(502, UPSTREAM, Some("upstream_failed"), message)
        }
    }

    /// 504: the provider did not answer in time.
    #[must_use]
    pub fn upstream_timeout() -> Self {
        Self {
            should_retry: Some(false),
            ..Self::new(
                504,
                UPSTREAM,
                Some("upstream_timeout"),
                "the provider did not answer in time",
            )
        }
    }

    /// 503: every deployment of the model is out of service; none was called.
    #[must_use]
    pub fn upstream_unavailable(retry_after: Duration) -> Self {
        Self {
            retry_after_millis: Some(millis(retry_after)),
            ..Self::new(
                503,
                UPSTREAM,
                Some("upstream_unavailable"),
                "every provider of this model is out of service at the moment: try again later",
            )
        }
    }

    /// 502: a provider refused our credentials; the caller's key is fine.
    #[must_use]
    pub fn upstream_credentials() -> Self {
        Self {
            should_retry: Some(false),
            ..Self::new(
                502,
                UPSTREAM,
                Some("upstream_credentials"),
                "the provider refused the gateway's credentials; your key is fine",
            )
        }
    }

    /// 502: the provider's stream ended before the answer did.
    #[must_use]
    pub fn upstream_cut() -> Self {
        Self {
            should_retry: Some(false),
            ..Self::new(
                502,
                UPSTREAM,
                Some("upstream_cut"),
                "the provider cut the stream: the text so far is not whole",
            )
        }
    }

    /// 502: the text shown so far was replaced by another run's.
    #[must_use]
    pub fn run_replaced(id: RequestId) -> Self {
        Self {
            should_retry: Some(false),
            ..Self::new(
                502,
                SERVER,
                Some("run_replaced"),
                format!(
                    "the process that wrote this stream was lost and another one answers anew: \
                     the text so far is void, the answer can be read at GET /v1/requests/{id}"
                ),
            )
        }
    }

    /// 502: the process that made the call died, and the policy is not to call again.
    #[must_use]
    pub fn run_lost() -> Self {
        Self {
            should_retry: Some(false),
            ..Self::new(
                502,
                SERVER,
                Some("run_lost"),
                "the process that worked on the request was lost; the provider is not called \
                 again under this key's policy",
            )
        }
    }

    /// 504: the deadline of the request passed.
    #[must_use]
    pub fn expired() -> Self {
        Self {
            should_retry: Some(false),
            ..Self::new(
                504,
                SERVER,
                Some("deadline_exceeded"),
                "the request was not answered before its deadline",
            )
        }
    }

    /// 499: the client gave up, or the request was cancelled by its owner.
    pub fn cancelled(reason: &str) -> Self {
        Self {
            should_retry: Some(false),
            ..Self::new(
                499,
                INVALID_REQUEST,
                Some("cancelled"),
                format!("the request was cancelled: {reason}"),
            )
        }
    }

    /// 500: our own fault; the details are in our log.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(
            500,
            SERVER,
            Some("internal_error"),
            "an error of the gateway; its log tells more under this request id",
        )
    }

    fn unavailable(code: &str, retry_after: Duration, message: &str) -> Self {
        Self {
            retry_after_millis: Some(millis(retry_after)),
            ..Self::new(503, SERVER, Some(code), message)
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
