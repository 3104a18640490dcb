//! Requests that ask for the rest of an answer, and where its two halves meet.

use bytes::Bytes;
use schemas::event::{Channel, ErrorBody};
use schemas::model::{Chat, Message, Part, Role, Said};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::adapters::{Ask, Prefix};

/// How servers of OpenAI's dialect are told that the last message is a beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// `prefix` of the message, as DeepSeek documents it.
    Message,
    /// In all ways that are known: also `continue_final_message` of the request (vLLM).
    All,
}

/// `body` with the beginning of the answer as its last message, and what is left of its limit. A message that is itself
/// marked as a beginning becomes longer. As it is when it cannot be read.
pub(super) fn append(body: &[u8], prefix: Prefix<'_>, mark: Mark) -> Bytes {
    appended(body, prefix, mark).unwrap_or_else(|| Bytes::copy_from_slice(body))
}

fn appended(body: &[u8], prefix: Prefix<'_>, mark: Mark) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Members<'b> {
        #[serde(borrow)]
        messages: &'b RawValue,
        #[serde(borrow)]
        max_tokens: Option<&'b RawValue>,
        #[serde(borrow)]
        max_completion_tokens: Option<&'b RawValue>,
    }
    let members: Members<'_> = serde_json::from_slice(body).ok()?;
    let mut changes = vec![(members.messages, begun(members.messages, prefix, mark)?)];
    for limit in [members.max_tokens, members.max_completion_tokens] {
        if let Some(limit) = limit
            && let Ok(tokens) = limit.get().parse()
        {
            changes.push((limit, left_of(tokens, prefix).to_string()));
        }
    }
    // The raw values are parts of the body: this is where they stand.
    let place = |raw: &RawValue| raw.get().as_ptr() as usize - body.as_ptr() as usize;
    changes.sort_by_key(|(raw, _)| place(raw));
    let grown: usize = changes.iter().map(|(_, with)| with.len()).sum();
    let mut text = Vec::with_capacity(body.len() + grown);
    let mut done = 0;
    for (raw, with) in changes {
        let start = place(raw);
        text.extend_from_slice(&body[done..start]);
        text.extend_from_slice(with.as_bytes());
        done = start + raw.get().len();
    }
    text.extend_from_slice(&body[done..]);
    Some(Bytes::from(text))
}

/// `messages` with the beginning as the last one, and behind them what `mark` says of it.
fn begun(messages: &RawValue, prefix: Prefix<'_>, mark: Mark) -> Option<String> {
    let mut messages: Vec<&RawValue> = serde_json::from_str(messages.get()).ok()?;
    let begun = messages.last().and_then(|last| longer(last, prefix.text));
    let last = match begun {
        Some(begun) => {
            messages.pop();
            begun
        }
        None => {
            let text = prefix.text;
            serde_json::json!({"role": "assistant", "content": text, "prefix": true}).to_string()
        }
    };
    let mut text = "[".to_owned();
    for message in messages {
        text.push_str(message.get());
        text.push(',');
    }
    text.push_str(&last);
    text.push(']');
    if mark == Mark::All {
        text.push_str(r#","continue_final_message":true,"add_generation_prompt":false"#);
    }
    Some(text)
}

/// What is left of a limit behind `prefix`: at least one token, which no provider refuses.
fn left_of(limit: i64, prefix: Prefix<'_>) -> i64 {
    limit.saturating_sub(prefix.tokens).max(1)
}

/// `message` with `more` after its text, if it is the beginning of an answer.
fn longer(message: &RawValue, more: &str) -> Option<String> {
    let mut message: serde_json::Value = serde_json::from_str(message.get()).ok()?;
    let is_begun = message["role"] == "assistant" && message["prefix"] == true;
    let text = message["content"].as_str().filter(|_| is_begun)?;
    message["content"] = format!("{text}{more}").into();
    Some(message.to_string())
}

/// What is asked of the model in the form between dialects: the rest of the answer, when it has a beginning.
///
/// # Errors
/// As [`crate::adapters::operation::Operation::chat`].
pub(super) fn chat(ask: &Ask<'_>) -> Result<Chat, ErrorBody> {
    let mut chat = ask.operation.chat(ask.body)?;
    let Some(prefix) = ask.prefix else {
        return Ok(chat);
    };
    chat.tokens_max = chat.tokens_max.map(|limit| left_of(limit, prefix));
    let last = chat.messages.last_mut();
    if let Some(last) = last.filter(|last| last.is_prefix)
        && let Some(Part::Text(text)) = last.parts.last_mut()
    {
        text.push_str(prefix.text);
    } else {
        chat.messages.push(Message {
            role: Role::Assistant,
            name: None,
            parts: vec![Part::Text(prefix.text.to_owned())],
            is_prefix: true,
        });
    }
    Ok(chat)
}

/// Where the rest of an answer meets a beginning whose last blanks the provider did not get.
///
/// The client has these blanks. A model that repeats them goes on where they began, one that does not, where they
/// ended: either way they stand once in the joined text.
#[derive(Debug, Default)]
pub(super) struct Seam {
    /// Blanks that the rest may begin with and the client has.
    blanks: String,
}

impl Seam {
    /// The end of `prefix`, for a provider that does not take blanks there.
    pub(super) fn of(prefix: Option<&str>) -> Self {
        let prefix = prefix.unwrap_or_default();
        Self {
            blanks: prefix[prefix.trim_end().len()..].to_owned(),
        }
    }

    /// Takes out of `said` what the client has.
    pub(super) fn join(&mut self, said: &mut Said) {
        said.pieces.retain_mut(|piece| {
            let is_text = piece.channel == Channel::Text && !piece.text.is_empty();
            if self.blanks.is_empty() || !is_text {
                return true;
            }
            let same = piece.text.chars().zip(self.blanks.chars());
            let same = same.take_while(|(one, other)| one == other);
            let length: usize = same.map(|(one, _)| one.len_utf8()).sum();
            piece.text.drain(..length);
            if piece.text.is_empty() {
                // More of them may come.
                self.blanks.drain(..length);
                return false;
            }
            self.blanks.clear();
            true
        });
    }
}

#[cfg(test)]
#[path = "prefix_tests.rs"]
mod tests;
