//! Whole answers, and what passes between two of this dialect.

use bytes::Bytes;
use proptest::prelude::*;
use schemas::dialect::anthropic::{
    StreamReader, count_tokens_json, event_name, read_answer, read_count, render_answer,
    render_event, write_answer,
};
use schemas::dialect::is_malformed;
use schemas::event::{Channel, Usage};
use schemas::model::Answer;
use serde_json::json;

use super::{USAGE, collected, events, fixture, identity, piece, text, value};

const CASES: [&str; 3] = ["text", "tools", "thinking"];

fn recorded(case: &str) -> Answer {
    read_answer(fixture(&format!("{case}/answer.json")).as_bytes()).unwrap()
}

#[test]
fn recorded_answers_say_what_they_say() {
    let answer = recorded("text");
    let expected = [
        piece(Channel::Text, 0, "Hello! Grüße 🌍"),
        piece(Channel::Finish, 0, "stop"),
    ];
    assert_eq!(answer.text, collected(&expected));
    assert_eq!(answer.model.as_deref(), Some("claude-sonnet-4-5-20250929"));
    let usage = Usage {
        prompt_tokens: 2112,
        completion_tokens: 9,
        cached_tokens: 2000,
        reasoning_tokens: 0,
        estimated: false,
    };
    assert_eq!(answer.usage, Some(usage));

    let expected = [
        piece(Channel::Text, 0, "Let me see."),
        piece(Channel::ToolId, 0, "toolu_01T1x1fJ34qAmk2tNTrN7Up6"),
        piece(Channel::ToolName, 0, "get_weather"),
        piece(
            Channel::ToolArguments,
            0,
            r#"{"location": "London, UK", "unit": "celsius"}"#,
        ),
        piece(Channel::ToolId, 1, "toolu_01NRLabsLyVHZPKxbKvkfSMn"),
        piece(Channel::ToolName, 1, "get_time"),
        piece(Channel::ToolArguments, 1, "{}"),
        piece(Channel::Finish, 0, "tool_calls"),
    ];
    assert_eq!(recorded("tools").text, collected(&expected));

    let answer = recorded("thinking");
    let expected = [
        piece(
            Channel::Reasoning,
            0,
            "Suppose there are finitely many. Then ...",
        ),
        piece(Channel::Text, 0, "Yes, there are infinitely many."),
        piece(Channel::Finish, 0, "stop"),
    ];
    assert_eq!(answer.text, collected(&expected));
    assert_eq!(answer.usage.map(|usage| usage.reasoning_tokens), Some(390));
}

#[test]
fn a_recorded_stream_says_what_the_whole_answer_says() {
    for case in CASES {
        let mut reader = StreamReader::default();
        let mut pieces = Vec::new();
        let (mut usage, mut model, mut ends) = (None, None, 0);
        for (name, data) in events(&format!("{case}/stream.sse")) {
            let said = reader.read(data.as_bytes()).unwrap();
            assert_eq!(event_name(data.as_bytes()), Some(name.as_str()));
            assert_eq!(said.is_end, name == "message_stop");
            ends += usize::from(said.is_end);
            pieces.extend(said.pieces);
            usage = said.usage.or(usage);
            model = said.model.or(model);
        }
        let whole = recorded(case);
        assert_eq!(collected(&pieces), whole.text, "{case}");
        assert_eq!(
            (usage, model, ends),
            (whole.usage, whole.model, 1),
            "{case}"
        );
        assert!(pieces.iter().all(|piece| !piece.text.is_empty()));
    }
}

