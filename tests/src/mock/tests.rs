mod anthropic;
mod gemini;
mod openai;

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::{Behaviour, Mock, Options, Outcome};
use crate::fault::Fault;

const PATIENCE: Duration = Duration::from_secs(5);

fn chat(prompt: &str, stream: bool) -> Value {
    json!({
        "model": "m \"quoted\"",
        "stream": stream,
        "messages": [
            { "role": "system", "content": "be brief" },
            { "role": "user", "content": prompt },
        ],
    })
}

async fn send(mock: &Mock, id: &str, body: &Value) -> reqwest::Response {
    reqwest::Client::new()
        .post(format!("{}/chat/completions", mock.base_url()))
        .header("x-request-id", id)
        .json(body)
        .send()
        .await
        .unwrap()
}

/// Posts to a path of the mock, with some headers.
async fn post(
    mock: &Mock,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> reqwest::Response {
    let url = format!("http://{}{path}", mock.addr());
    let request = reqwest::Client::new().post(url).json(body);
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    request.send().await.unwrap()
}

/// The `data:` payloads of a whole SSE body.
fn events(body: &str) -> Vec<String> {
    let events = body.split("\n\n").filter(|event| !event.is_empty());
    events
        .map(|event| event.strip_prefix("data: ").unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_whole_answer_is_a_chat_completion() {
    let mock = Mock::start().unwrap();
    let response = send(
        &mock,
        "req_1",
        &chat("hello mock:tokens=2,prompt_tokens=11", false),
    )
    .await;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "m \"quoted\"");
    assert_eq!(body["choices"][0]["message"]["content"], "tok0 tok1 ");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        body["usage"],
        json!({ "prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13 })
    );
}

#[tokio::test]
async fn a_stream_has_role_tokens_finish_and_done() {
    let mock = Mock::start().unwrap();
    let response = send(&mock, "req_1", &chat("mock:tokens=2,finish=length", true)).await;
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let events = events(&response.text().await.unwrap());
    assert_eq!(events.len(), 5);
    let chunks: Vec<Value> = events[..4]
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "content": "" })
    );
    assert_eq!(chunks[1]["choices"][0]["delta"]["content"], "tok0 ");
    assert_eq!(chunks[2]["choices"][0]["delta"]["content"], "tok1 ");
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "length");
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    assert_eq!(events[4], "[DONE]");
}

#[tokio::test]
async fn usage_comes_in_a_stream_only_when_asked_for() {
    let mock = Mock::start().unwrap();
    let mut body = chat("mock:tokens=3", true);
    body["stream_options"] = json!({ "include_usage": true });
    let events = events(&send(&mock, "", &body).await.text().await.unwrap());
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 3);
    let first: Value = serde_json::from_str(&events[0]).unwrap();
    assert!(first["usage"].is_null() && first.get("usage").is_some());
}

#[tokio::test]
async fn it_echoes_the_words_of_the_prompt() {
    let mock = Mock::start().unwrap();
    let body = json!({
        "model": "mock",
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "mock:echo grüß \"Gott\"" }] }],
    });
    let answer: Value = send(&mock, "", &body).await.json().await.unwrap();
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        "mock:echo grüß \"Gott\" "
    );
}

