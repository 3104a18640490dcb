//! What the mock reads of a request, whatever its dialect; all else is ignored.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What was asked. Texts stay as JSON until somebody wants them: most calls have no directive.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// The model's name as a JSON string, quotes and escapes included.
    pub(crate) model_json: Cow<'a, str>,
    /// Whether the answer is to be streamed.
    pub(crate) stream: bool,
    /// Whether an OpenAI stream is to end with the usage.
    pub(crate) include_usage: bool,
    /// Whether it is a conversation, which can have thoughts and calls.
    pub(crate) is_chat: bool,
    /// The content of the last message of the user that has text, as JSON: a string, or a list of strings or of parts.
    pub(crate) last_user_json: &'a str,
    /// `metadata` of the body.
    pub(crate) metadata: Option<&'a RawValue>,
    /// The names of the functions that may be called.
    pub(crate) tools: Option<Tools<'a>>,
    /// The result of a call, when the conversation ends in one.
    pub(crate) result: Option<ToolResult>,
    /// The beginning of the answer, when the conversation ends in one, as JSON like `last_user_json`.
    pub(crate) prefix_json: Option<&'a str>,
    /// What is to become vectors.
    pub(crate) embed: Option<Embed>,
}

/// The functions of a request, and how to read their names.
#[derive(Debug)]
pub(crate) struct Tools<'a> {
    /// As they came.
    pub(crate) json: &'a RawValue,
    /// Their names in this JSON; empty when it cannot be read.
    pub(crate) names: fn(&RawValue) -> Vec<String>,
}

/// The result of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToolResult {
    /// Its text.
    pub(crate) text: String,
    /// Whether the conversation has the call that it is the result of.
    pub(crate) is_of_a_call: bool,
}

/// What is to become vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Embed {
    /// One vector each; the numbers of tokens, joined by blanks, where they came instead of text.
    pub(crate) texts: Vec<String>,
    /// Length of the vectors.
    pub(crate) dimensions: usize,
    /// Whether vectors are written as base64 of little-endian floats.
    pub(crate) base64: bool,
}

impl<'a> Asked<'a> {
    /// Of a body that names its model.
    pub(crate) fn new(model: Option<&'a RawValue>, last_user_json: &'a str) -> Self {
        Self {
            model_json: Cow::Borrowed(model.map_or("\"mock\"", RawValue::get)),
            stream: false,
            include_usage: false,
            is_chat: false,
            last_user_json,
            metadata: None,
            tools: None,
            result: None,
            prefix_json: None,
            embed: None,
        }
    }

    /// The model's name.
    pub(crate) fn model(&self) -> String {
        serde_json::from_str(&self.model_json).unwrap_or_default()
    }

    /// The text of the last message of the user that has text.
    pub(crate) fn last_user_text(&self) -> String {
        text_of(self.last_user_json)
    }

    /// `metadata.id`, if it is a string.
    pub(crate) fn metadata_id(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Metadata {
            id: Option<String>,
        }

        let metadata: Metadata = serde_json::from_str(self.metadata?.get()).ok()?;
        metadata.id
    }

    /// Whether the function may be called.
    pub(crate) fn has_tool(&self, name: &str) -> bool {
        let tools = self.tools.as_ref();
        tools.is_some_and(|tools| (tools.names)(tools.json).iter().any(|tool| tool == name))
    }
}

/// The text of a content: of a string, or of the strings and the parts with `text` of a list, joined.
pub(crate) fn text_of(json: &str) -> String {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Part {
        Text(String),
        Object {
            #[serde(default)]
            text: String,
        },
        Other(serde::de::IgnoredAny),
    }

    match serde_json::from_str(json) {
        Ok(Content::Text(text)) => text,
        Ok(Content::Parts(parts)) => parts
            .into_iter()
            .map(|part| match part {
                Part::Text(text) | Part::Object { text } => text,
                Part::Other(_) => String::new(),
            })
            .collect(),
        Err(_) => String::new(),
    }
}
