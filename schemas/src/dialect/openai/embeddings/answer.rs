//! A provider's embeddings, as the client asked for them.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::chunk::read_object;
use super::super::usage;
use super::vector;
use crate::dialect::fault;
use crate::dialect::json::{self, Object, quoted};
use crate::event::{ErrorBody, Usage};
use crate::model::Embeddings;

#[derive(Deserialize)]
struct Item<'a> {
    index: Option<usize>,
    #[serde(borrow)]
    embedding: &'a RawValue,
}

/// The provider's answer as the client reads it: with `model`, ordered by `index`, and each
/// vector in base64 of little-endian 32-bit floats (`base64`) or as an array of numbers,
/// whatever the provider sent. What fits already stays byte for byte; when all does, the same
/// bytes are returned. Also the usage, when the provider reported it.
///
/// # Errors
/// The provider's error, when the body is one despite its status. When it is no answer to
/// `count` inputs (not JSON, no `data`, too many vectors or too few, one twice, something that
/// is no vector), an error for which [`super::super::is_malformed`] holds.
pub fn render_embeddings(
    body: &Bytes,
    model: &str,
    base64: bool,
    count: usize,
) -> Result<(Bytes, Option<Usage>), ErrorBody> {
    let object = read_object(body)?;
    let items = read_items(&object, count)?;
    let is_sorted = items.is_sorted_by_key(|(index, _)| *index);
    let mut edit = object.edit();
    edit.set("model", quoted(model));
    edit.set("object", r#""list""#);
    if !is_sorted || !items.iter().all(|(_, raw)| vector::fits(raw, base64)) {
        edit.set("data", rendered(items, base64)?);
    }
    let usage = object.some("usage").and_then(usage::read);
    let edited = edit.finish().map(Bytes::from);
    Ok((edited.unwrap_or_else(|| body.clone()), usage))
}

/// Reads a provider's answer to `count` inputs.
///
/// # Errors
/// As [`render_embeddings`].
pub fn read_embeddings(body: &[u8], count: usize) -> Result<Embeddings, ErrorBody> {
    let object = read_object(body)?;
    let mut items = read_items(&object, count)?;
    items.sort_by_key(|(index, _)| *index);
    let vectors = items.iter().map(|(_, raw)| read_vector(raw));
    Ok(Embeddings {
        vectors: vectors.collect::<Result<_, _>>()?,
        usage: object.some("usage").and_then(usage::read),
        model: object.some("model").and_then(json::string).map(Into::into),
    })
}

/// The answer of a provider that speaks another dialect, for a client of this one. Usage that
/// the provider did not tell is left out; who calls may put in an estimate.
#[must_use]
pub fn write_embeddings(embeddings: &Embeddings, model: &str, base64: bool) -> Bytes {
    let mut json = String::from(r#"{"object":"list","data":["#);
    for (index, floats) in embeddings.vectors.iter().enumerate() {
        open_item(&mut json, index);
        vector::write(floats, base64, &mut json);
        json.push('}');
    }
    json.push_str(r#"],"model":"#);
    json.push_str(&quoted(model));
    if let Some(Usage { prompt_tokens, .. }) = embeddings.usage {
        let usage = format!(
            r#","usage":{{"prompt_tokens":{prompt_tokens},"total_tokens":{prompt_tokens}}}"#
        );
        json.push_str(&usage);
    }
    json.push('}');
    Bytes::from(json)
}

/// The vectors with their indexes, which are those from 0 to `count`, each once, in the order
/// of the provider; without an index they are numbered by their place.
fn read_items<'a>(
    object: &Object<'a>,
    count: usize,
) -> Result<Vec<(usize, &'a RawValue)>, ErrorBody> {
    if object.duplicate(&["data"]).is_some() {
        return Err(fault::malformed("`data` twice"));
    }
    let data = object
        .some("data")
        .ok_or_else(|| fault::malformed("no `data`"))?;
    let items: Vec<Item<'a>> = serde_json::from_str(data.get())
        .map_err(|_| fault::malformed("`data` without embeddings"))?;
    if items.len() != count {
        let found = items.len();
        return Err(fault::malformed(&format!(
            "{found} embeddings of {count} inputs"
        )));
    }
    let mut is_seen = vec![false; count];
    let mut found = Vec::with_capacity(count);
    for (position, item) in items.into_iter().enumerate() {
        let index = item.index.unwrap_or(position);
        match is_seen.get_mut(index) {
            Some(seen) if !*seen => *seen = true,
            _ => {
                return Err(fault::malformed(
                    "an embedding's `index` that is not its own",
                ));
            }
        }
        found.push((index, item.embedding));
    }
    Ok(found)
}

fn rendered(mut items: Vec<(usize, &RawValue)>, base64: bool) -> Result<String, ErrorBody> {
    items.sort_by_key(|(index, _)| *index);
    let mut json = String::from("[");
    for (index, raw) in items {
        open_item(&mut json, index);
        if vector::fits(raw, base64) {
            json.push_str(raw.get());
        } else {
            vector::write(&read_vector(raw)?, base64, &mut json);
        }
        json.push('}');
    }
    json.push(']');
    Ok(json)
}

fn read_vector(raw: &RawValue) -> Result<Vec<f32>, ErrorBody> {
    vector::read(raw).ok_or_else(|| fault::malformed("an embedding that is no vector"))
}

/// Begins the item `index`, up to its vector.
fn open_item(json: &mut String, index: usize) {
    if index > 0 {
        json.push(',');
    }
    json.push_str(r#"{"object":"embedding","index":"#);
    json.push_str(&index.to_string());
    json.push_str(r#","embedding":"#);
}
