//! Errors as Google writes them: `google.rpc.Status` as JSON (<https://google.aip.dev/193>).

use serde_json::Value;
use serde_json::value::RawValue;

use crate::dialect::fault::{self, safe};
use crate::event::ErrorBody;

/// What a client is told about an error answer of Gemini.
///
/// A refusal of the request itself (4xx) keeps Google's status and text, made safe, and the canonical name of the status
/// (`INVALID_ARGUMENT`, …) as `code`; a prompt that is too long has the code for which
/// [`is_context_length`](crate::dialect::openai::is_context_length) holds. A refusal of our key or account says nothing of
/// Google's: 401, 403, but also a 400 for the reason `API_KEY_INVALID`, or because Google does not serve the account where it
/// is, so that the answer's status alone does not tell it. 429 carries the wait of `RetryInfo`. All else is a 502, or a 504 when
/// Google timed out. Bodies that are no such error are not shown.
#[must_use]
pub fn read_error(status: u16, body: &[u8]) -> ErrorBody {
    let body = serde_json::from_slice::<Value>(body).unwrap_or_default();
    // A stream that is not SSE is an array, and so is its error.
    let error = match &body {
        Value::Array(items) => items.first().map_or(&Value::Null, |item| &item["error"]),
        body => &body["error"],
    };
    from_provider(status, error)
}

/// As [`read_error`] for an error in a stream or in a body with a status of success: the status is in its `code`, or it is the
/// provider's fault.
pub(super) fn read_event(error: &RawValue) -> ErrorBody {
    let error: Value = serde_json::from_str(error.get()).unwrap_or_default();
    let status = error["code"].as_u64();
    let status = status.and_then(|status| u16::try_from(status).ok());
    from_provider(status.unwrap_or(502), &error)
}

/// The prompt was blocked, for the reason that Google gives.
pub(super) fn blocked(reason: &str) -> ErrorBody {
    ErrorBody::new(
        400,
        "invalid_request_error",
        Some("content_policy_violation"),
        format!("the provider blocked the prompt: {}", safe(reason)),
    )
}

fn from_provider(status: u16, error: &Value) -> ErrorBody {
    let message = error["message"].as_str().map(safe);
    let text = message.as_deref().unwrap_or_default().to_lowercase();
    if is_about_us(error, &text) {
        return ErrorBody::upstream_credentials();
    }
    match status {
        401 | 403 => ErrorBody::upstream_credentials(),
        408 | 504 => ErrorBody::upstream_timeout(),
        429 => ErrorBody {
            retry_after_millis: retry_delay_millis(error),
            ..fault::rate_limited()
        },
        // `CANCELLED`, which we did not do.
        400..499 => {
            let code = if is_too_long(&text) {
                Some("context_length_exceeded".to_owned())
            } else {
                error["status"].as_str().map(safe)
            };
            let message = message.unwrap_or_else(|| {
                format!("the provider refused the request with status {status}")
            });
            let status = i32::from(status);
            ErrorBody::new(status, "invalid_request_error", code.as_deref(), message)
        }
        _ => ErrorBody::upstream_failed(match message {
            Some(message) => format!("the provider failed with status {status}: {message}"),
            None => format!("the provider failed with status {status} and no readable error"),
        }),
    }
}

/// Whether it is our key or account that is refused, whatever the status. Google answers 400 for a key that is wrong or has
/// expired, and for accounts that have to pay first
/// (<https://ai.google.dev/gemini-api/docs/troubleshooting>, `FAILED_PRECONDITION`).
fn is_about_us(error: &Value, text: &str) -> bool {
    const TEXTS: [&str; 2] = ["user location is not supported", "please enable billing"];
    let reason = |detail: &Value| detail["reason"] == "API_KEY_INVALID";
    details(error).any(reason) || TEXTS.iter().any(|known| text.contains(known))
}

/// As in `The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).`
fn is_too_long(text: &str) -> bool {
    text.contains("exceeds the maximum number of tokens")
}

/// The wait that `RetryInfo` asks for, rounded up.
fn retry_delay_millis(error: &Value) -> Option<i64> {
    let delay = details(error)
        .filter(|detail| detail["@type"] == "type.googleapis.com/google.rpc.RetryInfo")
        .find_map(|detail| detail["retryDelay"].as_str())?;
    // A `google.protobuf.Duration` in JSON: decimal seconds and an `s`.
    let seconds: f64 = delay.strip_suffix('s')?.parse().ok()?;
    (seconds.is_finite() && seconds >= 0.0).then(|| (seconds * 1_000.0).ceil() as i64)
}

fn details(error: &Value) -> impl Iterator<Item = &Value> {
    error["details"].as_array().into_iter().flatten()
}
