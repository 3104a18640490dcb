//! The client's request for embeddings.

use std::borrow::Cow;

use bytes::Bytes;

use super::super::inputs::{self, Inputs};
use super::super::read::field;
use super::super::request::{MODEL, named_model, upstream_request};
use crate::dialect::check::{self, Kind, missing, refuse};
use crate::dialect::json::{self, Object};
use crate::event::ErrorBody;
use crate::model::{Embed, EmbedInput};

/// An embeddings request that passed validation, with what the pipeline needs of it; everything
/// else stays in the body.
#[derive(Debug, Clone)]
pub struct EmbeddingsRequest<'a> {
    /// Model name as the client wrote it; not empty.
    pub model: Cow<'a, str>,
    /// Whether vectors are wanted as base64 of little-endian 32-bit floats, as SDKs ask for
    /// (`encoding_format`), or as arrays of numbers.
    pub base64: bool,
    /// Length of `input` as JSON, for an estimate of its tokens.
    pub prompt_bytes: usize,
    /// Number of inputs, 1..=2048; there is one vector for each.
    pub count: usize,
    /// The end user that the client names.
    pub user: Option<Cow<'a, str>>,
}

const INPUT: &str = "input";
const ENCODING: &str = "encoding_format";
const DIMENSIONS: &str = "dimensions";

/// Most inputs of one request
/// (<https://platform.openai.com/docs/api-reference/embeddings/create>).
const INPUTS_MAX: usize = 2_048;

/// The fields that are checked; others pass.
const FIELDS: [(&str, Kind); 5] = [
    (MODEL, Kind::Text),
    (INPUT, Kind::TextOrArray),
    (ENCODING, Kind::Text),
    (DIMENSIONS, Kind::Integer(1, i64::MAX)),
    ("user", Kind::Text),
];

impl<'a> EmbeddingsRequest<'a> {
    /// Validates the body of `POST /v1/embeddings`.
    ///
    /// # Errors
    /// 400 `invalid_request_error` whose `param` names the field: not UTF-8, not a JSON object,
    /// nested deeper than 64, `model` or `input` missing, a known field twice, of the wrong type
    /// or out of its range, an empty input or more than 2048 of them. Fields that are not known
    /// pass.
    pub fn parse(body: &'a [u8]) -> Result<Self, ErrorBody> {
        let object = check::object(body)?;
        Ok(Self::read(&object)?.0)
    }

    fn read(object: &Object<'a>) -> Result<(Self, Inputs<'a>), ErrorBody> {
        check::fields(object, &FIELDS)?;
        let model = named_model(object)?;
        let input = object.some(INPUT).ok_or_else(|| missing(INPUT))?;
        let inputs = inputs::read(INPUT, input)?;
        let count = inputs.count();
        if count > INPUTS_MAX {
            let message = format!("`{INPUT}` must have at most {INPUTS_MAX} elements, not {count}");
            return Err(refuse(Some(INPUT), message));
        }
        if matches!(&inputs, Inputs::Texts(texts) if texts.iter().any(|text| text.is_empty())) {
            return Err(refuse(
                Some(INPUT),
                format!("`{INPUT}` must not be or hold an empty string"),
            ));
        }
        let request = Self {
            model,
            base64: wants_base64(object)?,
            prompt_bytes: input.get().len(),
            count,
            user: object.some("user").and_then(json::string),
        };
        Ok((request, inputs))
    }
}

fn wants_base64(object: &Object<'_>) -> Result<bool, ErrorBody> {
    match object.some(ENCODING).and_then(json::string).as_deref() {
        None | Some("float") => Ok(false),
        Some("base64") => Ok(true),
        Some(_) => {
            let message = format!("`{ENCODING}` must be `float` or `base64`");
            Err(refuse(Some(ENCODING), message))
        }
    }
}

/// The client's body as it goes to a provider of the same dialect: with the provider's `model`,
/// all else byte for byte and in order; when nothing has to change, the same bytes are
/// returned. Expects a body that [`EmbeddingsRequest::parse`] accepted; any other is returned
/// as it is.
#[must_use]
pub fn upstream_embeddings(body: &Bytes, model: &str) -> Bytes {
    upstream_request(body, model, false)
}

/// Reads the body of `POST /v1/embeddings` for a provider that speaks another dialect.
///
/// # Errors
/// As [`EmbeddingsRequest::parse`].
pub fn read_embeddings_request(body: &[u8]) -> Result<Embed, ErrorBody> {
    let object = check::object(body)?;
    let (request, inputs) = EmbeddingsRequest::read(&object)?;
    let texts = |text: Cow<'_, str>| EmbedInput::Text(text.into_owned());
    Ok(Embed {
        inputs: match inputs {
            Inputs::Texts(inputs) => inputs.into_iter().map(texts).collect(),
            Inputs::Tokens(inputs) => inputs.into_iter().map(EmbedInput::Tokens).collect(),
        },
        dimensions: field(&object, DIMENSIONS)?,
        base64: request.base64,
        user: request.user.map(Cow::into_owned),
    })
}
