//! The whole answer out of the chunks of a stream.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::chunk::UpstreamChunk;
use super::{FUNCTION_CALL, usage};
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
}

/// Log probabilities of one choice, element by element as the provider wrote them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Logprobs {
    content: Option<Vec<Box<RawValue>>>,
    refusal: Option<Vec<Box<RawValue>>>,
}

impl Assembler {
    /// Takes in the next chunk.
    pub fn push(&mut self, chunk: &UpstreamChunk<'_>) {
        chunk.pieces.iter().for_each(|piece| self.text.push(piece));
        if chunk.usage.is_some() {
            self.usage = chunk.usage;
        }
        for added in &chunk.logprobs {
            // Other forms than OpenAI's are left out.
            if let Ok(Logprobs { content, refusal }) = serde_json::from_str(added.raw.get()) {
                let logprobs = self.logprobs.entry(added.choice).or_default();
                extend(&mut logprobs.content, content);
                extend(&mut logprobs.refusal, refusal);
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
        let choices = self.text.choices();
        let choices = choices.into_iter().map(|index| Choice {
            index,
            message: Message::of(&self.text, index),
            logprobs: self.logprobs.get(&index),
            finish_reason: self.text.get(index, Channel::Finish, 0),
        });
        json::bytes(&Completion {
            id: &identity.id,
            object: "chat.completion",
            created: identity.created,
            model,
            choices: choices.collect(),
            usage: usage.or(self.usage.as_ref()).map(usage::Rendered::from),
            service_tier: self.service_tier.as_deref(),
            system_fingerprint: self.system_fingerprint.as_deref(),
        })
    }
}

fn extend(kept: &mut Option<Vec<Box<RawValue>>>, added: Option<Vec<Box<RawValue>>>) {
    if let Some(added) = added {
        kept.get_or_insert_default().extend(added);
    }
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
    logprobs: Option<&'a Logprobs>,
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
    id: &'a str,
    r#type: &'a str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> Message<'a> {
    fn of(text: &'a Text, choice: i32) -> Self {
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
                    id: text.get(choice, Channel::ToolId, index).unwrap_or(""),
                    r#type: "function",
                    function: function(index),
                })
                .collect(),
        }
    }
}
