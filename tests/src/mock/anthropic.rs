//! Anthropic's Messages API: <https://platform.claude.com/docs/en/api/messages>.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answer::{Answer, Piece, arguments};
use super::asked::{Asked, ToolResult, Tools, text_of};
use super::connection::RawRequest;
use super::dialect::{Dialect, Events, Problem, Told};
use super::wire::{push_chunk, put};

/// Stands for the seal of a thought.
const SIGNATURE: &str = "bW9jaw==";

/// `POST …/messages`.
#[derive(Debug)]
pub(super) struct Messages;

/// `POST …/messages/count_tokens`: the answer is the prompt's tokens, of the usage.
#[derive(Debug)]
pub(super) struct CountTokens;

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
    #[serde(default)]
    max_tokens: Option<u64>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    role: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// What matters of a block; all fields of all kinds of blocks in one.
#[derive(Deserialize)]
struct Block {
    r#type: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    tool_use_id: String,
    #[serde(default)]
    content: Value,
}

impl Message<'_> {
    /// Its blocks; none when it is a string.
    fn blocks(&self) -> Vec<Block> {
        serde_json::from_str(self.content.get()).unwrap_or_default()
    }
}

/// Reads what both operations are asked with.
fn read<'a>(request: &'a RawRequest) -> Result<(Asked<'a>, Option<u64>), &'static str> {
    if request.header("anthropic-version").is_none() {
        return Err("anthropic-version: header is required");
    }
    let Ok(read) = serde_json::from_slice::<Request<'a>>(&request.body) else {
        return Err("the body is not a request for a message");
    };
    let users = read.messages.iter().rev().filter(|m| m.role == "user");
    let mut contents = users.map(|message| message.content.get());
    let last = contents.find(|content| !text_of(content).is_empty());
    let asked = Asked {
        stream: read.stream == Some(true),
        is_chat: true,
        metadata: read.metadata,
        tools: read.tools.map(|json| Tools { json, names }),
        result: result(&read.messages),
        prefix_json: prefix(&read.messages),
        ..Asked::new(Some(read.model), last.unwrap_or_default())
    };
    Ok((asked, read.max_tokens))
}

