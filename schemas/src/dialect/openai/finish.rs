//! Finish reasons: the words of those who speak OpenAI's dialect, as OpenAI has them.

use super::chunk::{self, Form};
use crate::dialect::INCOMPLETE;
use crate::event::{Channel, ErrorBody, Piece};
use crate::model::Said;

/// Makes a piece what the form between dialects allows: a finish reason becomes one of OpenAI's
/// words.
///
/// # Errors
/// When the reason is a failure of the provider: the answer is not whole, whatever came.
pub(super) fn to_model(piece: &mut Piece) -> Result<(), ErrorBody> {
    if piece.channel != Channel::Finish {
        return Ok(());
    }
    // Some servers write them as the API has them that they stand for: `STOP`.
    let reason = match piece.text.to_ascii_lowercase().as_str() {
        "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" => "stop",
        // Mistral's, and those of servers that show their own.
        "length" | "model_length" | "max_tokens" => "length",
        "tool_calls" | "function_call" | "tool_use" => "tool_calls",
        "content_filter" => "content_filter",
        // DeepSeek's when it is out of machines, and those of servers that gave up.
        "insufficient_system_resource" | "error" | "abort" => {
            let message = format!("the provider ended the answer with `{}`", piece.text);
            return Err(ErrorBody::upstream_failed(message));
        }
        _ => INCOMPLETE,
    };
    reason.clone_into(&mut piece.text);
    Ok(())
}

/// Reads the data of one SSE event of an OpenAI-like stream, for a client that speaks another
/// dialect: `[DONE]` is the end, all else a chunk.
///
/// # Errors
/// As [`super::read_chunk`]; also when a choice ended for the provider's own failure
/// (`insufficient_system_resource`).
pub fn read_event(data: &[u8]) -> Result<Said, ErrorBody> {
    if data.trim_ascii() == b"[DONE]" {
        return Ok(Said {
            is_end: true,
            ..Said::default()
        });
    }
    let chunk = chunk::read(data, Form::Chat)?;
    let mut pieces = chunk.pieces;
    for piece in &mut pieces {
        to_model(piece)?;
    }
    Ok(Said {
        pieces,
        usage: chunk.usage,
        model: chunk.model,
        is_end: false,
    })
}
