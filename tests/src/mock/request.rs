use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What the mock reads of a chat request; all else is ignored.
#[derive(Debug, Deserialize)]
pub(super) struct ChatRequest<'a> {
    /// The model's name as a JSON string, quotes and escapes included.
    #[serde(borrow)]
    pub(super) model: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(borrow, default)]
    messages: Vec<Message<'a>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct Metadata {
    id: Option<String>,
}

impl ChatRequest<'_> {
    pub(super) fn include_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage)
    }

    /// The model's name, still quoted and escaped.
    pub(super) fn model_json(&self) -> &str {
        self.model.map_or("\"mock\"", RawValue::get)
    }

    /// The content of the last user message, still as JSON: cheap to search.
    pub(super) fn last_user_json(&self) -> &str {
        let last = self.messages.iter().rev().find(|m| m.role == "user");
        last.and_then(|message| message.content)
            .map_or("", RawValue::get)
    }

    /// The text of the last user message; parts are joined.
    pub(super) fn last_user_text(&self) -> String {
        match serde_json::from_str(self.last_user_json()) {
            Ok(Content::Text(text)) => text,
            Ok(Content::Parts(parts)) => parts.into_iter().map(|part| part.text).collect(),
            Err(_) => String::new(),
        }
    }

    /// `metadata.id`, if it is a string.
    pub(super) fn metadata_id(&self) -> Option<String> {
        let metadata: Metadata = serde_json::from_str(self.metadata?.get()).ok()?;
        metadata.id
    }
}
