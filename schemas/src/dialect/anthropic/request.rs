//! The client's request: the only validation, and the body that goes to a provider of this dialect.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::node::Node;
use crate::dialect::check::{self, Kind, is_true, missing, refuse};
use crate::dialect::json::{self, Object};
use crate::event::ErrorBody;

/// A request for a message that passed validation, with what the pipeline needs of it; everything else stays in the
/// body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagesRequest<'a> {
    /// Model name as the client wrote it; not empty.
    pub model: Cow<'a, str>,
    /// Whether the client wants a stream.
    pub stream: bool,
    /// Length of `messages`, `system` and `tools` as JSON, for an estimate of their tokens.
    pub prompt_bytes: usize,
    /// The end user that the client names (`metadata.user_id`).
    pub user: Option<Cow<'a, str>>,
}

/// A request to count tokens that passed validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountTokensRequest<'a> {
    /// Model name as the client wrote it; not empty.
    pub model: Cow<'a, str>,
    /// Length of `messages`, `system` and `tools` as JSON, for an estimate of their tokens.
    pub prompt_bytes: usize,
}

/// The fields that are checked; others pass (<https://platform.claude.com/docs/en/api/messages/create>).
const FIELDS: [(&str, Kind); 18] = [
    ("model", Kind::Text),
    ("messages", Kind::Array),
    // 0 fills the provider's prompt cache and writes nothing.
    ("max_tokens", Kind::Integer(0, i64::MAX)),
    ("system", Kind::TextOrArray),
    ("stream", Kind::Boolean),
    ("temperature", Kind::Number(0.0, 1.0)),
    ("top_p", Kind::Number(0.0, 1.0)),
    ("top_k", Kind::Integer(0, i64::MAX)),
    ("stop_sequences", Kind::Array),
    ("tools", Kind::Array),
    ("tool_choice", Kind::Object),
    ("thinking", Kind::Object),
    ("output_config", Kind::Object),
    ("metadata", Kind::Object),
    ("service_tier", Kind::Text),
    ("container", Kind::TextOrObject),
    ("mcp_servers", Kind::Array),
    ("inference_geo", Kind::Text),
];

/// Who speaks; newer models take instructions in the course of a conversation (`system`).
pub(super) const ROLES: [&str; 3] = ["user", "assistant", "system"];

/// Smallest budget for thinking
/// (<https://platform.claude.com/docs/en/build-with-claude/extended-thinking>).
pub(super) const BUDGET_MIN: i64 = 1024;

impl<'a> MessagesRequest<'a> {
    /// Validates the body of `POST /v1/messages`.
    ///
    /// # Errors
    /// 400 `invalid_request_error` whose `param` names the field: not UTF-8, not a JSON object, nested deeper than 64,
    /// `model`, `messages` or `max_tokens` missing, a known field twice, of the wrong type or out of its range. Fields
    /// that are not known pass, and so do blocks, tools and settings of types that are not known.
    pub fn parse(body: &'a [u8]) -> Result<Self, ErrorBody> {
        let request = Node::root(body)?;
        let common = check_common(&request)?;
        request.needed("max_tokens")?;
        for (index, sequence) in request.list("stop_sequences")?.into_iter().enumerate() {
            let field = format!("stop_sequences.[{index}]");
            if json::string(sequence).is_none() {
                return Err(refuse(Some(&field), format!("`{field}` must be a string")));
            }
        }
        let metadata = request.node("metadata")?;
        let user = match &metadata {
            Some(metadata) => {
                metadata.check(&[("user_id", Kind::Text)])?;
                metadata.text("user_id")?
            }
            None => None,
        };
        Ok(Self {
            model: common.model,
            stream: request.some("stream").is_some_and(is_true),
            prompt_bytes: common.prompt_bytes,
            user,
        })
    }
}

impl<'a> CountTokensRequest<'a> {
    /// Validates the body of `POST /v1/messages/count_tokens`.
    ///
    /// # Errors
    /// As [`MessagesRequest::parse`]; `max_tokens` is not needed.
    pub fn parse(body: &'a [u8]) -> Result<Self, ErrorBody> {
        check_common(&Node::root(body)?)
    }
}

/// What both operations have.
fn check_common<'a>(request: &Node<'a>) -> Result<CountTokensRequest<'a>, ErrorBody> {
    check::fields(request.object(), &FIELDS)?;
    let model = request.needed_text("model")?;
    if model.is_empty() {
        return Err(missing("model"));
    }
    request.needed("messages")?;
    check_messages(request)?;
    check_system(request)?;
    check_tools(request)?;
    check_tool_choice(request)?;
    check_thinking(request)?;
    let bytes = |key| request.some(key).map_or(0, |raw| raw.get().len());
    Ok(CountTokensRequest {
        model,
        prompt_bytes: ["messages", "system", "tools"].into_iter().map(bytes).sum(),
    })
}

fn check_messages(request: &Node<'_>) -> Result<(), ErrorBody> {
    let messages = request.nodes("messages")?;
    if messages.is_empty() {
        return Err(missing("messages"));
    }
    for message in &messages {
        message.check(&[("role", Kind::Text), ("content", Kind::TextOrArray)])?;
        if !ROLES.contains(&message.needed_text("role")?.as_ref()) {
            let field = message.at("role");
            let expected = ROLES.join(", ");
            let text = format!("`{field}` must be one of {expected}");
            return Err(refuse(Some(&field), text));
        }
        let content = message.needed("content")?;
        if content.get().starts_with('[') {
            let blocks = message.nodes("content")?;
            if blocks.is_empty() {
                return Err(missing(&message.at("content")));
            }
            for block in &blocks {
                block.check(&[("type", Kind::Text)])?;
                block.needed("type")?;
            }
        }
    }
    Ok(())
}

