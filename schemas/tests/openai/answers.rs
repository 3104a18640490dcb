//! Chat answers between OpenAI's dialect and the form that stands between dialects.

use proptest::prelude::*;
use schemas::dialect::openai::{
    Assembler, FUNCTION_CALL, StreamWriter, as_function_call, estimate_usage, is_malformed,
    read_answer, read_chunk, read_event, render_answer, write_answer,
};
use schemas::event::{Channel, Chunk, Piece, Usage};
use schemas::fold::Text;
use schemas::model::Said;
use serde_json::{Value, json};

use crate::recorded::{events, fixture, identity, piece};

fn said(pieces: &[Piece]) -> Said {
    Said {
        pieces: pieces.to_vec(),
        ..Said::default()
    }
}

fn text_of(pieces: &[Piece]) -> Text {
    let mut text = Text::default();
    pieces.iter().for_each(|piece| text.push(piece));
    text
}

/// The first choice of a chunk.
fn choice(chunk: &Chunk) -> Value {
    let chunk: Value = serde_json::from_slice(&chunk.raw).unwrap();
    chunk["choices"][0].clone()
}

fn deltas(chunks: &[Chunk]) -> Vec<Value> {
    chunks
        .iter()
        .map(|chunk| choice(chunk)["delta"].clone())
        .collect()
}

/// What all events of a recorded stream say.
fn heard(name: &str) -> (Text, Option<Usage>, bool) {
    let mut text = Text::default();
    let mut usage = None;
    let mut is_end = false;
    for data in events(name) {
        assert!(!is_end, "nothing comes after the end");
        let said = read_event(&data).unwrap();
        said.pieces.iter().for_each(|piece| text.push(piece));
        usage = said.usage.or(usage);
        is_end = said.is_end;
    }
    (text, usage, is_end)
}

#[test]
fn recorded_answers_are_read() {
    let tools = read_answer(&fixture("tools.answer.json")).unwrap();
    assert_eq!(
        tools.text,
        text_of(&[
            piece(0, Channel::ToolId, 0, "call_abc123"),
            piece(0, Channel::ToolName, 0, "get_current_weather"),
            piece(
                0,
                Channel::ToolArguments,
                0,
                "{\n\"location\": \"Boston, MA\"\n}"
            ),
            piece(0, Channel::Finish, 0, "tool_calls"),
        ])
    );
    let usage = tools.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (82, 17));
    assert_eq!(tools.model.as_deref(), Some("gpt-4o-mini"));

    let refusal = read_answer(&fixture("refusal.answer.json")).unwrap();
    assert_eq!(
        refusal.text.get(0, Channel::Refusal, 0),
        Some("I'm sorry, I cannot assist with that request.")
    );
    assert_eq!(refusal.text.get(0, Channel::Text, 0), None);
    assert_eq!(refusal.usage.unwrap().reasoning_tokens, 3);
}

