//! Gemini's dialect against pairs of requests and answers in the format that Google documents: `fixtures/gemini`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod answers;
mod errors;
mod properties;
mod requests;

use schemas::event::{Channel, ErrorBody};
use schemas::model::{Message, Part, Role};
use serde_json::Value;

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/fixtures/gemini/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn json_fixture(name: &str) -> Value {
    serde_json::from_slice(&fixture(name)).unwrap()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// The data of each event of a recorded stream.
fn events(name: &str) -> Vec<String> {
    let stream = String::from_utf8(fixture(name)).unwrap();
    let lines = stream.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| line.strip_prefix("data: ").unwrap().to_owned())
        .collect()
}

fn message(role: Role, parts: Vec<Part>) -> Message {
    Message {
        role,
        name: None,
        parts,
        is_prefix: false,
    }
}

fn text(role: Role, text: &str) -> Message {
    message(role, vec![Part::Text(text.to_owned())])
}

/// What a reader sees of a piece.
fn piece(choice: i32, channel: Channel, index: i32, text: &str) -> (i32, Channel, i32, String) {
    (choice, channel, index, text.to_owned())
}

fn param(error: &ErrorBody) -> (i32, Option<&str>) {
    (error.status, error.param.as_deref())
}
