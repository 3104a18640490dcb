//! The client's request: the only validation, and the body that goes to a provider.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::dialect::check::{self, Kind, is_true, missing, refuse};
use crate::dialect::json::{self, Object};
use crate::event::ErrorBody;

/// A chat request that passed validation, with what the pipeline needs of it; everything else
/// stays in the body.
#[derive(Debug, Clone)]
pub struct ChatRequest<'a> {
    /// Model name as the client wrote it; not empty.
    pub model: Cow<'a, str>,
    /// Whether the client wants a stream.
    pub stream: bool,
    /// Whether the client wants usage in the stream (`stream_options.include_usage`).
    pub include_usage: bool,
    /// Number of choices, 1..=128.
    pub n: i32,
    /// The end user that the client names.
    pub user: Option<Cow<'a, str>>,
    /// Length of `messages` as JSON, for an estimate of its tokens.
    pub prompt_bytes: usize,
    last_user: Option<&'a RawValue>,
}

pub(super) const MODEL: &str = "model";
const MESSAGES: &str = "messages";
pub(super) const STREAM: &str = "stream";
pub(super) const STREAM_OPTIONS: &str = "stream_options";
const INCLUDE_USAGE: &str = "include_usage";

/// The fields that are checked; others pass
/// (<https://platform.openai.com/docs/api-reference/chat/create>).
const FIELDS: [(&str, Kind); 26] = [
    (MODEL, Kind::Text),
    (MESSAGES, Kind::Array),
    (STREAM, Kind::Boolean),
    (STREAM_OPTIONS, Kind::Object),
    ("temperature", Kind::Number(0.0, 2.0)),
    ("top_p", Kind::Number(0.0, 1.0)),
    ("n", Kind::Integer(1, 128)),
    ("max_tokens", Kind::Integer(1, i64::MAX)),
    ("max_completion_tokens", Kind::Integer(1, i64::MAX)),
    ("presence_penalty", Kind::Number(-2.0, 2.0)),
    ("frequency_penalty", Kind::Number(-2.0, 2.0)),
    ("stop", Kind::TextOrArray),
    ("user", Kind::Text),
    ("seed", Kind::Integer(i64::MIN, i64::MAX)),
    ("logprobs", Kind::Boolean),
    ("top_logprobs", Kind::Integer(0, 20)),
    ("logit_bias", Kind::Object),
    ("tools", Kind::Array),
    ("tool_choice", Kind::TextOrObject),
    ("parallel_tool_calls", Kind::Boolean),
    ("functions", Kind::Array),
    ("function_call", Kind::TextOrObject),
    ("response_format", Kind::Object),
    ("metadata", Kind::Object),
    ("reasoning_effort", Kind::Text),
    ("service_tier", Kind::Text),
];

const ROLES: [&str; 6] = [
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
];

/// The fields of a message that are checked.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_call_id: Option<&'a RawValue>,
}

impl<'a> ChatRequest<'a> {
    /// Validates the body of `POST /v1/chat/completions`.
    ///
    /// # Errors
    /// 400 `invalid_request_error` whose `param` names the field: not UTF-8, not a JSON object,
    /// nested deeper than 64, `model` or `messages` missing, a known field twice, of the wrong
    /// type or out of its range. Fields that are not known pass.
    pub fn parse(body: &'a [u8]) -> Result<Self, ErrorBody> {
        let object = check::object(body)?;
        check::fields(&object, &FIELDS)?;
        let model = named_model(&object)?;
        let messages = object.some(MESSAGES).ok_or_else(|| missing(MESSAGES))?;
        let last_user = check_messages(messages)?;
        Ok(Self {
            model,
            stream: object.get(STREAM).is_some_and(is_true),
            include_usage: wants_usage(&object)?,
            n: object
                .get("n")
                .and_then(|n| serde_json::from_str(n.get()).ok())
                .unwrap_or(1),
            user: object.some("user").and_then(json::string),
            prompt_bytes: messages.get().len(),
            last_user,
        })
    }

    /// Text of the last message with role `user`; its text parts, when it has several, are
    /// joined by line feeds. Empty when there is none.
    #[must_use]
    pub fn last_user_text(&self) -> Cow<'a, str> {
        self.last_user
            .and_then(json::content)
            .unwrap_or(Cow::Borrowed(""))
    }
}

/// The model that the client names, which it must.
pub(super) fn named_model<'a>(object: &Object<'a>) -> Result<Cow<'a, str>, ErrorBody> {
    let model = object.some(MODEL).and_then(json::string);
    let model = model.filter(|model| !model.is_empty());
    model.ok_or_else(|| missing(MODEL))
}

