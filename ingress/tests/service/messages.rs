use std::time::Duration;

use schemas::event::{ErrorBody, Event};
use schemas::request::{Body, Dialect, Endpoint};
use serde_json::{Value, json};

use crate::harness::{
    Door, anthropic_error_of, chunk, going, header_of, question, soon, started, terminal,
};

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

fn ask(stream: bool) -> String {
    let messages = json!([{"role": "user", "content": "hello"}]);
    json!({"model": "demo", "max_tokens": 10, "messages": messages, "stream": stream}).to_string()
}

fn begin(sequence: i64) -> Event {
    let message = json!({"id": "msg_1", "type": "message", "content": []});
    let raw = json!({"type": "message_start", "message": message});
    chunk(sequence, "", &raw)
}

fn text(sequence: i64, text: &str) -> Event {
    let delta = json!({"type": "text_delta", "text": text});
    let raw = json!({"type": "content_block_delta", "index": 0, "delta": delta});
    chunk(sequence, text, &raw)
}

fn stop(sequence: i64) -> Event {
    chunk(sequence, "", &json!({"type": "message_stop"}))
}

/// The name and the data of each frame, all of which have a resume token but for errors and pings.
fn frames(text: &str) -> Vec<(String, Value)> {
    let frames = text.split_terminator("\n\n").map(|frame| {
        let mut lines = frame.lines().peekable();
        let token = lines.next_if(|line| line.starts_with("id: "));
        let name = lines.next().unwrap().strip_prefix("event: ").unwrap();
        let data = lines.next().unwrap().strip_prefix("data: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name);
        assert_eq!(token.is_none(), ["error", "ping"].contains(&name), "{name}");
        assert_eq!(lines.next(), None);
        (name.to_owned(), data)
    });
    frames.collect()
}

fn names(frames: &[(String, Value)]) -> Vec<&str> {
    frames.iter().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test]
async fn a_message_comes_back_as_it_was_written() {
    let mut door = Door::open().await;
    let with_bearer = door.post("/v1/messages?beta=true", ask(false));
    for sending in [
        door.message(MESSAGES, &door.member, ask(false)),
        with_bearer,
    ] {
        let sent = going(sending);
        let request = door.accepted().await;
        assert_eq!(request.endpoint, Endpoint::Messages);
        assert_eq!(request.dialect, Dialect::Anthropic);
        assert_eq!((request.model.as_str(), request.stream), ("demo", false));
        assert_eq!(request.body, Body::Inline(ask(false).into()));
        let message = json!({"id": "msg_1", "type": "message", "content": []});
        let end = Event::Completed(terminal(0, Some(&message)));
        door.append(&request, vec![started(), end]).await;
        let response = soon(sent).await.unwrap();
        assert_eq!(response.status(), 200);
        let id = request.id.to_string();
        assert_eq!(header_of(&response, "request-id"), Some(id.as_str()));
        assert_eq!(header_of(&response, "x-request-id"), Some(id.as_str()));
        assert_eq!(header_of(&response, "lockgate-deployment"), Some("p/m"));
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!(body, message);
    }
    door.close().await;
}

#[tokio::test]
async fn tokens_are_counted_whole_even_when_a_stream_is_asked_for() {
    let mut door = Door::open().await;
    let sending = door.message(COUNT, &door.member, ask(true));
    let sent = going(sending.header("anthropic-beta", "token-counting, a"));
    let request = door.accepted().await;
    assert_eq!(request.endpoint, Endpoint::CountTokens);
    assert_eq!(request.dialect, Dialect::Anthropic);
    assert!(!request.stream);
    assert_eq!(request.attributes["anthropic-version"], "2023-06-01");
    assert_eq!(request.attributes["anthropic-beta"], "a,token-counting");
    let count = json!({"input_tokens": 9});
    let end = Event::Completed(terminal(0, Some(&count)));
    door.append(&request, vec![started(), end]).await;
    let response = soon(sent).await.unwrap();
    assert_eq!(
        header_of(&response, "content-type"),
        Some("application/json")
    );
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(body, count);
    door.close().await;
}

#[tokio::test]
async fn events_are_named_and_the_last_one_is_the_end() {
    let mut door = Door::open().await;
    let sent = going(door.message(MESSAGES, &door.member, ask(true)));
    let request = door.accepted().await;
    assert!(request.stream);
    door.append(&request, vec![started(), begin(0), text(1, "a")])
        .await;
    let mut response = soon(sent).await.unwrap();
    assert_eq!(response.status(), 200);
    let kind = header_of(&response, "content-type");
    assert_eq!(kind, Some("text/event-stream; charset=utf-8"));
    assert_eq!(header_of(&response, "lockgate-attempts"), Some("1"));
    let first = soon(response.chunk()).await.unwrap().unwrap();
    let first = frames(std::str::from_utf8(&first).unwrap());
    assert_eq!(names(&first), ["message_start", "content_block_delta"]);
    assert_eq!(first[1].1["delta"]["text"], "a");
    let end = Event::Completed(terminal(3, None));
    door.append(&request, vec![stop(2)]).await;
    door.append(&request, vec![end]).await;
    let rest = soon(response.text()).await.unwrap();
    assert_eq!(names(&frames(&rest)), ["message_stop"]);
    assert!(door.nothing_cancelled().await);
    door.close().await;
}

#[tokio::test]
async fn an_error_has_its_status_before_the_first_token_and_is_an_event_after_it() {
    let mut door = Door::open().await;
    let mut failure = terminal(1, None);
    failure.error = Some(ErrorBody::rate_limited(
        Duration::from_millis(1_500),
        "all keys rest",
    ));
    let sent = going(door.message(MESSAGES, &door.member, ask(true)));
    let request = door.accepted().await;
    let events = vec![started(), begin(0), Event::Failed(failure)];
    door.append(&request, events).await;
    let response = soon(sent).await.unwrap();
    assert_eq!(header_of(&response, "retry-after"), Some("2"));
    assert_eq!(header_of(&response, "lockgate-attempts"), Some("1"));
    let (status, kind, message) = anthropic_error_of(response).await;
    assert_eq!((status, kind.as_str()), (429, "rate_limit_error"));
    assert_eq!(message, "all keys rest");

    let mut failure = terminal(2, None);
    failure.error = Some(ErrorBody::upstream_cut());
    let sent = going(door.message(MESSAGES, &door.member, ask(true)));
    let request = door.accepted().await;
    door.append(&request, vec![started(), begin(0), text(1, "a")])
        .await;
    let mut response = soon(sent).await.unwrap();
    assert_eq!(response.status(), 200);
    soon(response.chunk()).await.unwrap().unwrap();
    door.append(&request, vec![Event::Failed(failure)]).await;
    let rest = frames(&soon(response.text()).await.unwrap());
    assert_eq!(names(&rest), ["error"]);
    assert_eq!(rest[0].1["error"]["type"], "api_error");
    assert_eq!(rest[0].1["request_id"], request.id.to_string());
    door.close().await;
}

#[tokio::test]
async fn silence_is_filled_with_pings() {
    let mut door = Door::with(|settings| settings.silence_max = Duration::from_millis(50)).await;
    let sent = going(door.message(MESSAGES, &door.member, ask(true)));
    let request = door.accepted().await;
    let mut response = soon(sent).await.unwrap();
    assert_eq!(response.status(), 200);
    let ping = soon(response.chunk()).await.unwrap().unwrap();
    assert_eq!(frames(std::str::from_utf8(&ping).unwrap())[0].0, "ping");
    let end = Event::Completed(terminal(3, None));
    let events = vec![started(), begin(0), text(1, "a"), stop(2), end];
    door.append(&request, events).await;
    let all = frames(&soon(response.text()).await.unwrap());
    let all: Vec<_> = names(&all)
        .into_iter()
        .filter(|name| *name != "ping")
        .collect();
    assert_eq!(
        all,
        ["message_start", "content_block_delta", "message_stop"]
    );
    door.close().await;
}

#[tokio::test]
async fn whatever_stands_before_the_operation_refuses_in_the_same_shape() {
    let door = Door::with(|settings| settings.body_bytes_max = 1_000).await;
    let member = &door.member;
    let wrong = door.member.replace("lg_", "lg_x");
    let large = "x".repeat(2_000);
    let unknown = ask(false).replace("demo", "nobody");
    let big_head = "x".repeat(20_000);
    let post = |path, key, body: &str| door.message(path, key, body.to_owned());
    for (sending, status, kind) in [
        (post(MESSAGES, "", &ask(false)), 401, "authentication_error"),
        (
            post(COUNT, &wrong, &ask(false)),
            401,
            "authentication_error",
        ),
        (
            post(MESSAGES, &door.disabled, "{}"),
            401,
            "authentication_error",
        ),
        (post(MESSAGES, member, &large), 413, "request_too_large"),
        (post(MESSAGES, member, &unknown), 404, "not_found_error"),
        (post(COUNT, member, &unknown), 404, "not_found_error"),
        (
            post(MESSAGES, member, "not json"),
            400,
            "invalid_request_error",
        ),
        (
            // Without `max_tokens`.
            post(MESSAGES, member, &question(false)),
            400,
            "invalid_request_error",
        ),
        (
            post(MESSAGES, member, &ask(false)).header("lockgate-strategy", "cost"),
            403,
            "permission_error",
        ),
        (
            post(MESSAGES, member, &ask(false)).header("x-large", big_head),
            431,
            "invalid_request_error",
        ),
        (
            post("/v1/messages/batches", member, "{}"),
            404,
            "not_found_error",
        ),
        (door.get(MESSAGES, member), 405, "invalid_request_error"),
    ] {
        let response = soon(sending.send()).await.unwrap();
        let at = response.url().path().to_owned();
        if status == 405 {
            assert_eq!(header_of(&response, "allow"), Some("POST"));
        }
        let (found, named, _) = anthropic_error_of(response).await;
        assert_eq!((found, named.as_str()), (status, kind), "{at}");
    }
    door.close().await;
}

#[tokio::test]
async fn too_many_are_told_in_the_same_shape() {
    let mut door = Door::with(|settings| settings.requests_max = 1).await;
    let first = going(door.message(MESSAGES, &door.member, ask(false)));
    let request = door.accepted().await;
    let refused = door.message(MESSAGES, &door.member, ask(false)).send();
    let refused = soon(refused).await.unwrap();
    assert!(header_of(&refused, "retry-after").is_some());
    let (status, kind, _) = anthropic_error_of(refused).await;
    assert_eq!((status, kind.as_str()), (503, "overloaded_error"));
    let end = Event::Completed(terminal(0, Some(&json!({}))));
    door.append(&request, vec![started(), end]).await;
    assert_eq!(soon(first).await.unwrap().status(), 200);
    door.close().await;
}

#[tokio::test]
async fn a_stop_is_told_in_the_same_shape() {
    let mut door = Door::open().await;
    let first = going(door.message(MESSAGES, &door.member, ask(false)));
    let request = door.accepted().await;
    door.stop.cancel();
    let refused = door.message(MESSAGES, &door.member, ask(false)).send();
    let (status, kind, _) = anthropic_error_of(soon(refused).await.unwrap()).await;
    assert_eq!((status, kind.as_str()), (503, "overloaded_error"));
    let end = Event::Completed(terminal(0, Some(&json!({}))));
    door.append(&request, vec![started(), end]).await;
    assert_eq!(soon(first).await.unwrap().status(), 200);
    door.ended().await.unwrap();
    door.close().await;
}
