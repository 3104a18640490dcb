//! Embeddings: `batchEmbedContents` (<https://ai.google.dev/api/embeddings>).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::answer::{json_object, read_usage};
use super::{MODELS, bare, error};
use crate::dialect::{fault, json};
use crate::event::ErrorBody;
use crate::model::{Embed, EmbedInput, Embeddings};

#[derive(Serialize)]
struct Request<'a> {
    requests: Vec<One<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct One<'a> {
    model: &'a str,
    content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_dimensionality: Option<i64>,
}

#[derive(Serialize)]
struct Content<'a> {
    parts: [Part<'a>; 1],
}

#[derive(Serialize)]
struct Part<'a> {
    text: &'a str,
}

/// The body of a call for the embeddings of `model`, with one request for each input.
///
/// # Errors
/// 400 whose `param` is `input`: token ids, which are of another model's vocabulary.
pub fn write_embeddings(embed: &Embed, model: &str) -> Result<Bytes, ErrorBody> {
    let model = format!("{MODELS}{}", bare(model));
    let mut requests = Vec::with_capacity(embed.inputs.len());
    for input in &embed.inputs {
        let EmbedInput::Text(text) = input else {
            let message = "`input` must be text: this model does not take token ids";
            return Err(ErrorBody::invalid_request(Some("input"), message));
        };
        requests.push(One {
            model: &model,
            content: Content {
                parts: [Part { text }],
            },
            output_dimensionality: embed.dimensions,
        });
    }
    Ok(json::bytes(&Request { requests }))
}

/// Reads the body of an answer of `batchEmbedContents`. Google names no model in it, and usage only for newer models.
///
/// # Errors
/// Google's error, when the body is one despite its status. When the body is no answer (no `embeddings`, one without values,
/// or with a value beyond 32 bits), an error for which [`is_malformed`](crate::dialect::is_malformed) holds.
pub fn read_embeddings(body: &[u8]) -> Result<Embeddings, ErrorBody> {
    let read: Response<'_> = serde_json::from_str(json_object(body)?)
        .map_err(|_| fault::malformed("`embeddings` without values"))?;
    if let Some(reported) = read.error {
        return Err(error::read_event(reported));
    }
    let is_vector = |embedding: &Embedding| {
        !embedding.values.is_empty() && embedding.values.iter().all(|value| value.is_finite())
    };
    if read.embeddings.is_empty() || !read.embeddings.iter().all(is_vector) {
        return Err(fault::malformed(
            "no embedding, an empty or an infinite one",
        ));
    }
    let vectors = read.embeddings.into_iter();
    Ok(Embeddings {
        vectors: vectors.map(|embedding| embedding.values).collect(),
        usage: read.usage_metadata.and_then(read_usage),
        model: None,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    #[serde(default)]
    embeddings: Vec<Embedding>,
    #[serde(borrow)]
    usage_metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Embedding {
    values: Vec<f32>,
}
