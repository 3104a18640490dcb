//! Errors as clients of this dialect read them, and as Anthropic writes them
//! (<https://platform.claude.com/docs/en/api/errors>).

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::dialect::fault::{self, safe};
use crate::dialect::json;
use crate::event::ErrorBody;

/// Anthropic's status for "overloaded".
const OVERLOADED: u16 = 529;

/// `{"type":"error","error":{"type","message"},"request_id"}`, as a body and as the data of an `error` event; the type
/// follows from the status.
#[must_use]
pub fn error_json(error: &ErrorBody, request_id: &str) -> Bytes {
    #[derive(Serialize)]
    struct Wrapper<'a> {
        r#type: &'a str,
        error: Inner<'a>,
        request_id: &'a str,
    }

    #[derive(Serialize)]
    struct Inner<'a> {
        r#type: &'a str,
        message: &'a str,
    }

    json::bytes(&Wrapper {
        r#type: "error",
        error: Inner {
            r#type: kind_of(error.status),
            message: &error.message,
        },
        request_id,
    })
}

fn kind_of(status: i32) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        409 => "conflict_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// What a client is told about a provider's error answer.
///
/// A refusal of the request itself (4xx) keeps the provider's status and text, in OpenAI's words for type and code; a
/// refusal of our credentials or of our account (401, 402, 403) says nothing of the provider's; 429 says that the
/// provider's limit is reached; all else is a 502, or a 504 when the provider timed out. Texts are made safe: one line,
/// bounded, nothing that looks like a key. Bodies that are no error of this dialect are not shown at all.
///
/// Whether to try elsewhere is decided by the provider's own `status`, not by the result's.
#[must_use]
pub fn read_error(status: u16, body: &[u8]) -> ErrorBody {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    from_provider(status, message_of(&body["error"]))
}

/// As [`read_error`] for an error in a stream, or in a body with a status of success: the status follows from the type.
pub(super) fn read_event(error: &Value) -> ErrorBody {
    let status = match error["type"].as_str().unwrap_or_default() {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "conflict_error" => 409,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "timeout_error" => 504,
        "overloaded_error" => OVERLOADED,
        _ => 500,
    };
    from_provider(status, message_of(error))
}

/// The text of `{"type","message"}`, or of a bare string.
fn message_of(error: &Value) -> Option<String> {
    let text = error.as_str().or_else(|| error["message"].as_str())?;
    (!text.is_empty()).then(|| safe(text))
}

fn from_provider(status: u16, message: Option<String>) -> ErrorBody {
    match status {
        401..=403 => ErrorBody::upstream_credentials(),
        408 | 504 => ErrorBody::upstream_timeout(),
        429 => fault::rate_limited(),
        400..500 => {
            let message = message.unwrap_or_else(|| {
                format!("the provider refused the request with status {status}")
            });
            if is_of_our_account(&message) {
                return ErrorBody::upstream_credentials();
            }
            let code = code_of(status, &message);
            ErrorBody::new(i32::from(status), "invalid_request_error", code, message)
        }
        OVERLOADED => {
            ErrorBody::upstream_failed("the provider is overloaded (status 529): try again later")
        }
        _ => ErrorBody::upstream_failed(match message {
            Some(message) => format!("the provider failed with status {status}: {message}"),
            None => format!("the provider failed with status {status} and no readable error"),
        }),
    }
}

/// Anthropic says 400, too, when the account that pays has run dry.
fn is_of_our_account(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("credit balance is too low") || message.contains("api usage limits")
}

/// The code by which clients and the router know the case; Anthropic has none.
fn code_of(status: u16, message: &str) -> Option<&'static str> {
    const TOO_LONG: [&str; 2] = ["prompt is too long", "exceed context limit"];
    let message = message.to_lowercase();
    match status {
        404 => Some("not_found"),
        413 => Some("request_too_large"),
        _ if TOO_LONG.iter().any(|text| message.contains(text)) => Some("context_length_exceeded"),
        _ => None,
    }
}
