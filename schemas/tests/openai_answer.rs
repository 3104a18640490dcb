//! What providers send, and what clients read of it; frames as `api.md` and OpenAI have them.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use schemas::dialect::Identity;
use schemas::dialect::openai::{
    Assembler, completion, error_json, estimate_tokens, estimate_usage, finish_chunk,
    is_content_policy, is_context_length, is_malformed, read_chunk, read_error, render_answer,
    render_chunk, role_chunk, text_chunk, usage_chunk,
};
use schemas::event::{Channel, Chunk, ErrorBody, Usage};
use schemas::id::RequestId;
use schemas::request::Endpoint;
use schemas::time::Timestamp;
use serde_json::{Value, json};

fn identity() -> Identity {
    Identity {
        id: "chatcmpl-1".to_owned(),
        created: 1_790_000_000,
    }
}

const USAGE: Usage = Usage {
    prompt_tokens: 9,
    completion_tokens: 12,
    cached_tokens: 4,
    reasoning_tokens: 0,
    estimated: false,
};

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn rendered(data: &str, include_usage: bool) -> Option<String> {
    let chunk = read_chunk(data.as_bytes()).unwrap();
    let bytes = render_chunk(&chunk, &identity(), "gpt-4o", include_usage);
    bytes.map(|bytes| text(&bytes).to_owned())
}

#[test]
fn the_identity_derives_from_the_request() {
    let id: RequestId = "req_06gb5gymwnxbs0938nkrkaydxw0000r".parse().unwrap();
    let identity = Identity::new(
        Endpoint::ChatCompletions,
        id,
        Timestamp(1_790_000_000_999_999),
    );
    assert_eq!(identity.id, "chatcmpl-01a0b2c3d4e57abc8123456789abcdef");
    assert_eq!(identity.created, 1_790_000_000);
}

#[test]
fn frames_of_our_own_are_as_openai_writes_them() {
    let identity = identity();
    let raw = |chunk: Chunk| text(&chunk.raw).to_owned();
    assert_eq!(
        raw(role_chunk(&identity, "m", 0, false)),
        r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#
    );
    assert_eq!(
        raw(text_chunk(&identity, "m", 1, "a \"b\"\n", true)),
        r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"m","choices":[{"index":1,"delta":{"content":"a \"b\"\n"},"logprobs":null,"finish_reason":null}],"usage":null}"#
    );
    assert_eq!(
        raw(finish_chunk(&identity, "m", 0, "stop", false)),
        r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"m","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}"#
    );
    assert_eq!(
        raw(usage_chunk(&identity, "m", &USAGE)),
        r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"m","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":4}}}"#
    );
    assert_eq!(
        text(&completion(&identity, "m", &["hi"], "stop", Some(&USAGE))),
        r#"{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":4}}}"#
    );
}

#[test]
fn what_we_write_reads_back_as_its_pieces() {
    let identity = identity();
    for chunk in [
        role_chunk(&identity, "m", 0, true),
        text_chunk(&identity, "m", 1, "grüße", false),
        finish_chunk(&identity, "m", 2, "length", false),
        usage_chunk(&identity, "m", &USAGE),
    ] {
        let read = read_chunk(&chunk.raw).unwrap();
        assert_eq!(read.pieces, chunk.pieces);
        assert_eq!(
            read.is_token(),
            chunk.pieces.iter().any(|p| p.channel == Channel::Text)
        );
    }
    let chunk = usage_chunk(&identity, "m", &USAGE);
    assert_eq!(read_chunk(&chunk.raw).unwrap().usage, Some(USAGE));
}

