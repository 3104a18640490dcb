//! How Gemini fails.

use schemas::dialect::gemini::{StreamReader, read_answer, read_embeddings, read_error};
use schemas::dialect::is_malformed;
use schemas::dialect::openai::{is_content_policy, is_context_length};
use schemas::event::ErrorBody;
use serde_json::json;

use super::{events, fixture};

fn read(status: u16, name: &str) -> ErrorBody {
    read_error(status, &fixture(name))
}

fn told(error: &ErrorBody) -> (i32, &str, Option<&str>) {
    (error.status, &error.kind, error.code.as_deref())
}

const CREDENTIALS: (i32, &str, Option<&str>) =
    (502, "upstream_error", Some("upstream_credentials"));

#[test]
fn a_refusal_of_our_key_or_account_is_ours_whatever_its_status() {
    for (status, name) in [
        (400, "error.key.json"),
        (400, "error.location.json"),
        (403, "error.permission.json"),
    ] {
        let error = read(status, name);
        assert_eq!(told(&error), CREDENTIALS, "{name}");
        assert!(!error.message.contains("123456789012"));
    }
    assert_eq!(told(&read_error(401, b"")), CREDENTIALS);
}

#[test]
fn a_quota_tells_when_to_come_back() {
    let error = read(429, "error.quota.json");
    assert_eq!(
        told(&error),
        (429, "rate_limit_error", Some("rate_limit_exceeded"))
    );
    assert_eq!(error.retry_after_millis, Some(22_501));
    let delay = |delay: &str| {
        let details = [json!({
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": delay,
        })];
        let body = json!({"error": {"code": 429, "details": details}}).to_string();
        read_error(429, body.as_bytes()).retry_after_millis
    };
    assert_eq!(delay("8s"), Some(8_000));
    assert_eq!(delay("0s"), Some(0));
    for senseless in ["8", "", "s", "-1s", "NaNs", "infs", "8m"] {
        assert_eq!(delay(senseless), None, "{senseless}");
    }
    assert_eq!(read_error(429, b"").retry_after_millis, None);
}

#[test]
fn a_refusal_of_the_request_keeps_its_text() {
    let error = read(400, "error.too-long.json");
    assert_eq!(error.status, 400);
    assert!(is_context_length(&error) && !is_content_policy(&error));
    assert!(error.message.contains("1048576"));

    let error = read(400, "error.invalid.json");
    assert_eq!(
        told(&error),
        (400, "invalid_request_error", Some("INVALID_ARGUMENT"))
    );
    assert!(error.message.contains("Temperature must be in the range"));
    assert!(!error.message.contains('\n') && !is_context_length(&error));

    let error = read(404, "error.model.json");
    assert_eq!(
        (error.status, error.code.as_deref()),
        (404, Some("NOT_FOUND"))
    );
}

#[test]
fn googles_own_faults_are_bad_gateways() {
    let error = read(503, "error.overloaded.json");
    assert_eq!(
        told(&error),
        (502, "upstream_error", Some("upstream_failed"))
    );
    assert!(error.message.contains("overloaded") && !is_malformed(&error));
    assert_eq!(
        told(&read(504, "error.deadline.json")),
        (504, "upstream_error", Some("upstream_timeout"))
    );
    assert_eq!(read_error(499, b"").status, 502);
    for status in [400, 404, 500, 503] {
        let error = read_error(status, b"<html>secret</html>");
        assert!(!error.message.contains("secret"));
    }
}

#[test]
fn texts_do_not_tell_keys() {
    let body = json!({"error": {"code": 400, "message": "no consumer AIzaSyA1234567890abcdef"}});
    let error = read_error(400, body.to_string().as_bytes());
    assert!(!error.message.contains("AIza"), "{}", error.message);
}

#[test]
fn an_error_in_a_stream_is_told_as_such() {
    let mut reader = StreamReader::default();
    let events = events("cut.sse");
    assert!(!reader.read(events[0].as_bytes()).unwrap().is_end);
    let error = reader.read(events[1].as_bytes()).unwrap_err();
    assert_eq!(
        told(&error),
        (502, "upstream_error", Some("upstream_failed"))
    );
    assert!(error.message.contains("overloaded") && !is_malformed(&error));
}

#[test]
fn an_error_in_a_body_of_success_has_its_own_status() {
    let body = fixture("error.quota.json");
    for error in [
        StreamReader::default().read(&body).unwrap_err(),
        read_answer(&body).unwrap_err(),
        read_embeddings(&body).unwrap_err(),
    ] {
        assert_eq!(
            (error.status, error.retry_after_millis),
            (429, Some(22_501))
        );
    }
    for odd in [
        r#"{"error":"x"}"#,
        r#"{"error":{"code":200}}"#,
        r#"{"error":[]}"#,
    ] {
        let error = read_answer(odd.as_bytes()).unwrap_err();
        assert_eq!((error.status, is_malformed(&error)), (502, false), "{odd}");
    }
}
