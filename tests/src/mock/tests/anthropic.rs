//! Anthropic's dialect.

use serde_json::{Value, json};

use super::super::Mock;
use super::{PATIENCE, post};

const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");
const CALL: &str = "mock:tool=get_weather";

fn message(prompt: &str, stream: bool) -> Value {
    json!({
        "model": "claude",
        "max_tokens": 64,
        "stream": stream,
        "system": "be brief",
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": prompt }] }],
    })
}

async fn send(mock: &Mock, body: &Value) -> reqwest::Response {
    let headers = [VERSION, ("x-request-id", "req_a")];
    post(mock, "/v1/messages", &headers, body).await
}

/// Names and data of the events of a whole stream.
fn events(body: &str) -> Vec<(&str, Value)> {
    let events = body.split("\n\n").filter(|event| !event.is_empty());
    events
        .map(|event| {
            let (name, data) = event.split_once('\n').unwrap();
            let name = name.strip_prefix("event: ").unwrap();
            let data = data.strip_prefix("data: ").unwrap();
            (name, serde_json::from_str(data).unwrap())
        })
        .collect()
}

#[tokio::test]
async fn a_whole_answer_is_a_message() {
    let mock = Mock::start().unwrap();
    let prompt = "mock:tokens=2,think=1,cached=3,finish=length";
    let answer: Value = send(&mock, &message(prompt, false))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(answer["type"], "message");
    assert_eq!(answer["model"], "claude");
    assert_eq!(
        answer["content"],
        json!([
            { "type": "thinking", "thinking": "thought0 ", "signature": "bW9jaw==" },
            { "type": "text", "text": "tok0 tok1 " },
        ])
    );
    assert_eq!(answer["stop_reason"], "max_tokens");
    assert_eq!(
        answer["usage"],
        json!({
            "input_tokens": 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "output_tokens": 3,
            "output_tokens_details": { "thinking_tokens": 1 },
        })
    );
    let call = &mock.calls_of("req_a")[0];
    assert_eq!(
        (call.path.as_str(), call.model.as_str()),
        ("/v1/messages", "claude")
    );
    assert_eq!(call.prompt, prompt);
    assert_eq!(call.json(), message(prompt, false));
}

#[tokio::test]
async fn a_stream_goes_from_message_start_to_message_stop() {
    let mock = Mock::start().unwrap();
    let answer = send(&mock, &message("mock:tokens=2,think=1", true)).await;
    let text = answer.text().await.unwrap();
    let events = events(&text);
    let names: Vec<&str> = events.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "message_start",
            "ping",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    assert!(events.iter().all(|(name, data)| data["type"] == *name));
    assert_eq!(events[0].1["message"]["usage"]["output_tokens"], 1);
    assert_eq!(events[3].1["delta"]["thinking"], "thought0 ");
    assert_eq!(events[4].1["delta"]["type"], "signature_delta");
    assert_eq!(events[7].1["index"], 1);
    assert_eq!(
        events[8].1["delta"],
        json!({ "type": "text_delta", "text": "tok1 " })
    );
    assert_eq!(events[10].1["delta"]["stop_reason"], "end_turn");
    assert_eq!(events[10].1["usage"]["output_tokens"], 3);
}

#[tokio::test]
async fn a_function_is_called_and_its_result_is_told() {
    let mock = Mock::start().unwrap();
    let mut body = message(CALL, false);
    body["tools"] = json!([{ "name": "get_weather", "input_schema": { "type": "object" } }]);
    let answer: Value = send(&mock, &body).await.json().await.unwrap();
    assert_eq!(answer["stop_reason"], "tool_use");
    let call = &answer["content"][0];
    assert_eq!(call["type"], "tool_use");
    assert_eq!(call["input"], json!({ "city": "Paris" }));

    body["stream"] = json!(true);
    let text = send(&mock, &body).await.text().await.unwrap();
    let events = events(&text);
    assert_eq!(events[2].1["content_block"]["name"], "get_weather");
    assert_eq!(events[2].1["content_block"]["input"], json!({}));
    let input: String = events
        .iter()
        .filter_map(|(_, data)| data["delta"]["partial_json"].as_str())
        .collect();
    assert_eq!(input, r#"{"city":"Paris"}"#);

    body["stream"] = json!(false);
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({ "role": "assistant", "content": answer["content"] }));
    messages.push(json!({ "role": "user", "content": [
        { "type": "tool_result", "tool_use_id": call["id"], "content": [{ "type": "text", "text": "21 degrees" }] },
    ] }));
    let answer: Value = send(&mock, &body).await.json().await.unwrap();
    assert_eq!(answer["content"][0]["text"], "get_weather says 21 degrees ");
    assert_eq!(answer["stop_reason"], "end_turn");
    body["messages"][2]["content"][0]["tool_use_id"] = json!("toolu_of_nobody");
    assert_eq!(send(&mock, &body).await.status(), 400);
}

