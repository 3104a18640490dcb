//! What the door lets in, and what it passes on.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use proptest::prelude::*;
use schemas::dialect::openai::{ChatRequest, upstream_request};
use serde_json::{Value, json};

fn refused(body: &str) -> (Option<String>, String) {
    let error = ChatRequest::parse(body.as_bytes()).unwrap_err();
    assert_eq!(error.status, 400, "{body}");
    assert_eq!(error.kind, "invalid_request_error");
    assert_eq!(error.code, None);
    (error.param, error.message)
}

/// A valid request with `field` set to `json`.
fn with(field: &str, json: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"{field}":{json}}}"#)
}

#[test]
fn a_request_tells_what_the_pipeline_needs() {
    let body = json!({
        "model": "gpt-demo",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "c"}]},
            {"role": "tool", "tool_call_id": "c", "content": "4"},
            {"role": "user", "content": [
                {"type": "text", "text": "look \"here\""},
                {"type": "image_url", "image_url": {"url": "data:"}},
                {"type": "text", "text": "now"},
            ]},
            {"role": "assistant", "content": "ok"},
        ],
        "stream": true,
        "stream_options": {"include_usage": true, "more": 1},
        "n": 2,
        "user": "u1",
        "temperature": 2,
        "top_p": 0.0,
        "max_tokens": null,
        "unknown": {"deep": [{"x": null}]},
    });
    let text = body.to_string();
    let request = ChatRequest::parse(text.as_bytes()).unwrap();
    assert_eq!(request.model, "gpt-demo");
    assert!(request.stream);
    assert!(request.include_usage);
    assert_eq!(request.n, 2);
    assert_eq!(request.user.as_deref(), Some("u1"));
    assert_eq!(request.last_user_text(), "look \"here\"\nnow");
    assert_eq!(request.prompt_bytes, body["messages"].to_string().len());

    let body = r#"{"model":"m","messages":[{"role":"user","content":"gr\u00fc\u00dfe"}]}"#;
    let request = ChatRequest::parse(body.as_bytes()).unwrap();
    assert!(!request.stream && !request.include_usage);
    assert_eq!((request.n, request.user.as_deref()), (1, None));
    assert_eq!(request.last_user_text(), "grüße");
}

