//! Requests of clients of this dialect, for a provider of another.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::arguments::arguments;
use super::node::Node;
use super::request::{ROLES, is_custom};
use crate::dialect::check::{Kind, missing, refuse};
use crate::dialect::json::{self, Object};
use crate::event::ErrorBody;
use crate::model::{
    Chat, Effort, Format, Media, Message, Part, Reasoning, Role, Sampling, Source, Tool, ToolChoice,
};

/// What only Anthropic can do: to leave it out would change what is asked for, or where it is done.
const ANTHROPICS: [&str; 3] = ["container", "mcp_servers", "inference_geo"];

/// The client's body in the internal form, by the rules in `docs/dialects.md`. Expects a body that
/// [`super::MessagesRequest::parse`] accepted.
///
/// # Errors
/// 400 whose `param` names the field that only Anthropic can honour (its own tools and their blocks, uploaded files,
/// containers, MCP servers, a region), or that is not as the dialect says.
pub fn read_request(body: &[u8]) -> Result<Chat, ErrorBody> {
    let request = Node::root(body)?;
    for field in ANTHROPICS {
        if request.some(field).is_some() {
            let message = format!("only Anthropic's own models serve `{field}`: leave it out");
            return Err(refuse(Some(field), message));
        }
    }
    let tokens = Kind::Integer(1, i64::MAX);
    let metadata = request.node("metadata")?;
    let user = metadata.as_ref().map(|metadata| metadata.text("user_id"));
    let (tool_choice, parallel_tool_calls) = tool_choice(&request)?;
    Ok(Chat {
        messages: messages(&request)?,
        tools: tools(&request)?,
        tool_choice,
        parallel_tool_calls,
        format: format(&request)?,
        reasoning: reasoning(&request)?,
        sampling: Sampling {
            temperature: request.number("temperature", Kind::Number(0.0, 1.0))?,
            top_p: request.number("top_p", Kind::Number(0.0, 1.0))?,
            top_k: request.number("top_k", Kind::Integer(0, i64::MAX))?,
            ..Sampling::default()
        },
        stop: texts(&request, "stop_sequences")?,
        tokens_max: request.number("max_tokens", tokens)?,
        n: 1,
        logprobs: None,
        metadata: metadata.iter().flat_map(notes).collect(),
        user: user.transpose()?.flatten().map(Cow::into_owned),
        stream: request.boolean("stream")?.unwrap_or(false),
    })
}

/// The client's notes besides the user.
fn notes(metadata: &Node<'_>) -> Vec<(String, String)> {
    let members = metadata.object().members();
    members
        .filter(|(key, _)| *key != "user_id")
        .filter_map(|(key, raw)| Some((key.to_owned(), json::string(raw)?.into_owned())))
        .collect()
}

fn texts(node: &Node<'_>, key: &str) -> Result<Vec<String>, ErrorBody> {
    let field = node.at(key);
    let elements = node.list(key)?.into_iter();
    elements
        .map(|raw| match json::string(raw) {
            Some(text) => Ok(text.into_owned()),
            None => Err(refuse(Some(&field), format!("`{field}` must hold strings"))),
        })
        .collect()
}

fn messages(request: &Node<'_>) -> Result<Vec<Message>, ErrorBody> {
    let mut messages = Vec::new();
    if let Some(system) = request.some("system") {
        let parts = text_parts(request, "system", system)?;
        messages.push(message(Role::System, parts));
    }
    let given = request.nodes("messages")?;
    if given.is_empty() {
        return Err(missing("messages"));
    }
    for node in &given {
        let role = match node.needed_text("role")?.as_ref() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => Role::System,
            _ => {
                let field = node.at("role");
                let expected = ROLES.join(", ");
                let text = format!("`{field}` must be one of {expected}");
                return Err(refuse(Some(&field), text));
            }
        };
        add(node, role, &mut messages)?;
    }
    if let Some(last) = messages.last_mut() {
        last.is_prefix = last.role == Role::Assistant;
    }
    Ok(messages)
}

