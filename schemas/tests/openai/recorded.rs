//! Requests and answers in the form that OpenAI and DeepSeek document.

use schemas::dialect::Identity;
use schemas::event::{Channel, Piece};

/// The bytes of a file of `fixtures/openai`.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/fixtures/openai/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The data of the events of a recorded stream, `[DONE]` included.
pub(crate) fn events(name: &str) -> Vec<Vec<u8>> {
    let stream = String::from_utf8(fixture(name)).unwrap();
    let data = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| data.as_bytes().to_vec()).collect()
}

pub(crate) fn identity() -> Identity {
    Identity {
        id: "chatcmpl-1".to_owned(),
        created: 1_790_000_000,
    }
}

pub(crate) fn piece(choice: i32, channel: Channel, index: i32, text: &str) -> Piece {
    Piece {
        choice,
        channel,
        index,
        text: text.to_owned(),
    }
}
