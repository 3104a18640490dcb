//! Completions by a provider that only speaks chat.

use bytes::Bytes;
use serde::Serialize;

use super::super::inputs::Inputs;
use super::super::read::{field, sampling, stop};
use super::super::usage;
use super::CompletionRequest;
use super::answer::write_text;
use super::request::{PROMPT, read_prompt};
use crate::dialect::Identity;
use crate::dialect::check::{self, missing, refuse};
use crate::dialect::json::{self, Object};
use crate::event::{Channel, Chunk, ErrorBody, Piece, Usage};
use crate::fold::Text;
use crate::model::{Chat, Message, Part, Role, Said};

/// `max_tokens` of a completion that names none
/// (<https://platform.openai.com/docs/api-reference/completions/create>).
const TOKENS_MAX_DEFAULT: i64 = 16;

/// Reads the body of `POST /v1/completions` for a provider that only speaks chat: the prompt
/// is what the user says.
///
/// # Errors
/// 400 `invalid_request_error` whose `param` names the field: what [`CompletionRequest::parse`]
/// refuses; and what chat cannot do: no prompt, several, or one in tokens; `echo`, `suffix`,
/// `best_of` above 1, `logprobs`; no tokens at all.
pub fn read_completion(body: &[u8]) -> Result<Chat, ErrorBody> {
    let request = CompletionRequest::parse(body)?;
    let stream = request.stream;
    let object = check::object(body)?;
    refuse_what_chat_cannot(&object)?;
    let tokens_max: i64 = field(&object, "max_tokens")?.unwrap_or(TOKENS_MAX_DEFAULT);
    if tokens_max < 1 {
        return Err(cannot("max_tokens", "an answer without tokens"));
    }
    Ok(Chat {
        messages: vec![Message {
            role: Role::User,
            name: None,
            parts: vec![Part::Text(prompt(&object)?)],
            is_prefix: false,
        }],
        sampling: sampling(&object)?,
        stop: stop(&object)?,
        tokens_max: Some(tokens_max),
        n: field(&object, "n")?.unwrap_or(1),
        user: field(&object, "user")?,
        stream,
        ..Chat::default()
    })
}

fn prompt(object: &Object<'_>) -> Result<String, ErrorBody> {
    let raw = object.some(PROMPT).ok_or_else(|| missing(PROMPT))?;
    let Inputs::Texts(texts) = read_prompt(raw)? else {
        return Err(cannot(PROMPT, "a prompt in tokens"));
    };
    let mut texts = texts.into_iter();
    match (texts.next(), texts.next()) {
        (Some(text), None) if text.is_empty() => Err(missing(PROMPT)),
        (Some(text), None) => Ok(text.into_owned()),
        _ => Err(cannot(PROMPT, "several prompts at once")),
    }
}

fn refuse_what_chat_cannot(object: &Object<'_>) -> Result<(), ErrorBody> {
    if field(object, "echo")?.unwrap_or(false) {
        return Err(cannot("echo", "a repeated prompt"));
    }
    let suffix: Option<String> = field(object, "suffix")?;
    if suffix.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(cannot("suffix", "text to insert into"));
    }
    let best_of: Option<i64> = field(object, "best_of")?;
    if best_of.is_some_and(|best_of| best_of > 1) {
        return Err(cannot("best_of", "the best of several answers"));
    }
    if object.some("logprobs").is_some() {
        return Err(cannot("logprobs", "log probabilities of completions"));
    }
    Ok(())
}

fn cannot(field: &str, what: &str) -> ErrorBody {
    let message = format!("`{field}`: this model only speaks chat, which does not know {what}");
    refuse(Some(field), message)
}

/// Writes the chunks of one completion out of what a chat provider says: its text, and its
/// refusal as text; thoughts and calls have no place in a completion.
#[derive(Debug, Clone)]
pub struct CompletionWriter {
    identity: Identity,
    model: String,
    include_usage: bool,
}

impl CompletionWriter {
    /// The writer of the completion that `identity` names; with `include_usage`, for a client
    /// that asked for usage in the stream.
    #[must_use]
    pub fn new(identity: &Identity, model: &str, include_usage: bool) -> Self {
        Self {
            identity: identity.clone(),
            model: model.to_owned(),
            include_usage,
        }
    }

    /// The chunks that tell what `said` adds: one for each piece of text and each finish reason.
    /// Usage in it is left to [`CompletionWriter::finish`].
    pub fn write(&mut self, said: &Said) -> Vec<Chunk> {
        let pieces = said.pieces.iter().filter_map(as_text);
        pieces.map(|piece| self.chunk(piece)).collect()
    }

    /// The chunk after the last, for a client that asked for usage.
    pub fn finish(&mut self, usage: &Usage) -> Vec<Chunk> {
        let chunk = self.include_usage.then(|| Chunk {
            pieces: Vec::new(),
            raw: self.bytes(&[], Some(Some(usage.into()))),
        });
        chunk.into_iter().collect()
    }

    fn chunk(&self, piece: Piece) -> Chunk {
        let ends = piece.channel == Channel::Finish;
        let choice = Choice {
            text: if ends { "" } else { &piece.text },
            index: piece.choice,
            logprobs: None,
            finish_reason: ends.then_some(piece.text.as_str()),
        };
        let raw = self.bytes(&[choice], self.include_usage.then_some(None));
        Chunk {
            pieces: vec![piece],
            raw,
        }
    }

    fn bytes(&self, choices: &[Choice<'_>], usage: Option<Option<usage::Rendered>>) -> Bytes {
        json::bytes(&Written {
            id: &self.identity.id,
            object: "text_completion",
            created: self.identity.created,
            model: &self.model,
            choices,
            usage,
        })
    }
}

/// The whole completion that says `text`, by the rules of [`CompletionWriter`].
#[must_use]
pub fn write_completion(
    text: &Text,
    identity: &Identity,
    model: &str,
    usage: Option<&Usage>,
) -> Bytes {
    let mut said = Text::default();
    for piece in text.pieces().filter_map(|piece| as_text(&piece)) {
        said.push(&piece);
    }
    write_text(
        &said,
        identity,
        model,
        usage.map(usage::Rendered::from),
        None,
    )
}

/// The piece as a completion has it; none when it has no place there.
fn as_text(piece: &Piece) -> Option<Piece> {
    let channel = match piece.channel {
        Channel::Text | Channel::Refusal if !piece.text.is_empty() => Channel::Text,
        Channel::Finish => Channel::Finish,
        _ => return None,
    };
    Some(Piece {
        channel,
        ..piece.clone()
    })
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
    text: &'a str,
    index: i32,
    logprobs: Option<()>,
    finish_reason: Option<&'a str>,
}
