//! What is asked of a model and what it answers, in one form for all dialects.
//!
//! Requests are read into this form, and written out of it, only where the client's dialect and the provider's
//! differ; between equal dialects bytes are passed on. What a model says is told as [`Piece`]s, the same that the log
//! carries, and finish reasons are OpenAI's words: `stop`, `length`, `tool_calls`, `content_filter`.
//!
//! What a dialect cannot say is dropped or refused by a rule per field, written down in `docs/dialects.md`; it never
//! changes its meaning in silence.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::event::{Piece, Usage};
use crate::fold::Text;

/// A conversation to be continued by a model.
#[derive(Debug, Clone, Default)]
pub struct Chat {
    /// From the first to the last; never empty.
    pub messages: Vec<Message>,
    /// Functions that the model may call.
    pub tools: Vec<Tool>,
    /// Which of them it has to call; none: it is free to.
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may call several at once; none: the provider's default.
    pub parallel_tool_calls: Option<bool>,
    /// The form of the answer; none: text.
    pub format: Option<Format>,
    /// How much it shall think before it answers; none: the provider's default.
    pub reasoning: Option<Reasoning>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
    /// Most tokens of the answer, reasoning included; none: the provider's default.
    pub tokens_max: Option<i64>,
    /// Number of answers, from 1.
    pub n: i32,
    /// Log probabilities of so many alternatives a token (0: of the token alone); none: not wanted.
    pub logprobs: Option<i32>,
    /// The client's notes on the request.
    pub metadata: BTreeMap<String, String>,
    /// The end user that the client names.
    pub user: Option<String>,
    /// Whether the answer is wanted as a stream.
    pub stream: bool,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions (`system`, `developer`).
    System,
    /// The end user, and what tools gave back.
    User,
    /// The model.
    Assistant,
}

/// A turn of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Name of the speaker among several of one role.
    pub name: Option<String>,
    /// What is said, in order; may be empty for the assistant only.
    pub parts: Vec<Part>,
    /// The assistant's last message is the beginning of the answer, to be continued.
    pub is_prefix: bool,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Text.
    Text(String),
    /// A picture.
    Image(Media),
    /// A document, such as a PDF.
    Document(Media),
    /// A recording.
    Audio(Media),
    /// The model's own thoughts of an earlier turn.
    Reasoning {
        /// In words; empty when they are sealed.
        text: String,
        /// The provider's proof that they are its own.
        signature: Option<String>,
    },
    /// The model declined, in words.
    Refusal(String),
    /// The model called a function.
    ToolCall {
        /// Names the call.
        id: String,
        /// Name of the function.
        name: String,
        /// Arguments, a JSON object as text.
        arguments: String,
    },
    /// What a function gave back.
    ToolResult {
        /// The call's id.
        id: String,
        /// The result: texts and pictures.
        parts: Vec<Part>,
        /// Whether the call failed.
        is_error: bool,
    },
}

/// Something that is not text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// Where it is.
    pub source: Source,
    /// File name or title.
    pub name: Option<String>,
    /// How closely to look at it (`low`, `high`, `auto`).
    pub detail: Option<String>,
}

/// Where media are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// At a URL that the provider fetches.
    Url(String),
    /// Here.
    Base64 {
        /// Such as `image/png`.
        media_type: String,
        /// Base64, standard alphabet, padded.
        data: String,
    },
}

/// A function that the model may call.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// JSON schema of its arguments; none: it takes none.
    pub parameters: Option<Box<RawValue>>,
    /// Whether arguments have to fit the schema exactly.
    pub strict: Option<bool>,
}

/// Whether the model has to call a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// It decides.
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// The form of an answer.
#[derive(Debug, Clone)]
pub enum Format {
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema {
        /// Name of the schema.
        name: String,
        /// What it is for.
        description: Option<String>,
        /// The schema.
        schema: Box<RawValue>,
        /// Whether it has to fit exactly.
        strict: Option<bool>,
    },
}

/// How much to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reasoning {
    /// Not at all.
    Off,
    /// About that much.
    Effort(Effort),
    /// With at most so many tokens.
    Tokens(i64),
}

/// Levels of thinking, as OpenAI names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// `minimal`.
    Minimal,
    /// `low`.
    Low,
    /// `medium`.
    Medium,
    /// `high`.
    High,
}

/// How tokens are drawn; none: the provider's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    /// 0 to 2.
    pub temperature: Option<f64>,
    /// 0 to 1.
    pub top_p: Option<f64>,
    /// At least 1.
    pub top_k: Option<i64>,
    /// -2 to 2.
    pub presence_penalty: Option<f64>,
    /// -2 to 2.
    pub frequency_penalty: Option<f64>,
    /// For repeatable answers.
    pub seed: Option<i64>,
    /// By token id, -100 to 100.
    pub logit_bias: BTreeMap<String, f64>,
}

/// Texts to be turned into vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Embed {
    /// One vector each; never empty.
    pub inputs: Vec<EmbedInput>,
    /// Length of the vectors; none: the model's.
    pub dimensions: Option<i64>,
    /// Whether vectors are wanted as base64 of little-endian 32-bit floats.
    pub base64: bool,
    /// The end user that the client names.
    pub user: Option<String>,
}

/// Something to be turned into a vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbedInput {
    /// Text.
    Text(String),
    /// Token ids of the model's own vocabulary.
    Tokens(Vec<i64>),
}

/// Vectors, in the order of the inputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embeddings {
    /// One for each input.
    pub vectors: Vec<Vec<f32>>,
    /// As reported.
    pub usage: Option<Usage>,
    /// The model that the provider says it is.
    pub model: Option<String>,
}

/// What one event of a provider's stream says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// What it adds to the answer, finish reasons included.
    pub pieces: Vec<Piece>,
    /// Usage so far, when it tells any; later words replace earlier ones.
    pub usage: Option<Usage>,
    /// The model that the provider says it is.
    pub model: Option<String>,
    /// The provider says that nothing more comes.
    pub is_end: bool,
}

/// A whole answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// What the choices say, finish reasons included.
    pub text: Text,
    /// Usage, when the provider reported it.
    pub usage: Option<Usage>,
    /// The model that the provider says it is.
    pub model: Option<String>,
}
