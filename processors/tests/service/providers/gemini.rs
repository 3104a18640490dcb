//! A provider that speaks Gemini's API, which no client does.

use runtime::config::Api;
use schemas::fold::End;
use schemas::request::Endpoint;
use serde_json::{Value, json};

use super::{
    call, chat, finish_reason, frames, has_header, kinds, messages, recorded, said, served, target,
    uncalled, whole,
};
use crate::rig::{KEY, Rig, asks, settings, speaks};
use crate::upstream::{Upstream, response};

const STREAM: &str = include_str!("../../../../schemas/fixtures/gemini/text.sse");
const BROKEN: &str = include_str!("../../../../schemas/fixtures/gemini/cut.sse");
const ANSWER: &str = include_str!("../../../../schemas/fixtures/gemini/text.response.json");
const TOOLS: &str = include_str!("../../../../schemas/fixtures/gemini/tools.response.json");
const PARALLEL: &str = include_str!("../../../../schemas/fixtures/gemini/parallel.sse");
const EMBEDDINGS: &str =
    include_str!("../../../../schemas/fixtures/gemini/embeddings.response.json");
const QUOTA: &str = include_str!("../../../../schemas/fixtures/gemini/error.quota.json");
const WRONG_KEY: &str = include_str!("../../../../schemas/fixtures/gemini/error.key.json");

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_openai_reads_its_stream() {
    let request = chat(json!({"stream": true, "temperature": 0.5}));
    let (answer, call) = served(Api::Gemini, &request, || recorded(STREAM)).await;
    assert_eq!(
        target(&call),
        "POST /v1/models/m0:streamGenerateContent?alt=sse"
    );
    assert!(has_header(&call, &format!("x-goog-api-key: {KEY}")));
    assert_eq!(call.body["generationConfig"]["temperature"], 0.5);
    assert_eq!(call.body["contents"][0]["role"], "user");
    let frames = frames(&answer);
    assert_eq!(
        said(&frames, "content"),
        "Hello! How can I help you today? ✨\n"
    );
    assert_eq!(finish_reason(&frames), "stop");
    assert!(
        frames
            .iter()
            .all(|frame| frame["model"] == "gemini-2.0-flash")
    );
    let usage = answer.terminal().usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (4, 11));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_anthropic_reads_its_stream_of_calls() {
    let tools = json!([{"name": "power_disco_ball", "input_schema": {"type": "object"}}]);
    let request = messages(json!({"stream": true, "tools": tools}));
    let (answer, call) = served(Api::Gemini, &request, || recorded(PARALLEL)).await;
    let declared = &call.body["tools"][0]["functionDeclarations"][0];
    assert_eq!(declared["name"], "power_disco_ball");
    let frames = frames(&answer);
    let kinds = kinds(&frames);
    assert_eq!(kinds.first(), Some(&"message_start"));
    assert_eq!(kinds[kinds.len() - 2..], ["message_delta", "message_stop"]);
    let calls: Vec<&Value> = frames
        .iter()
        .map(|frame| &frame["content_block"])
        .filter(|block| block["type"] == "tool_use")
        .collect();
    let names: Vec<_> = calls.iter().map(|call| &call["name"]).collect();
    assert_eq!(names, ["power_disco_ball", "start_music", "dim_lights"]);
    let end = &frames[frames.len() - 2];
    assert_eq!(end["delta"]["stop_reason"], "tool_use");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_whole_answers_are_read_in_both_dialects() {
    let (answer, call) = served(Api::Gemini, &chat(json!({})), || whole(ANSWER)).await;
    assert_eq!(target(&call), "POST /v1/models/m0:generateContent");
    let body = answer.body();
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert!(
        !body["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .is_empty()
    );
    let (answer, _) = served(Api::Gemini, &messages(json!({})), || whole(TOOLS)).await;
    let body = answer.body();
    assert_eq!(body["type"], "message");
    assert_eq!(body["stop_reason"], "tool_use");
    assert_eq!(body["content"][0]["name"], "schedule_meeting");
    assert_eq!(body["usage"]["output_tokens"], 37);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_embeddings_are_read_in_both_encodings() {
    for encoding in ["float", "base64"] {
        let body = json!({"input": ["a", "b"], "encoding_format": encoding, "dimensions": 3});
        let request = asks(Endpoint::Embeddings, body);
        let (answer, call) = served(Api::Gemini, &request, || whole(EMBEDDINGS)).await;
        assert_eq!(target(&call), "POST /v1/models/m0:batchEmbedContents");
        assert_eq!(call.body["requests"][1]["outputDimensionality"], 3);
        let body = answer.body();
        assert_eq!(body["model"], "m0");
        assert_eq!(body["data"][1]["index"], 1);
        assert_eq!(body["usage"]["prompt_tokens"], 13);
        let vector = &body["data"][0]["embedding"];
        assert_eq!(vector.is_string(), encoding == "base64");
        assert_eq!(vector.is_array(), encoding == "float");
        assert_eq!(answer.terminal().usage.unwrap().prompt_tokens, 13);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_fewer_inputs_than_were_sent_is_none() {
    let request = asks(Endpoint::Embeddings, json!({"input": ["a", "b", "c"]}));
    let (answer, _) = call(Api::Gemini, &request, || whole(EMBEDDINGS)).await;
    assert_eq!(answer.code(), "upstream_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_it_does_not_know_is_our_fault_whatever_the_status() {
    let refused = || vec![response(400, "application/json", "", WRONG_KEY)];
    let (answer, _) = call(Api::Gemini, &chat(json!({})), refused).await;
    assert_eq!(answer.code(), "upstream_credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_rests_as_long_as_the_body_says() {
    let upstream = Upstream::start(|_| vec![response(429, "application/json", "", QUOTA)]).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&upstream.url]);
    speaks(&mut settings, 0, Api::Gemini);
    let _processors = rig.start(settings);
    let answer = rig.answer(rig.submit(&chat(json!({}))).await).await;
    assert_eq!(answer.terminal().status, 429);
    let wait = answer.terminal().error.as_ref().unwrap().retry_after_millis;
    assert!((20_000..=22_501).contains(&wait.unwrap()), "{wait:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_stream_is_no_end_and_costs_at_least_what_came() {
    let request = || chat(json!({"stream": true}));
    let (answer, _) = call(Api::Gemini, &request(), || recorded(BROKEN)).await;
    assert_eq!(answer.fold.end, Some(End::Failed));
    assert_eq!(answer.code(), "upstream_failed");
    assert!(answer.terminal().partial);
    let first = STREAM.split_inclusive("\n\n").next().unwrap();
    let (answer, _) = call(Api::Gemini, &request(), || recorded(first)).await;
    assert_eq!(answer.code(), "upstream_cut");
    let usage = answer.terminal().usage.unwrap();
    // Google told of no token yet.
    assert!(usage.estimated && usage.completion_tokens > 0, "{usage:?}");
    assert_eq!(usage.prompt_tokens, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_estimated_without_a_call() {
    let body = json!({"messages": [{"role": "user", "content": "a message of some length"}]});
    let answer = uncalled(Api::Gemini, &asks(Endpoint::CountTokens, body)).await;
    assert!(answer.body()["input_tokens"].as_i64().unwrap() > 5);
    assert_eq!(answer.terminal().usage.unwrap().prompt_tokens, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_functions_only_reads_no_tool_calls() {
    let functions = json!([{"name": "schedule_meeting", "parameters": {"type": "object"}}]);
    let ask = |stream: bool| chat(json!({"functions": functions, "stream": stream}));
    let (answer, _) = served(Api::Gemini, &ask(false), || whole(TOOLS)).await;
    let choice = &answer.body()["choices"][0];
    assert_eq!(choice["finish_reason"], "function_call");
    let message = &choice["message"];
    assert_eq!(message["function_call"]["name"], "schedule_meeting");
    assert_eq!(message.get("tool_calls"), None);
    let (answer, _) = served(Api::Gemini, &ask(true), || recorded(PARALLEL)).await;
    let frames = frames(&answer);
    assert_eq!(finish_reason(&frames), "function_call");
    let mut deltas = frames.iter().map(|frame| &frame["choices"][0]["delta"]);
    assert!(deltas.any(|delta| delta["function_call"]["name"] == "power_disco_ball"));
    assert!(
        !answer
            .frames
            .iter()
            .any(|frame| frame.contains("tool_calls"))
    );
    let kept = &answer.body()["choices"][0]["message"]["function_call"];
    assert_eq!(kept["name"], "power_disco_ball");
}
