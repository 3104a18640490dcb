//! Whole answers, and what passes between two of this dialect.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::arguments::{arguments, input};
use super::stream_reader::{member, read_object};
use super::usage::Counts;
use super::wire::{Block, Message, new_call_id};
use super::{finish_reason, stop_reason};
use crate::dialect::Identity;
use crate::dialect::fault::malformed;
use crate::dialect::json::{self, Object, quoted};
use crate::event::{Channel, ErrorBody, Piece, Usage};
use crate::fold::Text;
use crate::model::Answer;

#[derive(Deserialize)]
struct ReadBlock<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// Reads the body of a provider's answer to a request that was not streamed; what a stream leaves out is left out here,
/// too.
///
/// # Errors
/// The provider's error, when the body is one despite its status. When the body is no answer (not JSON, no `content`),
/// an error for which [`crate::dialect::is_malformed`] holds: another deployment may do better.
pub fn read_answer(body: &[u8]) -> Result<Answer, ErrorBody> {
    let object = read_object(body)?;
    let blocks: Vec<ReadBlock<'_>> = member(&object, "content")?;
    let mut text = Text::default();
    let mut push = |channel, index, said: Option<Cow<'_, str>>| {
        if let Some(said) = said.filter(|said| !said.is_empty()) {
            text.push(&Piece {
                choice: 0,
                channel,
                index,
                text: said.into_owned(),
            });
        }
    };
    let mut calls = 0;
    for block in &blocks {
        let string = |raw: Option<&'_ RawValue>| raw.and_then(json::string).map(Cow::into_owned);
        match block.kind.as_ref() {
            "text" => push(Channel::Text, 0, string(block.text).map(Cow::Owned)),
            "thinking" => push(
                Channel::Reasoning,
                0,
                string(block.thinking).map(Cow::Owned),
            ),
            "tool_use" => {
                let input = block
                    .input
                    .ok_or_else(|| malformed("a call without `input`"))?;
                push(Channel::ToolId, calls, string(block.id).map(Cow::Owned));
                push(Channel::ToolName, calls, string(block.name).map(Cow::Owned));
                push(
                    Channel::ToolArguments,
                    calls,
                    Some(Cow::Owned(arguments(input))),
                );
                calls += 1;
            }
            _ => {}
        }
    }
    if let Some(reason) = object.some("stop_reason").and_then(json::string) {
        push(Channel::Finish, 0, Some(finish_reason(&reason).into()));
    }
    let mut counts = Counts::default();
    let is_told = object.some("usage").is_some_and(|raw| counts.update(raw));
    Ok(Answer {
        text,
        usage: is_told.then(|| counts.usage()),
        model: object.some("model").and_then(json::string).map(Into::into),
    })
}

/// The whole answer that `text` is, for a client of this dialect: thoughts, text, then calls. It has the first choice
/// only, and a refusal as text. Arguments that are no JSON object stand as text in its one member `INVALID_JSON`.
#[must_use]
pub fn write_answer(text: &Text, identity: &Identity, model: &str, usage: &Usage) -> Bytes {
    let part = |channel, index| text.get(0, channel, index).unwrap_or_default();
    let tools = text.tools(0);
    let mut content = Vec::with_capacity(tools.len() + 2);
    let thinking = part(Channel::Reasoning, 0);
    if !thinking.is_empty() {
        content.push(Block::Thinking {
            thinking,
            signature: "",
        });
    }
    for channel in [Channel::Text, Channel::Refusal] {
        let text = part(channel, 0);
        if !text.is_empty() {
            content.push(Block::Text { text });
        }
    }
    content.extend(tools.iter().map(|index| Block::ToolUse {
        id: new_call_id(part(Channel::ToolId, *index), identity, *index),
        name: part(Channel::ToolName, *index),
        input: input(part(Channel::ToolArguments, *index)),
    }));
    let reason = text.get(0, Channel::Finish, 0);
    json::bytes(&Message {
        id: &identity.id,
        r#type: "message",
        role: "assistant",
        model,
        content,
        stop_reason: Some(stop_reason(reason, !tools.is_empty())),
        stop_sequence: None,
        usage: usage.into(),
    })
}

/// A provider's whole answer as the client reads it: with the answer's `id` and with `model`, the rest byte for byte.
/// Expects a body that [`read_answer`] accepted; any other is returned as it is.
#[must_use]
pub fn render_answer(body: &[u8], identity: &Identity, model: &str) -> Bytes {
    let object = std::str::from_utf8(body)
        .ok()
        .and_then(|text| Object::parse(text).ok());
    let edited = object.and_then(|object| named(&object, identity, model));
    edited.map_or_else(|| Bytes::copy_from_slice(body), Bytes::from)
}

/// The data of a provider's event as the client reads it: the first one with the answer's `id` and with `model`, all
/// else byte for byte.
#[must_use]
pub fn render_event(data: &[u8], identity: &Identity, model: &str) -> Bytes {
    let edited = || {
        let event = Object::parse(std::str::from_utf8(data).ok()?).ok()?;
        let message = Object::parse(event.some("message")?.get()).ok()?;
        let mut edit = event.edit();
        edit.set("message", named(&message, identity, model)?);
        edit.finish()
    };
    let edited = (event_name(data) == Some("message_start")).then(edited);
    edited
        .flatten()
        .map_or_else(|| Bytes::copy_from_slice(data), Bytes::from)
}

/// `message` with the answer's `id` and with `model`; none when it is so already.
fn named(message: &Object<'_>, identity: &Identity, model: &str) -> Option<String> {
    let mut edit = message.edit();
    edit.set("id", quoted(&identity.id));
    edit.set("model", quoted(model));
    edit.finish()
}

/// The name of the event whose data this is, for its `event:` line: the `type` of the data.
#[must_use]
pub fn event_name(data: &[u8]) -> Option<&str> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow, rename = "type")]
        name: &'a str,
    }
    // Serde would take an array, too, by position.
    let is_object = data.trim_ascii_start().starts_with(b"{");
    let event: Event<'_> = is_object.then(|| serde_json::from_slice(data).ok())??;
    Some(event.name)
}
