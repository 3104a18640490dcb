//! Streams: what is odd in a provider's, and those that are written for other providers.

use bytes::Bytes;
use proptest::prelude::*;
use schemas::dialect::anthropic::{StreamReader, StreamWriter};
use schemas::dialect::is_malformed;
use schemas::event::{Channel, Piece};
use schemas::fold::Text;
use schemas::model::Said;
use serde_json::{Value, json};

use super::{USAGE, collected, events, identity, piece, text, value};

fn said(pieces: &[Piece]) -> Said {
    Said {
        pieces: pieces.to_vec(),
        ..Said::default()
    }
}

fn read(reader: &mut StreamReader, data: &str) -> Vec<(Channel, i32, String)> {
    let pieces = reader.read(data.as_bytes()).unwrap().pieces;
    let parts = |piece: Piece| (piece.channel, piece.index, piece.text);
    pieces.into_iter().map(parts).collect()
}

#[test]
fn usage_is_told_with_the_end_and_what_is_told_later_stands() {
    let mut reader = StreamReader::default();
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":5,"cache_read_input_tokens":3,"output_tokens":1}}}"#;
    assert_eq!(reader.read(start.as_bytes()).unwrap().usage, None);
    let mut usage = |data: &str| {
        let usage = reader.read(data.as_bytes()).unwrap().usage;
        usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens))
    };
    let delta = r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":9}}"#;
    assert_eq!(usage(delta), Some((8, 9)));
    let delta =
        r#"{"type":"message_delta","delta":{},"usage":{"input_tokens":6,"output_tokens":12}}"#;
    assert_eq!(usage(delta), Some((9, 12)));
    assert_eq!(usage(r#"{"type":"message_delta","delta":{}}"#), None);
}

#[test]
fn arguments_that_a_block_begins_with_stand_if_no_others_come() {
    let mut reader = StreamReader::default();
    let start = r#"{"type":"content_block_start","index":7,"content_block":{"type":"tool_use","id":"a","name":"f","input":{"x": 1}}}"#;
    let expected = [
        (Channel::ToolId, 0, "a".to_owned()),
        (Channel::ToolName, 0, "f".to_owned()),
    ];
    assert_eq!(read(&mut reader, start), expected);
    let stop = r#"{"type":"content_block_stop","index":7}"#;
    let whole = [(Channel::ToolArguments, 0, r#"{"x": 1}"#.to_owned())];
    assert_eq!(read(&mut reader, stop), whole);
    assert_eq!(read(&mut reader, stop), []);
}

#[test]
fn blocks_may_begin_with_what_they_say() {
    let mut reader = StreamReader::default();
    let text =
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"a"}}"#;
    assert_eq!(
        read(&mut reader, text),
        [(Channel::Text, 0, "a".to_owned())]
    );
    let thinking = r#"{"type":"content_block_start","index":1,"content_block":{"type":"thinking","thinking":"b"}}"#;
    assert_eq!(
        read(&mut reader, thinking),
        [(Channel::Reasoning, 0, "b".to_owned())]
    );
}

#[test]
fn what_is_no_event_is_malformed_and_what_is_not_known_says_nothing() {
    for data in [
        "",
        "[DONE]",
        "[]",
        "{}",
        r#"{"type":7}"#,
        r#"{"type":"message_start"}"#,
        r#"{"type":"content_block_start","index":0}"#,
        r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"x"}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta"}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":{}}}"#,
        r#"{"type":"content_block_stop"}"#,
        r#"{"type":"message_delta"}"#,
    ] {
        let error = StreamReader::default().read(data.as_bytes()).unwrap_err();
        assert!(is_malformed(&error), "{data}");
    }
    for data in [
        r#"{"type":"ping"}"#,
        r#"{"type":"yet_to_come","x":1}"#,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"new"}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"new_delta"}}"#,
    ] {
        let said = StreamReader::default().read(data.as_bytes()).unwrap();
        assert_eq!(said, Said::default(), "{data}");
    }
}

