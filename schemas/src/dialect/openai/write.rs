//! Chunks and answers of our own making, for the scripted adapter and for ends of streams.

use bytes::Bytes;
use serde::Serialize;

use super::{Assembler, usage};
use crate::dialect::Identity;
use crate::dialect::json;
use crate::event::{Channel, Chunk, Piece, Usage};

/// The first chunk of a choice: its role and empty text. Not a token.
#[must_use]
pub fn role_chunk(identity: &Identity, model: &str, choice: i32, include_usage: bool) -> Chunk {
    let delta = Delta {
        role: Some("assistant"),
        content: Some(""),
        ..Delta::default()
    };
    chunk(identity, model, include_usage, choice, delta, None)
}

/// A chunk with text of a choice.
#[must_use]
pub fn text_chunk(
    identity: &Identity,
    model: &str,
    choice: i32,
    text: &str,
    include_usage: bool,
) -> Chunk {
    let delta = Delta {
        content: Some(text),
        ..Delta::default()
    };
    chunk(identity, model, include_usage, choice, delta, None)
}

/// The last chunk of a choice: an empty delta and why it ended (`stop`, `length`, …).
#[must_use]
pub fn finish_chunk(
    identity: &Identity,
    model: &str,
    choice: i32,
    reason: &str,
    include_usage: bool,
) -> Chunk {
    let delta = Delta::default();
    chunk(identity, model, include_usage, choice, delta, Some(reason))
}

/// The chunk after the last, for clients that asked for usage: no choices, only usage.
#[must_use]
pub fn usage_chunk(identity: &Identity, model: &str, usage: &Usage) -> Chunk {
    let raw = json::bytes(&Written {
        id: &identity.id,
        object: "chat.completion.chunk",
        created: identity.created,
        model,
        choices: &[],
        usage: Some(Some(usage.into())),
    });
    Chunk {
        pieces: Vec::new(),
        raw,
    }
}

/// A whole answer with the given texts, one choice each, all of which ended for `reason`.
#[must_use]
pub fn completion(
    identity: &Identity,
    model: &str,
    texts: &[&str],
    reason: &str,
    usage: Option<&Usage>,
) -> Bytes {
    let mut assembler = Assembler::default();
    for (choice, text) in (0..).zip(texts) {
        let pieces = [(Channel::Text, *text), (Channel::Finish, reason)];
        assembler.push_pieces(&Chunk {
            pieces: pieces
                .map(|(channel, text)| piece(choice, channel, text))
                .into(),
            raw: Bytes::new(),
        });
    }
    assembler.completion(identity, model, usage)
}

fn piece(choice: i32, channel: Channel, text: &str) -> Piece {
    Piece {
        choice,
        channel,
        index: 0,
        text: text.to_owned(),
    }
}

/// A chunk of one choice that adds `delta` to it.
pub(super) fn delta_bytes(
    identity: &Identity,
    model: &str,
    include_usage: bool,
    index: i32,
    delta: &Delta<'_>,
    finish_reason: Option<&str>,
) -> Bytes {
    json::bytes(&Written {
        id: &identity.id,
        object: "chat.completion.chunk",
        created: identity.created,
        model,
        choices: &[Choice {
            index,
            delta,
            logprobs: None,
            finish_reason,
        }],
        usage: include_usage.then_some(None),
    })
}

fn chunk(
    identity: &Identity,
    model: &str,
    include_usage: bool,
    index: i32,
    delta: Delta<'_>,
    finish_reason: Option<&str>,
) -> Chunk {
    let raw = delta_bytes(identity, model, include_usage, index, &delta, finish_reason);
    let text = delta.content.filter(|text| !text.is_empty());
    let text = text.map(|text| piece(index, Channel::Text, text));
    let finish = finish_reason.map(|reason| piece(index, Channel::Finish, reason));
    Chunk {
        pieces: text.into_iter().chain(finish).collect(),
        raw,
    }
}

#[derive(Serialize)]
struct Written<'a> {
    id: &'a str,
    object: &'a str,
    created: i64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    /// None: no such key; `Some(None)`: `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<usage::Rendered>>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: i32,
    delta: &'a Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'a str>,
}

/// What a chunk adds to a choice.
#[derive(Serialize, Default)]
pub(super) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) tool_calls: &'a [ToolCall<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) function_call: Option<Function<'a>>,
}

/// What a chunk adds to a call.
#[derive(Serialize)]
pub(super) struct ToolCall<'a> {
    pub(super) index: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) r#type: Option<&'a str>,
    pub(super) function: Function<'a>,
}

/// What a chunk adds to the function of a call.
#[derive(Serialize)]
pub(super) struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) arguments: Option<&'a str>,
}
