//! Messages of a client's chat request in the form between dialects.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::read::parsed;
use crate::dialect::check::refuse;
use crate::dialect::json;
use crate::event::ErrorBody;
use crate::model::{Media, Message, Part, Role, Source};

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    name: Option<String>,
    refusal: Option<String>,
    /// DeepSeek's.
    reasoning_content: Option<String>,
    /// DeepSeek's.
    prefix: Option<bool>,
    tool_call_id: Option<String>,
    #[serde(borrow)]
    tool_calls: Option<Vec<CallFields<'a>>>,
    function_call: Option<FunctionFields>,
}

#[derive(Deserialize)]
struct CallFields<'a> {
    id: String,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    function: Option<FunctionFields>,
}

#[derive(Deserialize)]
struct FunctionFields {
    name: String,
    #[serde(default)]
    arguments: String,
}

/// A call in the form before `tool_calls`, which has no id: it gets one by its place.
struct OpenCall {
    name: String,
    id: String,
}

/// Reads all messages. What several tools gave back in a row stands in one message, since it
/// answers the calls of one.
pub(super) fn read_all(raws: &[&RawValue]) -> Result<Vec<Message>, ErrorBody> {
    let mut messages: Vec<Message> = Vec::with_capacity(raws.len());
    let mut open_calls: Vec<OpenCall> = Vec::new();
    let mut last_was_tool = false;
    for (index, raw) in raws.iter().enumerate() {
        let place = format!("messages.[{index}]");
        let fields: Fields<'_> = parsed(&place, raw)?;
        let is_tool = matches!(fields.role.as_ref(), "tool" | "function");
        let is_last = index + 1 == raws.len();
        let message = match fields.role.as_ref() {
            "system" | "developer" => plain(Role::System, fields, &place)?,
            "assistant" => assistant(fields, &place, index, is_last, &mut open_calls)?,
            "tool" => {
                let param = format!("{place}.tool_call_id");
                let id = fields
                    .tool_call_id
                    .ok_or_else(|| refuse(Some(&param), format!("`{param}` must name the call")))?;
                result(id, fields.content, &place)?
            }
            "function" => {
                let name = fields.name.unwrap_or_default();
                let id = answered(&mut open_calls, &name).ok_or_else(|| {
                    let param = format!("{place}.name");
                    let message = format!("`{param}` must name a function that was called before");
                    refuse(Some(&param), message)
                })?;
                result(id, fields.content, &place)?
            }
            _ => plain(Role::User, fields, &place)?,
        };
        match messages.last_mut() {
            Some(last) if last_was_tool && is_tool => last.parts.extend(message.parts),
            _ => messages.push(message),
        }
        last_was_tool = is_tool;
    }
    Ok(messages)
}

fn plain(role: Role, fields: Fields<'_>, place: &str) -> Result<Message, ErrorBody> {
    Ok(Message {
        role,
        name: fields.name,
        parts: content(fields.content, place)?,
        is_prefix: false,
    })
}

fn assistant(
    fields: Fields<'_>,
    place: &str,
    index: usize,
    is_last: bool,
    open_calls: &mut Vec<OpenCall>,
) -> Result<Message, ErrorBody> {
    let mut parts = Vec::new();
    if let Some(text) = fields.reasoning_content.filter(|text| !text.is_empty()) {
        parts.push(Part::Reasoning {
            text,
            signature: None,
        });
    }
    parts.extend(content(fields.content, place)?);
    parts.extend(fields.refusal.map(Part::Refusal));
    for (position, call) in fields.tool_calls.into_iter().flatten().enumerate() {
        let kind = call.kind.as_deref().unwrap_or("function");
        let Some(function) = call.function.filter(|_| kind == "function") else {
            let param = format!("{place}.tool_calls.[{position}].type");
            let message = format!("`{param}` must be `function`, with a `function`");
            return Err(refuse(Some(&param), message));
        };
        parts.push(Part::ToolCall {
            id: call.id,
            name: function.name,
            arguments: function.arguments,
        });
    }
    if let Some(function) = fields.function_call {
        let id = format!("function_call_{index}");
        open_calls.push(OpenCall {
            name: function.name.clone(),
            id: id.clone(),
        });
        parts.push(Part::ToolCall {
            id,
            name: function.name,
            arguments: function.arguments,
        });
    }
    let is_prefix = fields.prefix.unwrap_or(false);
    if is_prefix && !is_last {
        let param = format!("{place}.prefix");
        let message = format!("`{param}`: only the last message can be continued");
        return Err(refuse(Some(&param), message));
    }
    Ok(Message {
        role: Role::Assistant,
        name: fields.name,
        parts,
        is_prefix,
    })
}

