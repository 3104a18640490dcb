use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::{Fault, Refusing, Unanswering};
use crate::mock::{Behaviour, Mock, Outcome};

const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough for an answer on one machine, short enough to wait for none.
const NOTHING_COMES: Duration = Duration::from_millis(200);

async fn send(mock: &Mock, directives: &str, stream: bool) -> reqwest::Result<reqwest::Response> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let body = json!({
        "model": "mock",
        "stream": stream,
        "messages": [{ "role": "user", "content": format!("mock:tokens=3,{directives}") }],
    });
    let url = format!("{}/chat/completions", mock.base_url());
    client.post(url).json(&body).send().await
}

/// What came of an answer and whether its body ended well.
async fn read(response: reqwest::Response) -> (String, Option<bool>) {
    read_while(response, PATIENCE).await
}

/// What came of an answer that stands still after its first piece: `None` for the end.
async fn read_until_still(response: reqwest::Response) -> (String, Option<bool>) {
    read_while(response, NOTHING_COMES).await
}

async fn read_while(response: reqwest::Response, patience: Duration) -> (String, Option<bool>) {
    let mut bytes = response.bytes_stream();
    let mut text = Vec::new();
    let ended = loop {
        let patience = if text.is_empty() { PATIENCE } else { patience };
        match tokio::time::timeout(patience, bytes.next()).await {
            Err(_) => break None,
            Ok(None) => break Some(true),
            Ok(Some(Err(_))) => break Some(false),
            Ok(Some(Ok(piece))) => text.extend_from_slice(&piece),
        }
    };
    (String::from_utf8(text).unwrap(), ended)
}

fn tokens_in(text: &str) -> usize {
    text.matches("\"content\":\"tok").count()
}

#[tokio::test]
async fn nobody_answers_at_refused_and_unanswered_ports() {
    let refusing = Refusing::bind().unwrap();
    let refused = tokio::net::TcpStream::connect(refusing.addr()).await;
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    let unanswering = Unanswering::bind().await.unwrap();
    let connect = tokio::net::TcpStream::connect(unanswering.addr());
    tokio::time::timeout(NOTHING_COMES, connect)
        .await
        .unwrap_err();
}

#[tokio::test]
async fn the_connection_fails_before_an_answer() {
    let mock = Mock::start().unwrap();
    for directive in ["reset", "close"] {
        let error = send(&mock, directive, false).await.unwrap_err();
        assert!(error.is_request(), "{directive}: {error:?}");
    }
    assert_eq!(mock.snapshot().broken_off, 2);
    let still = async {
        mock.wait_until(PATIENCE, |s| s.in_flight == 1)
            .await
            .unwrap();
        tokio::time::sleep(NOTHING_COMES).await;
    };
    tokio::select! {
        answer = send(&mock, "silent", true) => panic!("a silent server answered: {answer:?}"),
        () = still => {}
    }
    let left = mock.wait_until(PATIENCE, |s| s.closed_by_peer == 1).await;
    left.unwrap();
}

#[tokio::test]
async fn head_and_role_come_but_no_token() {
    let mock = Mock::start().unwrap();
    let (text, ended) = read_until_still(send(&mock, "no_first_token", true).await.unwrap()).await;
    assert_eq!(ended, None);
    assert!(text.contains("\"role\":\"assistant\""));
    assert_eq!(tokens_in(&text), 0);
}

#[tokio::test]
async fn statuses_carry_openai_errors() {
    let mock = Mock::start().unwrap();
    for status in [400, 401, 403, 404, 413, 422, 429, 500, 502, 503, 504, 529] {
        let response = send(&mock, &format!("status={status}"), true)
            .await
            .unwrap();
        assert_eq!(response.status(), status);
        let body: Value = response.json().await.unwrap();
        for key in ["message", "type", "param", "code"] {
            assert!(body["error"].get(key).is_some(), "{status}: {body}");
        }
    }
    let limited = send(&mock, "status=429,retry_after=2", false)
        .await
        .unwrap();
    assert_eq!(limited.headers()["retry-after"], "2");
    for (directive, status, code) in [
        ("context_length", 400, "context_length_exceeded"),
        ("content_policy", 400, "content_policy_violation"),
        ("model_not_found", 404, "model_not_found"),
        ("quota", 429, "insufficient_quota"),
    ] {
        let response = send(&mock, directive, false).await.unwrap();
        assert_eq!(response.status(), status);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], code);
    }
}

#[tokio::test]
async fn a_good_status_with_a_useless_body() {
    let mock = Mock::start().unwrap();
    for (directive, content_type, is_json) in [
        ("html", "text/html; charset=utf-8", false),
        ("empty", "application/json", false),
        ("broken_json", "application/json", false),
        ("wrong_content_type", "text/plain", true),
        ("missing_choices", "application/json", true),
    ] {
        let response = send(&mock, directive, false).await.unwrap();
        assert_eq!(response.status(), 200, "{directive}");
        assert_eq!(response.headers()["content-type"], content_type);
        let body = response.bytes().await.unwrap();
        let parsed = serde_json::from_slice::<Value>(&body);
        assert_eq!(parsed.is_ok(), is_json, "{directive}");
        assert_eq!(body.is_empty(), directive == "empty");
        let has_choices = parsed.is_ok_and(|body| body.get("choices").is_some());
        assert_eq!(has_choices, directive == "wrong_content_type");
    }
    let redirect = send(&mock, "redirect", false).await.unwrap();
    assert_eq!(redirect.status(), 307);
    assert_eq!(redirect.headers()["location"], "/");
}

