//! Legacy completions: validated, passed on, and served by chat.

use bytes::Bytes;
use proptest::prelude::*;
use schemas::dialect::Identity;
use schemas::dialect::openai::{
    Assembler, CompletionRequest, CompletionWriter, estimate_usage, is_malformed, read_completion,
    read_completion_chunk, render_completion, render_completion_chunk, upstream_completion,
    write_completion,
};
use schemas::event::{Channel, ErrorBody};
use schemas::fold::Text;
use schemas::model::{Part, Role, Said};
use serde_json::{Value, json};

use crate::recorded::{events, fixture, piece};

fn identity() -> Identity {
    Identity {
        id: "cmpl-1".to_owned(),
        created: 1_790_000_000,
    }
}

fn body(fields: Value) -> Vec<u8> {
    let mut request = json!({"model": "m", "prompt": "Say this"});
    let Value::Object(fields) = fields else {
        panic!("no fields")
    };
    request.as_object_mut().unwrap().extend(fields);
    request.to_string().into_bytes()
}

fn param<T: std::fmt::Debug>(outcome: Result<T, ErrorBody>) -> String {
    let error = outcome.unwrap_err();
    assert_eq!(
        (error.status, error.kind.as_str()),
        (400, "invalid_request_error")
    );
    error.param.unwrap_or_default()
}

#[test]
fn a_request_tells_what_the_pipeline_needs() {
    let body = body(json!({
        "prompt": ["a", "b"], "stream": true, "stream_options": {"include_usage": true},
        "user": "u", "logprobs": 5, "best_of": 2, "echo": true, "max_tokens": 0, "suffix": "x",
    }));
    let request = CompletionRequest::parse(&body).unwrap();
    assert_eq!(request.model, "m");
    assert!(request.stream && request.include_usage);
    assert_eq!(
        (request.prompt_bytes, request.user.as_deref()),
        (9, Some("u"))
    );
    let bare = CompletionRequest::parse(br#"{"model":"m"}"#).unwrap();
    assert_eq!(
        (bare.prompt_bytes, bare.stream, bare.include_usage),
        (0, false, false)
    );
}

#[test]
fn prompts_of_all_four_forms_pass_and_others_do_not() {
    for prompt in [
        json!("x"),
        json!(""),
        json!(["a", "b"]),
        json!([1, 2]),
        json!([[1], [2, 3]]),
    ] {
        assert!(
            CompletionRequest::parse(&body(json!({"prompt": prompt}))).is_ok(),
            "{prompt}"
        );
    }
    for prompt in [
        json!(7),
        json!({}),
        json!([]),
        json!([[]]),
        json!([1, "a"]),
        json!(["a", 1]),
        json!([1.5]),
        json!([-1]),
        json!([[1], "a"]),
        json!([null]),
    ] {
        let body = body(json!({"prompt": prompt}));
        assert_eq!(param(CompletionRequest::parse(&body)), "prompt", "{prompt}");
    }
}

#[test]
fn the_field_at_fault_is_named() {
    for (fields, expected) in [
        (json!({"model": ""}), "model"),
        (json!({"stream": 1}), "stream"),
        (
            json!({"stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
        ),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"n": 0}), "n"),
        (json!({"best_of": 21}), "best_of"),
        (json!({"logprobs": 6}), "logprobs"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"echo": 1}), "echo"),
        (json!({"suffix": 1}), "suffix"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"stop": 3}), "stop"),
    ] {
        assert_eq!(param(CompletionRequest::parse(&body(fields))), expected);
    }
    let twice = br#"{"model":"m","prompt":"a","prompt":"b"}"#;
    assert_eq!(param(CompletionRequest::parse(twice)), "prompt");
    assert_eq!(param(CompletionRequest::parse(b"[]")), "");
}