/// The id of the oldest call to `name` without a result.
fn answered(open_calls: &mut Vec<OpenCall>, name: &str) -> Option<String> {
    let position = open_calls.iter().position(|call| call.name == name)?;
    Some(open_calls.remove(position).id)
}

fn result(id: String, raw: Option<&RawValue>, place: &str) -> Result<Message, ErrorBody> {
    let result = Part::ToolResult {
        id,
        parts: content(raw, place)?,
        is_error: false,
    };
    Ok(Message {
        role: Role::User,
        name: None,
        parts: vec![result],
        is_prefix: false,
    })
}

/// A string, an array of parts, or nothing.
fn content(raw: Option<&RawValue>, place: &str) -> Result<Vec<Part>, ErrorBody> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else {
        return Ok(Vec::new());
    };
    let place = format!("{place}.content");
    if let Some(text) = json::string(raw) {
        return Ok(vec![Part::Text(text.into_owned())]);
    }
    let raws: Vec<&RawValue> = parsed(&place, raw)?;
    let part = |(index, raw): (usize, &&RawValue)| read_part(raw, &format!("{place}.[{index}]"));
    raws.iter().enumerate().map(part).collect()
}

#[derive(Deserialize)]
struct PartFields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    text: Option<String>,
    refusal: Option<String>,
    image_url: Option<ImageFields>,
    input_audio: Option<AudioFields>,
    file: Option<FileFields>,
}

#[derive(Deserialize)]
struct ImageFields {
    url: String,
    detail: Option<String>,
}

#[derive(Deserialize)]
struct AudioFields {
    data: String,
    format: String,
}

#[derive(Deserialize)]
struct FileFields {
    file_data: Option<String>,
    filename: Option<String>,
}

fn read_part(raw: &RawValue, place: &str) -> Result<Part, ErrorBody> {
    let fields: PartFields<'_> = parsed(place, raw)?;
    let kind = fields.kind.as_ref();
    let part = match kind {
        "text" => fields.text.map(Part::Text),
        "refusal" => fields.refusal.map(Part::Refusal),
        "image_url" => match fields.image_url {
            Some(image) => Some(Part::Image(Media {
                source: source(image.url, &format!("{place}.image_url.url"))?,
                name: None,
                detail: image.detail,
            })),
            None => None,
        },
        "input_audio" => fields.input_audio.map(|audio| {
            let source = Source::Base64 {
                media_type: audio_type(&audio.format),
                data: audio.data,
            };
            Part::Audio(Media {
                source,
                name: None,
                detail: None,
            })
        }),
        "file" => Some(document(fields.file, &format!("{place}.file"))?),
        _ => {
            let param = format!("{place}.type");
            let message = format!(
                "`{param}` must be one of text, image_url, input_audio, file, refusal; this \
                 model's provider takes no other"
            );
            return Err(refuse(Some(&param), message));
        }
    };
    part.ok_or_else(|| refuse(Some(place), format!("`{place}` has no `{kind}`")))
}

fn document(file: Option<FileFields>, place: &str) -> Result<Part, ErrorBody> {
    let param = format!("{place}.file_data");
    // An uploaded file is known to the provider that has it, and to no other.
    let Some((data, name)) = file.and_then(|file| Some((file.file_data?, file.filename))) else {
        let message = format!("`{param}` must hold the file: this model's provider has no others");
        return Err(refuse(Some(&param), message));
    };
    let source = if data.starts_with("data:") {
        source(data, &param)?
    } else {
        Source::Base64 {
            media_type: "application/pdf".to_owned(),
            data,
        }
    };
    Ok(Part::Document(Media {
        source,
        name,
        detail: None,
    }))
}

/// A `data:` URL is the thing itself (RFC 2397), any other is a place.
fn source(url: String, param: &str) -> Result<Source, ErrorBody> {
    let Some(rest) = url.strip_prefix("data:") else {
        return Ok(Source::Url(url));
    };
    let parts = rest.split_once(',').and_then(|(head, data)| {
        let media_type = head.strip_suffix(";base64")?;
        // Parameters such as a charset say nothing of pictures and documents.
        let media_type = media_type.split(';').next()?;
        (!media_type.is_empty()).then_some((media_type, data))
    });
    let Some((media_type, data)) = parts else {
        let message = format!("`{param}` must be a URL or `data:<media type>;base64,<data>`");
        return Err(refuse(Some(param), message));
    };
    Ok(Source::Base64 {
        media_type: media_type.to_owned(),
        data: data.to_owned(),
    })
}

/// Media type of an audio format as OpenAI names it (`wav`, `mp3`).
fn audio_type(format: &str) -> String {
    match format {
        "mp3" => "audio/mpeg".to_owned(),
        format => format!("audio/{format}"),
    }
}
