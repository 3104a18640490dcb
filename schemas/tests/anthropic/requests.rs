//! What the door lets in, and what it passes on to a provider of this dialect.

use bytes::Bytes;
use proptest::prelude::*;
use schemas::dialect::anthropic::{CountTokensRequest, MessagesRequest, upstream_request};
use serde_json::{Value, json};

use super::fixture;

fn refused(body: &str) -> Option<String> {
    let error = MessagesRequest::parse(body.as_bytes()).unwrap_err();
    assert_eq!(error.status, 400, "{body}");
    assert_eq!(error.kind, "invalid_request_error");
    if let Some(param) = &error.param {
        assert!(error.message.contains(&format!("`{param}`")), "{error:?}");
    }
    error.param
}

/// A valid request with `field` set to `json`.
fn with(field: &str, json: &str) -> String {
    format!(
        r#"{{"model":"m","max_tokens":5,"messages":[{{"role":"user","content":"hi"}}],"{field}":{json}}}"#
    )
}

/// A valid request whose messages are `json`.
fn of(messages: &str) -> String {
    format!(r#"{{"model":"m","max_tokens":5,"messages":{messages}}}"#)
}

#[test]
fn recorded_requests_tell_what_the_pipeline_needs() {
    let body = fixture("text/request.json");
    let request = MessagesRequest::parse(body.as_bytes()).unwrap();
    assert_eq!(request.model, "claude-sonnet-4-5");
    assert!(!request.stream);
    let user = Some("13803d75-b4b5-4c3e-b2a2-6f21399b021b");
    assert_eq!(request.user.as_deref(), user);
    let body = fixture("tools/request.json");
    let request = MessagesRequest::parse(body.as_bytes()).unwrap();
    assert!(request.stream);
    assert_eq!(request.user, None);
    let body = fixture("thinking/request.json");
    assert!(MessagesRequest::parse(body.as_bytes()).is_ok());
}

#[test]
fn the_prompt_is_messages_system_and_tools() {
    let body = r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"hi"}],"system":"be brief","tools":[ ],"metadata":{"user_id":null}}"#;
    let messages = r#"[{"role":"user","content":"hi"}]"#;
    let expected = messages.len() + r#""be brief""#.len() + "[ ]".len();
    let request = MessagesRequest::parse(body.as_bytes()).unwrap();
    assert_eq!(request.prompt_bytes, expected);
    let count = CountTokensRequest::parse(body.as_bytes()).unwrap();
    assert_eq!(count.prompt_bytes, expected);
    assert_eq!(count.model, "m");
}

#[test]
fn counting_needs_no_bound_but_all_else() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    assert!(CountTokensRequest::parse(body.as_bytes()).is_ok());
    assert_eq!(refused(body).as_deref(), Some("max_tokens"));
    let body = r#"{"model":"m","messages":[]}"#;
    let error = CountTokensRequest::parse(body.as_bytes()).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages"));
}

#[test]
fn what_is_no_json_object_is_refused_without_a_field() {
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    for body in ["", "[]", "{", "null", with("x", &deep).as_str()] {
        assert_eq!(refused(body), None, "{body}");
    }
    let error = MessagesRequest::parse(b"{\"model\":\"\xff\"}").unwrap_err();
    assert_eq!((error.status, error.param), (400, None));
}

#[test]
fn a_wrong_field_is_refused_by_its_name() {
    let cases = [
        ("model", "\"x\"", "model"),
        ("max_tokens", "1", "max_tokens"),
        ("stream", "1", "stream"),
        ("temperature", "1.1", "temperature"),
        ("temperature", "-0.1", "temperature"),
        ("top_p", "2", "top_p"),
        ("top_k", "-1", "top_k"),
        ("top_k", "1.5", "top_k"),
        ("stop_sequences", "\"x\"", "stop_sequences"),
        ("stop_sequences", "[\"x\",1]", "stop_sequences.[1]"),
        ("system", "{}", "system"),
        ("system", "[{\"type\":\"image\"}]", "system.[0].type"),
        ("system", "[{\"type\":\"text\"}]", "system.[0].text"),
        ("system", "[\"x\"]", "system.[0]"),
        ("metadata", "[]", "metadata"),
        ("metadata", "{\"user_id\":7}", "metadata.user_id"),
        ("tools", "{}", "tools"),
        ("tools", "[1]", "tools.[0]"),
        ("tools", "[{\"input_schema\":{}}]", "tools.[0].name"),
        (
            "tools",
            "[{\"name\":\"\",\"input_schema\":{}}]",
            "tools.[0].name",
        ),
        ("tools", "[{\"name\":\"f\"}]", "tools.[0].input_schema"),
        (
            "tools",
            "[{\"name\":\"f\",\"input_schema\":[]}]",
            "tools.[0].input_schema",
        ),
        ("tools", "[{\"type\":1}]", "tools.[0].type"),
        ("tool_choice", "\"auto\"", "tool_choice"),
        ("tool_choice", "{}", "tool_choice.type"),
        ("tool_choice", "{\"type\":\"tool\"}", "tool_choice.name"),
        (
            "tool_choice",
            "{\"type\":\"auto\",\"disable_parallel_tool_use\":1}",
            "tool_choice.disable_parallel_tool_use",
        ),
        ("thinking", "true", "thinking"),
        ("thinking", "{}", "thinking.type"),
        (
            "thinking",
            "{\"type\":\"enabled\"}",
            "thinking.budget_tokens",
        ),
        (
            "thinking",
            "{\"type\":\"enabled\",\"budget_tokens\":1023}",
            "thinking.budget_tokens",
        ),
        ("output_config", "1", "output_config"),
    ];
    for (field, json, param) in cases {
        let body = with(field, json);
        assert_eq!(refused(&body).as_deref(), Some(param), "{body}");
    }
    let negative = r#"{"model":"m","max_tokens":-1,"messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(refused(negative).as_deref(), Some("max_tokens"));
    let nameless = r#"{"model":"","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(refused(nameless).as_deref(), Some("model"));
}