fn message(role: Role, parts: Vec<Part>) -> Message {
    Message {
        role,
        name: None,
        parts,
        is_prefix: false,
    }
}

/// Adds the message that `node` is; instructions among its blocks stand for themselves.
fn add(node: &Node<'_>, role: Role, messages: &mut Vec<Message>) -> Result<(), ErrorBody> {
    let content = node.needed("content")?;
    if let Some(text) = json::string(content) {
        messages.push(message(role, vec![Part::Text(text.into_owned())]));
        return Ok(());
    }
    let mut parts = Vec::new();
    for block in node.nodes("content")? {
        if block.kind()? == "mid_conv_system" {
            if !parts.is_empty() {
                messages.push(message(role, std::mem::take(&mut parts)));
            }
            let instructions = text_parts(&block, "content", block.needed("content")?)?;
            messages.push(message(Role::System, instructions));
        } else {
            parts.push(part(&block)?);
        }
    }
    if !parts.is_empty() || role == Role::Assistant {
        messages.push(message(role, parts));
    }
    Ok(())
}

/// A string, or blocks of text.
fn text_parts(node: &Node<'_>, key: &str, raw: &RawValue) -> Result<Vec<Part>, ErrorBody> {
    if let Some(text) = json::string(raw) {
        return Ok(vec![Part::Text(text.into_owned())]);
    }
    let blocks = node.nodes(key)?;
    let text = |block: &Node<'_>| Ok(Part::Text(block.needed_text("text")?.into_owned()));
    blocks.iter().map(text).collect()
}

fn part(block: &Node<'_>) -> Result<Part, ErrorBody> {
    let needed = |key: &str| block.needed_text(key).map(Cow::into_owned);
    Ok(match block.kind()?.as_ref() {
        "text" => Part::Text(needed("text")?),
        "image" => Part::Image(media(block)?),
        "document" => Part::Document(media(block)?),
        "thinking" => Part::Reasoning {
            text: needed("thinking")?,
            signature: block
                .text("signature")?
                .filter(|signature| !signature.is_empty())
                .map(Cow::into_owned),
        },
        "redacted_thinking" => Part::Reasoning {
            text: String::new(),
            signature: Some(needed("data")?),
        },
        "tool_use" => Part::ToolCall {
            id: needed("id")?,
            name: needed("name")?,
            arguments: arguments(block.needed("input")?),
        },
        "tool_result" => Part::ToolResult {
            id: needed("tool_use_id")?,
            parts: result(block)?,
            is_error: block.boolean("is_error")?.unwrap_or(false),
        },
        kind => {
            let message = format!("only Anthropic's own models read blocks of the type `{kind}`");
            return Err(block.refuse(message));
        }
    })
}

/// What a function gave back: nothing, text, or blocks.
fn result(block: &Node<'_>) -> Result<Vec<Part>, ErrorBody> {
    match block.some("content") {
        None => Ok(Vec::new()),
        Some(content) => match json::string(content) {
            Some(text) => Ok(vec![Part::Text(text.into_owned())]),
            None => block.nodes("content")?.iter().map(part).collect(),
        },
    }
}

fn media(block: &Node<'_>) -> Result<Media, ErrorBody> {
    let field = block.at("source");
    let source = block.node("source")?.ok_or_else(|| missing(&field))?;
    let plain = |text: &str| Source::Base64 {
        media_type: "text/plain".to_owned(),
        data: data_encoding::BASE64.encode(text.as_bytes()),
    };
    let source = match source.kind()?.as_ref() {
        "url" => Source::Url(source.needed_text("url")?.into_owned()),
        "base64" => Source::Base64 {
            media_type: source.needed_text("media_type")?.into_owned(),
            data: source.needed_text("data")?.into_owned(),
        },
        "text" => plain(&source.needed_text("data")?),
        "content" if source.needed("content")?.get().starts_with('"') => {
            plain(&source.needed_text("content")?)
        }
        kind => {
            let message = format!("only Anthropic's own models read a source of the type `{kind}`");
            return Err(source.refuse(message));
        }
    };
    Ok(Media {
        source,
        name: block.text("title")?.map(Cow::into_owned),
        detail: None,
    })
}