#[test]
fn only_the_model_and_the_wish_for_usage_change_upstream() {
    let body = Bytes::from_static(br#"{"prompt" : [1,2], "model":"a", "x": 1.0}"#);
    let sent = upstream_completion(&body, "b", false);
    assert_eq!(sent, r#"{"prompt" : [1,2], "model":"b", "x": 1.0}"#);
    assert_eq!(
        upstream_completion(&body, "a", false).as_ptr(),
        body.as_ptr()
    );
    let sent: Value = serde_json::from_slice(&upstream_completion(&body, "a", true)).unwrap();
    assert_eq!(sent["stream_options"]["include_usage"], true);
}

#[test]
fn a_recorded_answer_is_rendered_in_place() {
    let body = fixture("completion.answer.json");
    let answer = render_completion(body.trim_ascii(), &identity(), "mine").unwrap();
    let expected = String::from_utf8(body).unwrap();
    let expected = expected
        .trim()
        .replace("cmpl-uqkvlQyYK7bGYrRHQ0eXlWi7", "cmpl-1")
        .replace("1589478378", "1790000000")
        .replace("gpt-3.5-turbo-instruct", "mine");
    assert_eq!(answer.body, expected);
    assert_eq!(
        answer.text.get(0, Channel::Text, 0),
        Some("\n\nThis is indeed a test")
    );
    assert_eq!(answer.text.get(0, Channel::Finish, 0), Some("length"));
    assert_eq!(answer.usage.unwrap().completion_tokens, 7);
    for body in [
        "",
        "{}",
        r#"{"choices":[]}"#,
        r#"{"choices":[{"message":{"content":"x"}}]}"#,
    ] {
        let error = render_completion(body.as_bytes(), &identity(), "m").unwrap_err();
        assert!(is_malformed(&error), "{body}");
    }
}

#[test]
fn a_recorded_stream_is_rendered_and_assembled() {
    let mut assembler = Assembler::default();
    let mut shown = Vec::new();
    for data in events("completion.stream.sse") {
        if data == b"[DONE]" {
            continue;
        }
        let chunk = read_completion_chunk(&data).unwrap();
        assembler.push(&chunk);
        let [quiet, asked] =
            [false, true].map(|asked| render_completion_chunk(&chunk, &identity(), "m", asked));
        assert_eq!(quiet.is_none(), chunk.is_bare());
        let asked: Value = serde_json::from_slice(&asked.unwrap()).unwrap();
        assert_eq!(
            (&asked["id"], &asked["object"]),
            (&json!("cmpl-1"), &json!("text_completion"))
        );
        assert_eq!(asked["model"], "m");
        shown.push(asked["usage"].clone());
    }
    assert!(shown[..4].iter().all(Value::is_null));
    assert_eq!(shown[4]["total_tokens"], 9);
    assert!(assembler.is_finished());
    let whole = assembler.text_completion(&identity(), "m", None);
    assert_eq!(
        std::str::from_utf8(&whole).unwrap(),
        r#"{"id":"cmpl-1","object":"text_completion","created":1790000000,"model":"m","choices":[{"text":"This is","index":0,"logprobs":{"tokens":["This"," is"],"token_logprobs":[-0.10,-0.2],"top_logprobs":[{"This":-0.10},{" is":-0.2}],"text_offset":[0,4]},"finish_reason":"length"},{"text":"That","index":1,"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":4,"total_tokens":9},"system_fingerprint":"fp_44709d6fcb"}"#
    );
    let read = render_completion(&whole, &identity(), "m").unwrap();
    assert_eq!((&read.body, &read.text), (&whole, assembler.text()));
}

#[test]
fn a_prompt_is_what_the_user_says_to_a_chat() {
    let chat = read_completion(&body(json!({
        "max_tokens": 9, "temperature": 0.5, "stop": "END", "n": 2, "user": "u", "stream": true,
        "best_of": 1, "echo": false, "suffix": "",
    })))
    .unwrap();
    assert_eq!(chat.messages.len(), 1);
    assert_eq!(chat.messages[0].role, Role::User);
    assert_eq!(chat.messages[0].parts, [Part::Text("Say this".to_owned())]);
    assert_eq!((chat.tokens_max, chat.n, chat.stream), (Some(9), 2, true));
    assert_eq!(
        (chat.sampling.temperature, chat.stop),
        (Some(0.5), vec!["END".to_owned()])
    );
    assert_eq!(chat.user.as_deref(), Some("u"));
    let chat = read_completion(&body(json!({"prompt": ["one"]}))).unwrap();
    assert_eq!(chat.messages[0].parts, [Part::Text("one".to_owned())]);
    assert_eq!(chat.tokens_max, Some(16));
}

#[test]
fn what_chat_cannot_do_is_refused_by_name() {
    for (fields, expected) in [
        (json!({"prompt": null}), "prompt"),
        (json!({"prompt": ""}), "prompt"),
        (json!({"prompt": ["a", "b"]}), "prompt"),
        (json!({"prompt": [1, 2]}), "prompt"),
        (json!({"prompt": [[1], [2]]}), "prompt"),
        (json!({"echo": true}), "echo"),
        (json!({"suffix": "x"}), "suffix"),
        (json!({"best_of": 2}), "best_of"),
        (json!({"logprobs": 0}), "logprobs"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"temperature": 9}), "temperature"),
    ] {
        assert_eq!(
            param(read_completion(&body(fields.clone()))),
            expected,
            "{fields}"
        );
    }
}