#[test]
fn a_stream_is_written_as_anthropic_writes_it() {
    let mut writer = StreamWriter::new(&identity(), "gpt", 20);
    let mut frames = writer.write(&Said::default());
    frames.extend(writer.write(&said(&[piece(Channel::Text, 0, "Hel")])));
    frames.extend(writer.write(&said(&[piece(Channel::Text, 0, "lo")])));
    frames.extend(writer.write(&said(&[piece(Channel::Finish, 0, "length")])));
    frames.extend(writer.finish(&USAGE));
    let frames: Vec<_> = frames.iter().map(text).collect();
    assert_eq!(
        frames,
        [
            r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"gpt","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":20,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"lo"}}"#,
            r#"{"type":"content_block_stop","index":0}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"max_tokens","stop_sequence":null},"usage":{"input_tokens":16,"cache_creation_input_tokens":0,"cache_read_input_tokens":4,"output_tokens":12}}"#,
            r#"{"type":"message_stop"}"#,
        ]
    );
}

/// What the frames do, in short: `+` opens a block, `-` closes it.
fn in_short(frames: &[Bytes]) -> Vec<String> {
    let short = |frame: &Bytes| {
        let frame = value(frame);
        let index = &frame["index"];
        match frame["type"].as_str().unwrap() {
            "content_block_start" => {
                let block = &frame["content_block"];
                let name = block["name"].as_str().unwrap_or_default();
                format!("+{index} {}{name}", block["type"].as_str().unwrap())
            }
            "content_block_delta" => {
                let delta = frame["delta"].as_object().unwrap();
                let said = delta.iter().find(|(key, _)| *key != "type").unwrap();
                format!("{index} {}", said.1.as_str().unwrap())
            }
            "content_block_stop" => format!("-{index}"),
            other => other.to_owned(),
        }
    };
    frames.iter().map(short).collect()
}

#[test]
fn parallel_calls_that_interleave_are_written_one_after_the_other() {
    let mut writer = StreamWriter::new(&identity(), "m", 0);
    writer.write(&Said::default());
    let call = |index, id, name| {
        [
            piece(Channel::ToolId, index, id),
            piece(Channel::ToolName, index, name),
        ]
    };
    let arguments = |index, text| piece(Channel::ToolArguments, index, text);
    let mut write = |pieces: &[Piece]| in_short(&writer.write(&said(pieces)));
    assert_eq!(
        write(&[piece(Channel::Reasoning, 0, "hm")]),
        ["+0 thinking", "0 hm"]
    );
    assert_eq!(write(&call(0, "a", "f")), [""; 0], "its name may go on");
    assert_eq!(
        write(&[arguments(0, "{\"x\":")]),
        ["-0", "+1 tool_usef", "1 {\"x\":"]
    );
    assert_eq!(write(&call(1, "b", "g")), [""; 0]);
    assert_eq!(write(&[arguments(1, "{}")]), [""; 0], "waits for the first");
    assert_eq!(write(&[piece(Channel::Text, 0, "so")]), [""; 0]);
    let rest = write(&[arguments(0, "\"}\"}")]);
    let expected = [
        "1 \"}\"}",
        "-1",
        "+2 tool_useg",
        "2 {}",
        "-2",
        "+3 text",
        "3 so",
    ];
    assert_eq!(rest, expected);
    assert_eq!(write(&[piece(Channel::Text, 0, " be it")]), ["3  be it"]);
    assert_eq!(
        write(&[arguments(0, " ")]),
        [""; 0],
        "only blanks follow an object"
    );
    let end = in_short(&writer.finish(&USAGE));
    assert_eq!(end, ["-3", "message_delta", "message_stop"]);
}

#[test]
fn calls_that_follow_one_another_are_not_held_back() {
    let mut writer = StreamWriter::new(&identity(), "m", 0);
    writer.write(&Said::default());
    let mut frames = Vec::new();
    for (index, name) in [(0, "f"), (1, "g"), (2, "h")] {
        frames = writer.write(&said(&[
            piece(Channel::ToolId, index, "id"),
            piece(Channel::ToolName, index, name),
            piece(Channel::ToolArguments, index, "{"),
        ]));
        let more = writer.write(&said(&[piece(Channel::ToolArguments, index, "}")]));
        assert_eq!(in_short(&more), [format!("{index} }}")]);
    }
    assert_eq!(in_short(&frames), ["-1", "+2 tool_useh", "2 {"]);
}

