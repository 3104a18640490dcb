//! Completions of a provider, whole and streamed, rendered for the client.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::assembler::{Assembler, Logprobs};
use super::super::chunk::{self, Form, UpstreamChunk};
use super::super::{answer, usage};
use crate::dialect::Identity;
use crate::dialect::json;
use crate::event::{Channel, ErrorBody, Usage};
use crate::fold::Text;

/// Reads the data of one SSE event of a stream of completions (not `[DONE]`); text is a piece
/// of the channel `Text`. As [`super::super::read_chunk`] in all else.
///
/// # Errors
/// As [`super::super::read_chunk`].
pub fn read_completion_chunk(data: &[u8]) -> Result<UpstreamChunk<'_>, ErrorBody> {
    chunk::read(data, Form::Text)
}

/// The chunk as the client reads it, by the rules of [`super::super::render_chunk`].
#[must_use]
pub fn render_completion_chunk(
    chunk: &UpstreamChunk<'_>,
    identity: &Identity,
    model: &str,
    include_usage: bool,
) -> Option<Bytes> {
    chunk::render(chunk, Form::Text, identity, model, include_usage)
}

/// Reads the body of a provider's completion that was not streamed, and renders it for the
/// client, by the rules of [`super::super::render_answer`].
///
/// # Errors
/// As [`super::super::render_answer`].
pub fn render_completion(
    body: &[u8],
    identity: &Identity,
    model: &str,
) -> Result<answer::Answer, ErrorBody> {
    answer::render(body, Form::Text, identity, model)
}

impl Assembler {
    /// The `text_completion` so far, out of chunks of [`read_completion_chunk`], whole or
    /// partial, with the usage given or else as reported.
    #[must_use]
    pub fn text_completion(
        &self,
        identity: &Identity,
        model: &str,
        usage: Option<&Usage>,
    ) -> Bytes {
        let usage = self.usage_shown(usage);
        write_text(self.text(), identity, model, usage, Some(self))
    }
}

/// The whole `text_completion` that says `text`.
pub(super) fn write_text(
    text: &Text,
    identity: &Identity,
    model: &str,
    usage: Option<usage::Rendered>,
    kept: Option<&Assembler>,
) -> Bytes {
    let choices = text.choices();
    let choices = choices.into_iter().map(|index| Choice {
        text: text.get(index, Channel::Text, 0).unwrap_or(""),
        index,
        logprobs: kept.and_then(|kept| kept.logprobs(index)).map(Into::into),
        finish_reason: text.get(index, Channel::Finish, 0),
    });
    json::bytes(&Completion {
        id: &identity.id,
        object: "text_completion",
        created: identity.created,
        model,
        choices: choices.collect(),
        usage,
        system_fingerprint: kept.and_then(Assembler::system_fingerprint),
    })
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'a str,
    created: i64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<usage::Rendered>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_fingerprint: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Choice<'a> {
    text: &'a str,
    index: i32,
    logprobs: Option<TextLogprobs<'a>>,
    finish_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct TextLogprobs<'a> {
    tokens: Option<&'a [Box<RawValue>]>,
    token_logprobs: Option<&'a [Box<RawValue>]>,
    top_logprobs: Option<&'a [Box<RawValue>]>,
    text_offset: Option<&'a [Box<RawValue>]>,
}

impl<'a> From<&'a Logprobs> for TextLogprobs<'a> {
    fn from(logprobs: &'a Logprobs) -> Self {
        Self {
            tokens: logprobs.tokens.as_deref(),
            token_logprobs: logprobs.token_logprobs.as_deref(),
            top_logprobs: logprobs.top_logprobs.as_deref(),
            text_offset: logprobs.text_offset.as_deref(),
        }
    }
}
