use std::io::Write as _;

use super::behaviour::Behaviour;

/// Renders the answer to one call, piece by piece, into a connection's outbox.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) serial: u64,
    pub(crate) created: u64,
    /// The model's name as a JSON string, quotes included.
    pub(crate) model_json: &'a str,
    pub(crate) include_usage: bool,
    pub(crate) behaviour: &'a Behaviour,
    /// The words to echo, when the behaviour says so.
    pub(crate) words: Vec<String>,
}

impl Answer<'_> {
    /// Number of content tokens.
    pub(crate) fn tokens(&self) -> u32 {
        if self.behaviour.echo {
            u32::try_from(self.words.len()).unwrap_or(u32::MAX).max(1)
        } else {
            self.behaviour.tokens.max(1)
        }
    }

    /// Appends the text of one token, escaped for a JSON string.
    fn push_token(&self, out: &mut Vec<u8>, index: u32) {
        let start = out.len();
        if self.behaviour.stamp {
            put(out, format_args!("{:019} ", crate::unix_nanos()));
        }
        if self.behaviour.echo {
            push_escaped(
                out,
                self.words.get(index as usize).map_or("", String::as_str),
            );
        } else if let Some(text) = &self.behaviour.text {
            push_escaped(out, text);
        } else {
            put(out, format_args!("tok{index}"));
        }
        // The last byte is the space that ends each token.
        let padded = (start + self.behaviour.token_bytes_min).saturating_sub(1);
        if out.len() < padded {
            out.resize(padded, b'.');
        }
        out.push(b' ');
    }

    /// The body of a whole answer.
    pub(crate) fn json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        put(
            &mut out,
            format_args!(
                r#"{{"id":"chatcmpl-mock-{}","object":"chat.completion","created":{},"model":{},"choices":[{{"index":0,"message":{{"role":"assistant","content":""#,
                self.serial, self.created, self.model_json
            ),
        );
        for index in 0..self.tokens() {
            self.push_token(&mut out, index);
        }
        put(
            &mut out,
            format_args!(
                r#"","refusal":null}},"logprobs":null,"finish_reason":"{}"}}],"usage":"#,
                self.behaviour.finish
            ),
        );
        self.push_usage(&mut out);
        out.push(b'}');
        out
    }

    fn push_usage(&self, out: &mut Vec<u8>) {
        let (prompt, completion) = (self.behaviour.prompt_tokens, self.tokens());
        put(
            out,
            format_args!(
                r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{}}}"#,
                prompt + completion
            ),
        );
    }

    fn push_event_start(&self, event: &mut Vec<u8>) {
        put(
            event,
            format_args!(
                r#"data: {{"id":"chatcmpl-mock-{}","object":"chat.completion.chunk","created":{},"model":{},"choices":["#,
                self.serial, self.created, self.model_json
            ),
        );
    }

    fn push_event_end(&self, event: &mut Vec<u8>) {
        event.extend_from_slice(if self.include_usage {
            b"],\"usage\":null}\n\n"
        } else {
            b"]}\n\n"
        });
    }

    /// The first event: the role and no content.
    pub(crate) fn push_role(&self, out: &mut Vec<u8>) {
        push_chunk(out, |event| {
            self.push_event_start(event);
            event.extend_from_slice(
                br#"{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}"#,
            );
            self.push_event_end(event);
        });
    }

    /// The event of one token.
    pub(crate) fn push_delta(&self, out: &mut Vec<u8>, index: u32) {
        push_chunk(out, |event| {
            self.push_event_start(event);
            event.extend_from_slice(br#"{"index":0,"delta":{"content":""#);
            self.push_token(event, index);
            event.extend_from_slice(br#""},"finish_reason":null}"#);
            self.push_event_end(event);
        });
    }

    /// The event with the finish reason and, if asked for, the one with the usage.
    pub(crate) fn push_finish(&self, out: &mut Vec<u8>) {
        push_chunk(out, |event| {
            self.push_event_start(event);
            put(
                event,
                format_args!(
                    r#"{{"index":0,"delta":{{}},"finish_reason":"{}"}}"#,
                    self.behaviour.finish
                ),
            );
            self.push_event_end(event);
            if self.include_usage {
                self.push_event_start(event);
                event.extend_from_slice(b"],\"usage\":");
                self.push_usage(event);
                event.extend_from_slice(b"}\n\n");
            }
        });
    }
}

/// The head of a streamed answer.
pub(crate) fn push_stream_head(out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n",
    );
}

/// One piece of a chunked body.
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

fn push_escaped(out: &mut Vec<u8>, text: &str) {
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

fn put(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    if out.write_fmt(arguments).is_err() {
        // A `Vec` takes every byte: `io::Write` for it cannot fail.
    }
}
