//! What Gemini says: the events of its stream, and whole answers.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::error;
use crate::dialect::{INCOMPLETE, fault, json};
use crate::event::{Channel, ErrorBody, Piece, Usage};
use crate::fold::Text;
use crate::model::{Answer, Said};

/// Longest `responseId` that goes into the ids of calls; OpenAI takes 40 characters for all of an id.
const RESPONSE_ID_MAX: usize = 24;

/// Reads the events of one `streamGenerateContent?alt=sse`, in order.
///
/// Google has no event for the end, it closes the stream. [`Said::is_end`] stands on the event with which all candidates that
/// came, and no fewer than were asked for, have a finish reason, and that tells the usage as well; a stream that closes without
/// it was cut, unless each of its choices has a finish reason.
///
/// Ids of calls are Google's, or where it gives none (before Gemini 3) `call_`, the answer's `responseId`, and the index of the
/// call within its choice: the same every time the stream is read.
#[derive(Debug, Clone, Default)]
pub struct StreamReader {
    /// How many were asked for; 0 counts as 1.
    candidates: i32,
    /// Of the first event that has one fit for an id.
    response_id: Option<String>,
    /// By index.
    choices: BTreeMap<i32, Choice>,
}

/// What came of a choice.
#[derive(Debug, Clone, Copy, Default)]
struct Choice {
    calls: i32,
    is_finished: bool,
}

impl StreamReader {
    /// For a request with `candidateCount` `candidates`; the default is for one.
    #[must_use]
    pub fn new(candidates: i32) -> Self {
        Self {
            candidates,
            ..Self::default()
        }
    }

    /// Reads the data of one SSE event.
    ///
    /// # Errors
    /// - The error of an error event, as [`super::read_error`] tells it.
    /// - 400, when the prompt was blocked; [`is_content_policy`](crate::dialect::openai::is_content_policy) holds for it.
    /// - 502, when the answer ends for a reason that makes it no answer (such as a call of a function that nobody can read), or
    ///   has a part that no dialect of ours can say, such as a picture. The answer is not whole then.
    /// - When the data is no such event at all, an error for which [`is_malformed`](crate::dialect::is_malformed) holds.
    pub fn read(&mut self, data: &[u8]) -> Result<Said, ErrorBody> {
        let response = Response::parse(data)?;
        let usage = response.usage_metadata.and_then(read_usage);
        if response.candidates.is_empty() {
            if let Some(reason) = response.block_reason() {
                return Err(error::blocked(reason));
            }
            if response.usage_metadata.is_none() {
                return Err(fault::malformed("neither `candidates` nor usage"));
            }
        }
        if self.response_id.is_none() {
            self.response_id = response.response_id.filter(|id| is_fit_for_id(id));
        }
        let mut pieces = Vec::new();
        for (position, candidate) in (0..).zip(response.candidates) {
            self.candidate(position, candidate, &mut pieces)?;
        }
        Ok(Said {
            pieces,
            is_end: usage.is_some() && self.is_finished(),
            usage,
            model: response.model_version.filter(|model| !model.is_empty()),
        })
    }

    /// Whether all candidates that came, and as many as were asked for, have a finish reason.
    fn is_finished(&self) -> bool {
        let wanted = usize::try_from(self.candidates).unwrap_or(0).max(1);
        self.choices.len() >= wanted && self.choices.values().all(|choice| choice.is_finished)
    }

    fn candidate(
        &mut self,
        position: i32,
        candidate: Candidate<'_>,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), ErrorBody> {
        // Protocol buffers leave an index of 0 out.
        let index = candidate.index.unwrap_or(position);
        let choice = self.choices.entry(index).or_default();
        let mut push = |channel, call, text| {
            pieces.push(Piece {
                choice: index,
                channel,
                index: call,
                text,
            });
        };
        let parts = candidate.content.and_then(|content| content.parts);
        for part in parts.into_iter().flatten() {
            if let Some(call) = part.function_call {
                let number = choice.calls;
                choice.calls = choice.calls.saturating_add(1);
                let id = call.id.filter(|id| !id.is_empty());
                let id = id.unwrap_or_else(|| call_id(self.response_id.as_deref(), number));
                let arguments = call.args.map_or("{}", RawValue::get);
                push(Channel::ToolId, number, id);
                push(Channel::ToolName, number, call.name);
                push(Channel::ToolArguments, number, arguments.to_owned());
            } else if let Some(text) = part.text {
                let thought = part.thought == Some(true);
                if !text.is_empty() {
                    let channel = if thought {
                        Channel::Reasoning
                    } else {
                        Channel::Text
                    };
                    push(channel, 0, text);
                }
            } else if let Some(kind) = part.unsayable() {
                let message = format!("the provider answered with `{kind}`, which cannot be told");
                return Err(ErrorBody::upstream_failed(message));
            }
        }
        let reason = candidate.finish_reason.as_deref().unwrap_or_default();
        if let Some(reason) = finish_reason(reason, choice.calls > 0)? {
            choice.is_finished = true;
            push(Channel::Finish, 0, reason.to_owned());
        }
        Ok(())
    }
}

/// Reads the body of an answer of `generateContent`.
///
/// # Errors
/// As [`StreamReader::read`]; malformed is also an answer without candidates, and one with a candidate that has no finish reason.
pub fn read_answer(body: &[u8]) -> Result<Answer, ErrorBody> {
    let mut reader = StreamReader::default();
    let said = reader.read(body)?;
    if !reader.is_finished() {
        return Err(fault::malformed("no candidate, or one that has not ended"));
    }
    let mut text = Text::default();
    said.pieces.iter().for_each(|piece| text.push(piece));
    Ok(Answer {
        text,
        usage: said.usage,
        model: said.model,
    })
}

