//! Google's Gemini API (`generativelanguage.googleapis.com`, version `v1beta`), as a provider speaks it; clients do not.
//!
//! Pure functions between the form of [`crate::model`] and bytes. The wire format is that of
//! <https://ai.google.dev/api/generate-content> and of the protocol buffers under
//! `google/ai/generativelanguage/v1beta` in <https://github.com/googleapis/googleapis>. What happens to each field is in
//! `docs/dialects.md`.

mod answer;
mod contents;
mod embeddings;
mod error;
mod request;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub use answer::{StreamReader, read_answer};
pub use embeddings::{read_embeddings, write_embeddings};
pub use error::read_error;
pub use request::write_request;

/// All but the unreserved characters of RFC 3986, so that no model name leaves its place in the path.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Path and query of a call to `model`, below the base URL and without a slash at its beginning; the answer comes whole, or as
/// SSE. `model` may be written with or without `models/`.
#[must_use]
pub fn path(model: &str, stream: bool) -> String {
    let call = if stream {
        "streamGenerateContent?alt=sse"
    } else {
        "generateContent"
    };
    format!("{}:{call}", escaped(model))
}

/// Path of a call for embeddings, as [`path`].
#[must_use]
pub fn embed_path(model: &str) -> String {
    format!("{}:batchEmbedContents", escaped(model))
}

fn escaped(model: &str) -> String {
    format!("{MODELS}{}", utf8_percent_encode(bare(model), ESCAPED))
}

/// Collection that models are in.
const MODELS: &str = "models/";

/// The model's name without its collection.
fn bare(model: &str) -> &str {
    model.strip_prefix(MODELS).unwrap_or(model)
}