#[tokio::test]
async fn a_begun_answer_is_continued() {
    let mock = Mock::start().unwrap();
    let mut body = message("mock:tokens=3,continue", true);
    let begun = json!({ "role": "assistant", "content": "" });
    body["messages"].as_array_mut().unwrap().push(begun);
    // Anthropic refuses blanks at the end.
    for (prefix, rest, tokens) in [("tok0 tok1", "tok2 ", 1), ("tok0 tok1 tok2", "", 0)] {
        body["messages"][1]["content"] = json!(prefix);
        let text = send(&mock, &body).await.text().await.unwrap();
        let events = events(&text);
        let said: String = events
            .iter()
            .filter_map(|(_, data)| data["delta"]["text"].as_str())
            .collect();
        assert_eq!(said, rest);
        let blocks = events
            .iter()
            .filter(|(name, _)| name.starts_with("content_block_st"));
        assert_eq!(blocks.count(), 2, "{text}");
        let delta = events
            .iter()
            .find(|(name, _)| *name == "message_delta")
            .unwrap();
        assert_eq!(delta.1["usage"]["output_tokens"], tokens);
    }
}

#[tokio::test]
async fn tokens_are_counted() {
    let mock = Mock::start().unwrap();
    let path = "/v1/messages/count_tokens";
    let body = message("mock:prompt_tokens=42", true);
    let answer = post(&mock, path, &[VERSION], &body).await;
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer, json!({ "input_tokens": 42 }));
}

#[tokio::test]
async fn errors_have_anthropics_form() {
    let mock = Mock::start().unwrap();
    for (directive, status, kind) in [
        ("status=400", 400, "invalid_request_error"),
        ("status=401", 401, "authentication_error"),
        ("status=429", 429, "rate_limit_error"),
        ("status=500", 500, "api_error"),
        ("status=529", 529, "overloaded_error"),
        ("model_not_found", 404, "not_found_error"),
        ("context_length", 400, "invalid_request_error"),
        ("quota", 400, "invalid_request_error"),
        ("key=secret", 401, "authentication_error"),
        ("frobnicate", 400, "invalid_request_error"),
        (
            CALL.trim_start_matches("mock:"),
            400,
            "invalid_request_error",
        ),
    ] {
        let answer = send(&mock, &message(&format!("mock:{directive}"), true)).await;
        assert_eq!(answer.status(), status, "{directive}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["type"], "error", "{directive}");
        assert_eq!(body["error"]["type"], kind, "{directive}");
    }
    let with_key = [VERSION, ("x-api-key", "secret")];
    let body = message("mock:key=secret", false);
    let answer = post(&mock, "/v1/messages", &with_key, &body).await;
    assert_eq!(answer.status(), 200);
    let unversioned = post(&mock, "/v1/messages", &[], &body).await;
    assert_eq!(unversioned.status(), 400);
    let mut endless = message("hello", false);
    endless.as_object_mut().unwrap().remove("max_tokens");
    assert_eq!(send(&mock, &endless).await.status(), 400);
}

#[tokio::test]
async fn faults_strike_streams() {
    let mock = Mock::start().unwrap();
    for (directive, tokens, last) in [
        ("cut_cleanly", 1, "content_block_delta"),
        ("error_event", 1, "error"),
        ("no_done", 3, "message_delta"),
    ] {
        let prompt = format!("mock:tokens=3,{directive}");
        let text = send(&mock, &message(&prompt, true))
            .await
            .text()
            .await
            .unwrap();
        let events = events(&text);
        assert_eq!(text.matches("text_delta").count(), tokens, "{directive}");
        assert_eq!(events.last().unwrap().0, last, "{directive}");
    }
    let first = send(&mock, &message("mock:error_first", true)).await;
    let text = first.text().await.unwrap();
    assert_eq!(events(&text)[0].1["error"]["type"], "overloaded_error");
    let cut = send(&mock, &message("mock:tokens=3,cut", true)).await;
    cut.text().await.unwrap_err();
    let broken = send(&mock, &message("mock:tokens=3,broken_event", true)).await;
    let text = broken.text().await.unwrap();
    let is_whole = |event: &str| {
        let data = event.split_once("data: ").map(|(_, data)| data);
        data.is_some_and(|data| serde_json::from_str::<Value>(data).is_ok())
    };
    let broken = text
        .split_terminator("\n\n")
        .filter(|event| !is_whole(event));
    assert_eq!(broken.count(), 1);
    assert!(text.contains("message_stop"));
    let useless = send(&mock, &message("mock:missing_choices", false)).await;
    let useless: Value = useless.json().await.unwrap();
    assert!(useless["type"] == "message" && useless.get("content").is_none());
}

#[tokio::test]
async fn held_streams_wait_for_their_release() {
    let mock = Mock::start().unwrap();
    let body = message("mock:hold=1,tokens=2", true);
    let (answer, ()) = futures::join!(
        async { send(&mock, &body).await.text().await.unwrap() },
        async {
            mock.wait_until(PATIENCE, |s| s.held == 1).await.unwrap();
            mock.release_id("req_a");
        }
    );
    assert!(answer.contains("message_stop"));
}