#[test]
fn the_field_at_fault_is_named() {
    let message = |message: &str| format!(r#"{{"model":"m","messages":[{message}]}}"#);
    let cases = [
        (
            r#"{"messages":[{"role":"user","content":"x"}]}"#.to_owned(),
            "model",
        ),
        (with("model", "\"n\""), "model"),
        (
            r#"{"model":"","messages":[{"role":"user","content":"x"}]}"#.to_owned(),
            "model",
        ),
        (
            r#"{"model":7,"messages":[{"role":"user","content":"x"}]}"#.to_owned(),
            "model",
        ),
        (r#"{"model":"m"}"#.to_owned(), "messages"),
        (r#"{"model":"m","messages":null}"#.to_owned(), "messages"),
        (r#"{"model":"m","messages":"hi"}"#.to_owned(), "messages"),
        (message(""), "messages"),
        (message("7"), "messages.[0]"),
        (message(r#"["user","hi"]"#), "messages.[0]"),
        (
            message(r#"{"role":"user","content":"x"},{"role":"user","role":"user"}"#),
            "messages.[1]",
        ),
        (message(r#"{"content":"x"}"#), "messages.[0].role"),
        (message(r#"{"role":7,"content":"x"}"#), "messages.[0].role"),
        (
            message(r#"{"role":"wizard","content":"x"}"#),
            "messages.[0].role",
        ),
        (message(r#"{"role":"user"}"#), "messages.[0].content"),
        (
            message(r#"{"role":"user","content":null}"#),
            "messages.[0].content",
        ),
        (
            message(r#"{"role":"user","content":7}"#),
            "messages.[0].content",
        ),
        (
            message(r#"{"role":"user","content":[]}"#),
            "messages.[0].content",
        ),
        (
            message(r#"{"role":"user","content":["x"]}"#),
            "messages.[0].content",
        ),
        (
            message(r#"{"role":"user","content":"x","name":1}"#),
            "messages.[0].name",
        ),
        (
            message(r#"{"role":"assistant","tool_calls":{}}"#),
            "messages.[0].tool_calls",
        ),
        (with("stream", "\"yes\""), "stream"),
        (with("stream", "1"), "stream"),
        (with("stream_options", "true"), "stream_options"),
        (
            with("stream_options", r#"{"include_usage":1}"#),
            "stream_options.include_usage",
        ),
        (
            with(
                "stream_options",
                r#"{"include_usage":true,"include_usage":false}"#,
            ),
            "stream_options.include_usage",
        ),
        (with("temperature", "2.1"), "temperature"),
        (with("temperature", "-0.1"), "temperature"),
        (with("temperature", "\"1\""), "temperature"),
        (with("temperature", "1e999"), "temperature"),
        (with("top_p", "1.5"), "top_p"),
        (with("n", "0"), "n"),
        (with("n", "129"), "n"),
        (with("n", "1.5"), "n"),
        (with("n", "99999999999999999999"), "n"),
        (with("max_tokens", "0"), "max_tokens"),
        (with("max_completion_tokens", "-1"), "max_completion_tokens"),
        (with("stop", "1"), "stop"),
        (with("tools", "{}"), "tools"),
        (with("user", "[]"), "user"),
        (with("user", r#""\ud800""#), "user"),
        (with("us\\u0065r\":\"a\",\"user", "\"b\""), "user"),
    ];
    for (body, expected) in cases {
        let (param, message) = refused(&body);
        assert_eq!(param.as_deref(), Some(expected), "{body}: {message}");
        assert!(
            message.contains(expected.rsplit('.').next().unwrap()),
            "{message}"
        );
    }
}

#[test]
fn what_is_no_json_object_is_refused_as_such() {
    let deep = with("x", &format!("{}{}", "[".repeat(64), "]".repeat(64)));
    for body in [
        "", "   ", "nonsense", "[]", "null", "\"x\"", "{", "{}x", "{\"a\":}", &deep,
    ] {
        let (param, _) = refused(body);
        assert_eq!(param, None, "{body}");
    }
    let error = ChatRequest::parse(b"{\"model\":\"\xff\"}").unwrap_err();
    assert_eq!((error.status, error.param), (400, None));
    let shallow = with("x", &format!("{}{}", "[".repeat(63), "]".repeat(63)));
    assert!(ChatRequest::parse(shallow.as_bytes()).is_ok());
    let endless = "[".repeat(1_000_000);
    assert_eq!(refused(&endless).0, None);
}

#[test]
fn unknown_fields_and_huge_numbers_in_them_pass() {
    let digits = "9".repeat(400);
    for body in [
        with("unknown", &digits),
        with("unknown\":1,\"unknown", "2"),
        with("chat_template_kwargs", r#"{"thinking":true}"#),
    ] {
        assert!(ChatRequest::parse(body.as_bytes()).is_ok(), "{body}");
    }
}

fn upstream(body: &str, model: &str, stream: bool) -> String {
    let bytes = upstream_request(&Bytes::from(body.to_owned()), model, stream);
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn only_the_model_and_the_wish_for_usage_change() {
    let plain = r#"{ "model" : "a\u0062", "x": 1.000, "messages":[] , "y":{"model":"a"}}"#;
    assert_eq!(
        upstream(plain, "gpt-4o", false),
        r#"{ "model" : "gpt-4o", "x": 1.000, "messages":[] , "y":{"model":"a"}}"#
    );
    assert_eq!(upstream(plain, "ab", false), plain);
    let cases = [
        (
            r#"{"model":"m","stream":true}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"stream_options":null,"model":"m","stream":true}"#,
            r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#,
        ),
        (
            r#"{"stream_options":{"include_usage": false,"z":1},"model":"m","stream":true}"#,
            r#"{"stream_options":{"include_usage": true,"z":1},"model":"m","stream":true}"#,
        ),
        (
            r#"{"stream_options":{},"model":"m","stream":true}"#,
            r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#,
        ),
        (
            r#"{"model":"m","stream":false}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(upstream(body, "m", true), expected);
    }
    assert_eq!(upstream("not json", "m", true), "not json");
}

#[test]
fn the_same_bytes_are_passed_on_when_nothing_changes() {
    let body = r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#;
    let body = Bytes::from_static(body.as_bytes());
    assert_eq!(upstream_request(&body, "m", true).as_ptr(), body.as_ptr());
    let body = Bytes::from_static(br#"{"model":"m"}"#);
    assert_eq!(upstream_request(&body, "m", false).as_ptr(), body.as_ptr());
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~ü\"\\\\]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        let key = prop_oneof![
            "[a-z\"\\\\]{0,3}",
            Just("model".to_owned()),
            Just("messages".to_owned()),
            Just("role".to_owned()),
            Just("content".to_owned()),
            Just("stream".to_owned()),
            Just("stream_options".to_owned()),
            Just("n".to_owned()),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(request) = ChatRequest::parse(&bytes) {
            prop_assert!(request.last_user_text().len() < bytes.len());
        }
        let bytes = Bytes::from(bytes);
        prop_assert_eq!(upstream_request(&bytes, "m", true).is_empty(), bytes.is_empty());
    }

    #[test]
    fn damaged_requests_never_panic(place in 0..120_usize, byte: u8, cut in 0..200_usize) {
        let mut body = with("stream_options", r#"{"include_usage":true}"#).into_bytes();
        let length = body.len();
        body[place % length] = byte;
        body.truncate(length.min(cut));
        if let Ok(request) = ChatRequest::parse(&body) {
            prop_assert!(request.last_user_text().len() < body.len());
            let body = Bytes::from(body);
            let sent = upstream_request(&body, "n", true);
            prop_assert_eq!(ChatRequest::parse(&sent).unwrap().model, "n");
        }
    }

    #[test]
    fn arbitrary_json_never_panics(value in json_value()) {
        if let Err(error) = ChatRequest::parse(value.to_string().as_bytes()) {
            prop_assert_eq!(error.status, 400);
        }
    }

    #[test]
    fn the_rest_of_an_object_stays(value in json_value(), stream: bool) {
        let body = value.to_string();
        let sent: Value = serde_json::from_str(&upstream(&body, "to", stream)).unwrap();
        if let Value::Object(mut expected) = value {
            expected.insert("model".to_owned(), "to".into());
            if stream || expected.get("stream") == Some(&true.into()) {
                expected.insert("stream".to_owned(), stream.into());
            }
            if stream {
                let options = expected.entry("stream_options").or_insert_with(|| json!({}));
                if !options.is_object() {
                    *options = json!({});
                }
                options["include_usage"] = true.into();
            }
            prop_assert_eq!(sent, Value::Object(expected));
        } else {
            prop_assert_eq!(sent, value);
        }
    }
}
