//! What OpenAI, Azure and DeepSeek have besides plain chat.

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::super::{Mock, embedding};
use super::{chat, events, post, send};

const CALL: &str = "mock:tool=get_weather";

fn tools() -> Value {
    json!([{ "type": "function", "function": { "name": "get_weather", "parameters": { "type": "object" } } }])
}

fn chunks(body: &str) -> Vec<Value> {
    let events = events(body);
    let chunks = events.iter().filter(|event| *event != "[DONE]");
    chunks
        .map(|chunk| serde_json::from_str(chunk).unwrap())
        .collect()
}

#[tokio::test]
async fn a_function_is_called_and_its_result_is_told() {
    let mock = Mock::start().unwrap();
    let mut body = chat(CALL, false);
    body["tools"] = tools();
    let answer: Value = send(&mock, "", &body).await.json().await.unwrap();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "get_weather");
    assert_eq!(call["function"]["arguments"], r#"{"city":"Paris"}"#);
    assert_eq!(answer["usage"]["completion_tokens"], 3);

    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(choice["message"].clone());
    messages.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": "21 degrees" }));
    let answer: Value = send(&mock, "", &body).await.json().await.unwrap();
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], "get_weather says 21 degrees ");
    assert_eq!(choice["finish_reason"], "stop");

    body["messages"][3]["tool_call_id"] = json!("call_of_nobody");
    assert_eq!(send(&mock, "", &body).await.status(), 400);
    assert_eq!(send(&mock, "", &chat(CALL, false)).await.status(), 400);
}

#[tokio::test]
async fn a_call_is_streamed_in_pieces() {
    let mock = Mock::start().unwrap();
    let mut body = chat(CALL, true);
    body["tools"] = tools();
    let chunks = chunks(&send(&mock, "", &body).await.text().await.unwrap());
    let calls: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0])
        .filter(|call| call.is_object())
        .collect();
    assert_eq!(calls[0]["type"], "function");
    assert!(calls[1..].iter().all(|call| call.get("id").is_none()));
    let arguments: Vec<&str> = calls
        .iter()
        .map(|call| call["function"]["arguments"].as_str().unwrap())
        .collect();
    assert_eq!(arguments, ["", r#"{"city""#, r#":"Par"#, r#"is"}"#]);
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "tool_calls"
    );
}

#[tokio::test]
async fn thoughts_come_first_and_are_counted() {
    let mock = Mock::start().unwrap();
    let prompt = "mock:think=2,tokens=1,cached=5";
    let mut body = chat(prompt, false);
    body["model"] = json!("deepseek-reasoner");
    let answer: Value = send(&mock, "", &body).await.json().await.unwrap();
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "thought0 thought1 ");
    assert_eq!(message["content"], "tok0 ");
    let usage = json!({
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": { "cached_tokens": 5 },
        "completion_tokens_details": { "reasoning_tokens": 2 },
        "prompt_cache_hit_tokens": 5,
        "prompt_cache_miss_tokens": 2,
    });
    assert_eq!(answer["usage"], usage);

    body["stream"] = json!(true);
    let chunks = chunks(&send(&mock, "", &body).await.text().await.unwrap());
    let delta = |index: usize| &chunks[index]["choices"][0]["delta"];
    assert_eq!(delta(1)["reasoning_content"], "thought0 ");
    assert_eq!(delta(2)["reasoning_content"], "thought1 ");
    assert_eq!(delta(3)["content"], "tok0 ");

    // Only DeepSeek counts misses.
    let answer: Value = send(&mock, "", &chat(prompt, false))
        .await
        .json()
        .await
        .unwrap();
    assert!(answer["usage"].get("prompt_cache_miss_tokens").is_none());
}

