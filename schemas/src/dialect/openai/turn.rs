//! Messages of a chat request, as a provider that speaks OpenAI's dialect reads them.

use serde::Serialize;

use super::send::Provider;
use crate::dialect::check::refuse;
use crate::event::ErrorBody;
use crate::model::{Media, Message, Part, Role, Source};

/// A message on the wire.
#[derive(Serialize, Default)]
pub(super) struct Turn<'a> {
    role: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    content: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    prefix: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(String),
    Parts(Vec<PartOut<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum PartOut<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: Image<'a> },
    InputAudio { input_audio: Audio<'a> },
    File { file: File<'a> },
}

#[derive(Serialize)]
struct Image<'a> {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

#[derive(Serialize)]
struct Audio<'a> {
    data: &'a str,
    format: &'a str,
}

#[derive(Serialize)]
struct File<'a> {
    filename: &'a str,
    file_data: String,
}

#[derive(Serialize)]
struct Call<'a> {
    id: &'a str,
    r#type: &'a str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

/// Writes all messages. Results of tools come before what else their message says, as the
/// dialect wants them right behind the calls; pictures among them follow as the user's, since
/// tools give back text alone.
pub(super) fn write_all(
    messages: &[Message],
    provider: Provider,
) -> Result<Vec<Turn<'_>>, ErrorBody> {
    let mut turns = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let place = format!("messages.[{index}]");
        match message.role {
            Role::System => {
                let parts: Vec<_> = message.parts.iter().collect();
                if parts.iter().any(|part| !matches!(part, Part::Text(_))) {
                    return Err(unsaid(&place, "instructions other than text"));
                }
                turns.push(said("system", message, &parts, &place, provider)?);
            }
            Role::User => user(message, &place, provider, &mut turns)?,
            Role::Assistant => turns.push(assistant(message, &place, provider)?),
        }
    }
    Ok(turns)
}

fn user<'a>(
    message: &'a Message,
    place: &str,
    provider: Provider,
    turns: &mut Vec<Turn<'a>>,
) -> Result<(), ErrorBody> {
    let mut rest = Vec::with_capacity(message.parts.len());
    let mut has_result = false;
    for part in &message.parts {
        let Part::ToolResult {
            id,
            parts,
            is_error,
        } = part
        else {
            rest.push(part);
            continue;
        };
        has_result = true;
        let (texts, others): (Vec<_>, Vec<_>) =
            parts.iter().partition(|part| matches!(part, Part::Text(_)));
        rest.extend(others);
        let mut text = joined(&texts);
        if *is_error {
            // The dialect has no other way to say that a call failed.
            text.insert_str(0, "Error: ");
        }
        turns.push(Turn {
            role: "tool",
            content: Some(Content::Text(text)),
            tool_call_id: Some(id),
            ..Turn::default()
        });
    }
    if !rest.is_empty() || !has_result {
        turns.push(said("user", message, &rest, place, provider)?);
    }
    Ok(())
}

fn said<'a>(
    role: &'a str,
    message: &'a Message,
    parts: &[&'a Part],
    place: &str,
    provider: Provider,
) -> Result<Turn<'a>, ErrorBody> {
    Ok(Turn {
        role,
        name: message.name.as_deref(),
        content: Some(content(parts, place, provider)?),
        ..Turn::default()
    })
}

