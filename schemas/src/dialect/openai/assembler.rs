//! The whole answer out of the chunks of a stream.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::chunk::UpstreamChunk;
use super::{FUNCTION_CALL, stream, usage};
use crate::dialect::Identity;
use crate::dialect::json;
use crate::event::{Channel, Chunk, Usage};
use crate::fold::Text;

/// Collects the chunks of a stream into the completion that a client would have read without
/// streaming: all choices with text, reasoning, refusal, tool calls by index, log
/// probabilities, finish reasons and usage.
///
/// Grows with the answer; whoever feeds it bounds the size of answers.
#[derive(Debug, Clone, Default)]
pub struct Assembler {
    text: Text,
    usage: Option<Usage>,
    logprobs: BTreeMap<i32, Logprobs>,
    system_fingerprint: Option<Box<RawValue>>,
    service_tier: Option<Box<RawValue>>,
    /// The provider tells usage in DeepSeek's words, too.
    counts_cache_misses: bool,
}

/// Log probabilities of one choice, element by element as the provider wrote them: of chat, or
/// of legacy completions.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Logprobs {
    content: Option<Vec<Box<RawValue>>>,
    refusal: Option<Vec<Box<RawValue>>>,
    pub(super) tokens: Option<Vec<Box<RawValue>>>,
    pub(super) token_logprobs: Option<Vec<Box<RawValue>>>,
    pub(super) top_logprobs: Option<Vec<Box<RawValue>>>,
    pub(super) text_offset: Option<Vec<Box<RawValue>>>,
}

impl Assembler {
    /// Takes in the next chunk.
    pub fn push(&mut self, chunk: &UpstreamChunk<'_>) {
        chunk.pieces.iter().for_each(|piece| self.text.push(piece));
        if chunk.usage.is_some() {
            self.usage = chunk.usage;
            let told = chunk.member("usage").map(RawValue::get);
            self.counts_cache_misses = told.is_some_and(usage::counts_cache_misses);
        }
        for added in &chunk.logprobs {
            // Other forms than OpenAI's are left out.
            if let Ok(added_logprobs) = serde_json::from_str::<Logprobs>(added.raw.get()) {
                let logprobs = self.logprobs.entry(added.choice).or_default();
                logprobs.extend(added_logprobs);
            }
        }
        for (kept, key) in [
            (&mut self.system_fingerprint, "system_fingerprint"),
            (&mut self.service_tier, "service_tier"),
        ] {
            if kept.is_none() {
                *kept = chunk.member(key).map(ToOwned::to_owned);
            }
        }
    }

    /// Takes in a chunk of our own making, or one that was on the log.
    pub fn push_pieces(&mut self, chunk: &Chunk) {
        self.text.append(chunk);
    }

    /// Forgets everything: another attempt replaces what came.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What the answer says so far.
    #[must_use]
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// Forgets the usage: another attempt goes on with what came, and tells its own.
    pub fn forget_usage(&mut self) {
        self.usage = None;
    }

    /// Usage as reported so far.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Whether every choice that said anything has a finish reason, and there is one.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let choices = self.text.choices();
        let finished = |choice: &i32| self.text.get(*choice, Channel::Finish, 0).is_some();
        !choices.is_empty() && choices.iter().all(finished)
    }

    /// The completion so far, whole or partial, with the usage given or else as reported;
    /// choices that did not end have `"finish_reason":null`.
    #[must_use]
    pub fn completion(&self, identity: &Identity, model: &str, usage: Option<&Usage>) -> Bytes {
        completion(
            &self.text,
            identity,
            model,
            self.usage_shown(usage),
            Some(self),
        )
    }

    /// The usage given, or else as reported, in the words that the provider uses.
    pub(super) fn usage_shown(&self, usage: Option<&Usage>) -> Option<usage::Rendered> {
        let rendered = usage.or(self.usage.as_ref()).map(usage::Rendered::from)?;
        Some(if self.counts_cache_misses {
            rendered.with_cache_misses()
        } else {
            rendered
        })
    }

    pub(super) fn logprobs(&self, choice: i32) -> Option<&Logprobs> {
        self.logprobs.get(&choice)
    }

    pub(super) fn system_fingerprint(&self) -> Option<&RawValue> {
        self.system_fingerprint.as_deref()
    }
}

