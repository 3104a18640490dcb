//! Conversations as Gemini reads them: turns of the user and of the model, and instructions apart.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::ErrorBody;
use crate::model::{self, Media, Message, Role, Source};

/// Stands for the signature of a call whose own is not known. Gemini 3 refuses the first call of a turn of the model without
/// any, and takes this one for calls that another model made
/// (<https://ai.google.dev/gemini-api/docs/thought-signatures>, the questions at its end); older models do not look at it.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// A conversation in Gemini's form.
pub(super) struct Conversation<'a> {
    /// In order; never empty.
    pub(super) contents: Vec<Content<'a>>,
    /// All instructions, wherever they stood.
    pub(super) system: Option<Content<'a>>,
}

/// A turn.
#[derive(Serialize)]
pub(super) struct Content<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    parts: Vec<Part<'a>>,
}

#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Part<'a> {
    Text {
        text: &'a str,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        thought: bool,
    },
    Inline {
        inline_data: InlineData<'a>,
    },
    File {
        file_data: FileData<'a>,
    },
    Call {
        function_call: FunctionCall<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        thought_signature: Option<&'static str>,
    },
    Response {
        function_response: FunctionResponse<'a>,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InlineData<'a> {
    mime_type: &'a str,
    data: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FileData<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    mime_type: Option<&'static str>,
    file_uri: &'a str,
}

#[derive(Serialize)]
struct FunctionCall<'a> {
    id: &'a str,
    name: &'a str,
    args: &'a RawValue,
}

#[derive(Serialize)]
struct FunctionResponse<'a> {
    id: &'a str,
    name: &'a str,
    response: Output,
}

/// What a function gave back, under the names that Google gives meaning to.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Output {
    Output(String),
    Error(String),
}

/// Gathers instructions, and puts messages of one speaker that follow each other into one turn: Gemini wants the results of calls
/// that were made together in one turn.
///
/// # Errors
/// 400 whose `param` is `messages`, for what Gemini has no words for.
pub(super) fn of(messages: &[Message]) -> Result<Conversation<'_>, ErrorBody> {
    let mut instructions = Vec::new();
    let mut contents: Vec<Content<'_>> = Vec::new();
    // A call's id may come again in a later turn; the last one counts.
    let mut names = HashMap::new();
    for message in messages {
        if message.is_prefix {
            return Err(refuse(
                "the beginning of an answer cannot be given to this model",
            ));
        }
        let role = match message.role {
            Role::System => {
                instructions.extend(instructions_of(message)?);
                continue;
            }
            Role::User => "user",
            Role::Assistant => "model",
        };
        let mut parts = Vec::with_capacity(message.parts.len());
        for part in &message.parts {
            push(part, &mut names, &mut parts)?;
        }
        match contents.last_mut() {
            Some(last) if last.role == Some(role) => last.parts.append(&mut parts),
            // Gemini refuses a turn without parts.
            _ if parts.is_empty() => {}
            _ => contents.push(Content {
                role: Some(role),
                parts,
            }),
        }
    }
    if contents.is_empty() {
        return Err(refuse(
            "this model needs more than instructions and empty texts",
        ));
    }
    contents.iter_mut().for_each(sign);
    Ok(Conversation {
        contents,
        system: (!instructions.is_empty()).then_some(Content {
            role: None,
            parts: instructions,
        }),
    })
}

fn instructions_of(message: &Message) -> Result<Vec<Part<'_>>, ErrorBody> {
    let mut parts = Vec::with_capacity(message.parts.len());
    for part in &message.parts {
        match part {
            model::Part::Text(text) => push_text(text, false, &mut parts),
            _ => return Err(refuse("instructions for this model must be text")),
        }
    }
    Ok(parts)
}

