//! Streams that are cut, and who goes on with them: `on_cut: continue` between providers of all kinds.

use processors::Settings;
use runtime::config::{Api, Deployment, OnCut};
use schemas::fold::End;
use schemas::request::{Endpoint, Request};
use serde_json::{Value, json};

use crate::rig::{Answer, Rig, asks, request, settings, speaks};
use crate::upstream::{Act, Upstream, done, event, finish, response, stream_head, token};

/// What a provider says, in pieces.
type Texts = &'static [&'static str];

/// A stream of `api`, cut behind `texts`.
fn cut(api: Api, texts: Texts) -> Vec<Act> {
    let mut acts = begun(api);
    acts.extend(texts.iter().map(|text| said(api, text)));
    acts.push(Act::Close);
    acts
}

/// A whole stream of `api`.
fn whole(api: Api, texts: Texts) -> Vec<Act> {
    let mut acts = begun(api);
    acts.extend(texts.iter().map(|text| said(api, text)));
    if api == Api::Anthropic {
        acts.extend([
            event(r#"{"type":"content_block_stop","index":0}"#),
            event(
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}"#,
            ),
            event(r#"{"type":"message_stop"}"#),
        ]);
    } else {
        acts.extend([finish(), done()]);
    }
    acts.push(Act::Close);
    acts
}

fn begun(api: Api) -> Vec<Act> {
    if api == Api::Anthropic {
        let message = json!({"id": "up-1", "type": "message", "role": "assistant", "model": "served-1", "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 7, "output_tokens": 1}});
        let start = json!({"type": "message_start", "message": message});
        let block =
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
        vec![stream_head(), event(&start.to_string()), event(block)]
    } else {
        let role = r#"{"id":"up-1","object":"chat.completion.chunk","created":1,"model":"served-1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
        vec![stream_head(), event(role)]
    }
}

fn said(api: Api, text: &str) -> Act {
    if api == Api::Anthropic {
        let delta = json!({"type": "text_delta", "text": text});
        let delta = json!({"type": "content_block_delta", "index": 0, "delta": delta});
        event(&delta.to_string())
    } else {
        token(text)
    }
}

/// Two providers, of which the second is to go on.
fn pair(first: (Api, &Upstream), second: (Api, &Upstream)) -> Settings {
    let mut settings = settings(&[&first.1.url, &second.1.url]);
    speaks(&mut settings, 0, first.0);
    speaks(&mut settings, 1, second.0);
    settings.routing.providers[1].continues = true;
    settings.routing.models[0].on_cut = OnCut::Continue;
    settings
}

/// What became of `request` when a first provider is cut behind its texts and a second one says the rest, and what the
/// second one was asked.
async fn joined(
    request: &Request,
    first: (Api, Texts),
    second: (Api, Texts),
) -> (Answer, crate::upstream::Call) {
    let one = Upstream::start(move |_| cut(first.0, first.1)).await;
    let mut other = Upstream::start(move |_| whole(second.0, second.1)).await;
    let rig = Rig::new().await;
    let _processors = rig.start(pair((first.0, &one), (second.0, &other)));
    let answer = rig.answer(rig.submit(request).await).await;
    let error = answer.terminal().error.as_ref();
    assert_eq!(answer.fold.end, Some(End::Completed), "{error:?}");
    (answer, other.call().await)
}

fn message() -> Request {
    let body = json!({"stream": true, "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]});
    asks(Endpoint::Messages, body)
}

fn frames(answer: &Answer) -> Vec<Value> {
    let frames = answer.frames.iter();
    frames
        .map(|frame| serde_json::from_str(frame).unwrap())
        .collect()
}

/// One stream in OpenAI's dialect that says `text`: its role and its end are told once.
fn assert_chat_says(answer: &Answer, text: &str) {
    assert_eq!(answer.text(), text);
    assert_eq!(answer.body()["choices"][0]["message"]["content"], text);
    let frames = frames(answer);
    let choices = frames.iter().map(|frame| &frame["choices"][0]);
    let roles = choices
        .clone()
        .filter(|choice| choice["delta"]["role"].is_string());
    assert!(roles.count() <= 1, "{frames:?}");
    let ends = choices.filter(|choice| choice["finish_reason"].is_string());
    assert_eq!(ends.count(), 1, "{frames:?}");
}

/// One message in Anthropic's dialect that says `text` in one block.
fn assert_message_says(answer: &Answer, text: &str) {
    let frames = frames(answer);
    let mut kinds: Vec<_> = frames
        .iter()
        .map(|frame| frame["type"].as_str().unwrap())
        .collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert!(
        frames
            .iter()
            .all(|frame| frame["index"].is_null() || frame["index"] == 0)
    );
    let deltas = frames
        .iter()
        .filter_map(|frame| frame["delta"]["text"].as_str());
    assert_eq!(deltas.collect::<String>(), text);
    assert_eq!(
        answer.body()["content"],
        json!([{"type": "text", "text": text}])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deepseek_goes_on_with_a_prefix_in_its_beta() {
    let first = (Api::OpenAi, &["Hel"][..]);
    let (answer, call) = joined(&request(true), first, (Api::DeepSeek, &["lo"])).await;
    assert_chat_says(&answer, "Hello");
    assert!(
        call.head.starts_with("POST /beta/chat/completions "),
        "{}",
        call.head
    );
    assert_eq!(
        call.body["messages"],
        json!([
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "Hel", "prefix": true},
        ])
    );
    assert!(call.body.get("continue_final_message").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_goes_on_without_the_blanks_at_the_end_which_stand_once() {
    let rests: [Texts; 2] = [&[" wor", "ld"], &["world"]];
    for rest in rests {
        let first = (Api::OpenAi, &["Hello", " "][..]);
        let (answer, call) = joined(&request(true), first, (Api::Anthropic, rest)).await;
        assert_chat_says(&answer, "Hello world");
        assert_eq!(
            call.body["messages"],
            json!([
                {"role": "user", "content": [{"type": "text", "text": "hello"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
            ])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_anthropic_began_goes_on_elsewhere() {
    for api in [Api::OpenAi, Api::DeepSeek, Api::Anthropic] {
        let first = (Api::Anthropic, &["Hel"][..]);
        let (answer, _) = joined(&request(true), first, (api, &["lo"])).await;
        assert_chat_says(&answer, "Hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_on_as_one_message_whoever_began_it() {
    for began in [Api::OpenAi, Api::Anthropic] {
        for goes_on in [Api::OpenAi, Api::DeepSeek, Api::Anthropic] {
            let first = (began, &["Hello", " "][..]);
            let (answer, call) = joined(&message(), first, (goes_on, &["world"])).await;
            assert_message_says(&answer, "Hello world");
            let asked = call.body["messages"].as_array().unwrap();
            assert_eq!(asked.len(), 2, "{asked:?}");
            assert_eq!(asked[1]["role"], "assistant");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_client_began_goes_on_in_the_same_message() {
    let turns =
        json!([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Once"}]);
    let message = asks(
        Endpoint::Messages,
        json!({"stream": true, "max_tokens": 100, "messages": turns}),
    );
    let first = (Api::Anthropic, &[" upon"][..]);
    for goes_on in [Api::DeepSeek, Api::Anthropic] {
        let (answer, call) = joined(&message, first, (goes_on, &[" a time"])).await;
        assert_message_says(&answer, " upon a time");
        let begun = match goes_on {
            Api::Anthropic => {
                json!({"role": "assistant", "content": [{"type": "text", "text": "Once upon"}]})
            }
            _ => json!({"role": "assistant", "content": "Once upon", "prefix": true}),
        };
        assert_eq!(call.body["messages"][1], begun);
        assert_eq!(call.body["messages"].as_array().map(Vec::len), Some(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_may_be_as_long_as_the_limit_leaves() {
    // 40 bytes are estimated at 10 tokens.
    const FIRST: Texts = &["It was a dark ", "and stormy night, and no "];
    let messages = json!([{"role": "user", "content": "hello"}]);
    let body =
        |limit: &str, tokens: i64| json!({"stream": true, "messages": messages, limit: tokens});
    let chat = |limit, tokens| asks(Endpoint::ChatCompletions, body(limit, tokens));
    for goes_on in [Api::OpenAi, Api::DeepSeek, Api::Anthropic] {
        for (request, name, left) in [
            (chat("max_tokens", 100), "max_tokens", 90),
            (chat("max_tokens", 5), "max_tokens", 1),
            (
                chat("max_completion_tokens", 100),
                "max_completion_tokens",
                90,
            ),
            (
                asks(Endpoint::Messages, body("max_tokens", 100)),
                "max_tokens",
                90,
            ),
        ] {
            let first = (Api::OpenAi, FIRST);
            let (answer, call) = joined(&request, first, (goes_on, &["dogs"])).await;
            assert_eq!(answer.fold.end, Some(End::Completed));
            // Only OpenAI has the newer name.
            let name = match goes_on {
                Api::OpenAi => name,
                _ => "max_tokens",
            };
            assert_eq!(call.body[name], left, "{goes_on:?}: {}", call.body);
        }
    }
    let (_, call) = joined(
        &request(true),
        (Api::OpenAi, FIRST),
        (Api::OpenAi, &["dogs"]),
    )
    .await;
    assert!(call.body.get("max_tokens").is_none(), "{}", call.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cut_provider_reported_is_off_the_limit() {
    let reported =
        r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":60,"total_tokens":67}}"#;
    let first = Upstream::start(move |_| {
        let mut acts = begun(Api::OpenAi);
        acts.extend([token("Hel"), event(reported), Act::Close]);
        acts
    })
    .await;
    let mut second = Upstream::start(|_| whole(Api::OpenAi, &["lo"])).await;
    let rig = Rig::new().await;
    let _processors = rig.start(pair((Api::OpenAi, &first), (Api::OpenAi, &second)));
    let asked = json!({"stream": true, "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]});
    let asked = asks(Endpoint::ChatCompletions, asked);
    let answer = rig.answer(rig.submit(&asked).await).await;
    assert_chat_says(&answer, "Hello");
    assert_eq!(second.call().await.body["max_tokens"], 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_more_than_text_ends_with_the_error_of_the_cut() {
    let thoughts = || {
        let mut acts = begun(Api::Anthropic);
        let block = json!({"type": "redacted_thinking", "data": "c2VhbGVk"});
        let start = json!({"type": "content_block_start", "index": 1, "content_block": block});
        acts.extend([
            said(Api::Anthropic, "Hel"),
            event(r#"{"type":"content_block_stop","index":0}"#),
            event(&start.to_string()),
            Act::Close,
        ]);
        acts
    };
    let first = Upstream::start(move |_| thoughts()).await;
    let second = Upstream::start(|_| whole(Api::Anthropic, &["lo"])).await;
    let rig = Rig::new().await;
    let _processors = rig.start(pair((Api::Anthropic, &first), (Api::Anthropic, &second)));
    let answer = rig.answer(rig.submit(&message()).await).await;
    assert_eq!(answer.code(), "upstream_cut");
    assert_eq!(second.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claude_that_takes_no_beginning_is_not_asked() {
    let first = Upstream::start(|_| cut(Api::OpenAi, &["Hel"])).await;
    let second = Upstream::start(|_| whole(Api::Anthropic, &["lo"])).await;
    let rig = Rig::new().await;
    let mut settings = pair((Api::OpenAi, &first), (Api::Anthropic, &second));
    settings.routing.models[0].deployments[1] = Deployment {
        weight: 0,
        ..Deployment::new("p1", "claude-opus-4-6")
    };
    let _processors = rig.start(settings);
    let answer = rig.answer(rig.submit(&request(true)).await).await;
    assert_eq!(answer.code(), "upstream_cut");
    assert_eq!(answer.text(), "Hel");
    assert_eq!(second.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_beginning_is_the_error_of_the_cut() {
    let refusal = r#"{"type":"error","error":{"type":"invalid_request_error","message":"This model does not support assistant message prefill."}}"#;
    for asked in [request(true), message()] {
        let first = Upstream::start(|_| cut(Api::OpenAi, &["Hel"])).await;
        let second =
            Upstream::start(move |_| vec![response(400, "application/json", "", refusal)]).await;
        let rig = Rig::new().await;
        let _processors = rig.start(pair((Api::OpenAi, &first), (Api::Anthropic, &second)));
        let answer = rig.answer(rig.submit(&asked).await).await;
        assert_eq!(answer.code(), "upstream_cut");
        assert!(answer.terminal().partial);
        assert_eq!(second.calls(), 1);
    }
}
