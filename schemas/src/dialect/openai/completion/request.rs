//! The client's request for a completion.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::super::inputs::{self, Inputs};
use super::super::request::{MODEL, STREAM, STREAM_OPTIONS, named_model, wants_usage};
use super::super::upstream_request;
use crate::dialect::check::{self, Kind, is_true};
use crate::dialect::json;
use crate::event::ErrorBody;

/// A completion request that passed validation, with what the pipeline needs of it; everything
/// else stays in the body.
#[derive(Debug, Clone)]
pub struct CompletionRequest<'a> {
    /// Model name as the client wrote it; not empty.
    pub model: Cow<'a, str>,
    /// Whether the client wants a stream.
    pub stream: bool,
    /// Whether the client wants usage in the stream (`stream_options.include_usage`).
    pub include_usage: bool,
    /// Length of `prompt` as JSON, for an estimate of its tokens; 0 when there is none.
    pub prompt_bytes: usize,
    /// The end user that the client names.
    pub user: Option<Cow<'a, str>>,
}

pub(super) const PROMPT: &str = "prompt";

/// The fields that are checked; others pass
/// (<https://platform.openai.com/docs/api-reference/completions/create>).
const FIELDS: [(&str, Kind); 18] = [
    (MODEL, Kind::Text),
    (PROMPT, Kind::TextOrArray),
    (STREAM, Kind::Boolean),
    (STREAM_OPTIONS, Kind::Object),
    ("max_tokens", Kind::Integer(0, i64::MAX)),
    ("n", Kind::Integer(1, 128)),
    ("best_of", Kind::Integer(0, 20)),
    ("echo", Kind::Boolean),
    ("suffix", Kind::Text),
    ("logprobs", Kind::Integer(0, 5)),
    ("temperature", Kind::Number(0.0, 2.0)),
    ("top_p", Kind::Number(0.0, 1.0)),
    ("presence_penalty", Kind::Number(-2.0, 2.0)),
    ("frequency_penalty", Kind::Number(-2.0, 2.0)),
    ("stop", Kind::TextOrArray),
    ("seed", Kind::Integer(i64::MIN, i64::MAX)),
    ("logit_bias", Kind::Object),
    ("user", Kind::Text),
];

impl<'a> CompletionRequest<'a> {
    /// Validates the body of `POST /v1/completions`. A missing prompt is the beginning of a new
    /// document, as OpenAI has it.
    ///
    /// # Errors
    /// 400 `invalid_request_error` whose `param` names the field: not UTF-8, not a JSON object,
    /// nested deeper than 64, `model` missing, a known field twice, of the wrong type or out of
    /// its range, a prompt that is neither text, texts, tokens nor arrays of tokens. Fields that
    /// are not known pass.
    pub fn parse(body: &'a [u8]) -> Result<Self, ErrorBody> {
        let object = check::object(body)?;
        check::fields(&object, &FIELDS)?;
        let prompt = object.some(PROMPT);
        if let Some(prompt) = prompt {
            read_prompt(prompt)?;
        }
        Ok(Self {
            model: named_model(&object)?,
            stream: object.get(STREAM).is_some_and(is_true),
            include_usage: wants_usage(&object)?,
            prompt_bytes: prompt.map_or(0, |prompt| prompt.get().len()),
            user: object.some("user").and_then(json::string),
        })
    }
}

pub(super) fn read_prompt(raw: &RawValue) -> Result<Inputs<'_>, ErrorBody> {
    inputs::read(PROMPT, raw)
}

/// The client's body as it goes to a provider that serves completions, by the rules of
/// [`upstream_request`]. Expects a body that [`CompletionRequest::parse`] accepted; any other
/// is returned as it is.
#[must_use]
pub fn upstream_completion(body: &Bytes, model: &str, stream: bool) -> Bytes {
    upstream_request(body, model, stream)
}
