//! DeepSeek's extension of the chat dialect.

use bytes::Bytes;
use schemas::dialect::openai::{
    Assembler, deepseek_request, read_answer, read_chunk, render_answer, render_chunk,
};
use schemas::event::{Channel, Usage};
use serde_json::Value;

use crate::recorded::{events, fixture, identity};

const USAGE: Usage = Usage {
    prompt_tokens: 10,
    completion_tokens: 9,
    cached_tokens: 4,
    reasoning_tokens: 0,
    estimated: false,
};

fn sent(body: &str) -> String {
    let body = Bytes::from(body.to_owned());
    let sent = deepseek_request(&body, "m", false);
    String::from_utf8(sent.to_vec()).unwrap()
}

#[test]
fn newer_words_of_openai_are_said_in_deepseeks() {
    let cases = [
        (
            r#"{"model":"m","messages":[ {"role" : "developer","content":"a","x":1.0}, {"role":"user","content":"\"developer\""}]}"#,
            r#"{"model":"m","messages":[{"role" : "system","content":"a","x":1.0},{"role":"user","content":"\"developer\""}]}"#,
        ),
        (
            r#"{"model":"m","max_completion_tokens":9,"x":1.0}"#,
            r#"{"model":"m","x":1.0,"max_tokens":9}"#,
        ),
        (
            r#"{"max_tokens":5,"model":"m","max_completion_tokens":9}"#,
            r#"{"max_tokens":9,"model":"m"}"#,
        ),
        (
            r#"{"model":"m","reasoning_effort":"none"}"#,
            r#"{"model":"m","thinking":{"type":"disabled"}}"#,
        ),
        (
            r#"{"model":"m","reasoning_effort":"none","thinking":{"type":"enabled"}}"#,
            r#"{"model":"m","thinking":{"type":"enabled"}}"#,
        ),
        (
            r#"{"model":"m","reasoning_effort":"minimal"}"#,
            r#"{"model":"m","reasoning_effort":"low"}"#,
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(sent(body), expected);
    }
    assert_eq!(sent("not json"), "not json");
}

#[test]
fn deepseeks_own_fields_pass_untouched() {
    let body = r#"{"model":"m", "messages":[{"role":"user","content":"Is a developer a \"developer\"?"},{"role":"assistant","content":"x","reasoning_content":"y","prefix":true}],"thinking":{"type":"enabled"},"reasoning_effort":"max","n":2}"#;
    let body = Bytes::from_static(body.as_bytes());
    assert_eq!(deepseek_request(&body, "m", false).as_ptr(), body.as_ptr());
    let streamed: Value = serde_json::from_slice(&deepseek_request(&body, "n", true)).unwrap();
    assert_eq!(streamed["model"], "n");
    assert_eq!(streamed["stream_options"]["include_usage"], true);
}

#[test]
fn a_recorded_answer_keeps_thoughts_and_cache_usage() {
    let body = fixture("deepseek.answer.json");
    let answer = render_answer(&body, &identity(), "deepseek-v4-pro").unwrap();
    let rendered: Value = serde_json::from_slice(&answer.body).unwrap();
    let recorded: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(rendered["usage"], recorded["usage"]);
    assert_eq!(rendered["choices"], recorded["choices"]);
    let usage = Usage {
        completion_tokens: 48,
        reasoning_tokens: 38,
        ..USAGE
    };
    assert_eq!(answer.usage, Some(usage));
    let read = read_answer(&body).unwrap();
    assert_eq!(
        read.text.get(0, Channel::Reasoning, 0),
        Some("Compare 9.11 and 9.8.")
    );
    assert_eq!(
        (read.usage, read.model.as_deref()),
        (Some(usage), Some("deepseek-v4-pro"))
    );
}

#[test]
fn a_recorded_stream_keeps_them_too_when_assembled() {
    let mut assembler = Assembler::default();
    let mut last = Value::Null;
    for data in events("deepseek.stream.sse") {
        if data == b"[DONE]" {
            continue;
        }
        let chunk = read_chunk(&data).unwrap();
        assembler.push(&chunk);
        let rendered = render_chunk(&chunk, &identity(), "m", true).unwrap();
        last = serde_json::from_slice(&rendered).unwrap();
    }
    assert_eq!(last["usage"]["prompt_cache_miss_tokens"], 6);
    assert_eq!(assembler.usage(), Some(USAGE));
    for usage in [None, Some(&USAGE)] {
        let whole = assembler.completion(&identity(), "m", usage);
        let whole: Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(
            whole["choices"][0]["message"]["reasoning_content"],
            "Compare."
        );
        assert_eq!(whole["usage"]["prompt_cache_hit_tokens"], 4);
        assert_eq!(whole["usage"]["prompt_cache_miss_tokens"], 6);
    }
    // Who does not count that way is not made to.
    let mut other = Assembler::default();
    other.push(&read_chunk(br#"{"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#).unwrap());
    let whole: Value = serde_json::from_slice(&other.completion(&identity(), "m", None)).unwrap();
    assert!(whole["usage"].get("prompt_cache_miss_tokens").is_none());
}
