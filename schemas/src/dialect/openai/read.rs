//! The client's chat request in the form between dialects, for a provider that speaks another.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::message;
use super::request::ChatRequest;
use crate::dialect::check::{self, refuse};
use crate::dialect::json::{self, Object};
use crate::event::ErrorBody;
use crate::model::{Chat, Effort, Format, Reasoning, Sampling, Tool, ToolChoice};

/// Reads the body of `POST /v1/chat/completions`, DeepSeek's fields included.
///
/// What cannot be said to a provider of another dialect is refused; hints on how to serve the
/// request (`service_tier`, `store`, `prediction`, `verbosity`, `prompt_cache_key`,
/// `safety_identifier`) and unknown fields are dropped. `docs/dialects.md` has the rules.
///
/// # Errors
/// 400 `invalid_request_error` whose `param` names the field: what [`ChatRequest::parse`]
/// refuses, a field in a form that is not documented, or one that only OpenAI can serve.
pub fn read_request(body: &[u8]) -> Result<Chat, ErrorBody> {
    let stream = ChatRequest::parse(body)?.stream;
    let object = check::object(body)?;
    refuse_what_only_openai_serves(&object)?;
    let messages: Vec<&RawValue> = field(&object, "messages")?.unwrap_or_default();
    let (tools, tool_choice) = tools(&object)?;
    let wants_logprobs = field(&object, "logprobs")?.unwrap_or(false);
    let alternatives: Option<i32> = field(&object, "top_logprobs")?;
    Ok(Chat {
        messages: message::read_all(&messages)?,
        tools,
        tool_choice,
        parallel_tool_calls: field(&object, "parallel_tool_calls")?,
        format: format(&object)?,
        reasoning: reasoning(&object)?,
        sampling: sampling(&object)?,
        stop: stop(&object)?,
        tokens_max: match field(&object, "max_completion_tokens")? {
            None => field(&object, "max_tokens")?,
            newer => newer,
        },
        n: field(&object, "n")?.unwrap_or(1),
        logprobs: wants_logprobs.then_some(alternatives.unwrap_or(0)),
        metadata: field(&object, "metadata")?.unwrap_or_default(),
        user: field(&object, "user")?,
        stream,
    })
}

/// Whether the client speaks of `functions`, the form before `tools`: it then reads calls from
/// `function_call`. Expects a body that [`ChatRequest::parse`] accepted.
#[must_use]
pub fn wants_function_calls(body: &[u8]) -> bool {
    check::object(body).is_ok_and(|object| object.some("functions").is_some())
}

/// The member `key` as a `T`; none when it is missing or `null`.
pub(super) fn field<'a, T: Deserialize<'a>>(
    object: &Object<'a>,
    key: &str,
) -> Result<Option<T>, ErrorBody> {
    let Some(raw) = object.some(key) else {
        return Ok(None);
    };
    parsed(key, raw).map(Some)
}

/// `raw` as a `T`; `param` names it in the error.
pub(super) fn parsed<'a, T: Deserialize<'a>>(
    param: &str,
    raw: &'a RawValue,
) -> Result<T, ErrorBody> {
    serde_json::from_str(raw.get()).map_err(|error| {
        let message = format!("`{param}` is not in the documented form: {}", fault(&error));
        refuse(Some(param), message)
    })
}

/// What is wrong, without the value: it may be a prompt, or a picture of some megabytes, and
/// errors are logged.
fn fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("missing field") || text.starts_with("duplicate field") {
        return text;
    }
    // What stands behind the last of these words is of our own types.
    text.rsplit_once(", expected ").map_or_else(
        || "a value out of range".to_owned(),
        |(_, expected)| format!("expected {expected}"),
    )
}

/// How tokens are drawn; `top_k` is no field of OpenAI's, but of many that speak its dialect.
pub(super) fn sampling(object: &Object<'_>) -> Result<Sampling, ErrorBody> {
    Ok(Sampling {
        temperature: field(object, "temperature")?,
        top_p: field(object, "top_p")?,
        top_k: field(object, "top_k")?,
        presence_penalty: field(object, "presence_penalty")?,
        frequency_penalty: field(object, "frequency_penalty")?,
        seed: field(object, "seed")?,
        logit_bias: field(object, "logit_bias")?.unwrap_or_default(),
    })
}

