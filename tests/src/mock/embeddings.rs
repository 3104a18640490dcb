//! OpenAI's embeddings, and the vectors of every dialect: <https://platform.openai.com/docs/api-reference/embeddings>.

use std::hash::Hasher as _;

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::answer::Answer;
use super::asked::{Asked, Embed};
use super::connection::RawRequest;
use super::dialect::{Dialect, Problem, Told};
use super::openai;

/// Length of a vector when nobody asks for another.
pub(super) const DIMENSIONS: usize = 16;
/// Longest vector.
pub(super) const DIMENSIONS_MAX: usize = 4096;

/// The vector that the mock answers for a text: always the same, and another for another text. Its numbers are multiples of
/// 1/128 below 1, which every encoding brings back as they are.
#[must_use]
pub fn embedding(text: &str, dimensions: usize) -> Vec<f32> {
    let number = |index: usize| {
        // FNV-1a, one byte after the other, the index first.
        let mut hasher = Fnv::default();
        hasher.write(&index.to_le_bytes());
        hasher.write(text.as_bytes());
        let [byte, ..] = (hasher.finish() >> 24).to_le_bytes();
        f32::from(byte.cast_signed()) / 128.0
    };
    (0..dimensions).map(number).collect()
}

/// <http://www.isthe.com/chongo/tech/comp/fnv/>; the standard library's hasher is not the same for ever.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// `POST …/embeddings`.
#[derive(Debug)]
pub(super) struct Embeddings;

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    input: &'a RawValue,
    dimensions: Option<usize>,
    encoding_format: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

impl Dialect for Embeddings {
    fn read<'a>(&self, request: &'a RawRequest) -> Result<Asked<'a>, &'static str> {
        const NONE: &str = "the body is not a request for embeddings";
        let read: Request<'a> = serde_json::from_slice(&request.body).map_err(|_| NONE)?;
        let input = serde_json::from_str(read.input.get()).map_err(|_| NONE)?;
        let dimensions = read.dimensions.unwrap_or(DIMENSIONS);
        let base64 = match read.encoding_format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => return Err("encoding_format is neither float nor base64"),
        };
        if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
            return Err("dimensions is out of bounds");
        }
        let asked = Asked {
            embed: Some(Embed {
                texts: texts(input),
                dimensions,
                base64,
            }),
            ..Asked::new(read.model, read.input.get())
        };
        openai::at_azure(request, asked)
    }

    fn key<'a>(&self, request: &'a RawRequest) -> Option<&'a str> {
        openai::key(request)
    }

    fn whole(&self, answer: &Answer<'_>) -> Vec<u8> {
        let data: Vec<serde_json::Value> = vectors(answer)
            .into_iter()
            .enumerate()
            .map(|(index, vector)| {
                let embedding = match &answer.asked.embed {
                    Some(embed) if embed.base64 => json!(base64(&vector)),
                    _ => json!(vector),
                };
                json!({ "object": "embedding", "index": index, "embedding": embedding })
            })
            .collect();
        let tokens = answer.prompt_tokens();
        let body = json!({
            "object": "list",
            "data": data,
            "model": answer.asked.model(),
            "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
        });
        body.to_string().into_bytes()
    }

    fn error(&self, problem: &Problem<'_>) -> Told {
        openai::error(problem)
    }
}

/// The vectors that a call asks for, in order.
pub(super) fn vectors(answer: &Answer<'_>) -> Vec<Vec<f32>> {
    let embed = answer.asked.embed.iter();
    embed
        .flat_map(|embed| {
            let texts = embed.texts.iter();
            texts.map(|text| embedding(text, embed.dimensions))
        })
        .collect()
}

fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|n| n.to_le_bytes()).collect();
    BASE64.encode(&bytes)
}

fn texts(input: Input) -> Vec<String> {
    let text = |tokens: Vec<u32>| {
        let tokens: Vec<String> = tokens.iter().map(u32::to_string).collect();
        tokens.join(" ")
    };
    match input {
        Input::Text(text) => vec![text],
        Input::Texts(texts) => texts,
        Input::Tokens(tokens) => vec![text(tokens)],
        Input::ManyTokens(many) => many.into_iter().map(text).collect(),
    }
}
