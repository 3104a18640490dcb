//! Streams of a provider of this dialect, event by event.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::arguments::arguments;
use super::usage::Counts;
use super::{error, finish_reason};
use crate::dialect::fault::malformed;
use crate::dialect::json::{self, Object};
use crate::event::{Channel, ErrorBody, Piece};
use crate::model::Said;

/// Reads a stream of a provider; one for each stream.
///
/// Thoughts are read as reasoning, without their signatures, and sealed ones (`redacted_thinking`) not at all: no other
/// dialect has a place for them. The provider's own tools and their results are left out, too.
///
/// Holds what it knows of the calls whose blocks are open.
#[derive(Debug, Clone, Default)]
pub struct StreamReader {
    /// Calls by the index of their block.
    calls: BTreeMap<i64, Call>,
    /// Number of the next call.
    next_call: i32,
    counts: Counts,
    blocks: TextBlocks,
    /// There is more than text: other blocks, citations, the end of the message.
    is_mixed: bool,
}

/// The blocks of a stream of nothing but text, as far as they came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextBlocks {
    /// How many have begun, numbered from 0.
    pub(super) begun: usize,
    /// The last of them has not ended.
    pub(super) is_open: bool,
}

/// A call whose block is open.
#[derive(Debug, Clone)]
struct Call {
    /// Its number among the calls of the answer.
    number: i32,
    /// Whether any of its arguments came.
    has_arguments: bool,
    /// Arguments that its block began with, which stand if no others come.
    arguments: String,
}

#[derive(Deserialize)]
struct Started<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Block<'a> {
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

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    partial_json: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Stopped<'a> {
    #[serde(borrow)]
    stop_reason: Option<&'a RawValue>,
}

impl StreamReader {
    /// Reads the data of the next event.
    ///
    /// Usage is told with the end of the message only: what the first event tells of it does not count the answer, and
    /// would make a stream that is cut look cheap. Events, blocks and deltas of types that are not known say nothing.
    ///
    /// # Errors
    /// The error of an `error` event, as [`super::read_error`] tells it; else, when the data is no event at all, an
    /// error for which [`crate::dialect::is_malformed`] holds.
    pub fn read(&mut self, data: &[u8]) -> Result<Said, ErrorBody> {
        let event = read_object(data)?;
        let kind = event.some("type").and_then(json::string);
        let mut said = Said::default();
        match kind.as_deref() {
            Some("message_start") => {
                let message: Started<'_> = member(&event, "message")?;
                said.model = message.model.and_then(json::string).map(Cow::into_owned);
                if let Some(usage) = message.usage {
                    self.counts.update(usage);
                }
            }
            Some("content_block_start") => {
                self.start(
                    member(&event, "index")?,
                    &member(&event, "content_block")?,
                    &mut said,
                );
            }
            Some("content_block_delta") => {
                self.add(
                    member(&event, "index")?,
                    &member(&event, "delta")?,
                    &mut said,
                )?;
            }
            Some("content_block_stop") => {
                self.blocks.is_open = false;
                if let Some(call) = self.calls.remove(&member(&event, "index")?)
                    && !call.has_arguments
                {
                    let Call {
                        number, arguments, ..
                    } = call;
                    said.pieces
                        .push(piece(Channel::ToolArguments, number, arguments));
                }
            }
            Some("message_delta") => {
                self.is_mixed = true;
                let stopped: Stopped<'_> = member(&event, "delta")?;
                if let Some(reason) = stopped.stop_reason.and_then(json::string) {
                    let reason = finish_reason(&reason).to_owned();
                    said.pieces.push(piece(Channel::Finish, 0, reason));
                }
                let usage = event.some("usage");
                if usage.is_some_and(|usage| self.counts.update(usage)) {
                    said.usage = Some(self.counts.usage());
                }
            }
            Some("message_stop") => said.is_end = true,
            // `ping`, and what may yet be added.
            Some(_) => {}
            None => return Err(malformed("an event without `type`")),
        }
        Ok(said)
    }

