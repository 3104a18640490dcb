use super::{Fault, bomb};
use crate::mock::{Behaviour, Connection, Ending, PeerClosed};
use crate::mock::{push_chunk, push_last_chunk, push_response, push_stream_head};

const JSON: &str = "application/json";
/// Where endless things end, should the caller never hang up.
const ENDLESS_BYTES: usize = 1024 * 1024 * 1024;
/// Broken events in a row.
const BROKEN_IN_A_ROW: u32 = 5;

/// An OpenAI error body.
pub(crate) fn error_body(message: &str, kind: &str, code: &str) -> Vec<u8> {
    let error = serde_json::json!({
        "error": { "message": message, "type": kind, "param": null, "code": code }
    });
    error.to_string().into_bytes()
}

/// Plays a fault that strikes before the first token.
pub(crate) async fn play_first(
    connection: &mut Connection,
    behaviour: &Behaviour,
) -> Result<Ending, PeerClosed> {
    let out = &mut connection.outbox;
    match behaviour.fault.as_ref().unwrap_or(&Fault::Close) {
        Fault::Reset => return Ok(Ending::Reset),
        Fault::Silent => return Err(connection.until_closed().await),
        Fault::NoFirstToken => {
            push_stream_head(out);
            push_chunk(out, |event| {
                event.extend_from_slice(
                    br#"data: {"id":"chatcmpl-mock","object":"chat.completion.chunk","created":1700000000,"model":"mock","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
                );
                event.extend_from_slice(b"\n\n");
            });
            connection.flush().await?;
            return Err(connection.until_closed().await);
        }
        Fault::Status(status) => {
            let retry_after = behaviour
                .retry_after
                .map(|seconds| format!("retry-after: {seconds}\r\n"))
                .unwrap_or_default();
            let (kind, code) = kind_and_code(*status);
            let body = error_body(&format!("the mock answers {status}"), kind, code);
            push_response(out, *status, JSON, &retry_after, &body);
        }
        Fault::ContextLength => {
            let body = error_body(
                "This model's maximum context length is 8192 tokens.",
                "invalid_request_error",
                "context_length_exceeded",
            );
            push_response(out, 400, JSON, "", &body);
        }
        Fault::ContentPolicy => {
            let body = error_body(
                "Your request was rejected by the content policy.",
                "invalid_request_error",
                "content_policy_violation",
            );
            push_response(out, 400, JSON, "", &body);
        }
        Fault::ModelNotFound => {
            let body = error_body(
                "The model does not exist.",
                "invalid_request_error",
                "model_not_found",
            );
            push_response(out, 404, JSON, "", &body);
        }
        Fault::Quota => {
            let body = error_body(
                "You exceeded your current quota.",
                "insufficient_quota",
                "insufficient_quota",
            );
            push_response(out, 429, JSON, "", &body);
        }
        Fault::Html => push_response(
            out,
            200,
            "text/html; charset=utf-8",
            "",
            b"<!doctype html><html><body><h1>Welcome to our proxy</h1></body></html>",
        ),
        Fault::EmptyBody => push_response(out, 200, JSON, "", b""),
        Fault::BrokenJson => push_response(
            out,
            200,
            JSON,
            "",
            br#"{"id":"chatcmpl-mock","choices":[{"ind"#,
        ),
        Fault::WrongContentType => push_response(
            out,
            200,
            "text/plain",
            "",
            br#"{"id":"chatcmpl-mock","object":"chat.completion","created":1700000000,"model":"mock","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}"#,
        ),
        Fault::MissingChoices => push_response(
            out,
            200,
            JSON,
            "",
            br#"{"id":"chatcmpl-mock","object":"chat.completion","created":1700000000,"model":"mock","usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}"#,
        ),
        Fault::ErrorFirst => {
            push_stream_head(out);
            push_error_event(out);
            push_last_chunk(out);
        }
        Fault::HugeBody => {
            out.extend_from_slice(
                format!("HTTP/1.1 200 OK\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n")
                    .as_bytes(),
            );
            push_chunk(out, |body| body.extend_from_slice(br#"{"id":""#));
            let mut piece = Vec::new();
            push_chunk(&mut piece, |body| body.resize(body.len() + 64 * 1024, b'x'));
            return flood(connection, &piece).await;
        }
        Fault::EndlessHeaders => {
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
            return flood(connection, &b"x-filler: xxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n".repeat(100)).await;
        }
        Fault::GzipBomb => {
            let bomb = bomb::gzip_bomb();
            push_response(out, 200, JSON, "content-encoding: gzip\r\n", &bomb);
        }
        Fault::Redirect => push_response(out, 307, JSON, "location: /\r\n", b"{}"),
        // An orderly close without a byte; the others strike later and never come here.
        Fault::Close
        | Fault::Cut
        | Fault::CutCleanly
        | Fault::ResetLater
        | Fault::Idle
        | Fault::ErrorEvent
        | Fault::NoDone
        | Fault::BrokenEvent
        | Fault::BrokenEvents
        | Fault::Drip => return Ok(Ending::Closed),
    }
    connection.flush().await?;
    Ok(Ending::Kept)
}

/// Plays a fault on a whole answer that waits in the outbox.
pub(crate) async fn play_whole(
    connection: &mut Connection,
    fault: &Fault,
    behaviour: &Behaviour,
) -> Result<Ending, PeerClosed> {
    let ending = match fault {
        Fault::Cut | Fault::CutCleanly | Fault::Idle => Ending::Closed,
        Fault::ResetLater => Ending::Reset,
        Fault::Drip => {
            let pause = behaviour.delay.max(std::time::Duration::from_millis(1));
            connection.drip(pause).await?;
            return Ok(Ending::Kept);
        }
        _ => {
            connection.flush().await?;
            return Ok(Ending::Kept);
        }
    };
    // The content length in the head promises the half that never comes.
    let half = connection.outbox.len() - connection.outbox.len() / 4;
    connection.outbox.truncate(half);
    connection.flush().await?;
    if *fault == Fault::Idle {
        return Err(connection.until_closed().await);
    }
    Ok(ending)
}

/// Plays a fault in a running stream; `None` when the stream goes on.
pub(crate) async fn play_in_stream(
    connection: &mut Connection,
    fault: &Fault,
) -> Result<Option<Ending>, PeerClosed> {
    let out = &mut connection.outbox;
    match fault {
        Fault::Cut => {
            // Announces a chunk and breaks off within it.
            out.extend_from_slice(b"000000ff\r\ndata: {\"id\":\"chatcmpl-mo");
            connection.flush().await?;
            Ok(Some(Ending::Closed))
        }
        Fault::CutCleanly => {
            push_last_chunk(out);
            connection.flush().await?;
            Ok(Some(Ending::Kept))
        }
        Fault::ResetLater => {
            connection.flush().await?;
            Ok(Some(Ending::Reset))
        }
        Fault::Idle => {
            connection.flush().await?;
            Err(connection.until_closed().await)
        }
        Fault::ErrorEvent => {
            push_error_event(out);
            push_last_chunk(out);
            connection.flush().await?;
            Ok(Some(Ending::Kept))
        }
        Fault::BrokenEvent => {
            push_broken_event(out);
            Ok(None)
        }
        Fault::BrokenEvents => {
            for _ in 0..BROKEN_IN_A_ROW {
                push_broken_event(out);
            }
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Writes `piece` again and again until the caller hangs up, or the end of endlessness.
async fn flood(connection: &mut Connection, piece: &[u8]) -> Result<Ending, PeerClosed> {
    connection.flush().await?;
    for _ in 0..ENDLESS_BYTES / piece.len() {
        connection.outbox.extend_from_slice(piece);
        connection.flush().await?;
    }
    Ok(Ending::Closed)
}

fn push_error_event(out: &mut Vec<u8>) {
    push_chunk(out, |event| {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(&error_body(
            "the model fell over",
            "server_error",
            "overloaded",
        ));
        event.extend_from_slice(b"\n\n");
    });
}

fn push_broken_event(out: &mut Vec<u8>) {
    push_chunk(out, |event| {
        event.extend_from_slice(b"data: {\"id\":\"chatcmpl-mock\",\"choices\":[{\"del\n\n");
    });
}

fn kind_and_code(status: u16) -> (&'static str, &'static str) {
    match status {
        401 => ("invalid_request_error", "invalid_api_key"),
        403 => ("permission_error", "forbidden"),
        404 => ("invalid_request_error", "model_not_found"),
        413 => ("invalid_request_error", "request_too_large"),
        429 => ("rate_limit_error", "rate_limit_exceeded"),
        400..=499 => ("invalid_request_error", "invalid_value"),
        503 | 529 => ("server_error", "overloaded"),
        _ => ("server_error", "internal_error"),
    }
}
