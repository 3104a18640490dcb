use std::time::Duration;

use schemas::event::Event;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::harness::{Door, error_of, header_of, question, soon, started, terminal, token};

#[tokio::test]
async fn what_ends_within_the_grace_period_arrives_whole_and_new_requests_are_refused() {
    let mut door = Door::open().await;
    let sent = door.sent(true);
    let request = door.accepted().await;
    door.append(&request, vec![started(), token(0, "a")]).await;
    let response = soon(sent).await.unwrap();
    door.stop.cancel();

    let refused = soon(door.chat(question(false)).send()).await.unwrap();
    assert_eq!(header_of(&refused, "connection"), Some("close"));
    assert!(header_of(&refused, "retry-after").is_some());
    let (status, _, code, _) = error_of(refused).await;
    assert_eq!((status, code.as_deref()), (503, Some("draining")));

    door.append(&request, vec![Event::Completed(terminal(1, None))])
        .await;
    let text = soon(response.text()).await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    door.ended().await.unwrap();
    assert!(door.nothing_cancelled().await);
    door.close().await;
}

#[tokio::test]
async fn what_does_not_is_told_its_request_id_and_goes_on() {
    let mut door = Door::with(|settings| settings.grace = Duration::from_millis(50)).await;
    let streamed = door.sent(true);
    let stream_request = door.accepted().await;
    door.append(&stream_request, vec![started(), token(0, "a")])
        .await;
    let streamed = soon(streamed).await.unwrap();
    let whole = door.sent(false);
    let whole_request = door.accepted().await;
    door.stop.cancel();

    let whole = soon(whole).await.unwrap();
    let id = whole_request.id.to_string();
    assert_eq!(header_of(&whole, "x-request-id"), Some(id.as_str()));
    let (status, _, code, _) = error_of(whole).await;
    assert_eq!((status, code.as_deref()), (503, Some("draining")));

    let text = soon(streamed.text()).await.unwrap();
    assert!(text.contains(&json!("draining").to_string()), "{text}");
    assert!(text.contains(&stream_request.id.to_string()), "{text}");
    assert!(!text.contains("[DONE]"));
    door.ended().await.unwrap();
    assert!(door.nothing_cancelled().await, "the requests go on");
    door.close().await;
}

#[tokio::test]
async fn an_idle_door_closes_at_once() {
    let mut door = Door::open().await;
    let idle = tokio::net::TcpStream::connect(door.address).await.unwrap();
    let response = soon(door.get("/v1/models", &door.member).send()).await;
    assert_eq!(response.unwrap().status(), 200);
    door.stop.cancel();
    let began = std::time::Instant::now();
    door.ended().await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    drop(idle);
    door.close().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_while_the_door_closes_loses_its_stream_but_not_its_request() {
    let mut door = Door::with(|settings| {
        settings.grace = Duration::from_millis(50);
        settings.stream_buffer_max = 64 * 1024 * 1024;
    })
    .await;
    let mut stalled = tokio::net::TcpStream::connect(door.address).await.unwrap();
    let body = question(true);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-length: {}\r\n\r\n{body}",
        door.member,
        body.len()
    );
    stalled.write_all(head.as_bytes()).await.unwrap();
    let request = door.accepted().await;
    let text = "x".repeat(1024 * 1024);
    door.append(&request, vec![started()]).await;
    for sequence in 0..16 {
        door.append(&request, vec![token(sequence, &text)]).await;
    }
    door.stop.cancel();
    door.ended().await.unwrap();
    assert!(door.nothing_cancelled().await);
    drop(stalled);
    door.close().await;
}
