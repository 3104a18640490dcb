use schemas::event::{ErrorBody, Event};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Door, error_of, header_of, question, soon, started, terminal, token};

/// The frames without their `id:` lines.
fn plain(text: &str) -> String {
    let lines = text.split_inclusive('\n');
    lines.filter(|line| !line.starts_with("id: ")).collect()
}

#[tokio::test]
async fn tokens_arrive_one_by_one_and_the_end_is_marked() {
    let mut door = Door::open().await;
    let sent = door.sent(true);
    let request = door.accepted().await;
    assert!(request.stream);
    door.append(&request, vec![started(), token(0, "a")]).await;
    let mut response = soon(sent).await.unwrap();
    assert_eq!(response.status(), 200);
    let kind = header_of(&response, "content-type");
    assert_eq!(kind, Some("text/event-stream; charset=utf-8"));
    assert_eq!(header_of(&response, "x-accel-buffering"), Some("no"));
    assert_eq!(header_of(&response, "lockgate-deployment"), Some("p/m"));
    // The first token is read before the second exists.
    let first = soon(response.chunk()).await.unwrap().unwrap();
    assert_eq!(
        plain(std::str::from_utf8(&first).unwrap()),
        "data: {\"t\":\"a\"}\n\n"
    );
    door.append(&request, vec![token(1, "b")]).await;
    let second = soon(response.chunk()).await.unwrap().unwrap();
    assert_eq!(
        plain(std::str::from_utf8(&second).unwrap()),
        "data: {\"t\":\"b\"}\n\n"
    );
    door.append(&request, vec![Event::Completed(terminal(2, None))])
        .await;
    let rest = soon(response.text()).await.unwrap();
    assert_eq!(rest, "data: [DONE]\n\n");
    assert!(door.nothing_cancelled().await);
    door.close().await;
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_token_has_its_true_status() {
    let mut door = Door::open().await;
    let sent = door.sent(true);
    let request = door.accepted().await;
    let mut end = terminal(0, None);
    end.error = Some(ErrorBody::upstream_failed("nobody answered"));
    door.append(&request, vec![started(), Event::Failed(end)])
        .await;
    let response = soon(sent).await.unwrap();
    assert_eq!(header_of(&response, "x-should-retry"), Some("false"));
    let (status, kind, ..) = error_of(response).await;
    assert_eq!((status, kind.as_str()), (502, "upstream_error"));
    door.close().await;
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off_and_others_are_not_slowed() {
    let mut door = Door::open().await;
    let mut slow = TcpStream::connect(door.address).await.unwrap();
    let body = question(true);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-length: {}\r\n\r\n{body}",
        door.member,
        body.len()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let slow_request = door.accepted().await;
    let sent = door.sent(true);
    let quick_request = door.accepted().await;

    // Far more than the sockets and the buffer of one stream hold.
    let text = "x".repeat(256 * 1024);
    door.append(&slow_request, vec![started()]).await;
    for sequence in 0..64 {
        door.append(&slow_request, vec![token(sequence, &text)])
            .await;
    }
    let order = door.cancelled().await;
    assert_eq!(order.id, slow_request.id);

    let end = Event::Completed(terminal(1, None));
    door.append(&quick_request, vec![started(), token(0, "a"), end])
        .await;
    let quick = soon(sent).await.unwrap().text();
    assert!(soon(quick).await.unwrap().ends_with("data: [DONE]\n\n"));

    // What was on the way may be read; then the connection is closed. If there was room for last
    // words, they say why.
    let mut read = Vec::new();
    let ended = soon(slow.read_to_end(&mut read)).await;
    let read = String::from_utf8_lossy(&read);
    assert!(!read.contains("[DONE]"));
    let in_order = ended.is_ok() && read.ends_with("0\r\n\r\n");
    assert!(!in_order || read.contains("client_too_slow"));
    door.close().await;
}

#[tokio::test]
async fn silence_is_filled_with_comments() {
    let mut door = Door::with(|settings| {
        settings.silence_max = std::time::Duration::from_millis(50);
    })
    .await;
    let sent = door.sent(true);
    let request = door.accepted().await;
    let mut response = soon(sent).await.unwrap();
    assert_eq!(response.status(), 200);
    // Nobody has begun, and the head does not say that somebody had.
    assert_eq!(header_of(&response, "lockgate-deployment"), None);
    assert_eq!(header_of(&response, "lockgate-attempts"), None);
    let comment = soon(response.chunk()).await.unwrap().unwrap();
    assert!(comment.starts_with(b":"));
    let mut end = terminal(0, None);
    end.error = Some(ErrorBody::upstream_timeout());
    door.append(&request, vec![started(), Event::Failed(end)])
        .await;
    let rest = soon(response.text()).await.unwrap();
    let error = json!("upstream_timeout").to_string();
    assert!(rest.contains(&error) && !rest.contains("[DONE]"), "{rest}");
    door.close().await;
}