#[test]
fn a_chunk_keeps_what_is_unknown() {
    let data = r#"{"id":"x","object":"chat.completion.chunk","created":7,"model":"gpt-4o-2024","choices":[{"index":0,"delta":{"content":"h\u00e9"},"x":1.50}],"usage":null, "obfuscation":"ab"}"#;
    assert_eq!(
        rendered(data, true).unwrap(),
        r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":"h\u00e9"},"x":1.50}],"usage":null, "obfuscation":"ab"}"#
    );
    assert_eq!(
        rendered(data, false).unwrap(),
        r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":"h\u00e9"},"x":1.50}], "obfuscation":"ab"}"#
    );
    assert_eq!(
        rendered(r#"{"choices":[{"delta":{"content":"x"}}]}"#, true).unwrap(),
        r#"{"choices":[{"delta":{"content":"x"}}],"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-4o","usage":null}"#
    );
}

#[test]
fn usage_is_shown_to_who_asked() {
    let data = r#"{"id":"x","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"prompt_cache_hit_tokens":4,"completion_tokens_details":{"reasoning_tokens":3}}}"#;
    let chunk = read_chunk(data.as_bytes()).unwrap();
    let expected = Usage {
        reasoning_tokens: 3,
        ..USAGE
    };
    assert_eq!(chunk.usage, Some(expected));
    assert!(!chunk.is_token());
    assert_eq!(rendered(data, false), None);
    assert!(
        rendered(data, true)
            .unwrap()
            .contains(r#""usage":{"prompt_tokens":9"#)
    );
    let without = r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    assert!(rendered(without, true).unwrap().contains(r#""choices":[]"#));
    assert_eq!(rendered(without, false), None);
}

fn channels(data: &str) -> Vec<(i32, Channel, i32, String)> {
    let chunk = read_chunk(data.as_bytes()).unwrap();
    let pieces = chunk.pieces.into_iter();
    pieces
        .map(|piece| (piece.choice, piece.channel, piece.index, piece.text))
        .collect()
}

#[test]
fn every_channel_is_read_and_variations_are_taken() {
    let piece = |choice, channel, index, text: &str| (choice, channel, index, text.to_owned());
    let cases = [
        (
            r#"{"choices":[{"index":1,"delta":{"role":"assistant","content":null,"reasoning_content":"hm"}}]}"#,
            vec![piece(1, Channel::Reasoning, 0, "hm")],
        ),
        (
            r#"{"choices":[{"delta":{"reasoning":"hm","reasoning_content":null,"content":[{"type":"text","text":"a"}]},"finish_reason":null}]}"#,
            vec![
                piece(0, Channel::Reasoning, 0, "hm"),
                piece(0, Channel::Text, 0, "a"),
            ],
        ),
        (
            r#"{"choices":[{"index":0,"delta":{"refusal":"no"},"finish_reason":"stop"}]}"#,
            vec![
                piece(0, Channel::Refusal, 0, "no"),
                piece(0, Channel::Finish, 0, "stop"),
            ],
        ),
        (
            r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"c1","type":"function","function":{"name":"f","arguments":""}},{"index":0,"function":{"arguments":"{\"a"}}]}}]}"#,
            vec![
                piece(0, Channel::ToolId, 1, "c1"),
                piece(0, Channel::ToolName, 1, "f"),
                piece(0, Channel::ToolArguments, 0, "{\"a"),
            ],
        ),
        (
            r#"{"choices":[{"index":0,"delta":{"function_call":{"name":"f","arguments":"{}"}}}]}"#,
            vec![
                piece(0, Channel::ToolName, -1, "f"),
                piece(0, Channel::ToolArguments, -1, "{}"),
            ],
        ),
        (r#"{"choices":[]}"#, vec![]),
        (
            r#"{"choices":[{"index":null,"delta":null,"finish_reason":null}]}"#,
            vec![],
        ),
        (
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"error":null}"#,
            vec![],
        ),
    ];
    for (data, expected) in cases {
        assert_eq!(channels(data), expected, "{data}");
        let chunk = read_chunk(data.as_bytes()).unwrap();
        assert_eq!(chunk.is_token(), !expected.is_empty(), "{data}");
    }
    let last =
        read_chunk(br#"{"choices":[{"index":2,"delta":{},"finish_reason":"stop"}]}"#).unwrap();
    assert!(!last.is_token());
    assert_eq!(last.finished().collect::<Vec<_>>(), [(2, "stop")]);
}

