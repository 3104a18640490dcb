//! Gemini's dialect.

use serde_json::{Value, json};

use super::super::{Mock, embedding};
use super::post;

const WHOLE: &str = "/v1beta/models/gemini-2.5-pro:generateContent";
const STREAM: &str = "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse";
const CALL: &str = "mock:tool=get_weather";

fn content(prompt: &str) -> Value {
    json!({
        "contents": [{ "role": "user", "parts": [{ "text": prompt }] }],
        "generationConfig": {},
    })
}

async fn send(mock: &Mock, path: &str, body: &Value) -> reqwest::Response {
    post(mock, path, &[("x-request-id", "req_g")], body).await
}

/// The data of the events of a whole stream.
fn events(body: &str) -> Vec<Value> {
    let events = body.split_terminator("\r\n\r\n");
    events
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}

#[tokio::test]
async fn a_whole_answer_is_a_candidate() {
    let mock = Mock::start().unwrap();
    let prompt = "mock:tokens=2,think=1,cached=3,finish=length";
    let answer: Value = send(&mock, WHOLE, &content(prompt))
        .await
        .json()
        .await
        .unwrap();
    let candidate = &answer["candidates"][0];
    assert_eq!(
        candidate["content"],
        json!({
            "parts": [{ "text": "thought0 ", "thought": true }, { "text": "tok0 tok1 " }],
            "role": "model",
        })
    );
    assert_eq!(candidate["finishReason"], "MAX_TOKENS");
    assert_eq!(
        answer["usageMetadata"],
        json!({
            "promptTokenCount": 7,
            "cachedContentTokenCount": 3,
            "candidatesTokenCount": 2,
            "thoughtsTokenCount": 1,
            "totalTokenCount": 10,
        })
    );
    assert_eq!(answer["modelVersion"], "gemini-2.5-pro");
    let call = &mock.calls_of("req_g")[0];
    assert_eq!(
        (call.path.as_str(), call.model.as_str()),
        (WHOLE, "gemini-2.5-pro")
    );
    assert_eq!(call.prompt, prompt);
}

#[tokio::test]
async fn a_stream_ends_with_a_finish_reason_and_no_mark() {
    let mock = Mock::start().unwrap();
    let answer = send(&mock, STREAM, &content("mock:tokens=2,think=1")).await;
    let events = events(&answer.text().await.unwrap());
    let part = |index: usize| &events[index]["candidates"][0]["content"]["parts"][0];
    assert_eq!(part(0), &json!({ "text": "thought0 ", "thought": true }));
    assert_eq!(part(1)["text"], "tok0 ");
    assert_eq!(part(2)["text"], "tok1 ");
    assert_eq!(events.len(), 4);
    assert_eq!(events[3]["candidates"][0]["finishReason"], "STOP");
    assert_eq!(events[3]["usageMetadata"]["totalTokenCount"], 10);
    let is_early = |event: &Value| event["usageMetadata"].get("candidatesTokenCount").is_none();
    assert!(events[..3].iter().all(is_early));
    let unnamed = STREAM.trim_end_matches("?alt=sse");
    assert_eq!(send(&mock, unnamed, &content("hello")).await.status(), 400);
}

#[tokio::test]
async fn a_function_is_called_and_its_result_is_told() {
    let mock = Mock::start().unwrap();
    let mut body = content(CALL);
    body["tools"] = json!([{ "functionDeclarations": [{ "name": "get_weather" }] }]);
    let answer: Value = send(&mock, WHOLE, &body).await.json().await.unwrap();
    let content = &answer["candidates"][0]["content"];
    assert_eq!(
        content["parts"][0]["functionCall"]["args"],
        json!({ "city": "Paris" })
    );
    assert_eq!(answer["candidates"][0]["finishReason"], "STOP");

    let text = send(&mock, STREAM, &body).await.text().await.unwrap();
    let events = events(&text);
    let part = &events[0]["candidates"][0]["content"]["parts"][0];
    assert_eq!(part["functionCall"]["name"], "get_weather");
    assert_eq!(events.len(), 2);

    let contents = body["contents"].as_array_mut().unwrap();
    contents.push(content.clone());
    contents.push(json!({ "role": "user", "parts": [{ "functionResponse": {
        "name": "get_weather",
        "response": { "output": "21 degrees" },
    } }] }));
    let answer: Value = send(&mock, WHOLE, &body).await.json().await.unwrap();
    let part = &answer["candidates"][0]["content"]["parts"][0];
    assert_eq!(part["text"], "get_weather says 21 degrees ");
    body["contents"][2]["parts"][0]["functionResponse"]["name"] = json!("other");
    assert_eq!(send(&mock, WHOLE, &body).await.status(), 400);
}

