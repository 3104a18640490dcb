//! What is written of this dialect, in requests and answers alike.

use std::borrow::Cow;

use serde::Serialize;

use super::arguments::Input;
use super::usage;
use crate::dialect::Identity;

/// A part of what is said.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block<'a> {
    Text {
        text: &'a str,
    },
    Image {
        source: Source<'a>,
    },
    Document {
        source: Source<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'a str>,
    },
    Thinking {
        thinking: &'a str,
        signature: &'a str,
    },
    RedactedThinking {
        data: &'a str,
    },
    ToolUse {
        id: Cow<'a, str>,
        name: &'a str,
        input: Input<'a>,
    },
    ToolResult {
        tool_use_id: Cow<'a, str>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        content: Vec<Block<'a>>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
}

/// Where media are.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Source<'a> {
    Url { url: &'a str },
    Base64 { media_type: &'a str, data: &'a str },
    Text { media_type: &'a str, data: String },
}

/// An answer, whole or at its beginning.
#[derive(Serialize)]
pub(super) struct Message<'a> {
    pub(super) id: &'a str,
    pub(super) r#type: &'a str,
    pub(super) role: &'a str,
    pub(super) model: &'a str,
    pub(super) content: Vec<Block<'a>>,
    pub(super) stop_reason: Option<&'a str>,
    pub(super) stop_sequence: Option<&'a str>,
    pub(super) usage: usage::Written,
}

/// The id of a call, for the client; one of our own where the provider gives none, since a client names the call by it.
pub(super) fn new_call_id<'a>(given: &'a str, identity: &Identity, index: i32) -> Cow<'a, str> {
    if given.is_empty() {
        let answer = identity.id.strip_prefix("msg_").unwrap_or(&identity.id);
        Cow::Owned(format!("toolu_{answer}_{index}"))
    } else {
        call_id(given)
    }
}

/// The id of a call of letters, digits, `_` and `-`, since Anthropic refuses all others; some providers write dots and
/// colons. The same id becomes the same everywhere.
pub(super) fn call_id(given: &str) -> Cow<'_, str> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if given.chars().all(is_allowed) {
        return Cow::Borrowed(given);
    }
    let allowed = given.chars().map(|c| if is_allowed(c) { c } else { '_' });
    Cow::Owned(allowed.collect())
}
