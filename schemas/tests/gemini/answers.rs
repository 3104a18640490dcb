//! What Gemini says.

use proptest::prelude::*;
use schemas::dialect::gemini::{StreamReader, read_answer, read_embeddings};
use schemas::dialect::is_malformed;
use schemas::dialect::openai::is_content_policy;
use schemas::event::{Channel, Usage};
use schemas::fold::Text;
use schemas::model::Said;

use super::{events, fixture, piece};

fn pieces(said: &Said) -> Vec<(i32, Channel, i32, String)> {
    let pieces = said.pieces.iter();
    pieces
        .map(|piece| (piece.choice, piece.channel, piece.index, piece.text.clone()))
        .collect()
}

fn read_all(reader: &mut StreamReader, name: &str) -> Vec<Said> {
    let read = |data: &String| reader.read(data.as_bytes()).unwrap();
    events(name).iter().map(read).collect()
}

fn ends(said: &[Said]) -> Vec<bool> {
    said.iter().map(|said| said.is_end).collect()
}

fn usage(prompt: i64, completion: i64, cached: i64, reasoning: i64) -> Option<Usage> {
    Some(Usage {
        prompt_tokens: prompt,
        completion_tokens: completion,
        cached_tokens: cached,
        reasoning_tokens: reasoning,
        estimated: false,
    })
}

#[test]
fn a_whole_answer_is_read() {
    let answer = read_answer(&fixture("text.response.json")).unwrap();
    assert_eq!(
        answer.text.get(0, Channel::Text, 0),
        Some("AI learns patterns from data, then uses them to answer.")
    );
    assert_eq!(answer.text.get(0, Channel::Finish, 0), Some("stop"));
    assert_eq!(answer.usage, usage(8, 12, 4, 0));
    assert_eq!(answer.model.as_deref(), Some("gemini-2.5-flash"));
}

#[test]
fn a_stream_is_read_piece_by_piece() {
    let said = read_all(&mut StreamReader::default(), "text.sse");
    assert_eq!(pieces(&said[0]), [piece(0, Channel::Text, 0, "Hello")]);
    assert_eq!(said[0].usage, usage(4, 0, 0, 0));
    assert_eq!(
        pieces(&said[2]),
        [
            piece(0, Channel::Text, 0, "day? ✨\n"),
            piece(0, Channel::Finish, 0, "stop")
        ]
    );
    assert_eq!(said[2].usage, usage(4, 11, 0, 0));
    assert_eq!(said[2].model.as_deref(), Some("gemini-2.0-flash"));
    assert_eq!(ends(&said), [false, false, true]);
}

#[test]
fn a_stream_ends_when_as_many_candidates_have_ended_as_were_asked_for() {
    let said = read_all(&mut StreamReader::new(2), "candidates.sse");
    assert_eq!(ends(&said), [false, false, true]);
    assert_eq!(
        pieces(&said[2]),
        [
            piece(1, Channel::Text, 0, "and on"),
            piece(1, Channel::Finish, 0, "length")
        ]
    );
    let without_usage = br#"{"candidates":[{"finishReason":"STOP"}]}"#;
    let mut reader = StreamReader::default();
    assert!(!reader.read(without_usage).unwrap().is_end);
    let only_usage = br#"{"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":2}}"#;
    assert!(reader.read(only_usage).unwrap().is_end);
}

#[test]
fn thoughts_are_reasoning_and_counted_as_completion() {
    let said = read_all(&mut StreamReader::default(), "thinking.sse");
    assert_eq!(
        pieces(&said[1]),
        [piece(0, Channel::Reasoning, 0, "then add them up.\n")]
    );
    assert_eq!(
        pieces(&said[2]),
        [
            piece(0, Channel::Text, 0, "The sum is 5117."),
            piece(0, Channel::Finish, 0, "stop")
        ]
    );
    assert_eq!(said[2].usage, usage(12, 76, 0, 69));
}

#[test]
fn a_call_without_an_id_is_given_one_and_keeps_its_digits() {
    let body = fixture("tools.response.json");
    let answer = read_answer(&body).unwrap();
    assert_eq!(
        answer.text.get(0, Channel::ToolId, 0),
        Some("call_Ea6taK7dJMSOz7IPs_yq-AE_0")
    );
    assert_eq!(
        answer.text.get(0, Channel::ToolName, 0),
        Some("schedule_meeting")
    );
    let arguments = answer.text.get(0, Channel::ToolArguments, 0).unwrap();
    assert!(arguments.starts_with('{') && arguments.contains("12345678901234567890"));
    assert!(serde_json::from_str::<serde_json::Value>(arguments).is_ok());
    assert_eq!(answer.text.get(0, Channel::Finish, 0), Some("tool_calls"));
    assert_eq!(read_answer(&body).unwrap(), answer);
}