#[test]
fn a_chats_words_are_written_as_a_completion() {
    let mut writer = CompletionWriter::new(&identity(), "m", true);
    let pieces = vec![
        piece(0, Channel::Reasoning, 0, "hidden"),
        piece(0, Channel::Text, 0, "He"),
        piece(0, Channel::Text, 0, ""),
        piece(1, Channel::Refusal, 0, "no"),
        piece(0, Channel::Finish, 0, "stop"),
    ];
    let said = Said {
        pieces: pieces.clone(),
        ..Said::default()
    };
    let chunks = writer.write(&said);
    let raws: Vec<_> = chunks
        .iter()
        .map(|chunk| std::str::from_utf8(&chunk.raw).unwrap())
        .collect();
    let head =
        r#"{"id":"cmpl-1","object":"text_completion","created":1790000000,"model":"m","choices":"#;
    assert_eq!(
        raws,
        [
            r#"[{"text":"He","index":0,"logprobs":null,"finish_reason":null}],"usage":null}"#,
            r#"[{"text":"no","index":1,"logprobs":null,"finish_reason":null}],"usage":null}"#,
            r#"[{"text":"","index":0,"logprobs":null,"finish_reason":"stop"}],"usage":null}"#,
        ]
        .map(|rest| format!("{head}{rest}"))
    );
    let usage = estimate_usage(8, 4);
    let last = writer.finish(&usage);
    assert_eq!(last.len(), 1);
    assert!(last[0].raw.ends_with(
        br#""choices":[],"usage":{"prompt_tokens":2,"completion_tokens":1,"total_tokens":3}}"#
    ));
    assert!(
        CompletionWriter::new(&identity(), "m", false)
            .finish(&usage)
            .is_empty()
    );

    let mut text = Text::default();
    pieces.iter().for_each(|piece| text.push(piece));
    let whole = write_completion(&text, &identity(), "m", Some(&usage));
    let mut assembler = Assembler::default();
    for chunk in chunks {
        let read = read_completion_chunk(&chunk.raw).unwrap();
        assert_eq!(read.pieces, chunk.pieces);
        assembler.push(&read);
    }
    assert_eq!(
        assembler.text_completion(&identity(), "m", Some(&usage)),
        whole
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn damaged_requests_never_panic(place in 0..200_usize, byte: u8) {
        let mut body = body(json!({"prompt": [[1, 2], [3]], "stop": ["a"], "stream": true, "echo": false}));
        let length = body.len();
        body[place % length] = byte;
        if let Err(error) = CompletionRequest::parse(&body) {
            prop_assert_eq!(error.status, 400);
        }
        prop_assert!(read_completion(&body).is_err());
    }

    #[test]
    fn arbitrary_bytes_from_a_provider_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        if let Err(error) = read_completion_chunk(&bytes) {
            prop_assert_eq!(error.status, 502);
        }
        if let Err(error) = render_completion(&bytes, &identity(), "m") {
            prop_assert_eq!(error.status, 502);
        }
    }
}