/// Why a choice ended, in OpenAI's words; none when it has not.
///
/// The names are those of `Candidate.FinishReason` (<https://ai.google.dev/api/generate-content#FinishReason>). `STOP` is said of
/// calls, too, and in an event of its own behind them. What makes it no answer is an error: a client would take any
/// finish reason for the end of one.
fn finish_reason(reason: &str, called: bool) -> Result<Option<&'static str>, ErrorBody> {
    Ok(Some(match reason {
        "" | "FINISH_REASON_UNSPECIFIED" => return Ok(None),
        "STOP" if called => "tool_calls",
        "STOP" => "stop",
        "MAX_TOKENS" => "length",
        "SAFETY"
        | "RECITATION"
        | "LANGUAGE"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION"
        | "MODEL_ARMOR" => "content_filter",
        "MALFORMED_FUNCTION_CALL"
        | "UNEXPECTED_TOOL_CALL"
        | "TOO_MANY_TOOL_CALLS"
        | "MALFORMED_RESPONSE"
        | "MISSING_THOUGHT_SIGNATURE"
        | "NO_IMAGE"
        | "IMAGE_OTHER"
        | "OTHER" => {
            let message = format!("the provider gave its answer up: {reason}");
            return Err(ErrorBody::upstream_failed(message));
        }
        _ => INCOMPLETE,
    }))
}

fn call_id(response_id: Option<&str>, number: i32) -> String {
    match response_id {
        Some(response_id) => format!("call_{response_id}_{number}"),
        None => format!("call_{number}"),
    }
}

/// Whether every provider takes it within the id of a call.
fn is_fit_for_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=RESPONSE_ID_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// Usage as Gemini counts it; none when no number is there, as in the events of some models before the last.
pub(super) fn read_usage(raw: &RawValue) -> Option<Usage> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Reported {
        prompt_token_count: Option<i64>,
        tool_use_prompt_token_count: Option<i64>,
        cached_content_token_count: Option<i64>,
        candidates_token_count: Option<i64>,
        thoughts_token_count: Option<i64>,
    }

    let reported: Reported = serde_json::from_str(raw.get()).ok()?;
    if reported.prompt_token_count.is_none() && reported.candidates_token_count.is_none() {
        return None;
    }
    let tokens = |count: Option<i64>| count.unwrap_or(0).max(0);
    let sum = |one, two| tokens(one).saturating_add(tokens(two));
    Some(Usage {
        prompt_tokens: sum(
            reported.prompt_token_count,
            reported.tool_use_prompt_token_count,
        ),
        completion_tokens: sum(
            reported.candidates_token_count,
            reported.thoughts_token_count,
        ),
        cached_tokens: tokens(reported.cached_content_token_count),
        reasoning_tokens: tokens(reported.thoughts_token_count),
        estimated: false,
    })
}

/// A `GenerateContentResponse`, whole or one event of a stream.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    #[serde(borrow, default)]
    candidates: Vec<Candidate<'a>>,
    prompt_feedback: Option<PromptFeedback>,
    #[serde(borrow)]
    usage_metadata: Option<&'a RawValue>,
    model_version: Option<String>,
    response_id: Option<String>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromptFeedback {
    block_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    index: Option<i32>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    parts: Option<Vec<Part<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    text: Option<String>,
    thought: Option<bool>,
    #[serde(borrow)]
    function_call: Option<FunctionCall<'a>>,
    inline_data: Option<IgnoredAny>,
    file_data: Option<IgnoredAny>,
    executable_code: Option<IgnoredAny>,
    code_execution_result: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct FunctionCall<'a> {
    id: Option<String>,
    name: String,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
}

impl<'a> Response<'a> {
    fn parse(data: &'a [u8]) -> Result<Self, ErrorBody> {
        let response: Self = serde_json::from_str(json_object(data)?)
            .map_err(|_| fault::malformed("not as Gemini answers"))?;
        match response.error {
            None => Ok(response),
            Some(reported) => Err(error::read_event(reported)),
        }
    }

    fn block_reason(&self) -> Option<&str> {
        let feedback = self.prompt_feedback.as_ref()?;
        feedback.block_reason.as_deref()
    }
}

impl Part<'_> {
    /// What the part is, when it is nothing that a piece could carry; none also for a part that only has a signature.
    fn unsayable(&self) -> Option<&'static str> {
        let kinds = [
            ("inlineData", &self.inline_data),
            ("fileData", &self.file_data),
            ("executableCode", &self.executable_code),
            ("codeExecutionResult", &self.code_execution_result),
        ];
        let mut kinds = kinds.into_iter();
        kinds.find_map(|(kind, data)| data.is_some().then_some(kind))
    }
}

/// The text of what should be a JSON object; whether it is one shows when it is read.
pub(super) fn json_object(data: &[u8]) -> Result<&str, ErrorBody> {
    let text = std::str::from_utf8(data).map_err(|_| fault::malformed("not UTF-8"))?;
    if !json::is_shallow(text) {
        return Err(fault::malformed("nested too deep"));
    }
    // Serde would take an array for a struct, too, by position.
    if !text.trim_start().starts_with('{') {
        return Err(fault::malformed("not a JSON object"));
    }
    Ok(text)
}