#[test]
fn recorded_streams_are_read_to_their_end() {
    let (tools, usage, is_end) = heard("tools.stream.sse");
    assert!(is_end);
    assert_eq!(
        tools,
        text_of(&[
            piece(0, Channel::ToolId, 0, "call_a"),
            piece(0, Channel::ToolName, 0, "get_weather"),
            piece(0, Channel::ToolArguments, 0, r#"{"city":"Rome"}"#),
            piece(0, Channel::ToolId, 1, "call_b"),
            piece(0, Channel::ToolName, 1, "get_time"),
            piece(0, Channel::ToolArguments, 1, "{}"),
            piece(0, Channel::Finish, 0, "tool_calls"),
        ])
    );
    assert_eq!(usage.unwrap().cached_tokens, 32);

    let (choices, usage, is_end) = heard("n2.stream.sse");
    assert!(is_end && usage.is_none());
    let words = [0, 1].map(|choice| {
        let part = |channel| choices.get(choice, channel, 0).unwrap().to_owned();
        (part(Channel::Text), part(Channel::Finish))
    });
    let word = |text: &str, finish: &str| (text.to_owned(), finish.to_owned());
    assert_eq!(words, [word("One", "stop"), word("Two", "length")]);
}

#[test]
fn errors_and_failures_of_a_provider_are_no_answers() {
    let data = &events("error.stream.sse")[0];
    let error = read_event(data).unwrap_err();
    assert_eq!(error.status, 502);
    assert!(!is_malformed(&error) && error.message.contains("had an error"));
    assert!(is_malformed(&read_event(b"{}").unwrap_err()));
    assert!(is_malformed(&read_answer(b"<html>").unwrap_err()));

    for reason in ["insufficient_system_resource", "error", "abort"] {
        let chunk = json!({"choices": [{"delta": {}, "finish_reason": reason}]});
        let error = read_event(chunk.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.code.as_deref(), Some("upstream_failed"), "{reason}");
        let answer = json!({"choices": [{"message": {"content": "x"}, "finish_reason": reason}]});
        assert!(
            read_answer(answer.to_string().as_bytes()).is_err(),
            "{reason}"
        );
    }
}

#[test]
fn finish_reasons_are_openais_words() {
    for (word, expected) in [
        ("stop", "stop"),
        ("content_filter", "content_filter"),
        ("function_call", "tool_calls"),
        ("model_length", "length"),
        ("eos", "stop"),
        ("STOP", "stop"),
        ("tool_use", "tool_calls"),
        ("something_new", "length"),
    ] {
        let chunk = json!({"choices": [{"delta": {}, "finish_reason": word}]});
        let said = read_event(chunk.to_string().as_bytes()).unwrap();
        assert_eq!(said.pieces, [piece(0, Channel::Finish, 0, expected)]);
        let answer = json!({"choices": [{"message": {"content": "x"}, "finish_reason": word}]});
        let answer = read_answer(answer.to_string().as_bytes()).unwrap();
        assert_eq!(answer.text.get(0, Channel::Finish, 0), Some(expected));
    }
}

#[test]
fn a_stream_begins_with_the_role_and_ends_with_the_reason() {
    let mut writer = StreamWriter::new(&identity(), "m", true);
    let chunks = writer.write(&said(&[
        piece(0, Channel::Reasoning, 0, "hm"),
        piece(0, Channel::Text, 0, "He"),
        piece(0, Channel::Text, 0, "llo"),
        piece(0, Channel::Finish, 0, "stop"),
    ]));
    assert_eq!(
        chunks.iter().map(choice).collect::<Vec<_>>(),
        [
            json!({"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null}),
            json!({"index": 0, "delta": {"content": "Hello", "reasoning_content": "hm"}, "logprobs": null, "finish_reason": null}),
            json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}),
        ]
    );
    for chunk in &chunks {
        let raw: Value = serde_json::from_slice(&chunk.raw).unwrap();
        assert_eq!(raw["id"], "chatcmpl-1");
        assert_eq!(raw["object"], "chat.completion.chunk");
        assert_eq!(
            (&raw["created"], &raw["model"]),
            (&json!(1_790_000_000), &json!("m"))
        );
        assert_eq!(raw.get("usage"), Some(&Value::Null));
    }
    let last = writer.finish(&estimate_usage(40, 8));
    let last: Value = serde_json::from_slice(&last[0].raw).unwrap();
    assert_eq!(
        (&last["choices"], &last["usage"]["total_tokens"]),
        (&json!([]), &json!(12))
    );

    let mut silent = StreamWriter::new(&identity(), "m", false);
    let chunks = silent.write(&said(&[piece(1, Channel::Refusal, 0, "no")]));
    assert_eq!(
        choice(&chunks[1]),
        json!({"index": 1, "delta": {"refusal": "no"}, "logprobs": null, "finish_reason": null})
    );
    let raw: Value = serde_json::from_slice(&chunks[1].raw).unwrap();
    assert!(raw.get("usage").is_none());
    assert!(silent.finish(&estimate_usage(1, 1)).is_empty());
    assert!(silent.write(&Said::default()).is_empty());
}

#[test]
fn id_type_and_name_of_a_call_come_once() {
    let mut writer = StreamWriter::new(&identity(), "m", false);
    // The id waits for the name; a second call comes in between.
    let chunks = writer.write(&said(&[piece(0, Channel::ToolId, 0, "a")]));
    assert_eq!(
        deltas(&chunks),
        [json!({"role": "assistant", "content": ""})]
    );
    let chunks = writer.write(&said(&[
        piece(0, Channel::ToolName, 0, "f"),
        piece(0, Channel::ToolName, 1, "g"),
        piece(0, Channel::ToolArguments, 1, "{}"),
    ]));
    assert_eq!(
        deltas(&chunks),
        [json!({"tool_calls": [
            {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}},
            {"index": 1, "id": "call_1_0_1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ]})]
    );
    let chunks = writer.write(&said(&[
        piece(0, Channel::ToolId, 0, "a"),
        piece(0, Channel::ToolName, 0, "f"),
        piece(0, Channel::ToolArguments, 0, "{\"x\""),
    ]));
    assert_eq!(
        deltas(&chunks),
        [json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"x\""}}]})]
    );
    // A call whose name never comes is told before the choice ends.
    let chunks = writer.write(&said(&[
        piece(0, Channel::ToolId, 2, "c"),
        piece(0, Channel::Finish, 0, "tool_calls"),
    ]));
    assert_eq!(
        deltas(&chunks),
        [
            json!({"tool_calls": [{"index": 2, "id": "c", "type": "function", "function": {"name": "", "arguments": ""}}]}),
            json!({}),
        ]
    );
    assert_eq!(choice(&chunks[1])["finish_reason"], "tool_calls");
}

