//! Google's Gemini API: <https://ai.google.dev/api/generate-content>, <https://ai.google.dev/api/embeddings>.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answer::{Answer, Piece, arguments, is_last_of_arguments};
use super::asked::{Asked, Embed, ToolResult, Tools, text_of};
use super::connection::RawRequest;
use super::dialect::{Dialect, Events, Problem, Told};
use super::embeddings::{DIMENSIONS, DIMENSIONS_MAX, vectors};
use super::wire::{push_chunk, put};

/// `POST …/models/{model}:generateContent` and `…:streamGenerateContent?alt=sse`.
#[derive(Debug)]
pub(super) struct Content;

/// `POST …/models/{model}:batchEmbedContents`.
#[derive(Debug)]
pub(super) struct BatchEmbed;

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    contents: Vec<Turn<'a>>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(default)]
    role: String,
    #[serde(borrow)]
    parts: &'a RawValue,
}

/// What matters of a part; all fields of all kinds of parts in one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    function_call: Option<Named>,
    function_response: Option<Response>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Response {
    name: String,
    response: Value,
}

impl Turn<'_> {
    fn parts(&self) -> Vec<Part> {
        serde_json::from_str(self.parts.get()).unwrap_or_default()
    }
}

impl Dialect for Content {
    fn read<'a>(&self, request: &'a RawRequest) -> Result<Asked<'a>, &'static str> {
        let Ok(read) = serde_json::from_slice::<Request<'a>>(&request.body) else {
            return Err("the body is not a request for content");
        };
        let (path, query) = request.path_and_query();
        let stream = path.ends_with(":streamGenerateContent");
        if stream && !query.split('&').any(|pair| pair == "alt=sse") {
            return Err("the mock streams with alt=sse alone");
        }
        let users = read
            .contents
            .iter()
            .rev()
            .filter(|turn| turn.role != "model");
        let mut parts = users.map(|turn| turn.parts.get());
        let last = parts.find(|parts| !text_of(parts).is_empty());
        Ok(Asked {
            model_json: model_json(path),
            stream,
            is_chat: true,
            tools: read.tools.map(|json| Tools { json, names }),
            result: result(&read.contents),
            ..Asked::new(None, last.unwrap_or_default())
        })
    }

    fn key<'a>(&self, request: &'a RawRequest) -> Option<&'a str> {
        key(request)
    }

    fn whole(&self, answer: &Answer<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(br#"{"candidates":[{"content":{"parts":["#);
        if answer.thoughts() > 0 {
            push_text(&mut out, true, |out| answer.push_thoughts(out));
            out.push(b',');
        }
        match answer.call() {
            Some(name) => push_call(answer, name, &mut out),
            None => push_text(&mut out, false, |out| answer.push_text(out)),
        }
        put(
            &mut out,
            format_args!(
                r#"],"role":"model"}},"finishReason":"{}","index":0}}]"#,
                finish_reason(answer)
            ),
        );
        push_rest(answer, true, &mut out);
        out
    }

    fn error(&self, problem: &Problem<'_>) -> Told {
        error(problem)
    }

    fn push_error_event(&self, problem: &Problem<'_>, event: &mut Vec<u8>) {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(&error(problem).body);
        event.extend_from_slice(END);
    }

    fn broken_event(&self) -> &'static [u8] {
        br#"data: {"candidates": [{"content": {"par"#
    }

    fn events(&self) -> Option<&dyn Events> {
        Some(self)
    }
}

impl Events for Content {
    /// Gemini says nothing before its first piece.
    fn push_start(&self, _: &Answer<'_>, _: &mut Vec<u8>) {}

    /// Calls come whole, with the last piece of their arguments.
    fn push_piece(&self, answer: &Answer<'_>, index: u32, out: &mut Vec<u8>) {
        match answer.piece(index) {
            Piece::Thought(index) => push_event(answer, out, |event| {
                push_text(event, true, |out| answer.push_thought(out, index));
            }),
            Piece::Token(index) => push_event(answer, out, |event| {
                push_text(event, false, |out| answer.push_token(out, index));
            }),
            Piece::Arguments(index) => {
                if let Some(name) = answer.call().filter(|_| is_last_of_arguments(index)) {
                    push_event(answer, out, |event| push_call(answer, name, event));
                }
            }
        }
    }

    fn push_finish(&self, answer: &Answer<'_>, out: &mut Vec<u8>) {
        push_chunk(out, |event| {
            put(
                event,
                format_args!(
                    r#"data: {{"candidates":[{{"content":{{"parts":[{{"text":""}}],"role":"model"}},"finishReason":"{}","index":0}}]"#,
                    finish_reason(answer)
                ),
            );
            push_rest(answer, true, event);
            event.extend_from_slice(END);
        });
    }

    /// Gemini has no event for the end.
    fn push_done(&self, _: &mut Vec<u8>) {}
}

#[derive(Deserialize)]
struct EmbedRequests<'a> {
    #[serde(borrow)]
    requests: Vec<EmbedRequest<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EmbedRequest<'a> {
    #[serde(borrow)]
    content: Turn<'a>,
    output_dimensionality: Option<usize>,
}