#[test]
fn every_end_has_a_reason() {
    for (stop_reason, finish_reason) in [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "length"),
        ("yet_to_come", "length"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
    ] {
        let body = format!(r#"{{"content":[],"stop_reason":"{stop_reason}"}}"#);
        let answer = read_answer(body.as_bytes()).unwrap();
        let finish = answer.text.get(0, Channel::Finish, 0);
        assert_eq!(finish, Some(finish_reason), "{stop_reason}");
        assert_eq!(answer.usage, None);
    }
}

#[test]
fn what_is_no_answer_is_malformed() {
    for body in [
        "",
        "<html>",
        "[]",
        "{}",
        r#"{"content":"x"}"#,
        r#"{"content":[{}]}"#,
        r#"{"content":[{"type":"tool_use","id":"a","name":"f"}]}"#,
    ] {
        let error = read_answer(body.as_bytes()).unwrap_err();
        assert!(is_malformed(&error), "{body}");
        assert_eq!(error.status, 502);
    }
}

#[test]
fn an_answer_of_another_provider_is_written_in_blocks() {
    let said = collected(&[
        piece(Channel::Reasoning, 0, "hm"),
        piece(Channel::Text, 0, "well"),
        piece(Channel::ToolName, 0, "f"),
        piece(Channel::ToolArguments, 0, r#" {"digits":1.50} "#),
        piece(Channel::ToolId, 2, "call.9"),
        piece(Channel::ToolName, 2, "g"),
        piece(Channel::ToolArguments, 2, r#"{"cut": tr"#),
        piece(Channel::ToolId, 3, "call_10"),
        piece(Channel::ToolName, 3, "h"),
        piece(Channel::Finish, 0, "tool_calls"),
    ]);
    let body = write_answer(&said, &identity(), "gpt", &USAGE);
    assert_eq!(
        text(&body),
        r#"{"id":"msg_1","type":"message","role":"assistant","model":"gpt","content":[{"type":"thinking","thinking":"hm","signature":""},{"type":"text","text":"well"},{"type":"tool_use","id":"toolu_1_0","name":"f","input":{"digits":1.50}},{"type":"tool_use","id":"call_9","name":"g","input":{"INVALID_JSON":"{\"cut\": tr"}},{"type":"tool_use","id":"call_10","name":"h","input":{}}],"stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":16,"cache_creation_input_tokens":0,"cache_read_input_tokens":4,"output_tokens":12}}"#
    );
}

#[test]
fn an_end_is_written_in_anthropics_words() {
    let reason = |finish: Option<&str>, has_tool: bool| {
        let mut pieces = Vec::new();
        pieces.extend(finish.map(|finish| piece(Channel::Finish, 0, finish)));
        pieces.extend(has_tool.then(|| piece(Channel::ToolName, 0, "f")));
        let body = write_answer(&collected(&pieces), &identity(), "m", &USAGE);
        value(&body)["stop_reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason(Some("stop"), false), "end_turn");
    assert_eq!(reason(Some("length"), false), "max_tokens");
    assert_eq!(reason(Some("content_filter"), false), "refusal");
    assert_eq!(reason(Some("function_call"), true), "tool_use");
    assert_eq!(reason(Some("stop"), true), "tool_use");
    assert_eq!(reason(Some("length"), true), "max_tokens");
    assert_eq!(reason(Some("yet_to_come"), false), "max_tokens");
    assert_eq!(reason(Some("yet_to_come"), true), "max_tokens");
    assert_eq!(reason(None, false), "end_turn");
}

#[test]
fn thoughts_count_where_they_are_told() {
    let usage = Usage {
        reasoning_tokens: 7,
        ..USAGE
    };
    let body = write_answer(&collected(&[]), &identity(), "m", &usage);
    let details = &value(&body)["usage"]["output_tokens_details"];
    assert_eq!(*details, json!({"thinking_tokens": 7}));
    assert_eq!(read_answer(&body).unwrap().usage, Some(usage));
}

#[test]
fn between_two_of_this_dialect_only_id_and_model_change() {
    for case in CASES {
        let body = fixture(&format!("{case}/answer.json"));
        let ours = |text: &str| {
            let id = text
                .split('"')
                .find(|word| word.starts_with("msg_"))
                .unwrap();
            text.replacen(id, "msg_1", 1)
                .replacen("claude-sonnet-4-5-20250929", "mine", 1)
        };
        let rendered = render_answer(body.as_bytes(), &identity(), "mine");
        assert_eq!(text(&rendered), ours(&body));
        for (name, data) in events(&format!("{case}/stream.sse")) {
            let rendered = render_event(data.as_bytes(), &identity(), "mine");
            if name == "message_start" {
                assert_eq!(text(&rendered), ours(&data));
            } else {
                assert_eq!(text(&rendered), data);
            }
        }
    }
    for data in [
        "",
        "{",
        r#"{"type":"message_start"}"#,
        r#"["message_start"]"#,
    ] {
        assert_eq!(render_event(data.as_bytes(), &identity(), "m"), data);
        assert_eq!(render_answer(b"<html>", &identity(), "m"), "<html>");
    }
}

#[test]
fn an_event_is_named_by_its_type() {
    assert_eq!(event_name(br#" {"x":[1],"type":"ping"}"#), Some("ping"));
    for data in ["", "{}", "[\"ping\"]", r#"{"type":7}"#] {
        assert_eq!(event_name(data.as_bytes()), None, "{data}");
    }
}

#[test]
fn counts_are_written_and_read() {
    assert_eq!(count_tokens_json(14), r#"{"input_tokens":14}"#);
    assert_eq!(read_count(&count_tokens_json(14)), Some(14));
    for body in [
        "",
        "{}",
        r#"{"input_tokens":-1}"#,
        r#"{"input_tokens":"14"}"#,
    ] {
        assert_eq!(read_count(body.as_bytes()), None, "{body}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read_answer(&bytes).is_err());
        prop_assert!(StreamReader::default().read(&bytes).is_err());
        prop_assert_eq!(render_event(&bytes, &identity(), "m"), Bytes::from(bytes));
    }
}
