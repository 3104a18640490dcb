//! Anthropic's messages dialect: validation of requests, conversion to and from the internal form, streams, answers,
//! errors and token counts (<https://platform.claude.com/docs/en/api/messages>, version `2023-06-01`).
//!
//! Pure functions over bytes. Between a client and a provider of this dialect bytes are edited in place; the rules per
//! field of all other conversions are in `docs/dialects.md`.

mod answer;
mod arguments;
mod error;
mod generation;
mod node;
mod reader;
mod request;
mod stream_reader;
mod stream_writer;
mod usage;
mod wire;
mod writer;

pub use answer::{event_name, read_answer, render_answer, render_event, write_answer};
pub use error::{error_json, read_error};
pub use generation::takes_prefix;
pub use reader::read_request;
pub use request::{CountTokensRequest, MessagesRequest, upstream_request};
pub use stream_reader::{StreamReader, TextBlocks};
pub use stream_writer::StreamWriter;
pub use usage::{count_tokens_json, read_count};
pub use writer::write_request;

use super::INCOMPLETE;

/// Why an answer ended, in the internal words.
fn finish_reason(stop_reason: &str) -> &'static str {
    match stop_reason {
        "end_turn" | "stop_sequence" => "stop",
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        // `pause_turn`, which only the provider's own tools cause, and what may be added.
        _ => INCOMPLETE,
    }
}

/// Why an answer ended, in Anthropic's words. Some providers say `stop` after a call of a function; a client of this
/// dialect runs it only when it reads `tool_use`.
fn stop_reason(finish_reason: Option<&str>, has_tools: bool) -> &'static str {
    match finish_reason {
        Some("stop") | None if has_tools => "tool_use",
        Some("stop") | None => "end_turn",
        Some("tool_calls" | "function_call") => "tool_use",
        Some("content_filter") => "refusal",
        // `length`; that there is no other word is no reason to say that the answer is whole.
        Some(_) => "max_tokens",
    }
}