#[test]
fn calls_are_numbered_through_the_stream_and_end_it_as_calls() {
    let said = read_all(&mut StreamReader::default(), "parallel.sse");
    assert_eq!(
        pieces(&said[0]),
        [
            piece(0, Channel::ToolId, 0, "gp737npz"),
            piece(0, Channel::ToolName, 0, "power_disco_ball"),
            piece(0, Channel::ToolArguments, 0, r#"{"power": true}"#),
            piece(0, Channel::ToolId, 1, "k2m9x0aa"),
            piece(0, Channel::ToolName, 1, "start_music"),
            piece(
                0,
                Channel::ToolArguments,
                1,
                r#"{"energetic": true,"loud": true}"#
            ),
        ]
    );
    // No number is no usage.
    assert_eq!((said[0].usage, said[1].usage), (None, None));
    assert_eq!(
        pieces(&said[1]),
        [
            piece(0, Channel::ToolId, 2, "call_xRS0aZC5BNHVz7IPuaO42Qk_2"),
            piece(0, Channel::ToolName, 2, "dim_lights"),
            piece(0, Channel::ToolArguments, 2, "{}"),
        ]
    );
    assert_eq!(
        pieces(&said[2]),
        [piece(0, Channel::Finish, 0, "tool_calls")]
    );
    assert_eq!(said[2].usage, usage(252, 73, 0, 55));
    assert_eq!(ends(&said), [false, false, true]);
}

#[test]
fn ids_are_made_of_what_every_provider_takes() {
    let id = |response_id: &str| {
        let body = format!(
            r#"{{"responseId":"{response_id}","candidates":[{{"content":{{"parts":[{{"functionCall":{{"name":"f","id":""}}}}]}},"finishReason":"STOP"}}]}}"#
        );
        let answer = read_answer(body.as_bytes()).unwrap();
        answer.text.get(0, Channel::ToolId, 0).unwrap().to_owned()
    };
    assert_eq!(id("a-B_9"), "call_a-B_9_0");
    assert_eq!(id("a b"), "call_0");
    assert_eq!(id(""), "call_0");
    assert_eq!(id(&"a".repeat(25)), "call_0");
    assert!(id(&"a".repeat(24)).len() <= 40);
}

#[test]
fn a_blocked_prompt_is_a_refusal_of_the_content() {
    let body = fixture("blocked.response.json");
    for error in [
        read_answer(&body).unwrap_err(),
        StreamReader::default().read(&body).unwrap_err(),
    ] {
        assert_eq!(error.status, 400);
        assert!(is_content_policy(&error));
        assert!(error.message.contains("PROHIBITED_CONTENT"));
    }
}

#[test]
fn an_answer_stopped_by_a_filter_keeps_its_text() {
    let said = read_all(&mut StreamReader::default(), "safety.sse");
    assert_eq!(pieces(&said[0]), [piece(0, Channel::Text, 0, "First, ")]);
    assert_eq!(
        pieces(&said[1]),
        [piece(0, Channel::Finish, 0, "content_filter")]
    );
    assert!(said[1].is_end);
}

fn finished(reason: &str) -> Vec<u8> {
    format!(
        r#"{{"candidates":[{{"content":{{"parts":[{{"text":"a"}}]}},"finishReason":"{reason}"}}]}}"#
    )
    .into_bytes()
}

#[test]
fn finish_reasons_are_openais_and_what_is_no_end_is_an_error() {
    let cases = [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("LANGUAGE", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("MODEL_ARMOR", "content_filter"),
        ("NEVER_HEARD_OF", "length"),
    ];
    for (reason, expected) in cases {
        let answer = read_answer(&finished(reason)).unwrap();
        assert_eq!(answer.text.get(0, Channel::Finish, 0), Some(expected));
    }
    for reason in [
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
        "NO_IMAGE",
        "IMAGE_OTHER",
        "OTHER",
    ] {
        let error = read_answer(&finished(reason)).unwrap_err();
        assert_eq!((error.status, is_malformed(&error)), (502, false));
        assert!(error.message.contains(reason));
    }
    for reason in ["", "FINISH_REASON_UNSPECIFIED"] {
        let said = StreamReader::default().read(&finished(reason)).unwrap();
        assert_eq!(pieces(&said), [piece(0, Channel::Text, 0, "a")]);
        let error = read_answer(&finished(reason)).unwrap_err();
        assert!(is_malformed(&error), "it has not ended");
    }
}

#[test]
fn calls_cut_by_the_limit_end_for_length() {
    let body = br#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{}}}]},"finishReason":"MAX_TOKENS"}]}"#;
    let answer = read_answer(body).unwrap();
    assert_eq!(answer.text.get(0, Channel::Finish, 0), Some("length"));
}

#[test]
fn what_cannot_be_told_is_no_success() {
    let body = br#"{"candidates":[{"content":{"parts":[{"inlineData":{"mimeType":"image/png","data":"aa"}}]},"finishReason":"STOP"}]}"#;
    let error = read_answer(body).unwrap_err();
    assert_eq!((error.status, is_malformed(&error)), (502, false));
    assert!(error.message.contains("inlineData"));
}

#[test]
fn what_is_no_answer_is_malformed() {
    let deep = format!(
        r#"{{"candidates":[{{"content":{{"parts":[{{"functionCall":{{"name":"f","args":{{"a":{}{}}}}}}}]}},"finishReason":"STOP"}}]}}"#,
        "[".repeat(60),
        "]".repeat(60)
    );
    for body in [
        "",
        "<html>",
        "[]",
        "{}",
        r#"{"candidates":{}}"#,
        r#"{"candidates":[]}"#,
        r#"{"candidates":[{"content":{"parts":[{"functionCall":{"args":{}}}]}}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"text":7}]}}]}"#,
        r#"[{"candidates":[]}]"#,
        r#"[[{"finishReason":"STOP"}],null,{},null,null,null]"#,
        deep.as_str(),
    ] {
        let error = StreamReader::default().read(body.as_bytes()).unwrap_err();
        assert!(is_malformed(&error), "{body}");
        assert!(
            is_malformed(&read_answer(body.as_bytes()).unwrap_err()),
            "{body}"
        );
    }
    let error = StreamReader::default().read(b"\xff").unwrap_err();
    assert!(is_malformed(&error));
}

#[test]
fn embeddings_come_in_the_order_of_the_inputs() {
    let embeddings = read_embeddings(&fixture("embeddings.response.json")).unwrap();
    assert_eq!(
        embeddings.vectors,
        [
            [-0.022374554, -0.004560777, 1.0],
            [-0.007975838, -0.02141119, 1.5e-5]
        ]
    );
    assert_eq!(embeddings.usage, usage(13, 0, 0, 0));
    assert_eq!(embeddings.model, None);
    let plain = read_embeddings(br#"{"embeddings":[{"values":[1,-2]}]}"#).unwrap();
    assert_eq!((plain.vectors, plain.usage), (vec![vec![1.0, -2.0]], None));
}

#[test]
fn what_is_no_embedding_is_malformed() {
    for body in [
        "",
        "[]",
        "{}",
        r#"{"embeddings":[]}"#,
        r#"{"embeddings":[{}]}"#,
        r#"{"embeddings":[{"values":[]}]}"#,
        r#"{"embeddings":[{"values":[1e300]}]}"#,
        r#"{"embeddings":[{"values":["a"]}]}"#,
    ] {
        let error = read_embeddings(body.as_bytes()).unwrap_err();
        assert!(is_malformed(&error), "{body}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        for error in [
            StreamReader::default().read(&bytes).err(),
            read_answer(&bytes).err(),
            read_embeddings(&bytes).err(),
        ] {
            prop_assert!(error.is_some_and(|error| error.status == 502));
        }
    }

    #[test]
    fn damaged_events_never_panic(place in 0..600_usize, byte: u8) {
        let mut reader = StreamReader::default();
        for event in events("parallel.sse") {
            let mut data = event.into_bytes();
            let length = data.len();
            data[place % length] = byte;
            if let Err(error) = reader.read(&data) {
                prop_assert_eq!(error.status, 502);
            }
        }
    }

    #[test]
    fn the_same_text_comes_however_it_is_split(
        texts in proptest::collection::vec("[a-zü \"\\\\]{0,8}", 1..6),
        calls in 0..3_usize,
    ) {
        let mut parts: Vec<_> = texts.iter().map(|text| serde_json::json!({"text": text})).collect();
        parts.extend((0..calls).map(|call| {
            serde_json::json!({"functionCall": {"name": format!("f{call}"), "args": {"n": call}}})
        }));
        let end = serde_json::json!({"candidates": [{"content": {"parts": []}, "finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 1}});
        let mut reader = StreamReader::default();
        let mut split = Text::default();
        for part in &parts {
            let event = serde_json::json!({"candidates": [{"content": {"parts": [part]}}]});
            let said = reader.read(event.to_string().as_bytes()).unwrap();
            prop_assert!(!said.is_end);
            said.pieces.iter().for_each(|piece| split.push(piece));
        }
        let said = reader.read(end.to_string().as_bytes()).unwrap();
        prop_assert!(said.is_end);
        said.pieces.iter().for_each(|piece| split.push(piece));
        let whole = serde_json::json!({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]});
        let whole = read_answer(whole.to_string().as_bytes()).unwrap();
        prop_assert_eq!(&whole.text, &split);
        prop_assert_eq!(split.tools(0).len(), calls);
    }
}
