//! Recorded requests and streams of one dialect, by way of another.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use schemas::dialect::openai::{ChatRequest, read_event};
use schemas::dialect::{Identity, anthropic, gemini, openai};
use schemas::event::{Channel, Usage};
use schemas::fold::Text;
use schemas::model::{Chat, Part, Said};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The data of the events of a recorded stream but `[DONE]`.
fn events(name: &str) -> Vec<Vec<u8>> {
    let stream = String::from_utf8(fixture(name)).unwrap();
    let data = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    let data = data.filter(|data| *data != "[DONE]");
    data.map(|data| data.as_bytes().to_vec()).collect()
}

fn identity() -> Identity {
    Identity {
        id: "ans-1".to_owned(),
        created: 1_790_000_000,
    }
}

fn take(said: &Said, text: &mut Text, usage: &mut Usage) {
    said.pieces.iter().for_each(|piece| text.push(piece));
    *usage = said.usage.unwrap_or(*usage);
}

/// Who says what, and with which tools; without thoughts, which OpenAI does not take, and
/// wherever one message ends and the next of the same speaker begins.
fn meaning(chat: &Chat) -> String {
    let messages = chat.messages.iter();
    let parts = messages.flat_map(|message| message.parts.iter().map(|part| (message.role, part)));
    let spoken = parts.filter(|(_, part)| !matches!(part, Part::Reasoning { .. }));
    format!("{:?} {:?}", spoken.collect::<Vec<_>>(), chat.tools)
}

#[test]
fn requests_of_anthropics_sdk_reach_openai_with_their_meaning() {
    for name in ["text", "tools", "thinking"] {
        let body = fixture(&format!("anthropic/{name}/request.json"));
        let asked = anthropic::read_request(&body).unwrap();
        let sent = openai::write_request(&asked, "gpt-4o").unwrap();
        assert!(ChatRequest::parse(&sent).is_ok(), "{name}");
        let received = openai::read_request(&sent).unwrap();
        assert_eq!(received.tokens_max, asked.tokens_max, "{name}");
        assert_eq!(received.tool_choice, asked.tool_choice, "{name}");
        assert_eq!(meaning(&received), meaning(&asked), "{name}");
    }
}

#[test]
fn requests_of_openais_sdk_reach_anthropic_and_gemini() {
    let asked = openai::read_request(&fixture("openai/functions.request.json")).unwrap();
    assert!(gemini::write_request(&asked).is_ok());
    let sent = anthropic::write_request(&asked, "claude").unwrap();
    let received = anthropic::read_request(&sent).unwrap();
    assert_eq!(meaning(&received), meaning(&asked));
}

#[test]
fn a_stream_of_openai_survives_anthropics_dialect() {
    let (mut heard, mut usage) = (Text::default(), Usage::default());
    let mut writer = anthropic::StreamWriter::new(&identity(), "m", 1);
    let mut frames = Vec::new();
    for data in events("openai/tools.stream.sse") {
        let said = read_event(&data).unwrap();
        take(&said, &mut heard, &mut usage);
        frames.extend(writer.write(&said));
    }
    frames.extend(writer.finish(&usage));

    let (mut told, mut told_usage) = (Text::default(), Usage::default());
    let mut reader = anthropic::StreamReader::default();
    for frame in frames {
        take(&reader.read(&frame).unwrap(), &mut told, &mut told_usage);
    }
    assert_eq!(told, heard);
    assert_eq!(told_usage, usage);
}

#[test]
fn streams_of_anthropic_are_shown_as_openais() {
    for name in ["text", "tools", "thinking"] {
        let (mut heard, mut usage) = (Text::default(), Usage::default());
        let mut reader = anthropic::StreamReader::default();
        let mut writer = openai::StreamWriter::new(&identity(), "m", true);
        let mut chunks = Vec::new();
        for data in events(&format!("anthropic/{name}/stream.sse")) {
            let said = reader.read(&data).unwrap();
            take(&said, &mut heard, &mut usage);
            chunks.extend(writer.write(&said));
        }
        chunks.extend(writer.finish(&usage));

        let (mut told, mut told_usage) = (Text::default(), Usage::default());
        for chunk in chunks {
            take(&read_event(&chunk.raw).unwrap(), &mut told, &mut told_usage);
        }
        // Texts without words come and go; nothing else does.
        for piece in heard.pieces().filter(|piece| !piece.text.is_empty()) {
            let shown = told.get(piece.choice, piece.channel, piece.index);
            assert_eq!(shown, Some(piece.text.as_str()), "{name}");
        }
        assert_eq!(told.written_bytes(), heard.written_bytes(), "{name}");
        assert!(told.get(0, Channel::Finish, 0).is_some(), "{name}");
        assert_eq!(told_usage, usage, "{name}");
    }
}
