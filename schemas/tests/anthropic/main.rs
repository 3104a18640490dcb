//! The Anthropic dialect on requests, streams, answers and errors in the form that Anthropic documents
//! (`fixtures/anthropic`), and against itself.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod answers;
mod errors;
mod reading;
mod requests;
mod round_trip;
mod streams;
mod writing;

use bytes::Bytes;
use schemas::dialect::Identity;
use schemas::event::{Channel, ErrorBody, Piece, Usage};
use schemas::fold::Text;
use schemas::model::{Message, Part, Role};
use serde_json::Value;
use serde_json::value::RawValue;

fn identity() -> Identity {
    Identity {
        id: "msg_1".to_owned(),
        created: 1_790_000_000,
    }
}

const USAGE: Usage = Usage {
    prompt_tokens: 20,
    completion_tokens: 12,
    cached_tokens: 4,
    reasoning_tokens: 0,
    estimated: false,
};

fn fixture(name: &str) -> String {
    let path = format!("{}/fixtures/anthropic/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// The name and the data of the events of a recorded stream.
fn events(name: &str) -> Vec<(String, String)> {
    let stream = fixture(name);
    let frames = stream.split("\n\n").filter(|frame| !frame.is_empty());
    frames
        .map(|frame| {
            let (event, data) = frame.split_once('\n').unwrap();
            let event = event.strip_prefix("event: ").unwrap();
            (
                event.to_owned(),
                data.strip_prefix("data: ").unwrap().to_owned(),
            )
        })
        .collect()
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn value(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn piece(channel: Channel, index: i32, text: &str) -> Piece {
    Piece {
        choice: 0,
        channel,
        index,
        text: text.to_owned(),
    }
}

fn collected<'a>(pieces: impl IntoIterator<Item = &'a Piece>) -> Text {
    let mut text = Text::default();
    pieces.into_iter().for_each(|piece| text.push(piece));
    text
}

/// A model that takes all there is of sampling.
const MODEL: &str = "claude-3-opus-20240229";

fn raw(json: &Value) -> Box<RawValue> {
    RawValue::from_string(json.to_string()).unwrap()
}

fn words(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn says(role: Role, parts: Vec<Part>) -> Message {
    Message {
        role,
        name: None,
        parts,
        is_prefix: false,
    }
}

fn refusal(result: Result<impl std::fmt::Debug, ErrorBody>) -> Option<String> {
    let error = result.unwrap_err();
    assert_eq!(error.status, 400);
    error.param
}
