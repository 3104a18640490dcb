//! What goes out on a connection: heads, chunks and events of HTTP, and the pieces of JSON within.

use std::io::Write as _;

pub(crate) const JSON: &str = "application/json";

/// The head of a streamed answer.
pub(crate) fn push_stream_head(out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n",
    );
}

/// One piece of a chunked body, which must not be empty: that would be the end.
pub(crate) fn push_chunk(out: &mut Vec<u8>, render: impl FnOnce(&mut Vec<u8>)) {
    // The length comes first and has a fixed width, to be filled in once it is known.
    const PLACE: &[u8] = b"00000000\r\n";
    let start = out.len();
    out.extend_from_slice(PLACE);
    render(out);
    let len = out.len() - start - PLACE.len();
    let digits = format!("{len:08x}");
    out[start..start + digits.len()].copy_from_slice(digits.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The end of a chunked body.
pub(crate) fn push_last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

/// A whole response with a body.
pub(crate) fn push_response(
    out: &mut Vec<u8>,
    status: u16,
    content_type: &str,
    extra_headers: &str,
    body: &[u8],
) {
    put(
        out,
        format_args!(
            "HTTP/1.1 {status} {}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n{extra_headers}\r\n",
            reason(status),
            body.len()
        ),
    );
    out.extend_from_slice(body);
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Unknown")
}

/// Text, escaped for the inside of a JSON string.
pub(crate) fn push_escaped(out: &mut Vec<u8>, text: &str) {
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push(b'\\');
                out.push(c as u8);
            }
            c if c.is_control() => put(out, format_args!("\\u{:04x}", c as u32)),
            c => {
                let mut bytes = [0; 4];
                out.extend_from_slice(c.encode_utf8(&mut bytes).as_bytes());
            }
        }
    }
}

/// Formatted text.
pub(crate) fn put(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    if out.write_fmt(arguments).is_err() {
        // A `Vec` takes every byte: `io::Write` for it cannot fail.
    }
}
