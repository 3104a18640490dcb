//! OpenAI's chat completions, and what all of OpenAI's operations share. Azure's paths and DeepSeek's fields are here, too:
//! <https://platform.openai.com/docs/api-reference/chat>, <https://api-docs.deepseek.com/api/create-chat-completion>.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{Answer, Piece, arguments};
use super::asked::{Asked, ToolResult, Tools, text_of};
use super::connection::RawRequest;
use super::dialect::{Dialect, Events, Problem, Told};
use super::wire::{push_chunk, put};

/// `POST …/chat/completions`.
#[derive(Debug)]
pub(super) struct Chat;

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(borrow, default)]
    messages: Vec<Message<'a>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: bool,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
    #[serde(default)]
    tool_call_id: Option<String>,
}

impl Dialect for Chat {
    fn read<'a>(&self, request: &'a RawRequest) -> Result<Asked<'a>, &'static str> {
        let Ok(chat) = serde_json::from_slice::<Request<'a>>(&request.body) else {
            return Err("the body is not a chat request");
        };
        let last = chat.messages.iter().rev().find(|m| m.role == "user");
        let content = last.and_then(|message| message.content);
        let asked = Asked::new(chat.model, content.map_or("", RawValue::get));
        let asked = Asked {
            stream: chat.stream == Some(true),
            include_usage: chat.stream_options.is_some_and(|o| o.include_usage),
            is_chat: true,
            metadata: chat.metadata,
            tools: chat.tools.map(|json| Tools { json, names }),
            result: result(&chat.messages),
            prefix_json: prefix(&chat.messages),
            ..asked
        };
        at_azure(request, asked)
    }

    fn key<'a>(&self, request: &'a RawRequest) -> Option<&'a str> {
        key(request)
    }

    fn whole(&self, answer: &Answer<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        put(
            &mut out,
            format_args!(
                r#"{{"id":"chatcmpl-mock-{}","object":"chat.completion","created":{},"model":{},"choices":[{{"index":0,"message":{{"role":"assistant","content":"#,
                answer.serial, answer.created, answer.asked.model_json
            ),
        );
        match answer.call() {
            None => {
                out.push(b'"');
                answer.push_text(&mut out);
                out.push(b'"');
            }
            Some(name) => {
                out.extend_from_slice(br#"null,"tool_calls":["#);
                push_call_start(answer, name, &mut out, &arguments());
                out.push(b']');
            }
        }
        if answer.thoughts() > 0 {
            out.extend_from_slice(br#","reasoning_content":""#);
            answer.push_thoughts(&mut out);
            out.push(b'"');
        }
        put(
            &mut out,
            format_args!(
                r#","refusal":null}},"logprobs":null,"finish_reason":"{}"}}],"usage":"#,
                answer.finish()
            ),
        );
        push_usage(answer, &mut out);
        out.push(b'}');
        out
    }

    fn error(&self, problem: &Problem<'_>) -> Told {
        error(problem)
    }

    fn events(&self) -> Option<&dyn Events> {
        Some(self)
    }
}

impl Events for Chat {
    fn push_start(&self, answer: &Answer<'_>, out: &mut Vec<u8>) {
        push_delta(answer, out, |delta| {
            delta.extend_from_slice(br#""role":"assistant","content":"""#);
        });
    }

    fn push_piece(&self, answer: &Answer<'_>, index: u32, out: &mut Vec<u8>) {
        match answer.piece(index) {
            Piece::Token(index) => push_delta(answer, out, |delta| {
                delta.extend_from_slice(br#""content":""#);
                answer.push_token(delta, index);
                delta.push(b'"');
            }),
            Piece::Thought(index) => push_delta(answer, out, |delta| {
                delta.extend_from_slice(br#""reasoning_content":""#);
                answer.push_thought(delta, index);
                delta.push(b'"');
            }),
            Piece::Arguments(index) => {
                if let Some(name) = answer.call().filter(|_| index == 0) {
                    push_delta(answer, out, |delta| {
                        delta.extend_from_slice(br#""tool_calls":["#);
                        push_call_start(answer, name, delta, "");
                        delta.push(b']');
                    });
                }
                push_delta(answer, out, |delta| {
                    delta.extend_from_slice(
                        br#""tool_calls":[{"index":0,"function":{"arguments":""#,
                    );
                    answer.push_arguments(delta, index);
                    delta.extend_from_slice(br#""}}]"#);
                });
            }
        }
    }

    fn push_finish(&self, answer: &Answer<'_>, out: &mut Vec<u8>) {
        push_chunk(out, |event| {
            push_event_start(answer, event);
            put(
                event,
                format_args!(
                    r#"{{"index":0,"delta":{{}},"finish_reason":"{}"}}"#,
                    answer.finish()
                ),
            );
            push_event_end(answer, event);
            if answer.asked.include_usage {
                push_event_start(answer, event);
                event.extend_from_slice(b"],\"usage\":");
                push_usage(answer, event);
                event.extend_from_slice(b"}\n\n");
            }
        });
    }

    fn push_done(&self, out: &mut Vec<u8>) {
        push_done(out);
    }
}

/// A call with its identity and the beginning of its arguments.
fn push_call_start(answer: &Answer<'_>, name: &str, out: &mut Vec<u8>, arguments: &str) {
    let call = serde_json::json!({
        "index": 0,
        "id": format!("call_mock_{}", answer.serial),
        "type": "function",
        "function": { "name": name, "arguments": arguments },
    });
    put(out, format_args!("{call}"));
}

/// An event whose one choice has this delta.
fn push_delta(answer: &Answer<'_>, out: &mut Vec<u8>, render: impl FnOnce(&mut Vec<u8>)) {
    push_chunk(out, |event| {
        push_event_start(answer, event);
        event.extend_from_slice(br#"{"index":0,"delta":{"#);
        render(event);
        event.extend_from_slice(br#"},"finish_reason":null}"#);
        push_event_end(answer, event);
    });
}

fn push_event_start(answer: &Answer<'_>, event: &mut Vec<u8>) {
    put(
        event,
        format_args!(
            r#"data: {{"id":"chatcmpl-mock-{}","object":"chat.completion.chunk","created":{},"model":{},"choices":["#,
            answer.serial, answer.created, answer.asked.model_json
        ),
    );
}

/// What follows the choices of an event that is not the one with the usage.
pub(super) fn push_event_end(answer: &Answer<'_>, event: &mut Vec<u8>) {
    event.extend_from_slice(if answer.asked.include_usage {
        b"],\"usage\":null}\n\n"
    } else {
        b"]}\n\n"
    });
}

pub(super) fn push_done(out: &mut Vec<u8>) {
    push_chunk(out, |event| event.extend_from_slice(b"data: [DONE]\n\n"));
}

/// The usage; its details only where there is something to tell, and DeepSeek's for its models alone.
pub(super) fn push_usage(answer: &Answer<'_>, out: &mut Vec<u8>) {
    let (prompt, completion) = (answer.prompt_tokens(), answer.pieces());
    put(
        out,
        format_args!(
            r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{}"#,
            prompt + completion
        ),
    );
    let (cached, thoughts) = (answer.cached_tokens(), answer.thoughts());
    if cached > 0 {
        put(
            out,
            format_args!(r#","prompt_tokens_details":{{"cached_tokens":{cached}}}"#),
        );
    }
    if thoughts > 0 {
        put(
            out,
            format_args!(r#","completion_tokens_details":{{"reasoning_tokens":{thoughts}}}"#),
        );
    }
    if answer.asked.model_json.contains("deepseek") {
        put(
            out,
            format_args!(
                r#","prompt_cache_hit_tokens":{cached},"prompt_cache_miss_tokens":{}"#,
                prompt - cached
            ),
        );
    }
    out.push(b'}');
}

/// The names of functions.
fn names(tools: &RawValue) -> Vec<String> {
    #[derive(Deserialize)]
    struct Tool {
        function: Named,
    }

    #[derive(Deserialize)]
    struct Named {
        name: String,
    }

    let tools: Vec<Tool> = serde_json::from_str(tools.get()).unwrap_or_default();
    tools.into_iter().map(|tool| tool.function.name).collect()
}

/// The results that the conversation ends in.
fn result(messages: &[Message<'_>]) -> Option<ToolResult> {
    let results = messages.iter().rev().take_while(|m| m.role == "tool");
    let mut results: Vec<&Message<'_>> = results.collect();
    results.reverse();
    if results.is_empty() {
        return None;
    }
    let calls: Vec<String> = messages.iter().flat_map(calls).collect();
    let is_known = |id: &String| calls.contains(id);
    let texts = results.iter().map(|result| result.content);
    let texts: Vec<String> = texts
        .map(|content| text_of(content.map_or("", RawValue::get)))
        .collect();
    Some(ToolResult {
        text: texts.join(" "),
        is_of_a_call: results
            .iter()
            .all(|result| result.tool_call_id.as_ref().is_some_and(is_known)),
    })
}

/// The beginning of an answer that the conversation ends in.
fn prefix<'a>(messages: &[Message<'a>]) -> Option<&'a str> {
    let last = messages.last().filter(|last| last.role == "assistant")?;
    last.content.map(RawValue::get)
}

/// The ids of the calls of a message.
fn calls(message: &Message<'_>) -> Vec<String> {
    #[derive(Deserialize)]
    struct Call {
        id: String,
    }

    let calls = message.tool_calls.map_or("[]", RawValue::get);
    let calls: Vec<Call> = serde_json::from_str(calls).unwrap_or_default();
    calls.into_iter().map(|call| call.id).collect()
}

/// Azure names the model in the path, and wants to know which version of the API is meant.
pub(super) fn at_azure<'a>(
    request: &RawRequest,
    asked: Asked<'a>,
) -> Result<Asked<'a>, &'static str> {
    const DEPLOYMENTS: &str = "/openai/deployments/";
    let (path, query) = request.path_and_query();
    let Some((_, deployment)) = path.split_once(DEPLOYMENTS) else {
        return Ok(asked);
    };
    if !query
        .split('&')
        .any(|pair| pair.starts_with("api-version="))
    {
        return Err("the query has no api-version");
    }
    let name = deployment.split('/').next().unwrap_or_default();
    let name = percent_decode_str(name).decode_utf8_lossy();
    Ok(Asked {
        model_json: Cow::Owned(serde_json::Value::from(name).to_string()),
        ..asked
    })
}

/// A bearer token, or Azure's own header.
pub(super) fn key(request: &RawRequest) -> Option<&str> {
    let bearer = request.header("authorization");
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer "));
    bearer.or_else(|| request.header("api-key"))
}

/// <https://platform.openai.com/docs/guides/error-codes>
pub(super) fn error(problem: &Problem<'_>) -> Told {
    const INVALID: &str = "invalid_request_error";
    let told = |status, kind, code, message: &str| Told {
        status,
        body: serde_json::json!({
            "error": { "message": message, "type": kind, "param": null, "code": code }
        })
        .to_string()
        .into_bytes(),
    };
    match *problem {
        Problem::Refused(why) => told(400, INVALID, "mock_directive", why),
        Problem::WrongKey => told(
            401,
            INVALID,
            "invalid_api_key",
            "Incorrect API key provided.",
        ),
        Problem::Status(status, _) => {
            let (kind, code) = kind_and_code(status);
            told(status, kind, code, &format!("the mock answers {status}"))
        }
        Problem::ContextLength => told(
            400,
            INVALID,
            "context_length_exceeded",
            "This model's maximum context length is 8192 tokens.",
        ),
        Problem::ContentPolicy => told(
            400,
            INVALID,
            "content_policy_violation",
            "Your request was rejected by the content policy.",
        ),
        Problem::ModelNotFound => {
            told(404, INVALID, "model_not_found", "The model does not exist.")
        }
        Problem::Quota => told(
            429,
            "insufficient_quota",
            "insufficient_quota",
            "You exceeded your current quota.",
        ),
        Problem::Overloaded => told(503, "server_error", "overloaded", "the model fell over"),
    }
}

fn kind_and_code(status: u16) -> (&'static str, &'static str) {
    match status {
        401 => ("invalid_request_error", "invalid_api_key"),
        403 => ("permission_error", "forbidden"),
        404 => ("invalid_request_error", "model_not_found"),
        413 => ("invalid_request_error", "request_too_large"),
        429 => ("rate_limit_error", "rate_limit_exceeded"),
        400..=499 => ("invalid_request_error", "invalid_value"),
        503 | 529 => ("server_error", "overloaded"),
        _ => ("server_error", "internal_error"),
    }
}
