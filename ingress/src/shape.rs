//! What the door itself writes into answers, in the shape that the client's SDK expects: errors,
//! and what frames a stream. The rest of an answer comes from the log as it is sent.

use bytes::{BufMut, Bytes, BytesMut};
use schemas::dialect::openai;
use schemas::event::ErrorBody;
use schemas::id::RequestId;

/// Whose shape an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    OpenAi,
}

impl Shape {
    /// The shape of all answers at a path, known or not.
    pub(crate) fn of(_path: &str) -> Self {
        Self::OpenAi
    }

    /// An error as the body of an answer.
    pub(crate) fn error(self, error: &ErrorBody, _id: RequestId) -> Bytes {
        match self {
            Self::OpenAi => openai::error_json(error),
        }
    }

    /// Says on a silent stream that the client is still served; SDKs skip it.
    pub(crate) fn sign(self) -> &'static [u8] {
        match self {
            Self::OpenAi => b": waiting\n\n",
        }
    }

    /// Frames a chunk, after its `id:` line if it has one.
    pub(crate) fn put_chunk(self, out: &mut BytesMut, chunk: &[u8]) {
        match self {
            Self::OpenAi => put_data(out, chunk),
        }
    }

    /// Marks the end of a whole answer.
    pub(crate) fn put_end(self, out: &mut BytesMut) {
        match self {
            Self::OpenAi => out.put_slice(b"data: [DONE]\n\n"),
        }
    }

    /// Frames the error that ends a stream.
    pub(crate) fn put_error(self, out: &mut BytesMut, error: &ErrorBody, id: RequestId) {
        let json = self.error(error, id);
        match self {
            Self::OpenAi => put_data(out, &json),
        }
    }
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

    #[test]
    fn a_line_break_in_a_chunk_does_not_end_its_frame() {
        let mut out = BytesMut::new();
        put_data(&mut out, b"{\n  \"a\": 1\r\n}");
        assert_eq!(&out[..], b"data: {   \"a\": 1  }\n\n");
    }
}
