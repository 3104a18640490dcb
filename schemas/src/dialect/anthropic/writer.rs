//! Requests of the internal form, for a provider of this dialect.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::arguments::input;
use super::generation::{Generation, Thinking};
use super::wire::{Block, Source, call_id};
use crate::dialect::check::{missing, refuse};
use crate::dialect::json::{self, Object};
use crate::event::ErrorBody;
use crate::model::{self, Chat, Format, Media, Part, Role, ToolChoice};

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    max_tokens: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Block<'a>>,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<ThinkingConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop_sequences: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
}

#[derive(Serialize)]
struct Turn<'a> {
    #[serde(serialize_with = "role_word")]
    role: Role,
    content: Vec<Block<'a>>,
}

#[derive(Serialize)]
struct Tool<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    input_schema: Cow<'a, RawValue>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    strict: bool,
}

#[derive(Serialize)]
struct Choice<'a> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disable_parallel_tool_use: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ThinkingConfig {
    Enabled { budget_tokens: i64 },
    Adaptive,
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<OutputFormat<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum OutputFormat<'a> {
    JsonSchema { schema: &'a RawValue },
}

#[derive(Serialize)]
struct Metadata<'a> {
    user_id: &'a str,
}

fn role_word<S: serde::Serializer>(role: &Role, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match role {
        Role::Assistant => "assistant",
        Role::User | Role::System => "user",
    })
}

/// The body for a provider of this dialect that calls its model `model`, by the rules in `docs/dialects.md`.
///
/// # Errors
/// 400 whose `param` names the field, in the words of the OpenAI dialect, that Anthropic cannot honour: several
/// answers (`n`), log probabilities (`logprobs`), JSON without a schema (`response_format`), a stop sequence of blanks
/// (`stop`), recordings and documents of other kinds than PDF and text (`messages`), and nothing to answer
/// (`messages`).
pub fn write_request(chat: &Chat, model: &str) -> Result<Bytes, ErrorBody> {
    if chat.n > 1 {
        return Err(refuse(
            Some("n"),
            "this model gives one answer: `n` must be 1",
        ));
    }
    if chat.logprobs.is_some() {
        let message = "this model tells no log probabilities: leave out `logprobs`";
        return Err(refuse(Some("logprobs"), message));
    }
    let Turns { system, messages } = turns(&chat.messages)?;
    if messages.is_empty() {
        return Err(missing("messages"));
    }
    let tools = chat.tools.iter().map(tool).collect::<Result<_, _>>()?;
    let generation = Generation::of(chat, model);
    let (thinking, effort) = match generation.thinking {
        Some(Thinking::Budget(budget_tokens)) => {
            (Some(ThinkingConfig::Enabled { budget_tokens }), None)
        }
        Some(Thinking::Adaptive(effort)) => (Some(ThinkingConfig::Adaptive), Some(effort)),
        None => (None, None),
    };
    let format = format(chat.format.as_ref())?;
    let output_config = OutputConfig { effort, format };
    let is_output_told = output_config.effort.is_some() || output_config.format.is_some();
    Ok(json::bytes(&Request {
        model,
        max_tokens: generation.max_tokens,
        system,
        messages,
        tools,
        tool_choice: choice(chat),
        thinking,
        output_config: is_output_told.then_some(output_config),
        temperature: generation.temperature,
        top_p: generation.top_p,
        top_k: generation.top_k,
        stop_sequences: stop_sequences(&chat.stop)?,
        metadata: chat.user.as_deref().map(|user_id| Metadata { user_id }),
        stream: chat.stream,
    }))
}

#[derive(Default)]
struct Turns<'a> {
    system: Vec<Block<'a>>,
    messages: Vec<Turn<'a>>,
}

/// Instructions, and turns by the user and the assistant by turns.
fn turns(messages: &[model::Message]) -> Result<Turns<'_>, ErrorBody> {
    let mut turns = Turns::default();
    for message in messages {
        let mut blocks = Vec::with_capacity(message.parts.len());
        for part in &message.parts {
            blocks.extend(block(part)?);
        }
        if message.role == Role::System {
            let is_text = |block: &Block<'_>| matches!(block, Block::Text { .. });
            if !blocks.iter().all(is_text) {
                let text = "instructions must be text";
                return Err(refuse(Some("messages"), text));
            }
            turns.system.append(&mut blocks);
            continue;
        }
        match turns.messages.last_mut() {
            _ if blocks.is_empty() => {}
            Some(turn) if turn.role == message.role => turn.content.append(&mut blocks),
            _ => turns.messages.push(Turn {
                role: message.role,
                content: blocks,
            }),
        }
    }
    for turn in &mut turns.messages {
        // Anthropic wants the results of calls before anything else that the user says.
        if turn.role == Role::User {
            let is_result = |block: &Block<'_>| matches!(block, Block::ToolResult { .. });
            turn.content.sort_by_key(|block| !is_result(block));
        }
    }
    if let Some(turn) = turns.messages.last_mut()
        && turn.role == Role::Assistant
        && let Some(Block::Text { text }) = turn.content.last_mut()
    {
        // Refused at the end of an answer that is to be continued.
        *text = text.trim_end();
        if text.is_empty() {
            turn.content.pop();
        }
    }
    turns.messages.retain(|turn| !turn.content.is_empty());
    Ok(turns)
}