impl Dialect for BatchEmbed {
    fn read<'a>(&self, request: &'a RawRequest) -> Result<Asked<'a>, &'static str> {
        let Ok(read) = serde_json::from_slice::<EmbedRequests<'a>>(&request.body) else {
            return Err("the body is not a batch of requests for embeddings");
        };
        let Some(last) = read.requests.last() else {
            return Err("the batch is empty");
        };
        let dimensions = last.output_dimensionality.unwrap_or(DIMENSIONS);
        if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
            return Err("outputDimensionality is out of bounds");
        }
        let texts = read
            .requests
            .iter()
            .map(|one| text_of(one.content.parts.get()));
        let (path, _) = request.path_and_query();
        Ok(Asked {
            model_json: model_json(path),
            embed: Some(Embed {
                texts: texts.collect(),
                dimensions,
                base64: false,
            }),
            ..Asked::new(None, last.content.parts.get())
        })
    }

    fn key<'a>(&self, request: &'a RawRequest) -> Option<&'a str> {
        key(request)
    }

    fn whole(&self, answer: &Answer<'_>) -> Vec<u8> {
        let vectors = vectors(answer).into_iter();
        let embeddings: Vec<Value> = vectors.map(|values| json!({ "values": values })).collect();
        let body = json!({
            "embeddings": embeddings,
            "usageMetadata": { "promptTokenCount": answer.prompt_tokens() },
        });
        body.to_string().into_bytes()
    }

    fn error(&self, problem: &Problem<'_>) -> Told {
        error(problem)
    }
}

/// The end of an event: Google's lines end as HTTP's do.
const END: &[u8] = b"\r\n\r\n";

/// The model as a JSON string, out of `…/models/{model}:{operation}`.
fn model_json(path: &str) -> Cow<'static, str> {
    let model = path
        .rsplit_once("/models/")
        .map_or(path, |(_, model)| model);
    let model = model.rsplit_once(':').map_or(model, |(model, _)| model);
    let model = percent_decode_str(model).decode_utf8_lossy();
    Cow::Owned(Value::from(model).to_string())
}

/// Google takes a key in the header and in the query; only the header keeps it out of logs.
fn key(request: &RawRequest) -> Option<&str> {
    request.header("x-goog-api-key")
}

