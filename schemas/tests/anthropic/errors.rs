//! Errors of the provider, and errors as clients of this dialect read them.

use schemas::dialect::anthropic::{StreamReader, error_json, read_answer, read_error};
use schemas::dialect::is_malformed;
use schemas::dialect::openai::is_context_length;
use schemas::event::ErrorBody;

use super::{fixture, text};

fn recorded(name: &str) -> ErrorBody {
    let status = name.get(..3).unwrap().parse().unwrap();
    read_error(status, fixture(&format!("errors/{name}.json")).as_bytes())
}

#[test]
fn a_refusal_of_the_request_keeps_what_the_provider_says() {
    for (name, status, code) in [
        ("400", 400, None),
        ("404", 404, Some("not_found")),
        ("413", 413, Some("request_too_large")),
        ("400-too-long", 400, Some("context_length_exceeded")),
        ("400-over-context", 400, Some("context_length_exceeded")),
    ] {
        let error = recorded(name);
        assert_eq!(
            (error.status, error.code.as_deref()),
            (status, code),
            "{name}"
        );
        assert_eq!(error.kind, "invalid_request_error");
        let body: serde_json::Value =
            serde_json::from_str(&fixture(&format!("errors/{name}.json"))).unwrap();
        assert_eq!(error.message, body["error"]["message"]);
        assert_eq!(is_context_length(&error), name.contains('-'), "{name}");
    }
}

#[test]
fn a_refusal_of_our_account_is_not_the_callers() {
    for name in ["401", "402", "403", "400-credit"] {
        assert_eq!(recorded(name), ErrorBody::upstream_credentials(), "{name}");
    }
}

#[test]
fn a_failure_of_the_provider_is_told_as_such() {
    let limit = recorded("429");
    assert_eq!(
        (limit.status, limit.kind.as_str()),
        (429, "rate_limit_error")
    );
    assert!(!limit.message.contains("organization"));
    assert_eq!(recorded("504"), ErrorBody::upstream_timeout());
    let message = "the provider failed with status 500: Internal server error";
    assert_eq!(recorded("500"), ErrorBody::upstream_failed(message));
    let overloaded = recorded("529");
    assert_eq!(
        (overloaded.status, overloaded.code.as_deref()),
        (502, Some("upstream_failed"))
    );
    assert!(overloaded.message.contains("overloaded"));
}

#[test]
fn nothing_secret_and_no_page_is_shown() {
    let body = r#"{"type":"error","error":{"type":"invalid_request_error","message":"bad key sk-ant-api03-abcdefghijkl in\nheader"}}"#;
    let error = read_error(400, body.as_bytes());
    assert_eq!(error.message, "bad key [hidden] in header");
    for body in ["<html>secret</html>", "", "[]", "{\"error\":7}"] {
        let error = read_error(400, body.as_bytes());
        assert_eq!(
            error.message,
            "the provider refused the request with status 400"
        );
        let error = read_error(503, body.as_bytes());
        assert_eq!(error.status, 502);
        assert!(
            error.message.ends_with("no readable error"),
            "{}",
            error.message
        );
    }
    let error = read_error(422, br#"{"error":"no"}"#);
    assert_eq!((error.status, error.message.as_str()), (422, "no"));
}

#[test]
fn an_error_where_an_answer_was_due_is_that_error() {
    for (kind, status) in [
        ("invalid_request_error", 400),
        ("authentication_error", 502),
        ("permission_error", 502),
        ("billing_error", 502),
        ("not_found_error", 404),
        ("conflict_error", 409),
        ("request_too_large", 413),
        ("rate_limit_error", 429),
        ("timeout_error", 504),
        ("overloaded_error", 502),
        ("api_error", 502),
        ("yet_to_come", 502),
    ] {
        let body = format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"m"}}}}"#);
        let error = StreamReader::default().read(body.as_bytes()).unwrap_err();
        assert_eq!(error.status, status, "{kind}");
        assert!(!is_malformed(&error));
        assert_eq!(read_answer(body.as_bytes()).unwrap_err(), error);
    }
}

#[test]
fn the_type_follows_from_the_status() {
    for (status, kind) in [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (409, "conflict_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (499, "invalid_request_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ] {
        let error = ErrorBody::new(status, "x", Some("y"), "say \"m\"");
        assert_eq!(
            text(&error_json(&error, "req_1")),
            format!(
                r#"{{"type":"error","error":{{"type":"{kind}","message":"say \"m\""}},"request_id":"req_1"}}"#
            )
        );
    }
}