/// The block for `part`; none for what says nothing here: empty text, and thoughts that are not Anthropic's.
fn block(part: &Part) -> Result<Option<Block<'_>>, ErrorBody> {
    Ok(match part {
        Part::Text(text) | Part::Refusal(text) => {
            (!text.is_empty()).then_some(Block::Text { text })
        }
        Part::Image(media) => Some(Block::Image {
            source: source(&media.source),
        }),
        Part::Document(media) => Some(document(media)?),
        Part::Audio(_) => {
            let message = "this model does not listen: leave out recordings";
            return Err(refuse(Some("messages"), message));
        }
        Part::Reasoning { text, signature } => signature.as_deref().map(|signature| {
            if text.is_empty() {
                Block::RedactedThinking { data: signature }
            } else {
                Block::Thinking {
                    thinking: text,
                    signature,
                }
            }
        }),
        Part::ToolCall {
            id,
            name,
            arguments,
        } => Some(Block::ToolUse {
            id: call_id(id),
            name,
            input: input(arguments),
        }),
        Part::ToolResult {
            id,
            parts,
            is_error,
        } => {
            let mut content = Vec::with_capacity(parts.len());
            for part in parts {
                content.extend(block(part)?);
            }
            Some(Block::ToolResult {
                tool_use_id: call_id(id),
                content,
                is_error: *is_error,
            })
        }
    })
}

fn source(source: &model::Source) -> Source<'_> {
    match source {
        model::Source::Url(url) => Source::Url { url },
        model::Source::Base64 { media_type, data } => Source::Base64 { media_type, data },
    }
}

/// PDF as it is, text decoded.
fn document(media: &Media) -> Result<Block<'_>, ErrorBody> {
    let refused = |what: &str| {
        let message = format!("this model reads PDF and plain text, not {what}");
        refuse(Some("messages"), message)
    };
    let source = match &media.source {
        model::Source::Base64 { media_type, data } if media_type.starts_with("text/") => {
            let bytes = data_encoding::BASE64.decode(data.as_bytes());
            let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
            Source::Text {
                media_type: "text/plain",
                data: text.ok_or_else(|| refused("text that is no base64 of UTF-8"))?,
            }
        }
        model::Source::Base64 { media_type, .. } if media_type != "application/pdf" => {
            return Err(refused(&format!("`{media_type}`")));
        }
        other => source(other),
    };
    Ok(Block::Document {
        source,
        title: media.name.as_deref(),
    })
}

fn tool(tool: &model::Tool) -> Result<Tool<'_>, ErrorBody> {
    let raw = |text: String| {
        RawValue::from_string(text)
            .map_err(|_| refuse(Some("tools"), "the schema of a tool is no JSON"))
    };
    let input_schema = match &tool.parameters {
        None => Cow::Owned(raw(r#"{"type":"object","properties":{}}"#.to_owned())?),
        Some(schema) => {
            let object = Object::parse(schema.get())
                .map_err(|_| refuse(Some("tools"), "the schema of a tool must be an object"))?;
            let mut edit = object.edit();
            // OpenAI takes it for granted.
            if object.get("type").is_none() {
                edit.set("type", r#""object""#);
            }
            match edit.finish() {
                Some(text) => Cow::Owned(raw(text)?),
                None => Cow::Borrowed(schema.as_ref()),
            }
        }
    };
    Ok(Tool {
        name: &tool.name,
        description: tool.description.as_deref(),
        input_schema,
        strict: tool.strict == Some(true),
    })
}

/// What to call; says nothing when there is nothing to call.
fn choice(chat: &Chat) -> Option<Choice<'_>> {
    if chat.tools.is_empty() {
        return None;
    }
    let is_single = chat.parallel_tool_calls == Some(false);
    let (kind, name) = match &chat.tool_choice {
        None if !is_single => return None,
        None | Some(ToolChoice::Auto) => ("auto", None),
        Some(ToolChoice::None) => ("none", None),
        Some(ToolChoice::Required) => ("any", None),
        Some(ToolChoice::Named(name)) => ("tool", Some(name.as_str())),
    };
    Some(Choice {
        r#type: kind,
        name,
        disable_parallel_tool_use: is_single && kind != "none",
    })
}

fn format(format: Option<&Format>) -> Result<Option<OutputFormat<'_>>, ErrorBody> {
    match format {
        None => Ok(None),
        Some(Format::JsonSchema { schema, .. }) => Ok(Some(OutputFormat::JsonSchema { schema })),
        Some(Format::JsonObject) => {
            let message = "this model writes JSON by a schema only: give `response_format` one, \
                           with the type `json_schema`";
            Err(refuse(Some("response_format"), message))
        }
    }
}

fn stop_sequences(stop: &[String]) -> Result<Vec<&str>, ErrorBody> {
    let mut sequences = Vec::with_capacity(stop.len());
    for sequence in stop.iter().filter(|sequence| !sequence.is_empty()) {
        if sequence.trim().is_empty() {
            let message = "this model does not stop at blanks: `stop` must hold other characters";
            return Err(refuse(Some("stop"), message));
        }
        sequences.push(sequence.as_str());
    }
    Ok(sequences)
}
