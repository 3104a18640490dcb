//! Requests for Gemini.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::contents::{self, Content};
use crate::dialect::json;
use crate::event::ErrorBody;
use crate::model::{Chat, Effort, Format, Reasoning, Tool, ToolChoice};

/// Most stop sequences that Gemini takes (<https://ai.google.dev/api/generate-content#v1beta.GenerationConfig>).
const STOPS_MAX: usize = 5;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    contents: Vec<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<[Tools<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<ToolConfig<'a>>,
    generation_config: GenerationConfig<'a>,
}

/// The body of a call to [`super::path`]; whether it is to be streamed is said there alone.
///
/// # Errors
/// 400 whose `param` names the field that Gemini has no words for, where leaving it out would change what was asked:
/// `messages`, `tool_choice`, `parallel_tool_calls`, `stop`, `seed`, `logit_bias`, `logprobs`. The rule of each field is in
/// `docs/dialects.md`.
pub fn write_request(chat: &Chat) -> Result<Bytes, ErrorBody> {
    let contents::Conversation { contents, system } = contents::of(&chat.messages)?;
    Ok(json::bytes(&Request {
        contents,
        system_instruction: system,
        tools: Tools::of(&chat.tools),
        tool_config: ToolConfig::of(chat)?,
        generation_config: GenerationConfig::of(chat)?,
    }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tools<'a> {
    function_declarations: Vec<FunctionDeclaration<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FunctionDeclaration<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    /// JSON schema; `parameters` would take a subset of OpenAPI's alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters_json_schema: Option<&'a RawValue>,
}

impl<'a> Tools<'a> {
    fn of(tools: &'a [Tool]) -> Option<[Self; 1]> {
        let declaration = |tool: &'a Tool| FunctionDeclaration {
            name: &tool.name,
            description: tool.description.as_deref(),
            parameters_json_schema: tool.parameters.as_deref(),
        };
        let function_declarations: Vec<_> = tools.iter().map(declaration).collect();
        (!tools.is_empty()).then_some([Self {
            function_declarations,
        }])
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToolConfig<'a> {
    function_calling_config: FunctionCallingConfig<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FunctionCallingConfig<'a> {
    mode: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_function_names: Option<[&'a str; 1]>,
}

impl<'a> ToolConfig<'a> {
    fn of(chat: &'a Chat) -> Result<Option<Self>, ErrorBody> {
        let tools = &chat.tools;
        if chat.parallel_tool_calls == Some(false) && !tools.is_empty() {
            let message = "`parallel_tool_calls` cannot be false: this model may always call \
                           several functions at once";
            return Err(refuse("parallel_tool_calls", message));
        }
        let strict = tools.iter().any(|tool| tool.strict == Some(true));
        let (mode, name) = match &chat.tool_choice {
            None if !strict => return Ok(None),
            // As `AUTO`, with arguments held to the schema; `ANY` holds them to it by itself.
            None | Some(ToolChoice::Auto) if strict => ("VALIDATED", None),
            None | Some(ToolChoice::Auto) => ("AUTO", None),
            Some(ToolChoice::None) => ("NONE", None),
            Some(ToolChoice::Required) if tools.is_empty() => {
                let message = "`tool_choice` wants a call, but there are no `tools`";
                return Err(refuse("tool_choice", message));
            }
            Some(ToolChoice::Required) => ("ANY", None),
            Some(ToolChoice::Named(name)) if !tools.iter().any(|tool| tool.name == *name) => {
                let message = format!("`tool_choice` names `{name}`, which `tools` does not have");
                return Err(refuse("tool_choice", message));
            }
            Some(ToolChoice::Named(name)) => ("ANY", Some([name.as_str()])),
        };
        // Without functions there is nothing to configure.
        Ok((!tools.is_empty()).then_some(Self {
            function_calling_config: FunctionCallingConfig {
                mode,
                allowed_function_names: name,
            },
        }))
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerationConfig<'a> {
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
    seed: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate_count: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop_sequences: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_mime_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_json_schema: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_config: Option<ThinkingConfig>,
}

impl<'a> GenerationConfig<'a> {
    fn of(chat: &'a Chat) -> Result<Self, ErrorBody> {
        let sampling = &chat.sampling;
        if !sampling.logit_bias.is_empty() {
            let message = "`logit_bias` is not possible: this model has other token ids";
            return Err(refuse("logit_bias", message));
        }
        if chat.logprobs.is_some() {
            let message =
                "`logprobs` is not possible with this model: its answer could not show them";
            return Err(refuse("logprobs", message));
        }
        let seed = sampling.seed.map(i32::try_from).transpose();
        let seed = seed.map_err(|_| refuse("seed", "`seed` must fit into 32 bits"))?;
        let stops = chat.stop.iter().map(String::as_str);
        let stop_sequences: Vec<_> = stops.filter(|stop| !stop.is_empty()).collect();
        if stop_sequences.len() > STOPS_MAX {
            let message = format!("`stop` must have no more than {STOPS_MAX} texts");
            return Err(refuse("stop", message));
        }
        let (response_mime_type, response_json_schema) = match &chat.format {
            None => (None, None),
            Some(Format::JsonObject) => (Some("application/json"), None),
            Some(Format::JsonSchema { schema, .. }) => (Some("application/json"), Some(&**schema)),
        };
        Ok(Self {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k.map(within_int32),
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            seed,
            candidate_count: (chat.n > 1).then_some(chat.n),
            max_output_tokens: chat.tokens_max.map(within_int32),
            stop_sequences,
            response_mime_type,
            response_json_schema,
            thinking_config: chat.reasoning.map(ThinkingConfig::from),
        })
    }
}

/// Google reads these as 32-bit numbers, and no model comes near their end: a bound beyond it is none.
fn within_int32(bound: i64) -> i64 {
    bound.min(i64::from(i32::MAX))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ThinkingConfig {
    /// Tokens; 0 turns thinking off.
    thinking_budget: i64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    include_thoughts: bool,
}

impl From<Reasoning> for ThinkingConfig {
    fn from(reasoning: Reasoning) -> Self {
        // The budgets that Google's own door for OpenAI's dialect gives to each effort
        // (<https://ai.google.dev/gemini-api/docs/openai#thinking>). `thinkingLevel` is known to newer models only.
        let budget = match reasoning {
            Reasoning::Off => 0,
            Reasoning::Effort(Effort::Minimal | Effort::Low) => 1_024,
            Reasoning::Effort(Effort::Medium) => 8_192,
            Reasoning::Effort(Effort::High) => 24_576,
            // Below 0 Google would decide by itself.
            Reasoning::Tokens(tokens) => within_int32(tokens.max(0)),
        };
        Self {
            thinking_budget: budget,
            include_thoughts: budget > 0,
        }
    }
}

fn refuse(field: &str, message: impl Into<String>) -> ErrorBody {
    ErrorBody::invalid_request(Some(field), message)
}