#[tokio::test]
async fn texts_become_vectors_in_order() {
    let mock = Mock::start().unwrap();
    let one = |text: &str| {
        json!({
            "model": "models/e",
            "content": { "parts": [{ "text": text }] },
            "outputDimensionality": 3,
        })
    };
    let body = json!({ "requests": [one("one"), one("two")] });
    let path = "/v1beta/models/e:batchEmbedContents";
    let answer: Value = send(&mock, path, &body).await.json().await.unwrap();
    let values = [embedding("one", 3), embedding("two", 3)];
    assert_eq!(
        answer["embeddings"],
        json!([{ "values": values[0] }, { "values": values[1] }])
    );
    let empty = send(&mock, path, &json!({ "requests": [] })).await;
    assert_eq!(empty.status(), 400);
}

#[tokio::test]
async fn errors_have_googles_form() {
    let mock = Mock::start().unwrap();
    for (directive, status, name) in [
        ("status=400", 400, "INVALID_ARGUMENT"),
        ("status=401", 401, "UNAUTHENTICATED"),
        ("status=429,retry_after=2", 429, "RESOURCE_EXHAUSTED"),
        ("status=500", 500, "INTERNAL"),
        ("status=503", 503, "UNAVAILABLE"),
        ("context_length", 400, "INVALID_ARGUMENT"),
        ("model_not_found", 404, "NOT_FOUND"),
        ("key=secret", 400, "INVALID_ARGUMENT"),
        ("frobnicate", 400, "INVALID_ARGUMENT"),
        (CALL.trim_start_matches("mock:"), 400, "INVALID_ARGUMENT"),
    ] {
        let answer = send(&mock, STREAM, &content(&format!("mock:{directive}"))).await;
        assert_eq!(answer.status(), status, "{directive}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"]["status"], name, "{directive}");
        let details = body["error"]["details"].to_string();
        assert_eq!(details.contains("\"retryDelay\":\"2s\""), status == 429);
        assert_eq!(
            details.contains("API_KEY_INVALID"),
            directive == "key=secret"
        );
    }
    let key = [("x-goog-api-key", "secret")];
    let answer = post(&mock, WHOLE, &key, &content("mock:key=secret")).await;
    assert_eq!(answer.status(), 200);
    for path in [WHOLE, STREAM] {
        let blocked = send(&mock, path, &content("mock:content_policy")).await;
        assert_eq!(blocked.status(), 200);
        let text = blocked.text().await.unwrap();
        assert_eq!(text.starts_with("data: "), path == STREAM);
        let body = text.trim_start_matches("data: ");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["promptFeedback"]["blockReason"], "PROHIBITED_CONTENT");
    }
}

#[tokio::test]
async fn faults_strike_streams() {
    let mock = Mock::start().unwrap();
    for (directive, tokens, finished) in [
        ("cut_cleanly", 1, false),
        ("error_event", 1, false),
        ("no_done", 3, true),
    ] {
        let prompt = format!("mock:tokens=3,{directive}");
        let text = send(&mock, STREAM, &content(&prompt))
            .await
            .text()
            .await
            .unwrap();
        let events = events(&text);
        assert_eq!(
            text.matches("\"text\":\"tok").count(),
            tokens,
            "{directive}"
        );
        assert_eq!(text.contains("finishReason"), finished, "{directive}");
        let last = events.last().unwrap();
        assert_eq!(last["error"]["code"] == 503, directive == "error_event");
    }
    let cut = send(&mock, STREAM, &content("mock:tokens=3,cut")).await;
    cut.text().await.unwrap_err();
    // A head without an event.
    let early = send(&mock, STREAM, &content("mock:early_head,tokens=1")).await;
    assert_eq!(events(&early.text().await.unwrap()).len(), 2);
}