#[test]
fn a_client_of_functions_reads_the_first_call() {
    let mut pieces = vec![
        piece(0, Channel::ToolId, 0, "a"),
        piece(0, Channel::ToolName, 0, "f"),
        piece(0, Channel::ToolArguments, 0, "{}"),
        piece(0, Channel::ToolName, 1, "g"),
        piece(0, Channel::Finish, 0, "tool_calls"),
    ];
    as_function_call(&mut pieces);
    assert_eq!(
        pieces,
        [
            piece(0, Channel::ToolName, FUNCTION_CALL, "f"),
            piece(0, Channel::ToolArguments, FUNCTION_CALL, "{}"),
            piece(0, Channel::Finish, 0, "function_call"),
        ]
    );
    let chunks = StreamWriter::new(&identity(), "m", false).write(&said(&pieces));
    assert_eq!(
        deltas(&chunks)[1],
        json!({"function_call": {"name": "f", "arguments": "{}"}})
    );
    let whole = write_answer(&text_of(&pieces), &identity(), "m", None);
    let whole: Value = serde_json::from_slice(&whole).unwrap();
    assert_eq!(whole["choices"][0]["message"]["function_call"]["name"], "f");
    assert!(whole["choices"][0]["message"].get("tool_calls").is_none());
}

#[test]
fn a_whole_answer_is_written_as_a_stream_is_assembled() {
    let pieces = [
        piece(0, Channel::Reasoning, 0, "hm"),
        piece(0, Channel::Text, 0, "hi"),
        piece(0, Channel::ToolName, 3, "f"),
        piece(0, Channel::ToolArguments, 3, "{}"),
        piece(0, Channel::Finish, 0, "tool_calls"),
    ];
    let usage = estimate_usage(40, 8);
    let whole = write_answer(&text_of(&pieces), &identity(), "m", Some(&usage));
    let mut writer = StreamWriter::new(&identity(), "m", false);
    let mut assembler = Assembler::default();
    for chunk in writer.write(&said(&pieces)) {
        assembler.push(&read_chunk(&chunk.raw).unwrap());
    }
    assert_eq!(assembler.completion(&identity(), "m", Some(&usage)), whole);
    let whole: Value = serde_json::from_slice(&whole).unwrap();
    assert_eq!(
        whole["choices"][0]["message"],
        json!({
            "role": "assistant", "content": "hi", "reasoning_content": "hm", "refusal": null,
            "tool_calls": [{"id": "call_1_0_3", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        })
    );
    assert_eq!(whole["usage"]["total_tokens"], 12);
}

/// Pieces of two choices in any order, but each call begins with its id and name, as
/// providers begin it.
fn spoken() -> impl Strategy<Value = Vec<Vec<Piece>>> {
    let spoken = (0..2_i32, 0..7_usize, 0..3_i32, "[a-zü{}\"\\\\\n]{1,6}");
    let pieces = proptest::collection::vec(spoken, 0..24).prop_map(|spoken| {
        let mut open = std::collections::BTreeSet::new();
        let mut pieces = Vec::new();
        for (choice, kind, index, text) in spoken {
            let channel = match kind {
                0 => Channel::Reasoning,
                1 => Channel::Refusal,
                2 | 3 => Channel::Text,
                _ => {
                    if open.insert((choice, index)) {
                        pieces.push(piece(choice, Channel::ToolId, index, &format!("id{index}")));
                        pieces.push(piece(choice, Channel::ToolName, index, "name"));
                    }
                    pieces.push(piece(choice, Channel::ToolArguments, index, &text));
                    continue;
                }
            };
            pieces.push(piece(choice, channel, 0, &text));
        }
        let mut choices: Vec<_> = pieces.iter().map(|piece| piece.choice).collect();
        choices.sort_unstable();
        choices.dedup();
        pieces.extend(
            choices
                .iter()
                .map(|choice| piece(*choice, Channel::Finish, 0, "stop")),
        );
        pieces
    });
    (pieces, 1..6_usize)
        .prop_map(|(pieces, at_once)| pieces.chunks(at_once).map(<[Piece]>::to_vec).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn what_is_written_reads_back_as_what_was_said(events in spoken(), include_usage: bool) {
        let mut writer = StreamWriter::new(&identity(), "m", include_usage);
        let mut expected = Text::default();
        let mut logged = Text::default();
        let mut assembler = Assembler::default();
        let mut chunks = Vec::new();
        for pieces in &events {
            pieces.iter().for_each(|piece| expected.push(piece));
            chunks.extend(writer.write(&said(pieces)));
        }
        chunks.extend(writer.finish(&estimate_usage(1, 1)));
        for chunk in &chunks {
            let read = read_chunk(&chunk.raw).unwrap();
            prop_assert_eq!(&read.pieces, &chunk.pieces);
            logged.append(chunk);
            assembler.push(&read);
        }
        prop_assert_eq!(assembler.text(), &expected);
        prop_assert_eq!(&logged, &expected);
        prop_assert_eq!(assembler.usage().is_some(), include_usage);

        let whole = write_answer(&expected, &identity(), "m", None);
        if expected.is_empty() {
            prop_assert!(render_answer(&whole, &identity(), "m").is_err());
        } else {
            // Whole, calls have no index: they are numbered by their place.
            let read = read_answer(&whole).unwrap().text;
            prop_assert_eq!(read.written_bytes(), expected.written_bytes());
            prop_assert_eq!(write_answer(&read, &identity(), "m", None), whole);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        if let Err(error) = read_event(&bytes) {
            prop_assert_eq!(error.status, 502);
        }
        if let Err(error) = read_answer(&bytes) {
            prop_assert_eq!(error.status, 502);
        }
    }

    #[test]
    fn pieces_in_any_order_never_panic(pieces in proptest::collection::vec((0..2_i32, 0..8_usize, -1..2_i32, "[a-c]{0,2}"), 0..12)) {
        let channels = [
            Channel::Text, Channel::Reasoning, Channel::Refusal, Channel::ToolId,
            Channel::ToolName, Channel::ToolArguments, Channel::Finish, Channel::Unknown,
        ];
        let mut writer = StreamWriter::new(&identity(), "m", false);
        for (choice, channel, index, text) in pieces {
            for chunk in writer.write(&said(&[piece(choice, channels[channel], index, &text)])) {
                let read = read_chunk(&chunk.raw).unwrap();
                prop_assert_eq!(read.pieces, chunk.pieces);
            }
        }
    }
}
