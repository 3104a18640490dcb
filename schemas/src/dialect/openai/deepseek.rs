//! A client's chat request as DeepSeek takes it.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::upstream_request;
use crate::dialect::json::{self, Object};

const ROLE: &str = "role";
const LIMIT: &str = "max_tokens";
const NEWER_LIMIT: &str = "max_completion_tokens";
const EFFORT: &str = "reasoning_effort";
const THINKING: &str = "thinking";

/// The client's body as it goes to DeepSeek: as [`upstream_request`], and in DeepSeek's words
/// where OpenAI has newer ones (<https://api-docs.deepseek.com/api/create-chat-completion>):
/// `developer` is `system`, `max_completion_tokens` is `max_tokens`, and `reasoning_effort`
/// `none` is `thinking` that is disabled, `minimal` is `low`. All else stays byte for byte,
/// also what DeepSeek does not document (`n`): it tells the client itself. Expects a body that
/// [`super::ChatRequest::parse`] accepted; any other is returned as it is.
#[must_use]
pub fn deepseek_request(body: &Bytes, model: &str, stream: bool) -> Bytes {
    let body = upstream_request(body, model, stream);
    let object = std::str::from_utf8(&body)
        .ok()
        .and_then(|text| Object::parse(text).ok());
    let Some(object) = object else {
        return body;
    };
    let mut edit = object.edit();
    if let Some(messages) = object.some("messages").and_then(without_developer) {
        edit.set("messages", messages);
    }
    if let Some(limit) = object.some(NEWER_LIMIT) {
        edit.set(LIMIT, limit.get());
        edit.remove(NEWER_LIMIT);
    }
    match object.some(EFFORT).and_then(json::string).as_deref() {
        Some("none") => {
            edit.remove(EFFORT);
            if object.some(THINKING).is_none() {
                edit.set(THINKING, r#"{"type":"disabled"}"#);
            }
        }
        Some("minimal") => edit.set(EFFORT, r#""low""#),
        _ => {}
    }
    let edited = edit.finish().map(Bytes::from);
    edited.unwrap_or(body)
}

/// The messages with `system` for `developer`; none when nobody is that.
fn without_developer(raw: &RawValue) -> Option<String> {
    let text = raw.get();
    // The word may be spelled with escapes, but nobody does.
    if !text.contains(r#""developer""#) {
        return None;
    }
    let messages: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    let renamed = messages.iter().map(|message| {
        let object = Object::parse(message.get()).ok()?;
        let role = object.some(ROLE).and_then(json::string)?;
        let mut edit = object.edit();
        if role == "developer" {
            edit.set(ROLE, r#""system""#);
        }
        Some(
            edit.finish()
                .map_or(Cow::Borrowed(message.get()), Cow::Owned),
        )
    });
    let renamed: Vec<_> = renamed.collect::<Option<_>>()?;
    Some(format!("[{}]", renamed.join(",")))
}