/// The event whose candidate has the one part that is rendered.
fn push_event(answer: &Answer<'_>, out: &mut Vec<u8>, render: impl FnOnce(&mut Vec<u8>)) {
    push_chunk(out, |event| {
        event.extend_from_slice(br#"data: {"candidates":[{"content":{"parts":["#);
        render(event);
        event.extend_from_slice(br#"],"role":"model"},"index":0}]"#);
        push_rest(answer, false, event);
        event.extend_from_slice(END);
    });
}

fn push_text(out: &mut Vec<u8>, is_thought: bool, render: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(br#"{"text":""#);
    render(out);
    out.extend_from_slice(if is_thought {
        br#"","thought":true}"#
    } else {
        br#""}"#
    });
}

fn push_call(answer: &Answer<'_>, name: &str, out: &mut Vec<u8>) {
    put(
        out,
        format_args!(
            r#"{{"functionCall":{{"id":"mock-{}","name":{},"args":{}}},"thoughtSignature":"bW9jaw=="}}"#,
            answer.serial,
            Value::from(name),
            arguments()
        ),
    );
}

/// What follows the candidates; before the end, the usage has no tokens of the answer yet.
fn push_rest(answer: &Answer<'_>, is_end: bool, out: &mut Vec<u8>) {
    let (prompt, thoughts) = (answer.prompt_tokens(), answer.thoughts());
    put(
        out,
        format_args!(r#","usageMetadata":{{"promptTokenCount":{prompt},"#),
    );
    if answer.cached_tokens() > 0 {
        put(
            out,
            format_args!(r#""cachedContentTokenCount":{},"#, answer.cached_tokens()),
        );
    }
    let said = if is_end {
        put(
            out,
            format_args!(r#""candidatesTokenCount":{},"#, answer.tokens()),
        );
        if thoughts > 0 {
            put(out, format_args!(r#""thoughtsTokenCount":{thoughts},"#));
        }
        answer.pieces()
    } else {
        0
    };
    put(
        out,
        format_args!(
            r#""totalTokenCount":{}}},"modelVersion":{},"responseId":"mock-{}"}}"#,
            prompt + said,
            answer.asked.model_json,
            answer.serial
        ),
    );
}

/// `STOP` is said of calls, too.
fn finish_reason<'a>(answer: &'a Answer<'_>) -> &'a str {
    match answer.finish() {
        "stop" | "tool_calls" => "STOP",
        "length" => "MAX_TOKENS",
        "content_filter" => "SAFETY",
        other => other,
    }
}

/// The names of functions.
fn names(tools: &RawValue) -> Vec<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Tool {
        #[serde(default)]
        function_declarations: Vec<Named>,
    }

    let tools: Vec<Tool> = serde_json::from_str(tools.get()).unwrap_or_default();
    let functions = tools
        .into_iter()
        .flat_map(|tool| tool.function_declarations);
    functions.map(|function| function.name).collect()
}

/// The results in the last turn. Before Gemini 3 calls have no ids: names tell what belongs together.
fn result(contents: &[Turn<'_>]) -> Option<ToolResult> {
    let (last, before) = contents.split_last()?;
    let parts = last.parts().into_iter();
    let results: Vec<Response> = parts.filter_map(|part| part.function_response).collect();
    if results.is_empty() {
        return None;
    }
    let parts = before.iter().flat_map(Turn::parts);
    let calls: Vec<Named> = parts.filter_map(|part| part.function_call).collect();
    let is_known = |result: &Response| calls.iter().any(|call| call.name == result.name);
    let texts: Vec<String> = results
        .iter()
        .map(|result| match result.response["output"].as_str() {
            Some(text) => text.to_owned(),
            None => result.response.to_string(),
        })
        .collect();
    Some(ToolResult {
        text: texts.join(" "),
        is_of_a_call: results.iter().all(is_known),
    })
}

/// `google.rpc.Status` as JSON: <https://google.aip.dev/193>.
fn error(problem: &Problem<'_>) -> Told {
    let told = |status: u16, message: &str, details: Value| {
        Told {
        status,
        body: json!({
            "error": { "code": status, "message": message, "status": name(status), "details": details }
        })
        .to_string()
        .into_bytes(),
    }
    };
    match *problem {
        Problem::Refused(why) => told(400, why, json!([])),
        // 400, and only the details tell what it is.
        Problem::WrongKey => told(
            400,
            "API key not valid. Please pass a valid API key.",
            json!([{
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
            }]),
        ),
        Problem::Status(status, retry_after) => {
            let mut details = Vec::new();
            if let Some(seconds) = retry_after {
                details.push(json!({
                    "@type": "type.googleapis.com/google.rpc.RetryInfo",
                    "retryDelay": format!("{seconds}s"),
                }));
            }
            let message = format!("the mock answers {status}");
            told(status, &message, Value::Array(details))
        }
        Problem::ContextLength => told(
            400,
            "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).",
            json!([]),
        ),
        // Not an error but an answer without candidates.
        Problem::ContentPolicy => Told {
            status: 200,
            body: json!({
                "promptFeedback": { "blockReason": "PROHIBITED_CONTENT" },
                "usageMetadata": { "promptTokenCount": 7, "totalTokenCount": 7 },
                "modelVersion": "mock",
            })
            .to_string()
            .into_bytes(),
        },
        Problem::ModelNotFound => told(
            404,
            "models/mock is not found for API version v1beta",
            json!([]),
        ),
        Problem::Quota => told(429, "You exceeded your current quota.", json!([])),
        Problem::Overloaded => told(503, "The model is overloaded.", json!([])),
    }
}

/// The canonical name of a status.
fn name(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        400..=498 => "INVALID_ARGUMENT",
        501 => "UNIMPLEMENTED",
        503 | 529 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    }
}
