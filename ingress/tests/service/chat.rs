use std::time::Duration;

use schemas::event::{Delta, ErrorBody, Event, Started, Terminal};
use schemas::request::Body;
use serde_json::{Value, json};

use crate::harness::{Door, error_of, header_of, question, soon, started, terminal, token};

#[tokio::test]
async fn an_answer_comes_back_as_it_was_written_with_who_gave_it() {
    let mut door = Door::open().await;
    let sent = door.sent(false);
    let request = door.accepted().await;
    assert_eq!(request.tenant, "acme");
    assert_eq!(request.body, Body::Inline(question(false).into()));
    let answer = json!({"id": "chatcmpl-1", "choices": []});
    let end = Event::Completed(terminal(0, Some(&answer)));
    door.append(&request, vec![started(), end]).await;
    let response = soon(sent).await.unwrap();
    assert_eq!(response.status(), 200);
    let id = request.id.to_string();
    assert_eq!(header_of(&response, "x-request-id"), Some(id.as_str()));
    assert_eq!(header_of(&response, "lockgate-deployment"), Some("p/m"));
    assert_eq!(header_of(&response, "lockgate-attempts"), Some("1"));
    assert_eq!(header_of(&response, "lockgate-config-version"), Some("v1"));
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(body, answer);
    assert!(door.nothing_cancelled().await);
    door.close().await;
}

#[tokio::test]
async fn the_headers_tell_the_last_of_several_attempts_whole_streamed_or_failed() {
    let second = |event: Event| match event {
        Event::Started(started) => Event::Started(Started {
            attempt: 2,
            deployment: "q/m".to_owned(),
            config_version: "v2".to_owned(),
            ..started
        }),
        Event::Delta(delta) => Event::Delta(Delta {
            attempt: 2,
            ..delta
        }),
        other => other,
    };
    let end = |chunks| Terminal {
        deployment: None,
        config_version: None,
        ..terminal(chunks, Some(&json!({})))
    };
    let error = Some(ErrorBody::upstream_failed("nobody answered"));
    let mut door = Door::open().await;
    for (stream, status, events) in [
        (false, 200, vec![Event::Completed(end(0))]),
        (
            false,
            502,
            vec![Event::Failed(Terminal { error, ..end(0) })],
        ),
        (true, 200, vec![token(0, "a"), Event::Completed(end(1))]),
    ] {
        let sent = door.sent(stream);
        let request = door.accepted().await;
        let began = [started(), second(started())].into_iter();
        let events = began.chain(events.into_iter().map(second)).collect();
        door.append(&request, events).await;
        let response = soon(sent).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(header_of(&response, "lockgate-deployment"), Some("q/m"));
        assert_eq!(header_of(&response, "lockgate-attempts"), Some("2"));
        assert_eq!(header_of(&response, "lockgate-config-version"), Some("v2"));
    }
    door.close().await;
}

#[tokio::test]
async fn a_failure_has_the_status_and_the_words_of_its_terminal() {
    let mut door = Door::open().await;
    let sent = door.sent(false);
    let request = door.accepted().await;
    let mut end = terminal(0, None);
    end.error = Some(ErrorBody::rate_limited(
        Duration::from_millis(1_500),
        "all keys rest",
    ));
    door.append(&request, vec![started(), Event::Failed(end)])
        .await;
    let response = soon(sent).await.unwrap();
    assert_eq!(header_of(&response, "retry-after"), Some("2"));
    assert_eq!(header_of(&response, "retry-after-ms"), Some("1500"));
    let (status, kind, ..) = error_of(response).await;
    assert_eq!((status, kind.as_str()), (429, "rate_limit_error"));
    door.close().await;
}

#[tokio::test]
async fn a_large_body_is_kept_beside_the_log() {
    let mut door = Door::open().await;
    let text = "x".repeat(300 * 1024);
    let messages = json!([{"role": "user", "content": text}]);
    let body = json!({"model": "demo", "messages": messages}).to_string();
    let length = body.len();
    let sending = door.chat(body).send();
    let sent = tokio_util::task::TaskTracker::new().spawn(sending);
    let request = door.accepted().await;
    match &request.body {
        Body::Claim(claim) => assert_eq!(claim.length, length as i64),
        Body::Inline(_) => panic!("the body is in the record"),
    }
    let end = Event::Completed(terminal(0, Some(&json!({}))));
    door.append(&request, vec![started(), end]).await;
    assert_eq!(soon(sent).await.unwrap().unwrap().status(), 200);
    door.close().await;
}

#[tokio::test]
async fn the_clients_trace_travels_in_the_record() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut door = Door::open().await;
    let sending = door
        .chat(question(false))
        .header("traceparent", PARENT)
        .send();
    let sent = tokio_util::task::TaskTracker::new().spawn(sending);
    let (request, traceparent) = door.accepted_with("traceparent").await;
    assert_eq!(traceparent.as_deref(), Some(PARENT.as_bytes()));
    let end = Event::Completed(terminal(0, Some(&json!({}))));
    door.append(&request, vec![started(), end]).await;
    assert_eq!(soon(sent).await.unwrap().unwrap().status(), 200);
    door.close().await;
}

#[tokio::test]
async fn a_request_that_nobody_answers_is_504_two_seconds_past_its_deadline() {
    let mut door = Door::open().await;
    let sending = door
        .chat(question(false))
        .header("lockgate-timeout", "0.1")
        .send();
    let sent = tokio_util::task::TaskTracker::new().spawn(sending);
    let request = door.accepted().await;
    let given = request.deadline.since(request.accepted_at);
    assert_eq!(given, Duration::from_millis(100));
    let (status, ..) = error_of(soon(sent).await.unwrap().unwrap()).await;
    assert_eq!(status, 504);
    door.close().await;
}

#[tokio::test]
async fn more_than_the_bound_are_told_when_to_come_back() {
    let mut door = Door::with(|settings| settings.requests_max = 1).await;
    let first = door.sent(false);
    let request = door.accepted().await;
    let refused = soon(door.chat(question(false)).send()).await.unwrap();
    assert!(header_of(&refused, "retry-after").is_some());
    assert!(header_of(&refused, "retry-after-ms").is_some());
    let (status, kind, code, _) = error_of(refused).await;
    assert_eq!((status, kind.as_str()), (503, "server_error"));
    assert_eq!(code.as_deref(), Some("overloaded"));
    let end = Event::Completed(terminal(0, Some(&json!({}))));
    door.append(&request, vec![started(), end]).await;
    assert_eq!(soon(first).await.unwrap().status(), 200);
    door.close().await;
}