/// One text or several.
pub(super) fn stop(object: &Object<'_>) -> Result<Vec<String>, ErrorBody> {
    match object.some("stop") {
        None => Ok(Vec::new()),
        Some(raw) if raw.get().starts_with('"') => Ok(vec![parsed("stop", raw)?]),
        Some(raw) => parsed("stop", raw),
    }
}

fn refuse_what_only_openai_serves(object: &Object<'_>) -> Result<(), ErrorBody> {
    let modalities: Vec<Cow<'_, str>> = field(object, "modalities")?.unwrap_or_default();
    let at_fault = if modalities.iter().any(|modality| modality != "text") {
        Some("modalities")
    } else {
        ["audio", "web_search_options"]
            .into_iter()
            .find(|field| object.some(field).is_some())
    };
    at_fault.map_or(Ok(()), |field| {
        let message = format!("`{field}` cannot be served by this model's provider");
        Err(refuse(Some(field), message))
    })
}

#[derive(Deserialize)]
struct ToolField<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    function: Option<FunctionField<'a>>,
}

#[derive(Deserialize)]
struct FunctionField<'a> {
    name: String,
    description: Option<String>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
    strict: Option<bool>,
}

impl From<FunctionField<'_>> for Tool {
    fn from(function: FunctionField<'_>) -> Self {
        let parameters = function.parameters.filter(|raw| raw.get() != "null");
        Self {
            name: function.name,
            description: function.description,
            parameters: parameters.map(ToOwned::to_owned),
            strict: function.strict,
        }
    }
}

/// The functions on offer, and which of them is to be called; in the form of today, or else in
/// the form before it.
fn tools(object: &Object<'_>) -> Result<(Vec<Tool>, Option<ToolChoice>), ErrorBody> {
    let fields: Option<Vec<ToolField<'_>>> = field(object, "tools")?;
    let Some(fields) = fields else {
        let functions: Vec<FunctionField<'_>> = field(object, "functions")?.unwrap_or_default();
        let tools = functions.into_iter().map(Tool::from).collect();
        return Ok((tools, function_choice(object)?));
    };
    let mut tools = Vec::with_capacity(fields.len());
    for (index, field) in fields.into_iter().enumerate() {
        let kind = field.kind.as_deref().unwrap_or("function");
        match field.function {
            Some(function) if kind == "function" => tools.push(Tool::from(function)),
            _ => {
                let param = format!("tools.[{index}].type");
                let message = format!(
                    "`{param}` must be `function`, with a `function`: this model's provider \
                     knows no other tools"
                );
                return Err(refuse(Some(&param), message));
            }
        }
    }
    let choice = tool_choice(object, &mut tools)?;
    Ok((tools, choice))
}

#[derive(Deserialize)]
struct NamedField {
    name: String,
}

#[derive(Deserialize)]
struct AllowedField {
    mode: String,
    tools: Vec<AllowedTool>,
}

#[derive(Deserialize)]
struct AllowedTool {
    function: Option<NamedField>,
}

/// `tool_choice` in all its forms; of `allowed_tools` only those stay on offer.
fn tool_choice(
    object: &Object<'_>,
    tools: &mut Vec<Tool>,
) -> Result<Option<ToolChoice>, ErrorBody> {
    const PARAM: &str = "tool_choice";
    #[derive(Deserialize)]
    struct ChoiceField {
        function: Option<NamedField>,
        allowed_tools: Option<AllowedField>,
    }
    let Some(raw) = object.some(PARAM) else {
        return Ok(None);
    };
    if let Some(word) = json::string(raw) {
        return choice_of(PARAM, &word).map(Some);
    }
    let choice: ChoiceField = parsed(PARAM, raw)?;
    if let Some(allowed) = choice.allowed_tools {
        let is_allowed = |tool: &Tool| {
            let names = allowed
                .tools
                .iter()
                .filter_map(|tool| tool.function.as_ref());
            names.into_iter().any(|function| function.name == tool.name)
        };
        tools.retain(is_allowed);
        return choice_of("tool_choice.allowed_tools.mode", &allowed.mode).map(Some);
    }
    let Some(function) = choice.function else {
        let message = "`tool_choice` must name a `function`: this model's provider knows no \
                       other tools";
        return Err(refuse(Some(PARAM), message));
    };
    Ok(Some(ToolChoice::Named(function.name)))
}

