//! Chunks of a stream: read from a provider, rendered for the client.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{FUNCTION_CALL, error, usage};
use crate::dialect::Identity;
use crate::dialect::fault;
use crate::dialect::json::{self, Object};
use crate::event::{Channel, ErrorBody, Piece, Usage};

/// Which of the two forms chunks and answers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Chat: choices with a `delta` or a `message`.
    Chat,
    /// Legacy completions: choices with a `text`.
    Text,
}

impl Form {
    /// `object` of a chunk, as JSON.
    fn chunk_object(self) -> &'static str {
        match self {
            Self::Chat => r#""chat.completion.chunk""#,
            Self::Text => TEXT_COMPLETION,
        }
    }

    /// `object` of a whole answer, as JSON.
    pub(super) fn answer_object(self) -> &'static str {
        match self {
            Self::Chat => r#""chat.completion""#,
            Self::Text => TEXT_COMPLETION,
        }
    }
}

const TEXT_COMPLETION: &str = r#""text_completion""#;

/// What a chunk of a provider says.
pub struct UpstreamChunk<'a> {
    /// What it adds to the answer.
    pub pieces: Vec<Piece>,
    /// Usage, when it carries any.
    pub usage: Option<Usage>,
    /// The model that the provider says it is.
    pub model: Option<String>,
    /// Log probabilities that it adds.
    pub logprobs: Vec<Logprobs<'a>>,
    choices: usize,
    object: Object<'a>,
}

/// Log probabilities of one choice in a chunk.
#[derive(Debug, Clone, Copy)]
pub struct Logprobs<'a> {
    /// Index of the choice.
    pub choice: i32,
    /// The `logprobs` object as the provider wrote it.
    pub raw: &'a RawValue,
}

impl std::fmt::Debug for UpstreamChunk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamChunk")
            .field("pieces", &self.pieces)
            .field("usage", &self.usage)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl UpstreamChunk<'_> {
    /// Whether the model wrote something: a chunk with only a role, a finish reason, usage or
    /// empty text is not a token.
    #[must_use]
    pub fn is_token(&self) -> bool {
        self.pieces
            .iter()
            .any(|piece| piece.channel != Channel::Finish && !piece.text.is_empty())
    }

    /// The choices that end with this chunk, and why.
    pub fn finished(&self) -> impl Iterator<Item = (i32, &str)> {
        self.pieces
            .iter()
            .filter(|piece| piece.channel == Channel::Finish)
            .map(|piece| (piece.choice, piece.text.as_str()))
    }

    /// Whether it has no choice, as the last one that only tells the usage.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.choices == 0
    }

    pub(super) fn member(&self, key: &str) -> Option<&RawValue> {
        self.object.some(key)
    }
}

#[derive(Deserialize)]
struct Choice<'a> {
    index: Option<i32>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    logprobs: Option<&'a RawValue>,
}

/// The additions to a choice, or the message of a whole answer: they have the same fields.
#[derive(Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    /// What OpenRouter and newer vLLM call it.
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    #[serde(borrow)]
    function_call: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    index: Option<i32>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// Members of a chunk or answer that must not be there twice, since they are edited.
pub(super) const EDITED: [&str; 6] = ["id", "object", "created", "model", "choices", "usage"];

/// Reads the data of one SSE event of an OpenAI-like stream (not `[DONE]`).
///
/// Providers vary, and it takes what they send: missing `id`, `object` or `created`, no choice,
/// `null` for anything, content as parts, a missing `index`.
///
/// # Errors
/// The error of an error event (`{"error":…}`), as [`super::read_error`] tells it; else, when
/// the data is no chunk at all, an error for which [`super::is_malformed`] holds.
pub fn read_chunk(data: &[u8]) -> Result<UpstreamChunk<'_>, ErrorBody> {
    read(data, Form::Chat)
}

pub(super) fn read(data: &[u8], form: Form) -> Result<UpstreamChunk<'_>, ErrorBody> {
    let object = read_object(data)?;
    let choices: Vec<Choice<'_>> = match object.some("choices") {
        Some(choices) => serde_json::from_str(choices.get())
            .map_err(|_| fault::malformed("`choices` of a chunk are no choices"))?,
        None if object.some("usage").is_some() => Vec::new(),
        None => return Err(fault::malformed("a chunk without `choices`")),
    };
    let mut pieces = Vec::new();
    let mut logprobs = Vec::new();
    for (position, choice) in (0..).zip(&choices) {
        let index = choice.index.unwrap_or(position);
        match (form, &choice.delta) {
            (Form::Chat, Some(delta)) => delta.pieces(index, &mut pieces),
            (Form::Chat, None) => {}
            (Form::Text, _) => push(&mut pieces, index, Channel::Text, 0, choice.text),
        }
        push(&mut pieces, index, Channel::Finish, 0, choice.finish_reason);
        if let Some(raw) = choice.logprobs.filter(|raw| raw.get() != "null") {
            logprobs.push(Logprobs { choice: index, raw });
        }
    }
    Ok(UpstreamChunk {
        pieces,
        usage: object.some("usage").and_then(usage::read),
        model: object.some("model").and_then(json::string).map(Into::into),
        logprobs,
        choices: choices.len(),
        object,
    })
}