/// Adds what Gemini reads for `part`, and notes which call has which name.
fn push<'a>(
    part: &'a model::Part,
    names: &mut HashMap<&'a str, &'a str>,
    parts: &mut Vec<Part<'a>>,
) -> Result<(), ErrorBody> {
    match part {
        model::Part::Text(text) | model::Part::Refusal(text) => push_text(text, false, parts),
        // A signature would be another provider's: Google's own do not reach clients.
        model::Part::Reasoning { text, signature: _ } => push_text(text, true, parts),
        model::Part::Image(media) | model::Part::Document(media) | model::Part::Audio(media) => {
            parts.push(media_part(media));
        }
        model::Part::ToolCall {
            id,
            name,
            arguments,
        } => {
            names.insert(id, name);
            parts.push(Part::Call {
                function_call: FunctionCall {
                    id,
                    name,
                    args: args(name, arguments)?,
                },
                thought_signature: None,
            });
        }
        model::Part::ToolResult {
            id,
            parts: results,
            is_error,
        } => {
            let name = names.get(id.as_str()).copied().ok_or_else(|| {
                refuse(format!(
                    "the result of the call `{id}` stands before any such call"
                ))
            })?;
            push_result(id, name, results, *is_error, parts)?;
        }
    }
    Ok(())
}

/// Gemini refuses empty texts.
fn push_text<'a>(text: &'a str, thought: bool, parts: &mut Vec<Part<'a>>) {
    if !text.is_empty() {
        parts.push(Part::Text { text, thought });
    }
}

fn media_part(media: &Media) -> Part<'_> {
    match &media.source {
        Source::Base64 { media_type, data } => Part::Inline {
            inline_data: InlineData {
                mime_type: media_type,
                data,
            },
        },
        Source::Url(url) => Part::File {
            file_data: FileData {
                mime_type: media_type(url),
                file_uri: url,
            },
        },
    }
}

/// The type that the extension of a URL stands for, of those that Gemini takes
/// (<https://ai.google.dev/gemini-api/docs/file-input-methods>); without one Google looks by itself.
fn media_type(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next()?;
    let (_, extension) = path.rsplit_once('.')?;
    let known = [
        ("png", "image/png"),
        ("jpg", "image/jpeg"),
        ("jpeg", "image/jpeg"),
        ("webp", "image/webp"),
        ("heic", "image/heic"),
        ("heif", "image/heif"),
        ("pdf", "application/pdf"),
        ("mp3", "audio/mp3"),
        ("wav", "audio/wav"),
        ("aac", "audio/aac"),
        ("ogg", "audio/ogg"),
        ("flac", "audio/flac"),
    ];
    let mut known = known.into_iter();
    known.find_map(|(name, kind)| extension.eq_ignore_ascii_case(name).then_some(kind))
}

/// The arguments of a call, which must be an object; no text stands for an empty one.
fn args<'a>(name: &str, arguments: &'a str) -> Result<&'a RawValue, ErrorBody> {
    let text = match arguments.trim() {
        "" => "{}",
        text => text,
    };
    serde_json::from_str::<&RawValue>(text)
        .ok()
        .filter(|args| args.get().starts_with('{'))
        .ok_or_else(|| {
            refuse(format!(
                "the arguments of the call of `{name}` are no JSON object"
            ))
        })
}

/// The texts of a result, joined by line feeds, and what is not text behind it in the same turn: only Gemini 3 takes that within.
fn push_result<'a>(
    id: &'a str,
    name: &'a str,
    results: &'a [model::Part],
    is_error: bool,
    parts: &mut Vec<Part<'a>>,
) -> Result<(), ErrorBody> {
    let mut texts = Vec::new();
    let mut media = Vec::new();
    for result in results {
        match result {
            model::Part::Text(text) | model::Part::Refusal(text) => texts.push(text.as_str()),
            model::Part::Image(found)
            | model::Part::Document(found)
            | model::Part::Audio(found) => media.push(media_part(found)),
            model::Part::Reasoning { .. }
            | model::Part::ToolCall { .. }
            | model::Part::ToolResult { .. } => {
                return Err(refuse(format!(
                    "the result of the call `{id}` must be texts, pictures and documents"
                )));
            }
        }
    }
    let text = texts.join("\n");
    parts.push(Part::Response {
        function_response: FunctionResponse {
            id,
            name,
            response: if is_error {
                Output::Error(text)
            } else {
                Output::Output(text)
            },
        },
    });
    parts.append(&mut media);
    Ok(())
}

/// Gives the first call of a turn a signature.
fn sign(content: &mut Content<'_>) {
    let signature = content.parts.iter_mut().find_map(|part| match part {
        Part::Call {
            thought_signature, ..
        } => Some(thought_signature),
        _ => None,
    });
    if let Some(signature) = signature {
        *signature = Some(NO_SIGNATURE);
    }
}

fn refuse(message: impl Into<String>) -> ErrorBody {
    ErrorBody::invalid_request(Some("messages"), message)
}