/// The whole completion that says `text`, for a client of this dialect when the provider speaks
/// another; choices that did not end have `"finish_reason":null`.
#[must_use]
pub fn write_answer(text: &Text, identity: &Identity, model: &str, usage: Option<&Usage>) -> Bytes {
    completion(
        text,
        identity,
        model,
        usage.map(usage::Rendered::from),
        None,
    )
}

fn completion(
    text: &Text,
    identity: &Identity,
    model: &str,
    usage: Option<usage::Rendered>,
    kept: Option<&Assembler>,
) -> Bytes {
    let choices = text.choices();
    let choices = choices.into_iter().map(|index| Choice {
        index,
        message: Message::of(text, identity, index),
        logprobs: kept
            .and_then(|kept| kept.logprobs(index))
            .map(|logprobs| ChatLogprobs {
                content: logprobs.content.as_deref(),
                refusal: logprobs.refusal.as_deref(),
            }),
        finish_reason: text.get(index, Channel::Finish, 0),
    });
    json::bytes(&Completion {
        id: &identity.id,
        object: "chat.completion",
        created: identity.created,
        model,
        choices: choices.collect(),
        usage,
        service_tier: kept.and_then(|kept| kept.service_tier.as_deref()),
        system_fingerprint: kept.and_then(Assembler::system_fingerprint),
    })
}

impl Logprobs {
    fn extend(&mut self, added: Self) {
        for (kept, added) in [
            (&mut self.content, added.content),
            (&mut self.refusal, added.refusal),
            (&mut self.tokens, added.tokens),
            (&mut self.token_logprobs, added.token_logprobs),
            (&mut self.top_logprobs, added.top_logprobs),
            (&mut self.text_offset, added.text_offset),
        ] {
            if let Some(added) = added {
                kept.get_or_insert_default().extend(added);
            }
        }
    }
}

#[derive(Serialize)]
struct ChatLogprobs<'a> {
    content: Option<&'a [Box<RawValue>]>,
    refusal: Option<&'a [Box<RawValue>]>,
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
    service_tier: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_fingerprint: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: i32,
    message: Message<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'a str,
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<Function<'a>>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    id: Cow<'a, str>,
    r#type: &'a str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> Message<'a> {
    fn of(text: &'a Text, identity: &Identity, choice: i32) -> Self {
        let part = |channel| text.get(choice, channel, 0);
        let function = |index| Function {
            name: text.get(choice, Channel::ToolName, index).unwrap_or(""),
            arguments: text
                .get(choice, Channel::ToolArguments, index)
                .unwrap_or(""),
        };
        let tools = text.tools(choice);
        let called = !tools.is_empty();
        let refusal = part(Channel::Refusal);
        // An empty answer is an empty text; only a call or a refusal stands without one.
        let content = part(Channel::Text).or((!called && refusal.is_none()).then_some(""));
        Self {
            role: "assistant",
            content,
            reasoning_content: part(Channel::Reasoning),
            refusal,
            function_call: tools
                .contains(&FUNCTION_CALL)
                .then(|| function(FUNCTION_CALL)),
            tool_calls: tools
                .into_iter()
                .filter(|index| *index != FUNCTION_CALL)
                .map(|index| ToolCall {
                    id: text.get(choice, Channel::ToolId, index).map_or_else(
                        || stream::call_id(identity, choice, index).into(),
                        Cow::Borrowed,
                    ),
                    r#type: "function",
                    function: function(index),
                })
                .collect(),
        }
    }
}