fn function_choice(object: &Object<'_>) -> Result<Option<ToolChoice>, ErrorBody> {
    const PARAM: &str = "function_call";
    let Some(raw) = object.some(PARAM) else {
        return Ok(None);
    };
    if let Some(word) = json::string(raw) {
        return choice_of(PARAM, &word).map(Some);
    }
    let named: NamedField = parsed(PARAM, raw)?;
    Ok(Some(ToolChoice::Named(named.name)))
}

fn choice_of(param: &str, word: &str) -> Result<ToolChoice, ErrorBody> {
    match word {
        "auto" => Ok(ToolChoice::Auto),
        "none" => Ok(ToolChoice::None),
        "required" => Ok(ToolChoice::Required),
        _ => {
            let message = format!("`{param}` must be `auto`, `none`, `required` or a function");
            Err(refuse(Some(param), message))
        }
    }
}

fn format(object: &Object<'_>) -> Result<Option<Format>, ErrorBody> {
    const PARAM: &str = "response_format";
    #[derive(Deserialize)]
    struct FormatField<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        json_schema: Option<SchemaField<'a>>,
    }
    #[derive(Deserialize)]
    struct SchemaField<'a> {
        name: String,
        description: Option<String>,
        #[serde(borrow)]
        schema: Option<&'a RawValue>,
        strict: Option<bool>,
    }
    let format: Option<FormatField<'_>> = field(object, PARAM)?;
    let Some(format) = format else {
        return Ok(None);
    };
    match (format.kind.as_ref(), format.json_schema) {
        ("text", _) => Ok(None),
        ("json_object", _) => Ok(Some(Format::JsonObject)),
        ("json_schema", Some(json_schema)) => {
            let any = || RawValue::from_string("{}".to_owned()).ok();
            let given = json_schema.schema.filter(|raw| raw.get() != "null");
            let schema = given.map(ToOwned::to_owned).or_else(any);
            Ok(schema.map(|schema| Format::JsonSchema {
                name: json_schema.name,
                description: json_schema.description,
                schema,
                strict: json_schema.strict,
            }))
        }
        _ => {
            let message = "`response_format.type` must be `text`, `json_object` or `json_schema`, \
                           the last with a `json_schema`";
            Err(refuse(Some("response_format.type"), message))
        }
    }
}

/// `reasoning_effort`, or DeepSeek's `thinking`. Of both, `thinking` tells whether to think at
/// all, and the effort how much; without an effort thinking means `high`, DeepSeek's default
/// (<https://api-docs.deepseek.com/guides/thinking_mode>).
fn reasoning(object: &Object<'_>) -> Result<Option<Reasoning>, ErrorBody> {
    const EFFORT: &str = "reasoning_effort";
    #[derive(Deserialize)]
    struct Thinking<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
    }
    let effort: Option<Cow<'_, str>> = field(object, EFFORT)?;
    let effort = match effort.as_deref() {
        None => None,
        Some("none") => Some(Reasoning::Off),
        Some("minimal") => Some(Reasoning::Effort(Effort::Minimal)),
        Some("low") => Some(Reasoning::Effort(Effort::Low)),
        Some("medium") => Some(Reasoning::Effort(Effort::Medium)),
        // What some models have beyond `high` is `high` in other dialects.
        Some("high" | "xhigh" | "max") => Some(Reasoning::Effort(Effort::High)),
        Some(_) => {
            let message =
                format!("`{EFFORT}` must be one of none, minimal, low, medium, high, xhigh, max");
            return Err(refuse(Some(EFFORT), message));
        }
    };
    let thinking: Option<Thinking<'_>> = field(object, "thinking")?;
    match thinking.as_ref().map(|thinking| thinking.kind.as_ref()) {
        None => Ok(effort),
        Some("disabled") => Ok(Some(Reasoning::Off)),
        Some("enabled") => Ok(Some(match effort {
            None | Some(Reasoning::Off) => Reasoning::Effort(Effort::High),
            Some(effort) => effort,
        })),
        Some(_) => {
            let message = "`thinking.type` must be `enabled` or `disabled`";
            Err(refuse(Some("thinking.type"), message))
        }
    }
}
