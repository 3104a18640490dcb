//! A chat request of another dialect, as it goes to a provider that speaks OpenAI's.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::turn::{self, Turn};
use crate::dialect::check::refuse;
use crate::dialect::json;
use crate::event::ErrorBody;
use crate::model::{Chat, Effort, Format, Reasoning, Tool, ToolChoice};

/// Budgets of thinking from which an effort is `medium`, and from which it is `high`, in
/// tokens; ours, since OpenAI names no numbers.
const MEDIUM_TOKENS: i64 = 4_096;
const HIGH_TOKENS: i64 = 16_384;

/// Who the request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    /// OpenAI, or anybody who speaks as it does.
    OpenAi,
    /// DeepSeek.
    DeepSeek,
}

/// The request for a provider that speaks OpenAI's dialect, asking `model`; when streaming,
/// also for usage.
///
/// Not sent, by rule: `metadata`, which OpenAI takes for stored completions only; thoughts of
/// earlier turns, which it does not take. `docs/dialects.md` has all rules.
///
/// # Errors
/// 400 `invalid_request_error` whose `param` names the field that the dialect cannot say.
pub fn write_request(chat: &Chat, model: &str) -> Result<Bytes, ErrorBody> {
    write(chat, model, Provider::OpenAi)
}

/// As [`write_request`], for DeepSeek: thinking is switched by `thinking`, thoughts go with the
/// calls that they led to, a given beginning of the answer is continued (`prefix`, for which
/// the base URL must be DeepSeek's `/beta`), and content is text alone.
///
/// # Errors
/// As [`write_request`]; also for pictures and other media, a JSON schema, `n` above 1 and
/// `logit_bias`, of which DeepSeek documents nothing
/// (<https://api-docs.deepseek.com/api/create-chat-completion>).
pub fn write_deepseek_request(chat: &Chat, model: &str) -> Result<Bytes, ErrorBody> {
    let unknown = if chat.n > 1 {
        Some("n")
    } else if matches!(chat.format, Some(Format::JsonSchema { .. })) {
        Some("response_format")
    } else if !chat.sampling.logit_bias.is_empty() {
        Some("logit_bias")
    } else {
        None
    };
    if let Some(field) = unknown {
        let message = format!("`{field}` cannot be served by this model's provider");
        return Err(refuse(Some(field), message));
    }
    write(chat, model, Provider::DeepSeek)
}

fn write(chat: &Chat, model: &str, provider: Provider) -> Result<Bytes, ErrorBody> {
    let is_openai = provider == Provider::OpenAi;
    let sampling = &chat.sampling;
    let has_tools = !chat.tools.is_empty();
    let by_newer_name = is_openai && takes_newer_limit(chat, model);
    let (reasoning_effort, thinking) = reasoning(chat.reasoning, provider);
    Ok(json::bytes(&Request {
        model,
        messages: turn::write_all(&chat.messages, provider)?,
        tools: chat.tools.iter().map(ToolOut::from).collect(),
        // Refused where there are no tools to choose from.
        tool_choice: chat.tool_choice.as_ref().filter(|_| has_tools).map(choice),
        parallel_tool_calls: chat.parallel_tool_calls.filter(|_| has_tools && is_openai),
        response_format: chat.format.as_ref().map(FormatOut::from),
        reasoning_effort,
        thinking,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k.filter(|_| is_openai),
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        seed: sampling.seed.filter(|_| is_openai),
        logit_bias: &sampling.logit_bias,
        stop: &chat.stop,
        max_tokens: chat.tokens_max.filter(|_| !by_newer_name),
        max_completion_tokens: chat.tokens_max.filter(|_| by_newer_name),
        n: (chat.n > 1).then_some(chat.n),
        logprobs: chat.logprobs.map(|_| true),
        top_logprobs: chat.logprobs.filter(|alternatives| *alternatives > 0),
        user: chat.user.as_deref().filter(|_| is_openai),
        stream: chat.stream,
        stream_options: chat.stream.then_some(StreamOptions {
            include_usage: true,
        }),
    }))
}

