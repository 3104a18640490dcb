use super::{Fault, bomb};
use crate::mock::{Answer, Behaviour, Connection, Dialect, Ending, PeerClosed, Problem};
use crate::mock::{JSON, push_chunk, push_last_chunk, push_response, push_stream_head};

/// Where endless things end, should the caller never hang up.
const ENDLESS_BYTES: usize = 1024 * 1024 * 1024;
/// Broken events in a row.
const BROKEN_IN_A_ROW: u32 = 5;

/// Plays the fault of the answer's behaviour, which strikes before the first token.
pub(crate) async fn play_first(
    connection: &mut Connection,
    dialect: &dyn Dialect,
    answer: &Answer<'_>,
) -> Result<Ending, PeerClosed> {
    let behaviour = answer.behaviour;
    let out = &mut connection.outbox;
    match behaviour.fault.as_ref().unwrap_or(&Fault::Close) {
        Fault::Reset => return Ok(Ending::Reset),
        Fault::Silent => return Err(connection.until_closed().await),
        Fault::NoFirstToken => {
            push_stream_head(out);
            if let Some(events) = dialect.events() {
                events.push_start(answer, out);
            }
            connection.flush().await?;
            return Err(connection.until_closed().await);
        }
        Fault::Status(status) => {
            let told = dialect.error(&Problem::Status(*status, behaviour.retry_after));
            let retry_after = behaviour
                .retry_after
                .map(|seconds| format!("retry-after: {seconds}\r\n"))
                .unwrap_or_default();
            push_response(out, told.status, JSON, &retry_after, &told.body);
        }
        Fault::ContextLength => push_problem(out, dialect, answer, &Problem::ContextLength),
        Fault::ContentPolicy => push_problem(out, dialect, answer, &Problem::ContentPolicy),
        Fault::ModelNotFound => push_problem(out, dialect, answer, &Problem::ModelNotFound),
        Fault::Quota => push_problem(out, dialect, answer, &Problem::Quota),
        Fault::Html => push_response(
            out,
            200,
            "text/html; charset=utf-8",
            "",
            b"<!doctype html><html><body><h1>Welcome to our proxy</h1></body></html>",
        ),
        Fault::EmptyBody => push_response(out, 200, JSON, "", b""),
        Fault::BrokenJson => {
            let mut body = dialect.whole(answer);
            body.truncate(body.len() / 2);
            push_response(out, 200, JSON, "", &body);
        }
        Fault::WrongContentType => {
            push_response(out, 200, "text/plain", "", &dialect.whole(answer));
        }
        Fault::MissingChoices => {
            let body = without_content(&dialect.whole(answer));
            push_response(out, 200, JSON, "", &body);
        }
        Fault::ErrorFirst => {
            push_stream_head(out);
            push_error_event(out, dialect);
            push_last_chunk(out);
        }
        Fault::HugeBody => {
            out.extend_from_slice(
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                .as_bytes(),
            );
            push_chunk(out, |body| body.extend_from_slice(br#"{"id":""#));
            let mut piece = Vec::new();
            push_chunk(&mut piece, |body| body.resize(body.len() + 64 * 1024, b'x'));
            return flood(connection, &piece).await;
        }
        Fault::EndlessHeaders => {
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
            return flood(
                connection,
                &b"x-filler: xxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n".repeat(100),
            )
            .await;
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
    dialect: &dyn Dialect,
) -> Result<Option<Ending>, PeerClosed> {
    let out = &mut connection.outbox;
    match fault {
        Fault::Cut => {
            // Announces a chunk and breaks off within it.
            out.extend_from_slice(b"000000ff\r\n");
            out.extend_from_slice(dialect.broken_event());
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
            push_error_event(out, dialect);
            push_last_chunk(out);
            connection.flush().await?;
            Ok(Some(Ending::Kept))
        }
        Fault::BrokenEvent => {
            push_broken_event(out, dialect);
            Ok(None)
        }
        Fault::BrokenEvents => {
            for _ in 0..BROKEN_IN_A_ROW {
                push_broken_event(out, dialect);
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

/// An error as a response; as a stream where a stream was asked for and HTTP knows of no error.
fn push_problem(
    out: &mut Vec<u8>,
    dialect: &dyn Dialect,
    answer: &Answer<'_>,
    problem: &Problem<'_>,
) {
    let told = dialect.error(problem);
    if told.status == 200 && answer.asked.stream {
        push_stream_head(out);
        push_chunk(out, |event| dialect.push_error_event(problem, event));
        push_last_chunk(out);
    } else {
        push_response(out, told.status, JSON, "", &told.body);
    }
}

fn push_error_event(out: &mut Vec<u8>, dialect: &dyn Dialect) {
    push_chunk(out, |event| {
        dialect.push_error_event(&Problem::Overloaded, event);
    });
}

fn push_broken_event(out: &mut Vec<u8>, dialect: &dyn Dialect) {
    push_chunk(out, |event| {
        event.extend_from_slice(dialect.broken_event());
        event.extend_from_slice(b"\n\n");
    });
}

/// A whole answer without that for which it was asked, by the names that dialects give it.
fn without_content(body: &[u8]) -> Vec<u8> {
    const CONTENT: [&str; 6] = [
        "choices",
        "content",
        "candidates",
        "data",
        "embeddings",
        "input_tokens",
    ];
    let mut body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(body) = body.as_object_mut() {
        for name in CONTENT {
            body.remove(name);
        }
    }
    body.to_string().into_bytes()
}