/// The JSON object that a provider sent, which is no error.
pub(super) fn read_object(data: &[u8]) -> Result<Object<'_>, ErrorBody> {
    let text = std::str::from_utf8(data).map_err(|_| fault::malformed("not UTF-8"))?;
    if !json::is_shallow(text) {
        return Err(fault::malformed("nested too deep"));
    }
    let object = Object::parse(text).map_err(|_| fault::malformed("not a JSON object"))?;
    if let Some(reported) = object.some("error") {
        let reported = serde_json::from_str(reported.get());
        return Err(reported.map_or_else(
            |_| fault::malformed("an error that is not JSON"),
            |reported| error::read_event(&reported),
        ));
    }
    if object
        .get("object")
        .is_some_and(|raw| raw.get() == r#""error""#)
    {
        let reported = serde_json::from_str(text).unwrap_or_default();
        return Err(error::read_event(&reported));
    }
    if let Some(key) = object.duplicate(&EDITED) {
        return Err(fault::malformed(&format!("`{key}` twice")));
    }
    Ok(object)
}

impl Delta<'_> {
    /// Its pieces, in the order in which a reader sees them.
    pub(super) fn pieces(&self, choice: i32, pieces: &mut Vec<Piece>) {
        let reasoning = self
            .reasoning_content
            .filter(|raw| raw.get() != "null")
            .or(self.reasoning);
        push(pieces, choice, Channel::Reasoning, 0, reasoning);
        push(pieces, choice, Channel::Text, 0, self.content);
        push(pieces, choice, Channel::Refusal, 0, self.refusal);
        for (position, call) in (0..).zip(self.tool_calls.iter().flatten()) {
            let index = call.index.unwrap_or(position);
            push(pieces, choice, Channel::ToolId, index, call.id);
            if let Some(function) = &call.function {
                function.pieces(choice, index, pieces);
            }
        }
        if let Some(function) = &self.function_call {
            function.pieces(choice, FUNCTION_CALL, pieces);
        }
    }
}

impl Function<'_> {
    fn pieces(&self, choice: i32, index: i32, pieces: &mut Vec<Piece>) {
        push(pieces, choice, Channel::ToolName, index, self.name);
        push(
            pieces,
            choice,
            Channel::ToolArguments,
            index,
            self.arguments,
        );
    }
}

/// Adds a piece when `raw` holds text; empty text says nothing.
pub(super) fn push(
    pieces: &mut Vec<Piece>,
    choice: i32,
    channel: Channel,
    index: i32,
    raw: Option<&RawValue>,
) {
    let Some(text) = raw.and_then(json::content) else {
        return;
    };
    if !text.is_empty() {
        pieces.push(Piece {
            choice,
            channel,
            index,
            text: text.into_owned(),
        });
    }
}

/// The chunk as the client reads it, ready to be one frame's data: with the answer's `id` and
/// `created`, with `model`, and with usage only for a client that asked (`include_usage`):
/// then `"usage":null` on every chunk that carries none. Unknown fields stay. None for a chunk
/// that only tells the usage when the client did not ask for it.
#[must_use]
pub fn render_chunk(
    chunk: &UpstreamChunk<'_>,
    identity: &Identity,
    model: &str,
    include_usage: bool,
) -> Option<Bytes> {
    render(chunk, Form::Chat, identity, model, include_usage)
}

pub(super) fn render(
    chunk: &UpstreamChunk<'_>,
    form: Form,
    identity: &Identity,
    model: &str,
    include_usage: bool,
) -> Option<Bytes> {
    if chunk.is_bare() && chunk.member("usage").is_some() && !include_usage {
        return None;
    }
    let object = &chunk.object;
    let mut edit = object.edit();
    edit.set("id", json::quoted(&identity.id));
    edit.set("object", form.chunk_object());
    edit.set("created", identity.created.to_string());
    edit.set("model", json::quoted(model));
    if object.get("choices").is_none() {
        edit.set("choices", "[]");
    }
    if !include_usage {
        edit.remove("usage");
    } else if object.get("usage").is_none() {
        edit.set("usage", "null");
    }
    Some(match edit.finish() {
        Some(text) => Bytes::from(text),
        None => Bytes::copy_from_slice(object.text().as_bytes()),
    })
}