#[tokio::test]
async fn the_first_event_is_an_error() {
    let mock = Mock::start().unwrap();
    let (text, ended) = read(send(&mock, "error_first", true).await.unwrap()).await;
    assert!(text.starts_with("data: {\"error\":"));
    assert_eq!(tokens_in(&text), 0);
    assert_eq!(ended, Some(true));
}

#[tokio::test]
async fn floods_end_only_when_the_caller_hangs_up() {
    let mock = Mock::start().unwrap();
    let mut bytes = send(&mock, "huge_body", false)
        .await
        .unwrap()
        .bytes_stream();
    let mut total = 0;
    while total < 32 * 1024 * 1024 {
        total += bytes.next().await.unwrap().unwrap().len();
    }
    drop(bytes);
    // The client library has a bound of its own for headers and gives up.
    send(&mock, "endless_headers", false).await.unwrap_err();
    let left = mock.wait_until(PATIENCE, |s| s.closed_by_peer == 2).await;
    left.unwrap();
}

#[tokio::test]
async fn the_bomb_is_small_on_the_wire() {
    let mock = Mock::start().unwrap();
    let response = send(&mock, "gzip_bomb", false).await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let body = response.bytes().await.unwrap();
    assert_eq!(body[..3], [0x1f, 0x8b, 8]);
    assert!((4 << 20..5 << 20).contains(&body.len()));
    // Header, then `0 01` and the code of `{`, 0x30 + 0x7b, lowest bit first.
    assert_eq!(body[10], 0b1010_1010, "{:08b}", body[10]);
}

#[tokio::test]
async fn streams_break_off_after_some_tokens() {
    let mock = Mock::start().unwrap();
    for (directive, ended) in [
        ("cut", Some(false)),
        ("cut_cleanly", Some(true)),
        ("idle", None),
    ] {
        let directives = format!("{directive},after=2");
        let response = send(&mock, &directives, true).await.unwrap();
        let (text, how) = match directive {
            "idle" => read_until_still(response).await,
            _ => read(response).await,
        };
        assert_eq!(how, ended, "{directive}");
        assert_eq!(tokens_in(&text), 2, "{directive}: {text}");
        assert!(!text.contains("[DONE]") && !text.contains("\"stop\""));
    }
    // A reset may overtake what was sent before it.
    let (text, how) = match send(&mock, "reset_later,after=2", true).await {
        Ok(response) => read(response).await,
        Err(_) => (String::new(), Some(false)),
    };
    assert_eq!(how, Some(false), "{text}");
}

#[tokio::test]
async fn a_fault_beyond_the_last_token_strikes_before_the_finish() {
    let mock = Mock::start().unwrap();
    let (text, ended) = read(send(&mock, "cut_cleanly,after=99", true).await.unwrap()).await;
    assert_eq!(tokens_in(&text), 3);
    assert!(!text.contains("\"stop\""));
    assert_eq!(ended, Some(true));
}

#[tokio::test]
async fn streams_with_bad_events() {
    let mock = Mock::start().unwrap();
    for (directive, tokens, broken, done) in [
        ("error_event", 1, 0, false),
        ("no_done", 3, 0, false),
        ("broken_event", 3, 1, true),
        ("broken_events", 3, 5, true),
    ] {
        let (text, ended) = read(send(&mock, directive, true).await.unwrap()).await;
        assert_eq!(ended, Some(true), "{directive}");
        assert_eq!(tokens_in(&text), tokens, "{directive}: {text}");
        assert_eq!(text.contains("[DONE]"), done, "{directive}");
        assert_eq!(text.contains("\"stop\""), directive != "error_event");
        assert_eq!(text.contains("{\"error\":"), directive == "error_event");
        let broken_events = text
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]" && serde_json::from_str::<Value>(data).is_err());
        assert_eq!(broken_events.count(), broken, "{directive}");
    }
}

#[tokio::test]
async fn a_slow_drip_comes_whole() {
    let mock = Mock::start().unwrap();
    for stream in [true, false] {
        let begun = Instant::now();
        let (text, ended) = read(send(&mock, "drip,text=ü", stream).await.unwrap()).await;
        assert_eq!(ended, Some(true));
        assert_eq!(text.matches("ü ").count(), 3);
        assert!(begun.elapsed() >= Duration::from_millis(40));
    }
}

#[tokio::test]
async fn whole_answers_break_off_half_way() {
    let mock = Mock::start().unwrap();
    for (directive, ended) in [("cut", Some(false)), ("idle", None)] {
        let response = send(&mock, directive, false).await.unwrap();
        let (text, how) = match directive {
            "idle" => read_until_still(response).await,
            _ => read(response).await,
        };
        assert_eq!(how, ended, "{directive}");
        assert!(text.starts_with("{\"id\":") && !text.ends_with('}'));
    }
}

#[tokio::test]
async fn faults_are_counted_like_calls() {
    let mock = Mock::start().unwrap();
    mock.set_behaviour(Behaviour::fault(Fault::Status(500)));
    assert_eq!(send(&mock, "", false).await.unwrap().status(), 500);
    assert_eq!(send(&mock, "ok", false).await.unwrap().status(), 200);
    mock.wait_until(PATIENCE, |s| s.answered == 2)
        .await
        .unwrap();
    assert!(send(&mock, "close", false).await.is_err());
    let outcomes: Vec<_> = mock
        .calls()
        .iter()
        .map(|call| call.ended.unwrap().0)
        .collect();
    assert_eq!(
        outcomes,
        [Outcome::Answered, Outcome::Answered, Outcome::BrokenOff]
    );
}

#[test]
fn every_fault_has_a_directive_that_reads_back() {
    for fault in Fault::ALL {
        let behaviour = Behaviour::parse(&fault.directive()).unwrap();
        assert_eq!(behaviour.fault.as_ref(), Some(fault));
    }
}