#[test]
fn a_call_is_whole_when_its_outermost_brace_closes() {
    let mut writer = StreamWriter::new(&identity(), "m", 0);
    writer.write(&said(&[
        piece(Channel::ToolName, 0, "f"),
        piece(Channel::ToolArguments, 0, r#"{"a":{"b":"\"}"}"#),
        piece(Channel::Text, 0, "a"),
    ]));
    let frames = writer.write(&said(&[piece(Channel::ToolArguments, 0, "}")]));
    assert_eq!(in_short(&frames), ["0 }", "-0", "+1 text", "1 a"]);
}

#[test]
fn nothing_overtakes_what_waits() {
    let mut writer = StreamWriter::new(&identity(), "m", 0);
    writer.write(&said(&[
        piece(Channel::ToolName, 0, "f"),
        piece(Channel::ToolArguments, 0, "{"),
        piece(Channel::Text, 0, "a"),
        piece(Channel::ToolName, 1, "g"),
        piece(Channel::Text, 0, "bc"),
    ]));
    let frames = writer.write(&said(&[piece(Channel::ToolArguments, 0, "}")]));
    assert_eq!(in_short(&frames), ["0 }", "-0", "+1 text", "1 a"]);
    let frames = writer.write(&said(&[piece(Channel::Text, 0, "d")]));
    assert_eq!(in_short(&frames), [""; 0]);
    let frames = writer.write(&said(&[piece(Channel::ToolArguments, 1, "{}")]));
    let expected = ["-1", "+2 tool_useg", "2 {}", "-2", "+3 text", "3 bcd"];
    assert_eq!(in_short(&frames), expected);
}

#[test]
fn what_a_cut_call_held_back_comes_at_the_end() {
    let mut writer = StreamWriter::new(&identity(), "m", 0);
    let mut frames = writer.write(&said(&[
        piece(Channel::ToolName, 0, "f"),
        piece(Channel::ToolArguments, 0, "{\"cut"),
        piece(Channel::Text, 0, "after"),
        piece(Channel::ToolId, 1, "b"),
        piece(Channel::ToolName, 1, "g"),
        piece(Channel::Finish, 0, "stop"),
    ]));
    let ids = |frames: &[Bytes]| -> Vec<Value> {
        let blocks = frames
            .iter()
            .map(|frame| value(frame)["content_block"]["id"].clone());
        blocks.filter(|id| !id.is_null()).collect()
    };
    assert_eq!(ids(&frames), ["toolu_1_0"], "an id of our own");
    frames = writer.finish(&USAGE);
    assert_eq!(
        in_short(&frames),
        [
            "-0",
            "+1 text",
            "1 after",
            "-1",
            "+2 tool_useg",
            "-2",
            "message_delta",
            "message_stop"
        ]
    );
    let delta = value(&frames[frames.len() - 2]);
    assert_eq!(delta["delta"]["stop_reason"], json!("tool_use"));
}

#[test]
fn only_the_first_choice_is_written_and_a_refusal_is_text() {
    let mut writer = StreamWriter::new(&identity(), "m", 0);
    let other = Piece {
        choice: 1,
        ..piece(Channel::Text, 0, "other")
    };
    let frames = writer.write(&said(&[other, piece(Channel::Refusal, 0, "no")]));
    assert_eq!(in_short(&frames), ["message_start", "+0 text", "0 no"]);
}

#[test]
fn a_recorded_stream_is_written_again_with_the_same_text() {
    for case in ["text", "tools", "thinking"] {
        let mut reader = StreamReader::default();
        let mut writer = StreamWriter::new(&identity(), "m", 0);
        let (mut pieces, mut frames) = (Vec::new(), Vec::new());
        for (_, data) in events(&format!("{case}/stream.sse")) {
            let said = reader.read(data.as_bytes()).unwrap();
            frames.extend(writer.write(&said));
            pieces.extend(said.pieces);
        }
        frames.extend(writer.finish(&USAGE));
        assert_eq!(read_back(&frames), collected(&pieces), "{case}");
    }
}

/// Reads what was written, and checks that it keeps the order of the dialect.
fn read_back(frames: &[Bytes]) -> Text {
    let mut reader = StreamReader::default();
    let mut text = Text::default();
    let (mut open, mut blocks) = (None, 0);
    for (position, frame) in frames.iter().enumerate() {
        let event = value(frame);
        let index = event["index"].as_u64();
        let left = frames.len() - position;
        match event["type"].as_str().unwrap() {
            "message_start" => assert_eq!(position, 0),
            "content_block_start" => {
                assert_eq!((open, index), (None, Some(blocks)));
                open = index;
                blocks += 1;
            }
            "content_block_delta" => assert!(open.is_some() && open == index),
            "content_block_stop" => {
                assert!(open.is_some() && open == index);
                open = None;
            }
            "message_delta" => assert_eq!((open, left), (None, 2)),
            "message_stop" => assert_eq!(left, 1),
            other => assert_eq!(other, "an event of an answer"),
        }
        let said = reader.read(frame).unwrap();
        assert_eq!(said.is_end, left == 1);
        said.pieces.iter().for_each(|piece| text.push(piece));
    }
    text
}

/// An object as a model writes it, whole or cut, in parts.
fn arguments() -> impl Strategy<Value = Vec<String>> {
    let string = "[a{}\\[\\]\"\\\\é ]{0,6}";
    let object = (string, string, any::<bool>()).prop_map(|(key, text, is_nested)| {
        let inner = json!({key: [text, 1.5]});
        let object = if is_nested {
            json!({"in": inner})
        } else {
            inner
        };
        object.to_string()
    });
    let parts = proptest::collection::vec(1_usize..6, 0..6);
    (object, parts, 0_usize..8).prop_map(|(object, lengths, cut)| {
        let mut chars: Vec<char> = object.chars().collect();
        if cut == 0 {
            chars.truncate(chars.len() / 2);
        }
        let mut parts = Vec::new();
        for length in lengths {
            if chars.len() > length {
                parts.push(chars.drain(..length).collect());
            }
        }
        parts.push(chars.into_iter().collect());
        parts
    })
}

/// The pieces of one channel, or of one call, in their order.
fn strands() -> impl Strategy<Value = Vec<Vec<Piece>>> {
    let texts = || proptest::collection::vec("[a-zé\n]{1,4}", 0..4);
    let calls = proptest::collection::vec(arguments(), 0..4);
    (texts(), texts(), calls, any::<bool>()).prop_map(|(texts, thoughts, calls, repeats)| {
        let of = |channel, texts: Vec<String>| -> Vec<Piece> {
            texts.iter().map(|text| piece(channel, 0, text)).collect()
        };
        let mut strands = vec![of(Channel::Text, texts), of(Channel::Reasoning, thoughts)];
        for (index, parts) in (0..).zip(calls) {
            let mut strand = Vec::new();
            for (position, part) in parts.iter().enumerate() {
                if position == 0 || repeats {
                    strand.push(piece(Channel::ToolId, index, &format!("call_{index}")));
                    strand.push(piece(Channel::ToolName, index, &format!("f{index}")));
                }
                strand.push(piece(Channel::ToolArguments, index, part));
            }
            strands.push(strand);
        }
        strands
    })
}

/// The same with calls numbered as they come, since blocks are.
fn numbered(mut pieces: Vec<Piece>) -> Vec<Piece> {
    let mut calls = Vec::new();
    for piece in &mut pieces {
        if matches!(
            piece.channel,
            Channel::ToolId | Channel::ToolName | Channel::ToolArguments
        ) {
            if !calls.contains(&piece.index) {
                calls.push(piece.index);
            }
            let number = calls.iter().position(|index| *index == piece.index);
            piece.index = number.unwrap().try_into().unwrap();
        }
    }
    pieces
}

proptest! {
    /// However the pieces of channels and calls interleave, and however they arrive together.
    #[test]
    fn what_is_written_reads_back_as_the_same_text(
        strands in strands(),
        order in proptest::collection::vec(0_usize..8, 0..60),
        size in 1_usize..5,
        finish in prop_oneof![Just("stop"), Just("length"), Just("content_filter")],
    ) {
        let mut strands: Vec<_> = strands.into_iter().map(Vec::into_iter).collect();
        let mut pieces = Vec::new();
        for choice in order {
            let strand = choice % strands.len();
            pieces.extend(strands[strand].next());
        }
        pieces.extend(strands.into_iter().flatten());
        let has_tools = pieces.iter().any(|piece| piece.channel == Channel::ToolId);
        let mut writer = StreamWriter::new(&identity(), "m", 3);
        let mut frames = Vec::new();
        for pieces in pieces.chunks(size) {
            frames.extend(writer.write(&said(pieces)));
        }
        let end = piece(Channel::Finish, 0, finish);
        frames.extend(writer.write(&said(std::slice::from_ref(&end))));
        frames.extend(writer.finish(&USAGE));
        // A call of a function is an end of its own here.
        let end = if has_tools && finish == "stop" { "tool_calls" } else { finish };
        pieces.push(piece(Channel::Finish, 0, end));
        prop_assert_eq!(read_back(&frames), collected(&numbered(pieces)));
    }
}

#[test]
fn only_a_stream_of_nothing_but_text_can_be_gone_on_with() {
    let start = |index: i64, block: Value| {
        let start = json!({"type": "content_block_start", "index": index, "content_block": block});
        start.to_string()
    };
    let delta = |delta: Value| {
        json!({"type": "content_block_delta", "index": 0, "delta": delta}).to_string()
    };
    let text = || json!({"type": "text", "text": ""});
    let stop = || r#"{"type":"content_block_stop","index":0}"#.to_owned();
    let read = |events: &[String]| {
        let mut reader = StreamReader::default();
        for event in events {
            reader.read(event.as_bytes()).unwrap();
        }
        reader
    };
    assert_eq!(read(&[]).text_blocks(), None, "nothing came");
    for mixed in [
        vec![start(0, json!({"type": "redacted_thinking", "data": "x"}))],
        vec![
            start(0, text()),
            stop(),
            start(1, json!({"type": "server_tool_use"})),
        ],
        vec![
            start(0, text()),
            delta(json!({"type": "citations_delta", "citation": {}})),
        ],
        vec![start(3, text())],
        vec![start(0, text()), start(1, text())],
        vec![
            start(0, text()),
            stop(),
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#.to_owned(),
        ],
    ] {
        assert_eq!(read(&mixed).text_blocks(), None, "{mixed:?}");
    }
}

#[test]
fn a_message_goes_on_with_the_open_block_or_the_next_one() {
    let start =
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"Hel"}}"#;
    let stop = r#"{"type":"content_block_stop","index":0}"#;
    for (events, expected) in [
        (
            vec![start],
            vec![
                ("content_block_delta", 0),
                ("content_block_stop", 0),
                ("content_block_start", 1),
                ("content_block_delta", 1),
            ],
        ),
        (
            vec![start, stop],
            vec![
                ("content_block_start", 1),
                ("content_block_delta", 1),
                ("content_block_stop", 1),
                ("content_block_start", 2),
                ("content_block_delta", 2),
            ],
        ),
    ] {
        let mut reader = StreamReader::default();
        for event in events {
            reader.read(event.as_bytes()).unwrap();
        }
        let blocks = reader.text_blocks().unwrap();
        let mut writer = StreamWriter::going_on(&identity(), "claude", blocks);
        let frames = writer.write(&said(&[
            piece(Channel::Text, 0, "lo"),
            piece(Channel::ToolName, 0, "f"),
            piece(Channel::ToolArguments, 0, "{}"),
        ]));
        let frames: Vec<Value> = frames.iter().map(value).collect();
        let told: Vec<_> = frames
            .iter()
            .map(|frame| {
                (
                    frame["type"].as_str().unwrap(),
                    frame["index"].as_i64().unwrap(),
                )
            })
            .collect();
        assert_eq!(told, expected);
    }
}