#[tokio::test]
async fn tokens_are_stamped_padded_and_paced() {
    let mock = Mock::start().unwrap();
    let begun = Instant::now();
    let prompt = "mock:tokens=3,stamp,bytes=40,first=20ms,delay=20ms";
    let events = events(
        &send(&mock, "", &chat(prompt, true))
            .await
            .text()
            .await
            .unwrap(),
    );
    assert!(begun.elapsed() >= Duration::from_millis(60));
    let stamps: Vec<u64> = events[1..4]
        .iter()
        .map(|event| {
            let chunk: Value = serde_json::from_str(event).unwrap();
            let text = chunk["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap()
                .to_owned();
            assert_eq!(text.len(), 40);
            text.split_whitespace().next().unwrap().parse().unwrap()
        })
        .collect();
    assert!(stamps.is_sorted());
}

#[tokio::test]
async fn directives_come_from_model_message_and_path_the_later_winning() {
    let mock = Mock::start().unwrap();
    mock.set_behaviour(Behaviour::parse("tokens=1,text=a").unwrap());
    let mut body = chat("hello", false);
    body["model"] = json!("mock:text=b");
    let text = |answer: Value| answer["choices"][0]["message"]["content"].clone();
    let answer = send(&mock, "", &body).await.json().await.unwrap();
    assert_eq!(text(answer), "b ");
    body["messages"][1]["content"] = json!("hello mock:text=c");
    let answer = send(&mock, "", &body).await.json().await.unwrap();
    assert_eq!(text(answer), "c ");
    let url = format!("{}/chat/completions", mock.base_url_with("text=d"));
    let request = reqwest::Client::new().post(url).json(&body);
    let answer = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(text(answer), "d ");
    mock.enqueue([Behaviour::fault(Fault::Status(503))]);
    assert_eq!(send(&mock, "", &body).await.status(), 503);
    assert_eq!(send(&mock, "", &body).await.status(), 200);
}

#[tokio::test]
async fn an_unknown_directive_is_refused_by_name() {
    let mock = Mock::start().unwrap();
    let response = send(&mock, "", &chat("mock:tokens=2,frobnicate", false)).await;
    assert_eq!(response.status(), 400);
    assert!(response.text().await.unwrap().contains("frobnicate"));
    assert!(Behaviour::parse("tokens=many").is_err());
    assert!(Behaviour::parse("delay=20").is_err());
}

#[tokio::test]
async fn calls_are_counted_by_forwarded_id() {
    let mock = Mock::start().unwrap();
    let mut body = chat("hello", false);
    send(&mock, "req_a", &body).await;
    send(&mock, "req_a", &body).await;
    body["metadata"] = json!({ "id": "req_b" });
    reqwest::Client::new()
        .post(format!("{}/chat/completions", mock.base_url()))
        .header("traceparent", "00-1-2-01")
        .json(&body)
        .send()
        .await
        .unwrap();
    let snapshot = mock
        .wait_until(PATIENCE, |s| s.answered == 3)
        .await
        .unwrap();
    assert_eq!(snapshot.ids["req_a"].count, 2);
    assert_eq!(snapshot.ids["req_b"].count, 1);
    let call = &mock.calls_of("req_b")[0];
    assert_eq!(call.header("Traceparent"), Some("00-1-2-01"));
    assert_eq!(call.json(), body);
    let url = format!("http://{}/_mock/calls", mock.addr());
    let told: super::Snapshot = reqwest::get(url).await.unwrap().json().await.unwrap();
    assert_eq!(told.ids, snapshot.ids);
}

#[tokio::test]
async fn calls_beyond_the_bound_are_counted_but_not_kept() {
    let options = Options {
        calls_max: 1,
        ..Options::default()
    };
    let mock = Mock::start_with(options).unwrap();
    send(&mock, "req_a", &chat("hello", false)).await;
    send(&mock, "req_b", &chat("hello", false)).await;
    let snapshot = mock
        .wait_until(PATIENCE, |s| s.answered == 2)
        .await
        .unwrap();
    assert_eq!(snapshot.total, 2);
    assert_eq!(mock.calls().len(), 1);
}

#[tokio::test]
async fn held_calls_wait_for_their_release() {
    let mock = Mock::start().unwrap();
    let (whole, stream) = (chat("mock:hold", false), chat("mock:hold=2,tokens=3", true));
    let test = async {
        mock.wait_until(PATIENCE, |s| s.held == 2).await.unwrap();
        mock.release_id("req_a");
        mock.wait_until(PATIENCE, |s| s.ids["req_a"].answered == 1)
            .await
            .unwrap();
        assert_eq!(mock.snapshot().held, 1);
        let url = format!("http://{}/_mock/release", mock.addr());
        reqwest::Client::new().post(url).send().await.unwrap();
    };
    let (a, b, ()) = futures::join!(
        send(&mock, "req_a", &whole),
        async {
            let response = send(&mock, "req_b", &stream).await;
            events(&response.text().await.unwrap())
        },
        test
    );
    assert_eq!(a.status(), 200);
    assert_eq!(b.last().unwrap(), "[DONE]");
    // Open until it is closed again.
    assert_eq!(send(&mock, "req_c", &whole).await.status(), 200);
    mock.hold();
    let (later, ()) = futures::join!(send(&mock, "req_d", &whole), async {
        mock.wait_until(PATIENCE, |s| s.held == 1).await.unwrap();
        mock.release();
    });
    assert_eq!(later.status(), 200);
}

#[tokio::test]
async fn a_caller_that_hangs_up_is_noticed_at_once() {
    let mock = Mock::start().unwrap();
    let response = send(&mock, "req_s", &chat("mock:tokens=100,delay=1s", true)).await;
    let mut bytes = response.bytes_stream();
    bytes.next().await.unwrap().unwrap();
    let hung_up = Instant::now();
    drop(bytes);
    mock.wait_until(PATIENCE, |s| s.closed_by_peer == 1)
        .await
        .unwrap();
    let (outcome, at) = mock.calls_of("req_s")[0].ended.unwrap();
    assert_eq!(outcome, Outcome::ClosedByPeer);
    assert!(at - hung_up < Duration::from_millis(500));
    assert_eq!(mock.snapshot().ids["req_s"].closed_by_peer_at.len(), 1);
}

#[tokio::test]
async fn a_held_call_whose_caller_leaves_is_not_held_any_more() {
    let mock = Mock::start().unwrap();
    let body = chat("mock:hold", false);
    let call = send(&mock, "req_h", &body);
    tokio::select! {
        _answered = call => panic!("a held call was answered"),
        held = mock.wait_until(PATIENCE, |s| s.held == 1) => { held.unwrap(); }
    }
    let after = mock.wait_until(PATIENCE, |s| s.closed_by_peer == 1).await;
    assert_eq!(after.unwrap().held, 0);
}

#[tokio::test]
async fn chunked_requests_and_the_list_of_models_work() {
    let mock = Mock::start().unwrap();
    let body = chat("mock:tokens=1", false).to_string();
    let pieces: Vec<Result<String, std::io::Error>> = body
        .as_bytes()
        .chunks(10)
        .map(|piece| Ok(String::from_utf8(piece.to_vec()).unwrap()))
        .collect();
    let response = reqwest::Client::new()
        .post(format!("{}/chat/completions", mock.base_url()))
        .body(reqwest::Body::wrap_stream(futures::stream::iter(pieces)))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(mock.calls()[0].json()["stream"], false);
    let url = format!("{}/models", mock.base_url());
    let models: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "mock");
    let missing = reqwest::get(format!("{}/nothing", mock.base_url())).await;
    assert_eq!(missing.unwrap().status(), 404);
}

#[tokio::test]
async fn one_connection_serves_many_calls_until_the_mock_stops() {
    let mock = Mock::start().unwrap();
    let client = reqwest::Client::new();
    let url = format!("{}/chat/completions", mock.base_url());
    for stream in [false, true, false] {
        let request = client.post(&url).json(&chat("hello", stream));
        request.send().await.unwrap().bytes().await.unwrap();
    }
    assert_eq!(mock.snapshot().connections, 1);
    let listen = mock.addr();
    mock.stop();
    assert!(client.post(&url).send().await.is_err());
    let again = Options {
        listen,
        ..Options::default()
    };
    let _mock = Mock::start_with(again).unwrap();
    let request = client.post(&url).json(&chat("hello", false));
    assert_eq!(request.send().await.unwrap().status(), 200);
}