impl Dialect for Messages {
    fn read<'a>(&self, request: &'a RawRequest) -> Result<Asked<'a>, &'static str> {
        match read(request)? {
            (asked, Some(_)) => Ok(asked),
            (_, None) => Err("max_tokens: Field required"),
        }
    }

    fn key<'a>(&self, request: &'a RawRequest) -> Option<&'a str> {
        request.header("x-api-key")
    }

    fn whole(&self, answer: &Answer<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        push_message_start(answer, &mut out);
        if answer.thoughts() > 0 {
            out.extend_from_slice(br#"{"type":"thinking","thinking":""#);
            answer.push_thoughts(&mut out);
            put(&mut out, format_args!(r#"","signature":"{SIGNATURE}"}},"#));
        }
        match answer.call() {
            Some(name) => {
                let input = arguments();
                push_call(answer, name, &input, &mut out);
            }
            None => {
                out.extend_from_slice(br#"{"type":"text","text":""#);
                answer.push_text(&mut out);
                out.extend_from_slice(br#""}"#);
            }
        }
        put(
            &mut out,
            format_args!(
                r#"],"stop_reason":"{}","stop_sequence":null,"usage":"#,
                stop_reason(answer)
            ),
        );
        push_usage(answer, answer.pieces(), &mut out);
        out.push(b'}');
        out
    }

    fn error(&self, problem: &Problem<'_>) -> Told {
        error(problem)
    }

    fn push_error_event(&self, problem: &Problem<'_>, event: &mut Vec<u8>) {
        event.extend_from_slice(b"event: error\ndata: ");
        event.extend_from_slice(&error(problem).body);
        event.extend_from_slice(b"\n\n");
    }

    fn broken_event(&self) -> &'static [u8] {
        b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"ind"
    }

    fn events(&self) -> Option<&dyn Events> {
        Some(self)
    }
}

impl Events for Messages {
    fn push_start(&self, answer: &Answer<'_>, out: &mut Vec<u8>) {
        push_chunk(out, |chunk| {
            push_event(chunk, "message_start", |data| {
                data.extend_from_slice(br#","message":"#);
                push_message_start(answer, data);
                data.extend_from_slice(br#"],"stop_reason":null,"stop_sequence":null,"usage":"#);
                push_usage(answer, 1, data);
                data.push(b'}');
            });
            push_event(chunk, "ping", |_| {});
        });
    }

    fn push_piece(&self, answer: &Answer<'_>, index: u32, out: &mut Vec<u8>) {
        let is_first_of_block = index == answer.thoughts();
        push_chunk(out, |chunk| match answer.piece(index) {
            Piece::Thought(index) => {
                if index == 0 {
                    push_block_start(chunk, 0, |block| {
                        block.extend_from_slice(
                            br#"{"type":"thinking","thinking":"","signature":""}"#,
                        );
                    });
                }
                push_delta(chunk, 0, |delta| {
                    delta.extend_from_slice(br#""type":"thinking_delta","thinking":""#);
                    answer.push_thought(delta, index);
                });
                if index + 1 == answer.thoughts() {
                    push_delta(chunk, 0, |delta| {
                        put(
                            delta,
                            format_args!(r#""type":"signature_delta","signature":"{SIGNATURE}"#),
                        );
                    });
                    push_block_stop(chunk, 0);
                }
            }
            Piece::Token(index) => {
                let at = last_block(answer);
                if is_first_of_block {
                    push_text_start(chunk, at);
                }
                push_delta(chunk, at, |delta| {
                    delta.extend_from_slice(br#""type":"text_delta","text":""#);
                    answer.push_token(delta, index);
                });
            }
            Piece::Arguments(index) => {
                let at = last_block(answer);
                if let Some(name) = answer.call().filter(|_| index == 0) {
                    push_block_start(chunk, at, |block| push_call(answer, name, "{}", block));
                }
                push_delta(chunk, at, |delta| {
                    delta.extend_from_slice(br#""type":"input_json_delta","partial_json":""#);
                    answer.push_arguments(delta, index);
                });
            }
        });
    }

    fn push_finish(&self, answer: &Answer<'_>, out: &mut Vec<u8>) {
        push_chunk(out, |chunk| {
            if answer.tokens() == 0 {
                push_text_start(chunk, last_block(answer));
            }
            push_block_stop(chunk, last_block(answer));
            push_event(chunk, "message_delta", |data| {
                put(
                    data,
                    format_args!(
                        r#","delta":{{"stop_reason":"{}","stop_sequence":null}},"usage":"#,
                        stop_reason(answer)
                    ),
                );
                push_usage(answer, answer.pieces(), data);
            });
        });
    }

    fn push_done(&self, out: &mut Vec<u8>) {
        push_chunk(out, |chunk| push_event(chunk, "message_stop", |_| {}));
    }
}

impl Dialect for CountTokens {
    fn read<'a>(&self, request: &'a RawRequest) -> Result<Asked<'a>, &'static str> {
        let (asked, _) = read(request)?;
        Ok(Asked {
            stream: false,
            ..asked
        })
    }

    fn key<'a>(&self, request: &'a RawRequest) -> Option<&'a str> {
        Messages.key(request)
    }

    fn whole(&self, answer: &Answer<'_>) -> Vec<u8> {
        let count = json!({ "input_tokens": answer.prompt_tokens() });
        count.to_string().into_bytes()
    }

    fn error(&self, problem: &Problem<'_>) -> Told {
        error(problem)
    }
}

/// A message up to the beginning of its content.
fn push_message_start(answer: &Answer<'_>, out: &mut Vec<u8>) {
    put(
        out,
        format_args!(
            r#"{{"id":"msg_mock_{}","type":"message","role":"assistant","model":{},"content":["#,
            answer.serial, answer.asked.model_json
        ),
    );
}

fn push_call(answer: &Answer<'_>, name: &str, input: &str, out: &mut Vec<u8>) {
    put(
        out,
        format_args!(
            r#"{{"type":"tool_use","id":"toolu_mock_{}","name":{},"input":{input}}}"#,
            answer.serial,
            Value::from(name)
        ),
    );
}

/// Anthropic counts what it read from its cache apart.
fn push_usage(answer: &Answer<'_>, output_tokens: u32, out: &mut Vec<u8>) {
    let cached = answer.cached_tokens();
    put(
        out,
        format_args!(
            r#"{{"input_tokens":{},"cache_creation_input_tokens":0,"cache_read_input_tokens":{cached},"output_tokens":{output_tokens}"#,
            answer.prompt_tokens() - cached
        ),
    );
    let thoughts = answer.thoughts().min(output_tokens);
    if thoughts > 0 {
        put(
            out,
            format_args!(r#","output_tokens_details":{{"thinking_tokens":{thoughts}}}"#),
        );
    }
    out.push(b'}');
}

/// The event `name` whose data has the type and what is rendered after it.
fn push_event(out: &mut Vec<u8>, name: &str, render: impl FnOnce(&mut Vec<u8>)) {
    put(
        out,
        format_args!("event: {name}\ndata: {{\"type\":\"{name}\""),
    );
    render(out);
    out.extend_from_slice(b"}\n\n");
}

fn push_block_start(out: &mut Vec<u8>, index: u32, render: impl FnOnce(&mut Vec<u8>)) {
    push_event(out, "content_block_start", |data| {
        put(data, format_args!(r#","index":{index},"content_block":"#));
        render(data);
    });
}

fn push_text_start(out: &mut Vec<u8>, index: u32) {
    push_block_start(out, index, |block| {
        block.extend_from_slice(br#"{"type":"text","text":""}"#);
    });
}

/// A delta that is rendered up to, and without, the quote that ends its text.
fn push_delta(out: &mut Vec<u8>, index: u32, render: impl FnOnce(&mut Vec<u8>)) {
    push_event(out, "content_block_delta", |data| {
        put(data, format_args!(r#","index":{index},"delta":{{"#));
        render(data);
        data.extend_from_slice(br#""}"#);
    });
}

fn push_block_stop(out: &mut Vec<u8>, index: u32) {
    push_event(out, "content_block_stop", |data| {
        put(data, format_args!(r#","index":{index}"#));
    });
}

/// Index of the block of the text or of the call: that of the thoughts comes before it.
fn last_block(answer: &Answer<'_>) -> u32 {
    u32::from(answer.thoughts() > 0)
}

fn stop_reason<'a>(answer: &'a Answer<'_>) -> &'a str {
    match answer.finish() {
        "stop" => "end_turn",
        "length" => "max_tokens",
        "tool_calls" => "tool_use",
        "content_filter" => "refusal",
        other => other,
    }
}

/// The names of functions.
fn names(tools: &RawValue) -> Vec<String> {
    #[derive(Deserialize)]
    struct Tool {
        name: String,
    }

    let tools: Vec<Tool> = serde_json::from_str(tools.get()).unwrap_or_default();
    tools.into_iter().map(|tool| tool.name).collect()
}

/// The beginning of an answer that the conversation ends in.
fn prefix<'a>(messages: &[Message<'a>]) -> Option<&'a str> {
    let last = messages.last().filter(|last| last.role == "assistant")?;
    Some(last.content.get())
}

/// The results in the last message.
fn result(messages: &[Message<'_>]) -> Option<ToolResult> {
    let (last, before) = messages.split_last()?;
    let is_of = |kind: &'static str| move |block: &Block| block.r#type == kind;
    let results = last.blocks().into_iter().filter(is_of("tool_result"));
    let results: Vec<Block> = results.collect();
    if results.is_empty() {
        return None;
    }
    let calls = before.iter().flat_map(Message::blocks);
    let calls: Vec<Block> = calls.filter(is_of("tool_use")).collect();
    let is_known = |result: &Block| calls.iter().any(|call| call.id == result.tool_use_id);
    let texts: Vec<String> = results
        .iter()
        .map(|result| text_of(&result.content.to_string()))
        .collect();
    Some(ToolResult {
        text: texts.join(" "),
        is_of_a_call: results.iter().all(is_known),
    })
}

/// <https://platform.claude.com/docs/en/api/errors>
fn error(problem: &Problem<'_>) -> Told {
    const INVALID: &str = "invalid_request_error";
    let told = |status, kind, message: &str| Told {
        status,
        body: json!({
            "type": "error",
            "error": { "type": kind, "message": message },
            "request_id": "req_mock",
        })
        .to_string()
        .into_bytes(),
    };
    match *problem {
        Problem::Refused(why) => told(400, INVALID, why),
        Problem::WrongKey => told(401, "authentication_error", "invalid x-api-key"),
        Problem::Status(status, _) => {
            told(status, kind(status), &format!("the mock answers {status}"))
        }
        Problem::ContextLength => told(
            400,
            INVALID,
            "prompt is too long: 210000 tokens > 200000 maximum",
        ),
        Problem::ContentPolicy => told(400, INVALID, "Output blocked by content filtering policy"),
        Problem::ModelNotFound => told(404, "not_found_error", "model: mock"),
        Problem::Quota => told(
            400,
            INVALID,
            "Your credit balance is too low to access the Anthropic API.",
        ),
        Problem::Overloaded => told(529, "overloaded_error", "Overloaded"),
    }
}

fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        _ => "api_error",
    }
}