fn assistant<'a>(
    message: &'a Message,
    place: &str,
    provider: Provider,
) -> Result<Turn<'a>, ErrorBody> {
    if message.is_prefix && provider == Provider::OpenAi {
        return Err(unsaid(place, "a beginning of the answer to be continued"));
    }
    let mut texts = Vec::new();
    let mut thoughts = String::new();
    let mut refusal: Option<String> = None;
    let mut tool_calls = Vec::new();
    for part in &message.parts {
        match part {
            Part::Text(_) => texts.push(part),
            Part::Reasoning { text, .. } => thoughts.push_str(text),
            Part::Refusal(text) => refusal.get_or_insert_default().push_str(text),
            Part::ToolCall {
                id,
                name,
                arguments,
            } => tool_calls.push(Call {
                id,
                r#type: "function",
                function: Function { name, arguments },
            }),
            Part::Image(_) | Part::Document(_) | Part::Audio(_) | Part::ToolResult { .. } => {
                return Err(unsaid(
                    place,
                    "media or results of tools from the assistant",
                ));
            }
        }
    }
    // DeepSeek wants the thoughts that led to calls, and ignores others.
    let shows_thoughts =
        provider == Provider::DeepSeek && !thoughts.is_empty() && !tool_calls.is_empty();
    let stands_alone = !tool_calls.is_empty() || refusal.is_some();
    let content = if texts.is_empty() && stands_alone {
        None
    } else {
        Some(content(&texts, place, provider)?)
    };
    Ok(Turn {
        role: "assistant",
        name: message.name.as_deref(),
        content,
        reasoning_content: shows_thoughts.then_some(thoughts),
        refusal,
        tool_calls,
        tool_call_id: None,
        prefix: message.is_prefix,
    })
}

/// A string where one text is all, which every provider takes, else parts; for DeepSeek, which
/// documents strings alone, several texts are joined by line feeds.
fn content<'a>(
    parts: &[&'a Part],
    place: &str,
    provider: Provider,
) -> Result<Content<'a>, ErrorBody> {
    let is_text = parts.iter().all(|part| matches!(part, Part::Text(_)));
    if is_text && (parts.len() <= 1 || provider == Provider::DeepSeek) {
        return Ok(Content::Text(joined(parts)));
    }
    if provider == Provider::DeepSeek {
        return Err(unsaid(place, "anything but text"));
    }
    let parts = parts.iter().map(|part| write_part(part, place));
    Ok(Content::Parts(parts.collect::<Result<_, _>>()?))
}

fn joined(parts: &[&Part]) -> String {
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

fn write_part<'a>(part: &'a Part, place: &str) -> Result<PartOut<'a>, ErrorBody> {
    match part {
        Part::Text(text) => Ok(PartOut::Text { text }),
        Part::Image(media) => Ok(PartOut::ImageUrl {
            image_url: Image {
                url: url(media),
                detail: media.detail.as_deref(),
            },
        }),
        Part::Audio(media) => match &media.source {
            Source::Base64 { media_type, data } => Ok(PartOut::InputAudio {
                input_audio: Audio {
                    data,
                    format: audio_format(media_type),
                },
            }),
            Source::Url(_) => Err(unsaid(place, "a recording at a URL")),
        },
        Part::Document(media) => match &media.source {
            Source::Base64 { .. } => Ok(PartOut::File {
                file: File {
                    filename: media.name.as_deref().unwrap_or("document"),
                    file_data: url(media),
                },
            }),
            Source::Url(_) => Err(unsaid(place, "a document at a URL")),
        },
        Part::Reasoning { .. }
        | Part::Refusal(_)
        | Part::ToolCall { .. }
        | Part::ToolResult { .. } => Err(unsaid(place, "the assistant's words from a user")),
    }
}

fn url(media: &Media) -> String {
    match &media.source {
        Source::Url(url) => url.clone(),
        Source::Base64 { media_type, data } => format!("data:{media_type};base64,{data}"),
    }
}

/// OpenAI's name of an audio format; of those it does not know, the subtype.
fn audio_format(media_type: &str) -> &str {
    match media_type {
        "audio/mpeg" => "mp3",
        "audio/x-wav" | "audio/wave" => "wav",
        other => other.rsplit('/').next().unwrap_or(other),
    }
}

fn unsaid(place: &str, what: &str) -> ErrorBody {
    let param = format!("{place}.content");
    let message = format!("`{param}`: this model's provider does not take {what}");
    refuse(Some(&param), message)
}