fn tools(request: &Node<'_>) -> Result<Vec<Tool>, ErrorBody> {
    let tool = |tool: &Node<'_>| {
        if !is_custom(tool)? {
            let kind = tool.kind()?;
            let message = format!("only Anthropic's own models have tools of the type `{kind}`");
            return Err(tool.refuse(message));
        }
        Ok(Tool {
            name: tool.needed_text("name")?.into_owned(),
            description: tool.text("description")?.map(Cow::into_owned),
            parameters: Some(tool.needed("input_schema")?.to_owned()),
            strict: tool.boolean("strict")?,
        })
    };
    request.nodes("tools")?.iter().map(tool).collect()
}

/// Which tool to call, and whether several at once.
fn tool_choice(request: &Node<'_>) -> Result<(Option<ToolChoice>, Option<bool>), ErrorBody> {
    let Some(choice) = request.node("tool_choice")? else {
        return Ok((None, None));
    };
    let wanted = match choice.needed_text("type")?.as_ref() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.needed_text("name")?.into_owned()),
        _ => {
            let message = "`tool_choice.type` must be one of auto, any, tool, none";
            return Err(refuse(Some("tool_choice.type"), message));
        }
    };
    let is_single = choice.boolean("disable_parallel_tool_use")?;
    Ok((Some(wanted), is_single.map(|is_single| !is_single)))
}

/// `output_config.format`, or its name in the beta, `output_format`.
fn format(request: &Node<'_>) -> Result<Option<Format>, ErrorBody> {
    let config = request.node("output_config")?;
    let format = match config.map(|config| config.node("format")).transpose()? {
        Some(Some(format)) => Some(format),
        _ => request.node("output_format")?,
    };
    let Some(format) = format else {
        return Ok(None);
    };
    if format.needed_text("type")? != "json_schema" {
        let field = format.at("type");
        return Err(refuse(
            Some(&field),
            format!("`{field}` must be `json_schema`"),
        ));
    }
    let schema = format.needed("schema")?;
    if Object::parse(schema.get()).is_err() {
        let field = format.at("schema");
        return Err(refuse(Some(&field), format!("`{field}` must be an object")));
    }
    Ok(Some(Format::JsonSchema {
        name: "response".to_owned(),
        description: None,
        schema: schema.to_owned(),
        strict: Some(true),
    }))
}

fn reasoning(request: &Node<'_>) -> Result<Option<Reasoning>, ErrorBody> {
    let effort = match request.node("output_config")? {
        Some(config) => config.text("effort")?,
        None => None,
    };
    let effort = match effort.as_deref() {
        None => None,
        Some("low") => Some(Reasoning::Effort(Effort::Low)),
        Some("medium") => Some(Reasoning::Effort(Effort::Medium)),
        // What is above it has no other name elsewhere.
        Some("high" | "xhigh" | "max") => Some(Reasoning::Effort(Effort::High)),
        Some(_) => {
            let message = "`output_config.effort` must be one of low, medium, high, xhigh, max";
            return Err(refuse(Some("output_config.effort"), message));
        }
    };
    let Some(thinking) = request.node("thinking")? else {
        return Ok(effort);
    };
    match thinking.needed_text("type")?.as_ref() {
        "disabled" => Ok(Some(Reasoning::Off)),
        // When and how much is the model's own affair, unless an effort is named.
        "adaptive" | "between_tools" => Ok(effort),
        "enabled" => {
            let budget = thinking.number("budget_tokens", Kind::Integer(1, i64::MAX))?;
            let budget = budget.ok_or_else(|| missing("thinking.budget_tokens"))?;
            Ok(Some(Reasoning::Tokens(budget)))
        }
        _ => {
            let message =
                "`thinking.type` must be one of enabled, disabled, adaptive, between_tools";
            Err(refuse(Some("thinking.type"), message))
        }
    }
}
