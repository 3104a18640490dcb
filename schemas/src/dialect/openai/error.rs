//! Errors as clients read them, and as providers write them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dialect::fault::{self, safe};
use crate::dialect::json;
use crate::event::ErrorBody;

/// `{"error":{"message","type","param","code"}}`, always with all four keys, and no others.
#[must_use]
pub fn error_json(error: &ErrorBody) -> Bytes {
    #[derive(Serialize)]
    struct Wrapper<'a> {
        error: Inner<'a>,
    }

    #[derive(Serialize)]
    struct Inner<'a> {
        message: &'a str,
        r#type: &'a str,
        param: Option<&'a str>,
        code: Option<&'a str>,
    }

    json::bytes(&Wrapper {
        error: Inner {
            message: &error.message,
            r#type: &error.kind,
            param: error.param.as_deref(),
            code: error.code.as_deref(),
        },
    })
}

/// What a client is told about a provider's error answer.
///
/// A refusal of the request itself (4xx) keeps the provider's status, type, code and text; a
/// refusal of our credentials (401, 403) says nothing of the provider's; 429 says that the
/// provider's limit is reached; all else is a 502, or a 504 when the provider timed out. Texts
/// are made safe: one line, bounded, nothing that looks like a key. HTML and other bodies that
/// are no OpenAI error are not shown at all.
///
/// Whether to try elsewhere is decided by the provider's own `status`, not by the result's.
#[must_use]
pub fn read_error(status: u16, body: &[u8]) -> ErrorBody {
    let error = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|body| ProviderError::find(&body));
    from_provider(status, error)
}

/// As [`read_error`] for an error in a stream, or in a body with a status of success: the
/// status is in the error's `code`, or it is the provider's fault.
pub(super) fn read_event(error: &Value) -> ErrorBody {
    let status = match &error["code"] {
        Value::Number(code) => code.as_u64().and_then(|code| u16::try_from(code).ok()),
        Value::String(code) => code.parse().ok(),
        _ => None,
    };
    let status = status.filter(|status| (400..600).contains(status));
    let error = ProviderError::of(error);
    let guessed = match error.as_ref().map(|error| error.kind.as_str()) {
        Some("invalid_request_error" | "BadRequestError") => 400,
        Some("rate_limit_error" | "rate_limit_exceeded") => 429,
        Some("authentication_error" | "permission_error") => 401,
        _ => 502,
    };
    from_provider(status.unwrap_or(guessed), error)
}

/// Whether the request is too long for the model's context, so that a model with a longer one
/// may serve it.
#[must_use]
pub fn is_context_length(error: &ErrorBody) -> bool {
    const CODES: [&str; 2] = ["context_length_exceeded", "string_above_max_length"];
    const TEXTS: [&str; 5] = [
        "maximum context length",
        "context length",
        "context window",
        "prompt is too long",
        "input is too long",
    ];
    is_refusal(error) && says(error, &CODES, &TEXTS)
}

/// Whether the provider refused the content of the request.
#[must_use]
pub fn is_content_policy(error: &ErrorBody) -> bool {
    const CODES: [&str; 3] = [
        "content_policy_violation",
        "content_filter",
        "moderation_blocked",
    ];
    const TEXTS: [&str; 3] = [
        "content management policy",
        "content policy",
        "usage policies",
    ];
    is_refusal(error) && says(error, &CODES, &TEXTS)
}

fn is_refusal(error: &ErrorBody) -> bool {
    (400..500).contains(&error.status)
}

fn says(error: &ErrorBody, codes: &[&str], texts: &[&str]) -> bool {
    let message = error.message.to_lowercase();
    error
        .code
        .as_deref()
        .is_some_and(|code| codes.contains(&code))
        || texts.iter().any(|text| message.contains(text))
}

/// An error as a provider writes it.
struct ProviderError {
    message: String,
    kind: String,
    code: Option<String>,
    param: Option<String>,
}

impl ProviderError {
    /// `{"error":{…}}`, `{"error":"text"}`, or vLLM's `{"object":"error","message":…}`.
    fn find(body: &Value) -> Option<Self> {
        match &body["error"] {
            Value::Null if body["message"].is_string() => Self::of(body),
            error => Self::of(error),
        }
    }

    fn of(error: &Value) -> Option<Self> {
        #[derive(Deserialize)]
        struct Read {
            message: String,
            #[serde(default)]
            r#type: Value,
            #[serde(default)]
            code: Value,
            #[serde(default)]
            param: Value,
        }

        let text = |value: Value| match value {
            Value::String(text) if !text.is_empty() => Some(safe(&text)),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        if let Value::String(message) = error {
            return Some(Self {
                message: safe(message),
                kind: String::new(),
                code: None,
                param: None,
            });
        }
        let error: Read = Read::deserialize(error).ok()?;
        Some(Self {
            message: safe(&error.message),
            kind: text(error.r#type).unwrap_or_default(),
            code: text(error.code),
            param: text(error.param),
        })
    }
}

fn from_provider(status: u16, error: Option<ProviderError>) -> ErrorBody {
    match status {
        401 | 403 => ErrorBody::upstream_credentials(),
        408 | 504 => ErrorBody::upstream_timeout(),
        429 => fault::rate_limited(),
        400..500 => {
            let error = error.unwrap_or_else(|| ProviderError {
                message: format!("the provider refused the request with status {status}"),
                kind: String::new(),
                code: None,
                param: None,
            });
            let kind = if error.kind.is_empty() {
                "invalid_request_error"
            } else {
                &error.kind
            };
            ErrorBody {
                param: error.param,
                ..ErrorBody::new(
                    i32::from(status),
                    kind,
                    error.code.as_deref(),
                    error.message,
                )
            }
        }
        _ => ErrorBody::upstream_failed(match error {
            Some(error) => format!(
                "the provider failed with status {status}: {}",
                error.message
            ),
            None => format!("the provider failed with status {status} and no readable error"),
        }),
    }
}