/// Checks all messages and finds the content of the last one by the user.
fn check_messages(raw: &RawValue) -> Result<Option<&RawValue>, ErrorBody> {
    let messages: Vec<&RawValue> = serde_json::from_str(raw.get())
        .map_err(|_| refuse(Some(MESSAGES), "`messages` must be an array"))?;
    if messages.is_empty() {
        return Err(missing(MESSAGES));
    }
    let mut last_user = None;
    for (index, message) in messages.iter().enumerate() {
        let message = read_message(message).map_err(|error| {
            let param = format!("{MESSAGES}.[{index}]");
            let message = format!("`{param}` is not a message: {error}");
            refuse(Some(&param), message)
        })?;
        let field = |name: &str| format!("{MESSAGES}.[{index}].{name}");
        let role = message
            .role
            .and_then(json::string)
            .filter(|role| ROLES.contains(&role.as_ref()))
            .ok_or_else(|| {
                let param = field("role");
                let message = format!("`{param}` must be one of {}", ROLES.join(", "));
                refuse(Some(&param), message)
            })?;
        let content = message.content;
        let needed = matches!(role.as_ref(), "user" | "system" | "developer");
        let fits = content.map_or(!needed, |content| check_content(content, needed));
        if !fits {
            let param = field("content");
            let message = format!("`{param}` must be a string or an array of content parts");
            return Err(refuse(Some(&param), message));
        }
        for (name, value, kind) in [
            ("name", message.name, Kind::Text),
            ("tool_calls", message.tool_calls, Kind::Array),
            ("tool_call_id", message.tool_call_id, Kind::Text),
        ] {
            if let Some(value) = value {
                check::value(&field(name), value, kind)?;
            }
        }
        if role == "user" {
            last_user = content;
        }
    }
    Ok(last_user)
}

/// Whether it is a string, or a non-empty array of objects with a `type`, or may be `null`.
fn check_content(content: &RawValue, needed: bool) -> bool {
    #[derive(Deserialize)]
    struct Part<'a> {
        #[serde(borrow, rename = "type")]
        kind: &'a RawValue,
    }
    match content.get().bytes().next() {
        Some(b'"') => true,
        Some(b'[') => serde_json::from_str::<Vec<Part<'_>>>(content.get()).is_ok_and(|parts| {
            !parts.is_empty() && parts.iter().all(|part| part.kind.get().starts_with('"'))
        }),
        _ => !needed && content.get() == "null",
    }
}

/// Serde would take an array for a message, too, by position.
fn read_message(raw: &RawValue) -> Result<Message<'_>, String> {
    if raw.get().starts_with('{') {
        serde_json::from_str(raw.get()).map_err(|error| error.to_string())
    } else {
        Err("not an object".to_owned())
    }
}

/// Whether usage is wanted in the stream.
pub(super) fn wants_usage(object: &Object<'_>) -> Result<bool, ErrorBody> {
    let Some(options) = object.some(STREAM_OPTIONS) else {
        return Ok(false);
    };
    let param = format!("{STREAM_OPTIONS}.{INCLUDE_USAGE}");
    let options = Object::parse(options.get())
        .map_err(|error| refuse(Some(STREAM_OPTIONS), error.to_string()))?;
    if options.duplicate(&[INCLUDE_USAGE]).is_some() {
        return Err(refuse(Some(&param), format!("`{param}` is given twice")));
    }
    let Some(wanted) = options.get(INCLUDE_USAGE) else {
        return Ok(false);
    };
    check::value(&param, wanted, Kind::Boolean)?;
    Ok(is_true(wanted))
}

/// The client's body as it goes to a provider of the same dialect: with the provider's `model`,
/// with `stream` as given, and when streaming with `stream_options.include_usage`, because
/// usage is always asked for. All else stays byte for byte and in order; when nothing has to
/// change, the same bytes are returned. Expects a body that [`ChatRequest::parse`] accepted;
/// any other is returned as it is.
#[must_use]
pub fn upstream_request(body: &Bytes, model: &str, stream: bool) -> Bytes {
    let object = std::str::from_utf8(body)
        .ok()
        .and_then(|text| Object::parse(text).ok());
    let Some(object) = object else {
        return body.clone();
    };
    let mut edit = object.edit();
    if object.get(MODEL).and_then(json::string).as_deref() != Some(model) {
        edit.set(MODEL, json::quoted(model));
    }
    if object.get(STREAM).is_some_and(is_true) != stream {
        edit.set(STREAM, if stream { "true" } else { "false" });
    }
    if stream {
        let options = object
            .some(STREAM_OPTIONS)
            .and_then(|options| Object::parse(options.get()).ok());
        if let Some(options) = options {
            let mut inner = options.edit();
            inner.set(INCLUDE_USAGE, "true");
            if let Some(options) = inner.finish() {
                edit.set(STREAM_OPTIONS, options);
            }
        } else {
            edit.set(STREAM_OPTIONS, r#"{"include_usage":true}"#);
        }
    }
    edit.finish().map_or_else(|| body.clone(), Bytes::from)
}