#[tokio::test]
async fn a_begun_answer_is_continued() {
    let mock = Mock::start().unwrap();
    let mut body = chat("mock:tokens=4,continue", false);
    let begun = json!({ "role": "assistant", "content": "", "prefix": true });
    body["messages"].as_array_mut().unwrap().push(begun);
    for (prefix, rest) in [
        ("tok0 tok1 ", "tok2 tok3 "),
        ("tok0 tok1 tok2 tok3 ", ""),
        ("something else", "tok0 tok1 tok2 tok3 "),
        ("", "tok0 tok1 tok2 tok3 "),
    ] {
        body["messages"][2]["content"] = json!(prefix);
        body["stream"] = json!(false);
        let answer: Value = send(&mock, "", &body).await.json().await.unwrap();
        assert_eq!(answer["choices"][0]["message"]["content"], rest, "{prefix}");
        body["stream"] = json!(true);
        let chunks = chunks(&send(&mock, "", &body).await.text().await.unwrap());
        let text: String = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, rest, "{prefix}");
    }
    body["messages"][1]["content"] = json!("mock:tokens=1");
    body["stream"] = json!(false);
    body["messages"][2]["content"] = json!("tok0 ");
    let answer: Value = send(&mock, "", &body).await.json().await.unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "tok0 ");
}

#[tokio::test]
async fn a_bare_prompt_is_completed() {
    let mock = Mock::start().unwrap();
    let mut body = json!({ "model": "m", "prompt": "hello mock:tokens=2,think=4" });
    let whole = post(&mock, "/v1/completions", &[], &body).await;
    let answer: Value = whole.json().await.unwrap();
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["choices"][0]["text"], "tok0 tok1 ");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["completion_tokens"], 2);

    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    let stream = post(&mock, "/v1/completions", &[], &body).await;
    let text = stream.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"));
    let chunks = chunks(&text);
    assert_eq!(chunks[0]["choices"][0]["text"], "tok0 ");
    assert_eq!(chunks[1]["choices"][0]["text"], "tok1 ");
    assert_eq!(chunks[2]["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunks[3]["usage"]["completion_tokens"], 2);
    assert_eq!(mock.calls()[0].prompt, "hello mock:tokens=2,think=4");
}

#[tokio::test]
async fn embeddings_are_the_same_in_both_encodings() {
    let mock = Mock::start().unwrap();
    let mut body = json!({ "model": "e", "input": ["one", "two"], "dimensions": 3 });
    let answer = post(&mock, "/v1/embeddings", &[], &body).await;
    let floats: Value = answer.json().await.unwrap();
    assert_eq!(floats["data"][1]["index"], 1);
    assert_eq!(floats["data"][1]["embedding"], json!(embedding("two", 3)));
    assert_ne!(
        floats["data"][0]["embedding"],
        floats["data"][1]["embedding"]
    );

    body["encoding_format"] = json!("base64");
    let answer = post(&mock, "/v1/embeddings", &[], &body).await;
    let encoded: Value = answer.json().await.unwrap();
    let text = encoded["data"][1]["embedding"].as_str().unwrap();
    let bytes = BASE64.decode(text.as_bytes()).unwrap();
    let decoded: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect();
    assert_eq!(decoded, embedding("two", 3));

    for (input, text) in [(json!([1, 2]), "1 2"), (json!([[1, 2]]), "1 2")] {
        let body = json!({ "model": "e", "input": input });
        let answer = post(&mock, "/v1/embeddings", &[], &body).await;
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["data"][0]["embedding"], json!(embedding(text, 16)));
    }
    for (field, value) in [("dimensions", json!(0)), ("encoding_format", json!("hex"))] {
        body[field] = value;
        let refused = post(&mock, "/v1/embeddings", &[], &body).await;
        assert_eq!(refused.status(), 400);
    }
}

#[tokio::test]
async fn azure_names_model_and_version_in_the_url() {
    let mock = Mock::start().unwrap();
    let path = "/openai/deployments/my%20gpt/chat/completions";
    let body = chat("mock:key=secret,tokens=1", false);
    let versioned = format!("{path}?api-version=2024-10-21");
    let answer = post(&mock, &versioned, &[("api-key", "secret")], &body).await;
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["model"], "my gpt");
    let refused = post(&mock, &versioned, &[("api-key", "guess")], &body).await;
    assert_eq!(refused.status(), 401);
    let refused = post(&mock, path, &[("api-key", "secret")], &body).await;
    assert_eq!(refused.status(), 400);
    let call = &mock.calls()[0];
    assert_eq!(call.path, versioned);
    assert_eq!(call.model, "my gpt");
}
