//! Every kind of provider behind every dialect of clients, with answers as the providers document them.

mod across;
mod anthropic;
mod gemini;
mod openai;
mod scripted;

use runtime::config::Api;
use schemas::fold::End;
use schemas::request::{Endpoint, Request};
use serde_json::{Value, json};

use crate::rig::{Answer, Rig, asks, settings, speaks};
use crate::upstream::{Act, Call, Upstream, response, stream_head};

/// What became of a request to one provider that speaks `api`, and what the provider was asked.
async fn call(
    api: Api,
    request: &Request,
    script: impl Fn() -> Vec<Act> + Send + Sync + 'static,
) -> (Answer, Call) {
    let mut upstream = Upstream::start(move |_| script()).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&upstream.url]);
    speaks(&mut settings, 0, api);
    let _processors = rig.start(settings);
    let answer = rig.answer(rig.submit(request).await).await;
    (answer, upstream.call().await)
}

/// As [`call`], when it is to end well.
async fn served(
    api: Api,
    request: &Request,
    script: impl Fn() -> Vec<Act> + Send + Sync + 'static,
) -> (Answer, Call) {
    let (answer, call) = self::call(api, request, script).await;
    let error = answer.terminal().error.as_ref();
    assert_eq!(answer.fold.end, Some(End::Completed), "{error:?}");
    (answer, call)
}

/// The answer to `request` by a single provider that speaks `api` and is not called.
async fn uncalled(api: Api, request: &Request) -> Answer {
    let upstream = Upstream::start(|_| vec![Act::Close]).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&upstream.url]);
    speaks(&mut settings, 0, api);
    let _processors = rig.start(settings);
    let answer = rig.answer(rig.submit(request).await).await;
    assert_eq!(upstream.calls(), 0);
    answer
}

fn chat(mut more: Value) -> Request {
    more["messages"] = json!([{"role": "user", "content": "What is the weather?"}]);
    asks(Endpoint::ChatCompletions, more)
}

fn messages(mut more: Value) -> Request {
    more["messages"] = json!([{"role": "user", "content": "What is the weather?"}]);
    more["max_tokens"] = 100.into();
    asks(Endpoint::Messages, more)
}

/// A whole answer.
fn whole(body: &str) -> Vec<Act> {
    vec![response(200, "application/json", "", body)]
}

/// A recorded stream, up to the end of the connection.
fn recorded(events: &str) -> Vec<Act> {
    vec![stream_head(), Act::Send(events.to_owned()), Act::Close]
}

/// The first line of a request's head, without the version of HTTP.
fn target(call: &Call) -> &str {
    let line = call.head.lines().next().unwrap();
    line.strip_suffix(" HTTP/1.1").unwrap()
}

fn has_header(call: &Call, header: &str) -> bool {
    let mut lines = call.head.lines();
    lines.any(|line| line.eq_ignore_ascii_case(header))
}

fn frames(answer: &Answer) -> Vec<Value> {
    let frames = answer.frames.iter();
    frames
        .map(|frame| serde_json::from_str(frame).unwrap())
        .collect()
}

/// The types of the frames of a stream in Anthropic's dialect.
fn kinds(frames: &[Value]) -> Vec<&str> {
    frames
        .iter()
        .map(|frame| frame["type"].as_str().unwrap())
        .collect()
}

/// What the deltas of a stream in OpenAI's dialect say in the first choice, under `key`.
fn said(frames: &[Value], key: &str) -> String {
    let deltas = frames.iter().map(|frame| &frame["choices"][0]["delta"]);
    deltas.filter_map(|delta| delta[key].as_str()).collect()
}

/// The finish reason that a stream in OpenAI's dialect tells.
fn finish_reason(frames: &[Value]) -> &str {
    let mut reasons = frames
        .iter()
        .filter_map(|frame| frame["choices"][0]["finish_reason"].as_str());
    let reason = reasons.next().expect("a finish reason");
    assert_eq!(reasons.next(), None, "it is told once");
    reason
}
