//! A provider that speaks Anthropic's dialect.

use runtime::config::Api;
use schemas::attribute::{ANTHROPIC_BETA, ANTHROPIC_VERSION};
use schemas::fold::End;
use schemas::request::Endpoint;
use serde_json::{Value, json};

use super::{
    call, chat, finish_reason, frames, has_header, kinds, messages, recorded, said, served, target,
    uncalled, whole,
};
use crate::rig::{KEY, asks};
use crate::upstream::{Act, event, response, stream_head};

const STREAM: &str = include_str!("../../../../schemas/fixtures/anthropic/text/stream.sse");
const TOOLS: &str = include_str!("../../../../schemas/fixtures/anthropic/tools/stream.sse");
const ANSWER: &str = include_str!("../../../../schemas/fixtures/anthropic/text/answer.json");
const TOOLS_ANSWER: &str = include_str!("../../../../schemas/fixtures/anthropic/tools/answer.json");
const OVERLOADED: &str = include_str!("../../../../schemas/fixtures/anthropic/errors/529.json");
const TOO_LONG: &str =
    include_str!("../../../../schemas/fixtures/anthropic/errors/400-too-long.json");

/// The data of the events in a recording.
fn events(recording: &str) -> Vec<Value> {
    let data = recording
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_client_sees_the_stream_as_it_is_but_for_the_id() {
    let request = messages(json!({"stream": true, "thinking": {"type": "disabled"}}));
    let (answer, call) = served(Api::Anthropic, &request, || recorded(STREAM)).await;
    assert_eq!(target(&call), "POST /v1/messages");
    assert!(has_header(&call, &format!("x-api-key: {KEY}")));
    assert!(has_header(&call, "anthropic-version: 2023-06-01"));
    assert!(!call.head.to_lowercase().contains("authorization"));
    assert_eq!(call.body["model"], "m0");
    assert_eq!(call.body["thinking"], json!({"type": "disabled"}));
    let mut expected = events(STREAM);
    expected[0]["message"]["id"] = format!("msg_{}", request.id.suffix()).into();
    assert_eq!(frames(&answer), expected);
    let terminal = answer.terminal();
    assert!(!terminal.usage.unwrap().estimated);
    let body = answer.body();
    assert_eq!(body["id"], expected[0]["message"]["id"]);
    assert_eq!(body["type"], "message");
    assert!(!body["content"][0]["text"].as_str().unwrap().is_empty());
    assert!(terminal.attempts[0].first_token_micros.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_client_sees_a_whole_answer_as_it_is_but_for_the_id() {
    let request = messages(json!({}));
    let (answer, _) = served(Api::Anthropic, &request, || whole(ANSWER)).await;
    let mut expected: Value = serde_json::from_str(ANSWER).unwrap();
    expected["id"] = format!("msg_{}", request.id.suffix()).into();
    assert_eq!(answer.body(), expected);
    let usage = answer.terminal().usage.unwrap();
    assert_eq!(expected["usage"]["output_tokens"], usage.completion_tokens);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_client_names_a_version_and_features() {
    let mut request = messages(json!({}));
    let told = [
        (ANTHROPIC_BETA, "files-api-2025-04-14"),
        (ANTHROPIC_VERSION, "2023-01-01"),
    ];
    let told = told.map(|(name, value)| (name.to_owned(), value.to_owned()));
    request.attributes.extend(told);
    let (_, call) = served(Api::Anthropic, &request, || whole(ANSWER)).await;
    assert!(has_header(&call, "anthropic-beta: files-api-2025-04-14"));
    assert!(has_header(&call, "anthropic-version: 2023-01-01"));
    let versions = call.head.matches("anthropic-version").count();
    assert_eq!(versions, 1, "in place of ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_counts_tokens_and_that_costs_none() {
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    let request = asks(Endpoint::CountTokens, body);
    let (answer, call) = served(Api::Anthropic, &request, || whole(r#"{"input_tokens":17}"#)).await;
    assert_eq!(target(&call), "POST /v1/messages/count_tokens");
    assert_eq!(answer.body(), json!({"input_tokens": 17}));
    assert_eq!(answer.terminal().usage.unwrap().prompt_tokens, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_openai_reads_its_stream_of_text_and_calls() {
    let tools = json!([{"type": "function", "function": {
        "name": "get_weather", "parameters": {"type": "object", "properties": {}},
    }}]);
    let request = chat(json!({
        "stream": true, "stream_options": {"include_usage": true}, "tools": tools, "max_tokens": 9,
    }));
    let (answer, call) = served(Api::Anthropic, &request, || recorded(TOOLS)).await;
    assert_eq!(target(&call), "POST /v1/messages");
    assert_eq!(call.body["max_tokens"], 9);
    assert_eq!(call.body["stream"], true);
    assert_eq!(call.body["tools"][0]["name"], "get_weather");
    let frames = frames(&answer);
    let id = format!("chatcmpl-{}", request.id.suffix());
    assert!(frames.iter().all(|frame| frame["id"] == *id));
    assert!(
        frames
            .iter()
            .all(|frame| frame["model"] == "claude-sonnet-4-5-20250929")
    );
    assert_eq!(frames[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(said(&frames, "content"), "Let me see.");
    assert_eq!(finish_reason(&frames), "tool_calls");
    let calls: Vec<&Value> = frames
        .iter()
        .filter_map(|frame| frame["choices"][0]["delta"]["tool_calls"].as_array())
        .flatten()
        .collect();
    let arguments = |index: i32| -> String {
        let pieces = calls.iter().filter(|call| call["index"] == index);
        pieces
            .filter_map(|call| call["function"]["arguments"].as_str())
            .collect()
    };
    assert_eq!(calls[0]["id"], "toolu_01T1x1fJ34qAmk2tNTrN7Up6");
    assert_eq!(calls[0]["function"]["name"], "get_weather");
    assert_eq!(
        arguments(0),
        r#"{"location": "London, UK", "unit": "celsius"}"#
    );
    let usage = &frames.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens"], 89);
    let body = answer.body();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(
        body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"],
        arguments(0)
    );
    assert_eq!(answer.terminal().usage.unwrap().completion_tokens, 89);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_openai_reads_its_whole_answer() {
    let (answer, call) = served(Api::Anthropic, &chat(json!({})), || whole(TOOLS_ANSWER)).await;
    assert!(
        call.body["max_tokens"].as_i64().unwrap() > 0,
        "it demands one"
    );
    let body = answer.body();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["finish_reason"], "tool_calls");
    assert!(body["choices"][0]["message"]["tool_calls"][0]["id"].is_string());
    assert!(body["usage"]["prompt_tokens"].as_i64().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_legacy_completions_reads_its_text() {
    let request = asks(
        Endpoint::Completions,
        json!({"prompt": "Say hi", "stream": true}),
    );
    let (answer, call) = served(Api::Anthropic, &request, || recorded(STREAM)).await;
    assert_eq!(call.body["messages"][0]["role"], "user");
    let frames = frames(&answer);
    assert!(
        frames
            .iter()
            .all(|frame| frame["object"] == "text_completion")
    );
    let text: String = frames
        .iter()
        .filter_map(|frame| frame["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(answer.body()["choices"][0]["text"], text);
    assert!(!text.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn its_errors_are_told_in_words_that_every_dialect_has() {
    let refused = || vec![response(400, "application/json", "", TOO_LONG)];
    let (answer, _) = call(Api::Anthropic, &chat(json!({})), refused).await;
    let error = answer.terminal().error.clone().unwrap();
    assert_eq!(error.status, 400);
    assert!(
        schemas::dialect::openai::is_context_length(&error),
        "{error:?}"
    );
    let overloaded = || {
        vec![response(
            529,
            "application/json",
            "request-id: up-7\r\n",
            OVERLOADED,
        )]
    };
    let (answer, _) = call(Api::Anthropic, &messages(json!({})), overloaded).await;
    assert_eq!(answer.code(), "upstream_failed");
    let attempts = &answer.terminal().attempts;
    assert_eq!(attempts.len(), 3, "it passes");
    assert_eq!(attempts[0].upstream_request_id.as_deref(), Some("up-7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_its_stream_is_passed_on_and_a_cut_is_no_end() {
    let until_text = || {
        let whole_events = STREAM.split_inclusive("\n\n");
        let part: String = whole_events
            .take_while(|event| !event.contains("content_block_stop"))
            .collect();
        part
    };
    for request in [
        chat(json!({"stream": true})),
        messages(json!({"stream": true})),
    ] {
        let overloaded =
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
        let (answer, _) = call(Api::Anthropic, &request, move || {
            vec![
                stream_head(),
                Act::Send(until_text()),
                event(overloaded),
                Act::Close,
            ]
        })
        .await;
        assert_eq!(answer.fold.end, Some(End::Failed));
        assert!(answer.terminal().partial);
        let again = schemas::request::Request {
            id: schemas::id::RequestId::new(request.id.reply()),
            ..request
        };
        let (answer, _) = call(Api::Anthropic, &again, move || {
            vec![stream_head(), Act::Send(until_text()), Act::Close]
        })
        .await;
        assert_eq!(answer.code(), "upstream_cut");
        assert!(answer.terminal().usage.unwrap().estimated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_its_last_word_gets_one() {
    let events = STREAM.split_inclusive("\n\n");
    let without: String = events
        .filter(|event| !event.contains("message_stop"))
        .collect();
    let request = messages(json!({"stream": true}));
    let (answer, _) = served(Api::Anthropic, &request, move || recorded(&without)).await;
    let frames = frames(&answer);
    assert_eq!(kinds(&frames).last(), Some(&"message_stop"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_say_is_refused_without_a_call() {
    let answer = uncalled(Api::Anthropic, &chat(json!({"n": 2}))).await;
    let error = answer.terminal().error.clone().unwrap();
    assert_eq!((error.status, error.param.as_deref()), (400, Some("n")));
    let request = asks(Endpoint::Embeddings, json!({"input": "hi"}));
    let answer = uncalled(Api::Anthropic, &request).await;
    assert_eq!(answer.terminal().status, 400);
    assert_eq!(answer.code(), "operation_not_served");
    assert!(
        answer
            .terminal()
            .error
            .as_ref()
            .unwrap()
            .message
            .contains("embeddings")
    );
}