    /// The blocks so far, when another call could go on with them: there is one, they hold nothing but
    /// text, and the message has not ended.
    #[must_use]
    pub fn text_blocks(&self) -> Option<TextBlocks> {
        let is_plain = self.blocks.begun > 0 && !self.is_mixed;
        is_plain.then_some(self.blocks)
    }

    fn start(&mut self, index: i64, block: &Block<'_>, said: &mut Said) {
        let is_next = usize::try_from(index).is_ok_and(|index| index == self.blocks.begun);
        self.is_mixed |= block.kind != "text" || !is_next || self.blocks.is_open;
        self.blocks.begun = self.blocks.begun.saturating_add(1);
        self.blocks.is_open = true;
        match block.kind.as_ref() {
            "text" => push(said, Channel::Text, block.text),
            "thinking" => push(said, Channel::Reasoning, block.thinking),
            "tool_use" => {
                let number = self.next_call;
                self.next_call = number.saturating_add(1);
                for (channel, raw) in [(Channel::ToolId, block.id), (Channel::ToolName, block.name)]
                {
                    if let Some(text) = raw.and_then(json::string) {
                        said.pieces.push(piece(channel, number, text.into_owned()));
                    }
                }
                let call = Call {
                    number,
                    has_arguments: false,
                    arguments: block.input.map_or_else(|| "{}".to_owned(), arguments),
                };
                self.calls.insert(index, call);
            }
            _ => {}
        }
    }

    fn add(&mut self, index: i64, delta: &Delta<'_>, said: &mut Said) -> Result<(), ErrorBody> {
        self.is_mixed |= delta.kind != "text_delta";
        match delta.kind.as_ref() {
            "text_delta" => push(said, Channel::Text, Some(needed(delta.text, "text")?)),
            "thinking_delta" => {
                let thinking = needed(delta.thinking, "thinking")?;
                push(said, Channel::Reasoning, Some(thinking));
            }
            "input_json_delta" => {
                let json = needed(delta.partial_json, "partial_json")?;
                // The provider's own tools have no call here.
                if let Some(call) = self.calls.get_mut(&index)
                    && let Some(text) = json::string(json).filter(|text| !text.is_empty())
                {
                    call.has_arguments = true;
                    let text = text.into_owned();
                    said.pieces
                        .push(piece(Channel::ToolArguments, call.number, text));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The JSON object that a provider sent, which is no error.
pub(super) fn read_object(data: &[u8]) -> Result<Object<'_>, ErrorBody> {
    let text = std::str::from_utf8(data).map_err(|_| malformed("not UTF-8"))?;
    if !json::is_shallow(text) {
        return Err(malformed("nested too deep"));
    }
    let object = Object::parse(text).map_err(|_| malformed("not a JSON object"))?;
    match object.some("error") {
        None => Ok(object),
        Some(reported) => {
            let reported: Value = serde_json::from_str(reported.get())
                .map_err(|_| malformed("an error that is not JSON"))?;
            Err(error::read_event(&reported))
        }
    }
}

/// The member `key`, which has to be there and of the right form.
pub(super) fn member<'a, T: Deserialize<'a>>(
    object: &Object<'a>,
    key: &str,
) -> Result<T, ErrorBody> {
    let raw = object
        .some(key)
        .ok_or_else(|| malformed(&format!("no `{key}`")))?;
    serde_json::from_str(raw.get()).map_err(|_| malformed(&format!("`{key}` is not as it must be")))
}

fn needed<'a>(raw: Option<&'a RawValue>, key: &str) -> Result<&'a RawValue, ErrorBody> {
    raw.filter(|raw| raw.get().starts_with('"'))
        .ok_or_else(|| malformed(&format!("a delta without `{key}`")))
}

fn piece(channel: Channel, index: i32, text: String) -> Piece {
    Piece {
        choice: 0,
        channel,
        index,
        text,
    }
}

/// Adds a piece when `raw` holds text; empty text says nothing.
fn push(said: &mut Said, channel: Channel, raw: Option<&RawValue>) {
    if let Some(text) = raw.and_then(json::string).filter(|text| !text.is_empty()) {
        said.pieces.push(piece(channel, 0, text.into_owned()));
    }
}