#[test]
fn a_wrong_message_is_refused_by_its_place() {
    for (messages, param) in [
        ("null", "messages"),
        ("[]", "messages"),
        ("[1]", "messages.[0]"),
        (r#"[{"content":"x"}]"#, "messages.[0].role"),
        (r#"[{"role":"tool","content":"x"}]"#, "messages.[0].role"),
        (r#"[{"role":"user"}]"#, "messages.[0].content"),
        (r#"[{"role":"user","content":{}}]"#, "messages.[0].content"),
        (r#"[{"role":"user","content":[]}]"#, "messages.[0].content"),
        (
            r#"[{"role":"user","content":["x"]}]"#,
            "messages.[0].content.[0]",
        ),
        (
            r#"[{"role":"user","content":[{"text":"x"}]}]"#,
            "messages.[0].content.[0].type",
        ),
        (
            r#"[{"role":"user","content":"x","role":"user"}]"#,
            "messages.[0].role",
        ),
    ] {
        assert_eq!(refused(&of(messages)).as_deref(), Some(param), "{messages}");
    }
}

#[test]
fn what_is_not_known_passes() {
    for body in [
        with("cache_control", r#"{"type":"ephemeral"}"#),
        with("max_token", "\"x\""),
        with(
            "tools",
            r#"[{"type":"web_search_20250305","name":"web_search","max_uses":5}]"#,
        ),
        with("thinking", r#"{"type":"adaptive"}"#),
        with("thinking", r#"{"type":"yet_to_come"}"#),
        with("tool_choice", r#"{"type":"yet_to_come"}"#),
        with("temperature", "null"),
        of(r#"[{"role":"system","content":"x"},{"role":"user","content":[{"type":"new","x":1}]}]"#),
    ] {
        assert!(MessagesRequest::parse(body.as_bytes()).is_ok(), "{body}");
    }
}

#[test]
fn the_body_goes_on_byte_for_byte_but_for_model_and_stream() {
    let body = Bytes::from_static(
        br#"{ "model":"m", "max_tokens":5,"x":1.50, "messages":[{"role":"user","content":"\u00e9"}] }"#,
    );
    let same = upstream_request(&body, "m", false);
    assert_eq!(same.as_ptr(), body.as_ptr());
    assert_eq!(
        upstream_request(&body, "claude", true),
        r#"{ "model":"claude", "max_tokens":5,"x":1.50, "messages":[{"role":"user","content":"\u00e9"}] ,"stream":true}"#
    );
    let streamed = upstream_request(&body, "m", true);
    assert!(upstream_request(&streamed, "m", false).ends_with(br#" ,"stream":false}"#));
    let broken = Bytes::from_static(b"{");
    assert_eq!(upstream_request(&broken, "claude", true), broken);
}

#[test]
fn thoughts_that_are_not_sealed_stay_here() {
    let body = json!({"model": "m", "max_tokens": 5, "messages": [
        {"role": "user", "content": "\"thinking\""},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "a", "signature": ""},
            {"type": "text", "text": "b"},
            {"type": "thinking", "thinking": "c", "signature": "sealed"},
        ]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "d"}]},
        {"role": "user", "content": "go on"},
    ]});
    let body = Bytes::from(body.to_string());
    let sent: Value = serde_json::from_slice(&upstream_request(&body, "m", false)).unwrap();
    let expected = json!([
        {"role": "user", "content": "\"thinking\""},
        {"role": "assistant", "content": [
            {"type": "text", "text": "b"},
            {"type": "thinking", "thinking": "c", "signature": "sealed"},
        ]},
        {"role": "user", "content": "go on"},
    ]);
    assert_eq!(sent["messages"], expected);
    let sealed = Bytes::from(fixture("tools/request.json"));
    let model = "claude-sonnet-4-5";
    assert_eq!(
        upstream_request(&sealed, model, true).as_ptr(),
        sealed.as_ptr()
    );
}

proptest! {
    #[test]
    fn any_bytes_are_let_in_or_refused_with_400(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for error in [MessagesRequest::parse(&bytes).err(), CountTokensRequest::parse(&bytes).err()] {
            prop_assert_eq!(error.map(|error| error.status), Some(400));
        }
        let bytes = Bytes::from(bytes);
        prop_assert_eq!(upstream_request(&bytes, "m", true), bytes);
    }

    #[test]
    fn a_request_that_is_cut_is_refused(at in 0_usize..1000) {
        let body = fixture("tools/request.json");
        let body = body.trim_end();
        let at = at.min(body.len() - 1);
        prop_assert!(MessagesRequest::parse(&body.as_bytes()[..at]).is_err());
    }
}
