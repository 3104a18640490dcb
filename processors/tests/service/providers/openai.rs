//! Providers that speak OpenAI's dialect, at other places and with words of their own too.

use runtime::config::Api;
use schemas::request::Endpoint;
use serde_json::{Value, json};

use super::{
    call, chat, frames, has_header, kinds, messages, recorded, said, served, target, uncalled,
    whole,
};
use crate::rig::{KEY, asks};
use crate::upstream::{answer, response};

const TOOLS: &str = include_str!("../../../../schemas/fixtures/openai/tools.stream.sse");
const TOOLS_ANSWER: &str = include_str!("../../../../schemas/fixtures/openai/tools.answer.json");
const DEEPSEEK: &str = include_str!("../../../../schemas/fixtures/openai/deepseek.stream.sse");
const COMPLETION: &str = include_str!("../../../../schemas/fixtures/openai/completion.answer.json");
const COMPLETIONS: &str = include_str!("../../../../schemas/fixtures/openai/completion.stream.sse");

/// Two vectors, as arrays and out of order.
const VECTORS: &str = r#"{"object":"list","data":[{"object":"embedding","index":1,"embedding":[0.5,-1]},{"object":"embedding","index":0,"embedding":[1,0.25]}],"model":"e-1","usage":{"prompt_tokens":5,"total_tokens":5}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn azure_is_asked_at_its_deployment_with_its_key() {
    let (served, call) = served(Api::Azure, &chat(json!({})), || answer("hi")).await;
    assert_eq!(
        target(&call),
        "POST /openai/deployments/m0/chat/completions?api-version=2024-10-21"
    );
    assert!(has_header(&call, &format!("api-key: {KEY}")));
    assert!(!call.head.to_lowercase().contains("authorization"));
    assert_eq!(served.body()["choices"][0]["message"]["content"], "hi");
}

