//! What the door itself writes into answers, in the shape that the client's SDK expects: errors,
//! and what frames a stream. The rest of an answer comes from the log as it is sent.

use bytes::{BufMut, Bytes, BytesMut};
use schemas::dialect::{anthropic, openai};
use schemas::event::ErrorBody;
use schemas::id::RequestId;

/// Whose shape an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    OpenAi,
    Anthropic,
}

/// Where Anthropic's dialect is spoken, and below it.
const ANTHROPIC: &str = "/v1/messages";

impl Shape {
    /// The shape of all answers at a path, known or not.
    pub(crate) fn of(path: &str) -> Self {
        match path.strip_prefix(ANTHROPIC) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Self::Anthropic,
            _ => Self::OpenAi,
        }
    }

    /// An error as the body of an answer.
    pub(crate) fn error(self, error: &ErrorBody, id: RequestId) -> Bytes {
        match self {
            Self::OpenAi => openai::error_json(error),
            Self::Anthropic => anthropic::error_json(error, &id.to_string()),
        }
    }

    /// Says on a silent stream that the client is still served; SDKs skip it.
    pub(crate) fn sign(self) -> &'static [u8] {
        match self {
            Self::OpenAi => b": waiting\n\n",
            // As Anthropic does it (https://platform.claude.com/docs/en/build-with-claude/streaming).
            Self::Anthropic => b"event: ping\ndata: {\"type\": \"ping\"}\n\n",
        }
    }

    /// Frames a chunk, after its `id:` line if it has one.
    pub(crate) fn put_chunk(self, out: &mut BytesMut, chunk: &[u8]) {
        match self {
            Self::OpenAi => {}
            Self::Anthropic => {
                if let Some(name) = anthropic::event_name(chunk) {
                    put_event(out, name);
                }
            }
        }
        put_data(out, chunk);
    }

    /// Marks the end of a whole answer, where its last chunk does not.
    pub(crate) fn put_end(self, out: &mut BytesMut) {
        match self {
            Self::OpenAi => out.put_slice(b"data: [DONE]\n\n"),
            Self::Anthropic => {}
        }
    }

    /// Frames the error that ends a stream.
    pub(crate) fn put_error(self, out: &mut BytesMut, error: &ErrorBody, id: RequestId) {
        match self {
            Self::OpenAi => {}
            Self::Anthropic => put_event(out, "error"),
        }
        put_data(out, &self.error(error, id));
    }
}

/// The `event:` line of a frame.
fn put_event(out: &mut BytesMut, name: &str) {
    out.put_slice(b"event: ");
    out.put_slice(name.as_bytes());
    out.put_u8(b'\n');
}

/// The `data:` line that ends a frame. A line break, which JSON only has between tokens, would end it early.
fn put_data(out: &mut BytesMut, json: &[u8]) {
    out.reserve(json.len() + 8);
    out.put_slice(b"data: ");
    if json.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend(json.iter().map(|byte| match byte {
            b'\n' | b'\r' => b' ',
            other => *other,
        }));
    } else {
        out.put_slice(json);
    }
    out.put_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::topic::{ReplyPlace, ReplyTopic};

    fn framed(put: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        put(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn anthropics_shape_is_that_of_its_paths_alone() {
        for path in [
            "/v1/messages",
            "/v1/messages/",
            "/v1/messages/count_tokens",
            "/v1/messages/batches/x",
        ] {
            assert_eq!(Shape::of(path), Shape::Anthropic, "{path}");
        }
        for path in ["/", "/v1/messagesx", "/v1/chat/completions", "/v1/models"] {
            assert_eq!(Shape::of(path), Shape::OpenAi, "{path}");
        }
    }

    #[test]
    fn a_chunk_of_anthropics_has_the_name_of_its_event() {
        let chunk = br#"{"type": "message_stop"}"#;
        assert_eq!(
            framed(|out| Shape::Anthropic.put_chunk(out, chunk)),
            "event: message_stop\ndata: {\"type\": \"message_stop\"}\n\n"
        );
        assert_eq!(
            framed(|out| Shape::OpenAi.put_chunk(out, chunk)),
            "data: {\"type\": \"message_stop\"}\n\n"
        );
        // Nothing that could end the line gets into it.
        for odd in ["{}", "{\"type\":7}", "{\"type\":\"a\\nb\"}"] {
            let frame = framed(|out| Shape::Anthropic.put_chunk(out, odd.as_bytes()));
            assert_eq!(frame, format!("data: {odd}\n\n"));
        }
    }

    #[test]
    fn an_error_in_a_stream_is_an_event_of_its_own() {
        let id = RequestId::new(ReplyPlace {
            topic: ReplyTopic::Responses,
            partition: 0,
        });
        let error = ErrorBody::upstream_cut();
        let frame = framed(|out| Shape::Anthropic.put_error(out, &error, id));
        let json = frame.strip_prefix("event: error\ndata: ").unwrap();
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(json["type"], "error");
        assert_eq!(json["error"]["type"], "api_error");
        assert_eq!(json["request_id"], id.to_string());
        let frame = framed(|out| Shape::OpenAi.put_error(out, &error, id));
        assert!(frame.starts_with("data: {\"error\":{"), "{frame}");
    }

    #[test]
    fn a_line_break_in_a_chunk_does_not_end_its_frame() {
        let mut out = BytesMut::new();
        put_data(&mut out, b"{\n  \"a\": 1\r\n}");
        assert_eq!(&out[..], b"data: {   \"a\": 1  }\n\n");
    }
}