#[test]
fn errors_in_a_stream_are_told_from_garbage() {
    for data in [
        "",
        "nonsense",
        "null",
        "[]",
        "{}",
        r#"{"choices":7}"#,
        r#"{"choices":[{"delta":{"content":"x"}"#,
        r#"{"id":"a","id":"b","choices":[]}"#,
        r#"{"choices":[{"delta":{"tool_calls":7}}]}"#,
    ] {
        let error = read_chunk(data.as_bytes()).unwrap_err();
        assert!(is_malformed(&error), "{data}: {error:?}");
        assert_eq!(error.status, 502);
    }
    let cases = [
        (
            r#"{"error":{"message":"boom","type":"server_error"}}"#,
            502,
            "upstream_failed",
        ),
        (r#"{"error":"boom"}"#, 502, "upstream_failed"),
        (
            r#"{"object":"error","message":"too long","type":"BadRequestError","code":400}"#,
            400,
            "400",
        ),
        (
            r#"{"error":{"message":"slow down","code":429}}"#,
            429,
            "rate_limit_exceeded",
        ),
        (
            r#"{"error":{"message":"key sk-12345678 bad","type":"authentication_error"}}"#,
            502,
            "upstream_credentials",
        ),
        (
            r#"{"error":{"message":"m","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
            400,
            "context_length_exceeded",
        ),
    ];
    for (data, status, code) in cases {
        let error = read_chunk(data.as_bytes()).unwrap_err();
        assert!(!is_malformed(&error), "{data}");
        assert_eq!(
            (error.status, error.code.as_deref()),
            (status, Some(code)),
            "{data}"
        );
    }
}

#[test]
fn a_whole_answer_is_rendered_in_place() {
    let body = r#"{"id":"x","object":"chat.completion","created":1,"model":"gpt-4o-2024","choices":[{"index":0,"message":{"role":"assistant","content":"hi","annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":4}},"system_fingerprint":"fp"}"#;
    let answer = render_answer(body.as_bytes(), &identity(), "gpt-4o").unwrap();
    assert_eq!(
        text(&answer.body),
        r#"{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":"hi","annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":4}},"system_fingerprint":"fp"}"#
    );
    assert_eq!(answer.usage, Some(USAGE));
    assert_eq!(answer.model.as_deref(), Some("gpt-4o-2024"));
    assert_eq!(answer.text.get(0, Channel::Text, 0), Some("hi"));
    assert_eq!(answer.text.get(0, Channel::Finish, 0), Some("stop"));
}

#[test]
fn an_answer_without_choices_is_none() {
    for body in [
        "",
        "<html><body>502 Bad Gateway</body></html>",
        "{}",
        "[]",
        r#"{"choices":null}"#,
        r#"{"choices":[]}"#,
        r#"{"choices":[{"index":0,"finish_reason":"stop"}]}"#,
        r#"{"choices":[{"index":0,"message":"hi"}]}"#,
        r#"{"id":"x","choices":[{"message":{"content":"hi"}}"#,
    ] {
        let error = render_answer(body.as_bytes(), &identity(), "m").unwrap_err();
        assert!(is_malformed(&error), "{body}");
    }
    let error = br#"{"error":{"message":"overloaded"}}"#;
    let error = render_answer(error, &identity(), "m").unwrap_err();
    assert_eq!(error.code.as_deref(), Some("upstream_failed"));
}

#[test]
fn a_stream_is_assembled_into_the_answer() {
    let mut assembler = Assembler::default();
    let chunks = [
        r#"{"system_fingerprint":"fp","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"reasoning_content":"think"}},{"index":1,"delta":{"content":"two"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"he"},"logprobs":{"content":[{"token":"he","logprob":-0.10}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"y"},"logprobs":{"content":[{"token":"y","logprob":-2}],"refusal":null}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":1}"}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
    ];
    for data in chunks {
        assembler.push(&read_chunk(data.as_bytes()).unwrap());
    }
    assert!(!assembler.is_finished());
    let usage = estimate_usage(40, 5);
    assert_eq!(
        text(&assembler.completion(&identity(), "m", Some(&usage))),
        r#"{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hey","reasoning_content":"think","refusal":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]},"logprobs":{"content":[{"token":"he","logprob":-0.10},{"token":"y","logprob":-2}],"refusal":null},"finish_reason":"tool_calls"},{"index":1,"message":{"role":"assistant","content":"two","refusal":null},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12},"system_fingerprint":"fp"}"#
    );
    for data in [
        r#"{"choices":[{"index":1,"delta":{"refusal":"no"},"finish_reason":"stop"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":4}}}"#,
    ] {
        assembler.push(&read_chunk(data.as_bytes()).unwrap());
    }
    assert!(assembler.is_finished());
    assert_eq!(assembler.usage(), Some(USAGE));
    let whole = assembler.completion(&identity(), "m", None);
    let read = render_answer(&whole, &identity(), "m").unwrap();
    assert_eq!(read.body, whole);
    assert_eq!(&read.text, assembler.text());
    assembler.clear();
    assert!(assembler.text().is_empty());
}

#[test]
fn a_call_or_a_refusal_alone_has_no_content() {
    let message = |data: &str| {
        let mut assembler = Assembler::default();
        assembler.push(&read_chunk(data.as_bytes()).unwrap());
        let whole = assembler.completion(&identity(), "m", None);
        let whole: Value = serde_json::from_slice(&whole).unwrap();
        whole["choices"][0]["message"].clone()
    };
    assert_eq!(
        message(r#"{"choices":[{"delta":{"function_call":{"name":"f","arguments":"{}"}}}]}"#),
        json!({"role":"assistant","content":null,"refusal":null,"function_call":{"name":"f","arguments":"{}"}})
    );
    assert_eq!(
        message(r#"{"choices":[{"delta":{"refusal":"no"}}]}"#),
        json!({"role":"assistant","content":null,"refusal":"no"})
    );
    assert_eq!(
        message(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#),
        json!({"role":"assistant","content":"","refusal":null})
    );
}

#[test]
fn errors_have_exactly_four_keys() {
    let error = ErrorBody::invalid_request(Some("messages.[0].role"), "a \"role\"");
    assert_eq!(
        text(&error_json(&error)),
        r#"{"error":{"message":"a \"role\"","type":"invalid_request_error","param":"messages.[0].role","code":null}}"#
    );
    let error = ErrorBody::overloaded(Duration::from_millis(1_500));
    assert_eq!(error.retry_after_millis, Some(1_500));
    assert_eq!(
        text(&error_json(&error)),
        r#"{"error":{"message":"too many requests are in work: try again later","type":"server_error","param":null,"code":"overloaded"}}"#
    );
}

#[test]
fn errors_are_those_of_the_table() {
    let id: RequestId = "req_06gb5gymwnxbs0938nkrkaydxw0000r".parse().unwrap();
    let second = Duration::from_secs(1);
    let cases = [
        (
            ErrorBody::invalid_api_key(),
            401,
            "invalid_request_error",
            "invalid_api_key",
            None,
        ),
        (
            ErrorBody::permission_denied("x"),
            403,
            "permission_error",
            "permission_denied",
            None,
        ),
        (
            ErrorBody::model_not_found("m"),
            404,
            "invalid_request_error",
            "model_not_found",
            None,
        ),
        (
            ErrorBody::request_too_large(9),
            413,
            "invalid_request_error",
            "request_too_large",
            None,
        ),
        (
            ErrorBody::rate_limited(second, "x"),
            429,
            "rate_limit_error",
            "rate_limit_exceeded",
            None,
        ),
        (
            ErrorBody::insufficient_quota("x"),
            429,
            "insufficient_quota",
            "insufficient_quota",
            Some(false),
        ),
        (
            ErrorBody::overloaded(second),
            503,
            "server_error",
            "overloaded",
            None,
        ),
        (
            ErrorBody::log_unavailable(second),
            503,
            "server_error",
            "log_unavailable",
            None,
        ),
        (
            ErrorBody::draining(id),
            503,
            "server_error",
            "draining",
            Some(false),
        ),
        (
            ErrorBody::upstream_failed("x"),
            502,
            "upstream_error",
            "upstream_failed",
            Some(false),
        ),
        (
            ErrorBody::upstream_timeout(),
            504,
            "upstream_error",
            "upstream_timeout",
            Some(false),
        ),
        (
            ErrorBody::upstream_credentials(),
            502,
            "upstream_error",
            "upstream_credentials",
            Some(false),
        ),
        (
            ErrorBody::expired(),
            504,
            "server_error",
            "deadline_exceeded",
            Some(false),
        ),
    ];
    for (error, status, kind, code, should_retry) in cases {
        assert_eq!((error.status, error.kind.as_str()), (status, kind));
        assert_eq!(error.code.as_deref(), Some(code));
        assert_eq!(
            (error.should_retry, error.param),
            (should_retry, None),
            "{code}"
        );
    }
    assert!(ErrorBody::draining(id).message.contains(&id.to_string()));
}

#[test]
fn a_providers_error_is_told_without_its_secrets() {
    let openai = br#"{"error":{"message":"This model's maximum context length is 8192 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#;
    let error = read_error(400, openai);
    assert_eq!(
        (error.status, error.param.as_deref()),
        (400, Some("messages"))
    );
    assert_eq!(error.code.as_deref(), Some("context_length_exceeded"));
    assert!(is_context_length(&error) && !is_content_policy(&error));

    let policy = br#"{"error":{"message":"filtered by Azure OpenAI's content management policy","code":"content_filter"}}"#;
    assert!(is_content_policy(&read_error(400, policy)));
    assert!(!is_content_policy(&read_error(500, policy)));

    let html = b"<html><h1>Bad Gateway secret</h1></html>";
    for status in [400, 404, 500, 503] {
        assert!(!read_error(status, html).message.contains("secret"));
    }
    assert_eq!(
        (read_error(404, html).status, read_error(503, html).status),
        (404, 502)
    );
    assert_eq!(
        read_error(504, b"").code.as_deref(),
        Some("upstream_timeout")
    );

    let key = br#"{"error":{"message":"Incorrect API key provided: sk-proj-abcdef123456.","code":"invalid_api_key"}}"#;
    for status in [401, 403] {
        let error = read_error(status, key);
        assert_eq!(
            (error.status, error.code.as_deref()),
            (502, Some("upstream_credentials"))
        );
        assert!(!error.message.contains("sk-"));
    }
    for status in [400, 500] {
        let error = read_error(status, key);
        assert!(!error.message.contains("sk-"), "{}", error.message);
        assert!(error.message.contains("[hidden]"));
    }
    let long = json!({"error": {"message": "ü\n".repeat(5_000)}}).to_string();
    let error = read_error(400, long.as_bytes());
    assert!(error.message.chars().count() <= 401 && !error.message.contains('\n'));
    assert_eq!(
        read_error(429, b"").code.as_deref(),
        Some("rate_limit_exceeded")
    );
}

#[test]
fn usage_that_was_not_reported_is_estimated() {
    assert_eq!([0, 1, 4, 5].map(estimate_tokens), [0, 1, 1, 2]);
    assert!(estimate_usage(10, 10).estimated);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn arbitrary_bytes_from_a_provider_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), status: u16) {
        if let Err(error) = read_chunk(&bytes) {
            prop_assert_eq!(error.status, 502);
        }
        if let Err(error) = render_answer(&bytes, &identity(), "m") {
            prop_assert_eq!(error.status, 502);
        }
        prop_assert!(read_error(status, &bytes).status >= 400);
    }

    #[test]
    fn damaged_chunks_never_panic_and_render_as_json(place in 0..200_usize, byte: u8, include_usage: bool) {
        let mut data = br#"{"id":"x","usage":null,"model":"m","choices":[{"index":0,"delta":{"content":"h","tool_calls":[{"index":0,"id":"a"}]},"finish_reason":null,"logprobs":{"content":[]}}]}"#.to_vec();
        let length = data.len();
        data[place % length] = byte;
        let mut assembler = Assembler::default();
        if let Ok(chunk) = read_chunk(&data) {
            assembler.push(&chunk);
            if let Some(bytes) = render_chunk(&chunk, &identity(), "m", include_usage) {
                let value: Value = serde_json::from_slice(&bytes).unwrap();
                prop_assert_eq!(&value["id"], "chatcmpl-1");
                prop_assert_eq!(value.get("usage").is_some(), include_usage);
            }
            let whole = assembler.completion(&identity(), "m", None);
            prop_assert!(serde_json::from_slice::<Value>(&whole).is_ok());
        }
    }
}