#[tokio::test(flavor = "multi_thread")]
async fn deepseek_is_asked_in_its_words_and_its_own_pass() {
    let request = chat(json!({
        "stream": true, "max_completion_tokens": 7, "thinking": {"type": "enabled"},
    }));
    let (answer, call) = served(Api::DeepSeek, &request, || recorded(DEEPSEEK)).await;
    assert_eq!(target(&call), "POST /v1/chat/completions");
    assert_eq!(call.body["max_tokens"], 7);
    assert_eq!(call.body.get("max_completion_tokens"), None);
    assert_eq!(call.body["thinking"], json!({"type": "enabled"}));
    let frames = frames(&answer);
    assert!(!said(&frames, "reasoning_content").is_empty());
    assert!(answer.terminal().usage.unwrap().cached_tokens > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn deepseek_without_credit_is_our_fault() {
    let body = r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}"#;
    let refused = move || vec![response(402, "application/json", "", body)];
    let (answer, _) = call(Api::DeepSeek, &chat(json!({})), refused).await;
    assert_eq!(answer.code(), "upstream_credentials");
    assert_eq!(answer.terminal().attempts.len(), 1, "the key is out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_anthropic_reads_its_stream_of_calls() {
    let tools = json!([{"name": "get_weather", "input_schema": {"type": "object"}}]);
    let request = messages(json!({"stream": true, "tools": tools, "system": "Be brief."}));
    let (answer, call) = served(Api::OpenAi, &request, || recorded(TOOLS)).await;
    assert_eq!(target(&call), "POST /v1/chat/completions");
    assert_eq!(call.body["stream_options"]["include_usage"], true);
    assert_eq!(call.body["messages"][0]["content"], "Be brief.");
    assert_eq!(call.body["tools"][0]["function"]["name"], "get_weather");
    let frames = frames(&answer);
    let kinds = kinds(&frames);
    assert_eq!(kinds.first(), Some(&"message_start"));
    assert_eq!(kinds[kinds.len() - 2..], ["message_delta", "message_stop"]);
    let id = format!("msg_{}", request.id.suffix());
    assert_eq!(frames[0]["message"]["id"], id);
    assert!(
        frames
            .iter()
            .any(|frame| frame["content_block"]["type"] == "tool_use")
    );
    let end = &frames[frames.len() - 2];
    assert_eq!(end["delta"]["stop_reason"], "tool_use");
    let reported = answer.terminal().usage.unwrap();
    assert_eq!(end["usage"]["output_tokens"], reported.completion_tokens);
    let body = answer.body();
    assert_eq!(body["id"], id);
    let calls = body["content"].as_array().unwrap();
    assert!(
        calls
            .iter()
            .any(|block| block["type"] == "tool_use" && block["input"].is_object())
    );
    assert_eq!(
        answer.terminal().chunks,
        i64::try_from(frames.len()).unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_anthropic_reads_its_whole_answers_and_errors() {
    let (answer, _) = served(Api::OpenAi, &messages(json!({})), || whole(TOOLS_ANSWER)).await;
    let body = answer.body();
    assert_eq!(
        (&body["type"], &body["role"]),
        (&json!("message"), &json!("assistant"))
    );
    assert_eq!(body["stop_reason"], "tool_use");
    let refusal = r#"{"error":{"message":"bad tool","type":"invalid_request_error","param":"tools","code":null}}"#;
    let refused = move || vec![response(400, "application/json", "", refusal)];
    let (answer, _) = call(Api::OpenAi, &messages(json!({})), refused).await;
    let error = answer.terminal().error.clone().unwrap();
    assert_eq!((error.status, error.message.as_str()), (400, "bad tool"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_estimated_for_a_client_of_anthropic() {
    let body = json!({"messages": [{"role": "user", "content": "a message of some length"}]});
    let answer = uncalled(Api::OpenAi, &asks(Endpoint::CountTokens, body)).await;
    assert!(answer.body()["input_tokens"].as_i64().unwrap() > 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_pass_whole_and_streamed() {
    let request = asks(
        Endpoint::Completions,
        json!({"prompt": "Say", "echo": true}),
    );
    let (answer, call) = served(Api::OpenAi, &request, || whole(COMPLETION)).await;
    assert_eq!(target(&call), "POST /v1/completions");
    assert_eq!(call.body["echo"], true);
    let mut expected: Value = serde_json::from_str(COMPLETION).unwrap();
    expected["id"] = format!("cmpl-{}", request.id.suffix()).into();
    expected["created"] = request.accepted_at.seconds().into();
    assert_eq!(answer.body(), expected);
    let request = asks(
        Endpoint::Completions,
        json!({"prompt": "Say", "stream": true}),
    );
    let (answer, _) = served(Api::OpenAi, &request, || recorded(COMPLETIONS)).await;
    let text: String = frames(&answer)
        .iter()
        .filter(|frame| frame["choices"][0]["index"] == 0)
        .filter_map(|frame| frame["choices"][0]["text"].as_str())
        .collect();
    assert!(!text.is_empty());
    assert_eq!(answer.body()["choices"][0]["text"], text);
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_come_in_order_and_in_the_encoding_that_was_asked_for() {
    let ask = |encoding: &str| {
        let body = json!({"input": ["a", "b"], "encoding_format": encoding, "custom": 1});
        asks(Endpoint::Embeddings, body)
    };
    let (answer, call) = served(Api::OpenAi, &ask("float"), || whole(VECTORS)).await;
    assert_eq!(target(&call), "POST /v1/embeddings");
    assert_eq!(
        (&call.body["custom"], &call.body["model"]),
        (&json!(1), &json!("m0"))
    );
    let body = answer.body();
    assert_eq!(body["data"][0]["embedding"], json!([1, 0.25]));
    assert_eq!(body["model"], "e-1");
    let usage = answer.terminal().usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (5, 0));
    let (answer, _) = served(Api::OpenAi, &ask("base64"), || whole(VECTORS)).await;
    // 1.0 and 0.25 as little-endian 32-bit floats.
    assert_eq!(answer.body()["data"][0]["embedding"], "AACAPwAAgD4=");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_a_stream_of_completions_lacks_is_added_and_the_rest_is_kept() {
    let events = concat!(
        r#"data: {"choices":[{"index":0,"text":"hi","logprobs":{"tokens":["hi"],"token_logprobs":[-0.5],"top_logprobs":null,"text_offset":[0]},"finish_reason":null}]}"#,
        "\n\n",
        r#"data: {"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}]}"#,
        "\n\ndata: [DONE]\n\n",
    );
    let request = asks(
        Endpoint::Completions,
        json!({"prompt": "Say", "stream": true, "stream_options": {"include_usage": true}}),
    );
    let (answer, _) = served(Api::OpenAi, &request, || recorded(events)).await;
    let last = frames(&answer).pop().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 1);
    let kept = &answer.body()["choices"][0]["logprobs"];
    assert_eq!(kept["token_logprobs"], json!([-0.5]));
}