/// Whether the limit is to be called `max_completion_tokens`. OpenAI's reasoning models refuse
/// the older name, and many who speak its dialect know no other: so it depends on whether
/// thinking is asked for, or the model is one of OpenAI's by its name (`o3`, `gpt-5-mini`).
fn takes_newer_limit(chat: &Chat, model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let number = |prefix: &str| name.strip_prefix(prefix)?.bytes().next();
    chat.reasoning.is_some()
        || number("o").is_some_and(|byte| byte.is_ascii_digit())
        || number("gpt-").is_some_and(|byte| (b'5'..=b'9').contains(&byte))
}

fn reasoning(
    reasoning: Option<Reasoning>,
    provider: Provider,
) -> (Option<&'static str>, Option<Thinking>) {
    let effort = match reasoning {
        None | Some(Reasoning::Off) => None,
        Some(Reasoning::Effort(Effort::Minimal)) => Some("minimal"),
        Some(Reasoning::Effort(Effort::Low)) => Some("low"),
        Some(Reasoning::Effort(Effort::Medium)) => Some("medium"),
        Some(Reasoning::Effort(Effort::High)) => Some("high"),
        Some(Reasoning::Tokens(budget)) if budget >= HIGH_TOKENS => Some("high"),
        Some(Reasoning::Tokens(budget)) if budget >= MEDIUM_TOKENS => Some("medium"),
        Some(Reasoning::Tokens(_)) => Some("low"),
    };
    let is_off = reasoning == Some(Reasoning::Off);
    match provider {
        Provider::OpenAi => (if is_off { Some("none") } else { effort }, None),
        Provider::DeepSeek => {
            let kind = if is_off { "disabled" } else { "enabled" };
            let thinking = reasoning.map(|_| Thinking { r#type: kind });
            // It documents no `minimal`, and takes `low` for its own least.
            (
                effort.map(|word| if word == "minimal" { "low" } else { word }),
                thinking,
            )
        }
    }
}

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<ToolOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ChoiceOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<FormatOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Thinking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    logit_bias: &'a BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct Thinking {
    r#type: &'static str,
}

#[derive(Serialize)]
struct ToolOut<'a> {
    r#type: &'a str,
    function: FunctionOut<'a>,
}

#[derive(Serialize)]
struct FunctionOut<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

impl<'a> From<&'a Tool> for ToolOut<'a> {
    fn from(tool: &'a Tool) -> Self {
        Self {
            r#type: "function",
            function: FunctionOut {
                name: &tool.name,
                description: tool.description.as_deref(),
                parameters: tool.parameters.as_deref(),
                strict: tool.strict,
            },
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum ChoiceOut<'a> {
    Word(&'a str),
    Named {
        r#type: &'a str,
        function: Named<'a>,
    },
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
}

fn choice(choice: &ToolChoice) -> ChoiceOut<'_> {
    match choice {
        ToolChoice::Auto => ChoiceOut::Word("auto"),
        ToolChoice::None => ChoiceOut::Word("none"),
        ToolChoice::Required => ChoiceOut::Word("required"),
        ToolChoice::Named(name) => ChoiceOut::Named {
            r#type: "function",
            function: Named { name },
        },
    }
}

#[derive(Serialize)]
struct FormatOut<'a> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    json_schema: Option<SchemaOut<'a>>,
}

#[derive(Serialize)]
struct SchemaOut<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    schema: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

impl<'a> From<&'a Format> for FormatOut<'a> {
    fn from(format: &'a Format) -> Self {
        match format {
            Format::JsonObject => Self {
                r#type: "json_object",
                json_schema: None,
            },
            Format::JsonSchema {
                name,
                description,
                schema,
                strict,
            } => Self {
                r#type: "json_schema",
                json_schema: Some(SchemaOut {
                    // Required here, and not elsewhere.
                    name: if name.is_empty() { "answer" } else { name },
                    description: description.as_deref(),
                    schema,
                    strict: *strict,
                }),
            },
        }
    }
}
