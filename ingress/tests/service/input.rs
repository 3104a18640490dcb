use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Door, error_of, header_of, question, soon};

#[tokio::test]
async fn a_bad_body_is_400_and_names_the_field() {
    let door = Door::open().await;
    let deep = format!("{{\"model\":\"demo\",\"messages\":{}", "[".repeat(100_000));
    for (body, param) in [
        (&b"not json"[..], None),
        (b"", None),
        (b"[]", None),
        (b"\xff\xfe", None),
        (b"{\"model\":\"demo\"}", Some("messages")),
        (b"{\"model\":\"demo\",\"messages\":\"hi\"}", Some("messages")),
        (
            b"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
            Some("model"),
        ),
        (
            b"{\"model\":7,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
            Some("model"),
        ),
        (
            b"{\"model\":\"demo\",\"stream\":\"yes\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
            Some("stream"),
        ),
        (deep.as_bytes(), None),
    ] {
        let response = soon(door.chat(body.to_vec()).send()).await.unwrap();
        let (status, kind, _, at) = error_of(response).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
        assert_eq!((status, kind.as_str()), (400, "invalid_request_error"), "{shown}");
        assert_eq!(at.as_deref(), param, "{shown}");
    }
    door.close().await;
}

#[tokio::test]
async fn an_unknown_model_is_404() {
    let door = Door::open().await;
    let body = question(false).replace("demo", "nobody");
    let response = soon(door.chat(body).send()).await.unwrap();
    let (status, kind, code, param) = error_of(response).await;
    assert_eq!((status, kind.as_str()), (404, "invalid_request_error"));
    assert_eq!((code.as_deref(), param), (Some("model_not_found"), None));
    door.close().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_whether_announced_or_not() {
    let door = Door::with(|settings| settings.body_bytes_max = 1_000).await;
    let large = "x".repeat(200_000);
    let chunks = futures::stream::iter([Ok::<_, std::io::Error>(large.clone())]);
    for body in [
        reqwest::Body::from(large.clone()),
        reqwest::Body::wrap_stream(chunks),
    ] {
        let response = soon(door.chat(body).send()).await.unwrap();
        let (status, _, code, _) = error_of(response).await;
        assert_eq!((status, code.as_deref()), (413, Some("request_too_large")));
    }
    door.close().await;
}

#[tokio::test]
async fn a_key_that_is_missing_wrong_disabled_or_expired_is_401() {
    let door = Door::open().await;
    let wrong = door.member.replace("lg_", "lg_x");
    for key in ["", "lg_", "sk-1234", &wrong, &door.disabled, &door.expired] {
        for (method, path) in [
            ("POST", "/v1/chat/completions"),
            ("GET", "/v1/models"),
            ("GET", "/v1/requests"),
            ("GET", "/admin/v1/keys"),
        ] {
            let response = soon(door.request(method, path, key).send()).await.unwrap();
            let (status, _, code, _) = error_of(response).await;
            assert_eq!(
                (status, code.as_deref()),
                (401, Some("invalid_api_key")),
                "{path}"
            );
        }
    }
    door.close().await;
}

#[tokio::test]
async fn an_unknown_route_is_404_and_a_wrong_method_405() {
    let door = Door::open().await;
    let response = soon(door.get("/v1/nothing", &door.member).send()).await;
    assert_eq!(error_of(response.unwrap()).await.0, 404);
    let response = soon(door.get("/v1/chat/completions", &door.member).send()).await;
    let response = response.unwrap();
    assert_eq!(header_of(&response, "allow"), Some("POST"));
    assert_eq!(error_of(response).await.0, 405);
    door.close().await;
}

#[tokio::test]
async fn a_timeout_that_is_no_duration_is_400() {
    let door = Door::open().await;
    let sending = door
        .chat(question(false))
        .header("lockgate-timeout", "soon");
    let (status, _, _, param) = error_of(soon(sending.send()).await.unwrap()).await;
    assert_eq!((status, param.as_deref()), (400, Some("lockgate-timeout")));
    door.close().await;
}

#[tokio::test]
async fn large_headers_are_431() {
    let door = Door::open().await;
    let sending = door.get("/v1/models", &door.member);
    let response = soon(sending.header("x-large", "x".repeat(20_000)).send()).await;
    assert_eq!(error_of(response.unwrap()).await.0, 431);
    // So large that the head is not even read to its end.
    let mut endless = TcpStream::connect(door.address).await.unwrap();
    let mut head = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n".to_vec();
    head.extend(format!("x-large: {}\r\n", "x".repeat(300_000)).into_bytes());
    // The door may close before it has read all of it.
    if let Err(error) = endless.write_all(&head).await {
        assert!(matches!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
        ));
    }
    door.close().await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_408_and_an_idle_connection_just_closes() {
    let door = Door::with(|settings| settings.head_timeout = Duration::from_millis(100)).await;
    for (sent, expected) in [
        (
            &b"GET /v1/models HTTP/1.1\r\nhost:"[..],
            &b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\n"[..],
        ),
        (b"", b""),
    ] {
        let mut partial = TcpStream::connect(door.address).await.unwrap();
        partial.write_all(sent).await.unwrap();
        let mut read = Vec::new();
        soon(partial.read_to_end(&mut read)).await.unwrap();
        assert!(read.starts_with(expected), "{read:?}");
        assert_eq!(read.is_empty(), expected.is_empty());
    }
    door.close().await;
}

#[tokio::test]
async fn connections_past_the_bound_are_told_so_and_closed() {
    let door = Door::with(|settings| settings.connections_max = 1).await;
    let mut first = TcpStream::connect(door.address).await.unwrap();
    let head = format!(
        "GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        door.member
    );
    first.write_all(head.as_bytes()).await.unwrap();
    let mut read = [0; 12];
    soon(first.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"HTTP/1.1 200");
    let mut second = TcpStream::connect(door.address).await.unwrap();
    second.write_all(head.as_bytes()).await.unwrap();
    let mut refused = String::new();
    soon(second.read_to_string(&mut refused)).await.unwrap();
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 503 Service Unavailable"),
        "{head}"
    );
    for name in ["x-request-id: req_", "retry-after: 1", "connection: close"] {
        assert!(head.contains(name), "{head}");
    }
    assert!(head.ends_with(&format!("content-length: {}", body.len())));
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["error"]["code"], "overloaded");
    drop(first);
    door.close().await;
}