/// A string, or blocks of text.
fn check_system(request: &Node<'_>) -> Result<(), ErrorBody> {
    let is_blocks = |raw: &RawValue| raw.get().starts_with('[');
    if !request.some("system").is_some_and(is_blocks) {
        return Ok(());
    }
    for block in request.nodes("system")? {
        block.check(&[("type", Kind::Text), ("text", Kind::Text)])?;
        if block.needed_text("type")? != "text" {
            let field = block.at("type");
            return Err(refuse(Some(&field), format!("`{field}` must be `text`")));
        }
        block.needed("text")?;
    }
    Ok(())
}

fn check_tools(request: &Node<'_>) -> Result<(), ErrorBody> {
    for tool in request.nodes("tools")? {
        tool.check(&[
            ("type", Kind::Text),
            ("name", Kind::Text),
            ("description", Kind::Text),
            ("input_schema", Kind::Object),
            ("strict", Kind::Boolean),
        ])?;
        // All others are the provider's own, each with fields of its own.
        if is_custom(&tool)? {
            if tool.needed_text("name")?.is_empty() {
                return Err(missing(&tool.at("name")));
            }
            tool.needed("input_schema")?;
        }
    }
    Ok(())
}

/// Whether it is a function of the client's, in contrast to a tool that Anthropic defines.
pub(super) fn is_custom(tool: &Node<'_>) -> Result<bool, ErrorBody> {
    Ok(matches!(tool.kind()?.as_ref(), "" | "custom"))
}

fn check_tool_choice(request: &Node<'_>) -> Result<(), ErrorBody> {
    let Some(choice) = request.node("tool_choice")? else {
        return Ok(());
    };
    choice.check(&[
        ("type", Kind::Text),
        ("name", Kind::Text),
        ("disable_parallel_tool_use", Kind::Boolean),
    ])?;
    if choice.needed_text("type")? == "tool" {
        choice.needed("name")?;
    }
    Ok(())
}

fn check_thinking(request: &Node<'_>) -> Result<(), ErrorBody> {
    let Some(thinking) = request.node("thinking")? else {
        return Ok(());
    };
    thinking.check(&[
        ("type", Kind::Text),
        ("budget_tokens", Kind::Integer(BUDGET_MIN, i64::MAX)),
    ])?;
    // That it is below `max_tokens` is left to the provider: with tools between thoughts it need not be.
    if thinking.needed_text("type")? == "enabled" {
        thinking.needed("budget_tokens")?;
    }
    Ok(())
}

/// The client's body as it goes to a provider of the same dialect: with the provider's `model`, with `stream` as
/// given, and without thoughts that no provider of this dialect sealed, which it would refuse: they are of a model that
/// answered before, through [`super::StreamWriter`] or [`super::write_answer`]. All else stays byte for byte and in
/// order; when nothing has to change, the same bytes are returned. Expects a body that was accepted; any other is
/// returned as it is.
#[must_use]
pub fn upstream_request(body: &Bytes, model: &str, stream: bool) -> Bytes {
    let object = std::str::from_utf8(body)
        .ok()
        .and_then(|text| Object::parse(text).ok());
    let Some(object) = object else {
        return body.clone();
    };
    let mut edit = object.edit();
    if object.get("model").and_then(json::string).as_deref() != Some(model) {
        edit.set("model", json::quoted(model));
    }
    if object.get("stream").is_some_and(is_true) != stream {
        edit.set("stream", if stream { "true" } else { "false" });
    }
    if let Some(messages) = object.some("messages").and_then(without_unsealed) {
        edit.set("messages", messages);
    }
    edit.finish().map_or_else(|| body.clone(), Bytes::from)
}

/// `messages` without thoughts that are not sealed, and without messages that held nothing else; none when all are.
fn without_unsealed(messages: &RawValue) -> Option<String> {
    if !messages.get().contains(r#""thinking""#) {
        return None;
    }
    let messages: Vec<&RawValue> = serde_json::from_str(messages.get()).ok()?;
    let mut kept = Vec::with_capacity(messages.len());
    let mut is_changed = false;
    for message in messages {
        let object = Object::parse(message.get()).ok()?;
        let content = object.some("content")?;
        let blocks: Vec<&RawValue> = match content.get().starts_with('[') {
            true => serde_json::from_str(content.get()).ok()?,
            false => Vec::new(),
        };
        let sealed = blocks.iter().filter(|block| !is_unsealed(block));
        let sealed: Vec<_> = sealed.map(|block| block.get()).collect();
        if sealed.len() == blocks.len() {
            kept.push(Cow::Borrowed(message.get()));
            continue;
        }
        is_changed = true;
        if !sealed.is_empty() {
            let mut edit = object.edit();
            edit.set("content", format!("[{}]", sealed.join(",")));
            kept.push(Cow::Owned(edit.finish()?));
        }
    }
    is_changed.then(|| format!("[{}]", kept.join(",")))
}

fn is_unsealed(block: &RawValue) -> bool {
    let Ok(block) = Object::parse(block.get()) else {
        return false;
    };
    let text = |key| block.some(key).and_then(json::string).unwrap_or_default();
    text("type") == "thinking" && text("signature").is_empty()
}
