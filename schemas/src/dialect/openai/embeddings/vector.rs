//! Vectors on the wire: arrays of numbers, or base64 of little-endian 32-bit floats.

use data_encoding::BASE64;
use serde_json::value::RawValue;

/// Bytes of a float.
const FLOAT_BYTES: usize = 4;

/// Whether `raw` has the form of a vector in base64 (`base64`) or as an array, by its first
/// characters: enough to pass it on.
pub(super) fn fits(raw: &RawValue, base64: bool) -> bool {
    let text = raw.get();
    if base64 {
        return text.starts_with('"') && text.len() > 2;
    }
    let inner = text.strip_prefix('[').unwrap_or_default().trim_start();
    inner.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// Reads a vector in either form; none when it is neither, or empty, or not finite.
pub(super) fn read(raw: &RawValue) -> Option<Vec<f32>> {
    let text = raw.get();
    let vector = match text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(base64) => from_base64(base64)?,
        None => from_array(text)?,
    };
    let is_sound = !vector.is_empty() && vector.iter().all(|float| float.is_finite());
    is_sound.then_some(vector)
}

/// The array as the nearest floats, each read from its own digits: by way of a 64-bit float it
/// would be rounded twice.
fn from_array(text: &str) -> Option<Vec<f32>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let numbers = inner.split(',').map(|number| number.trim().parse().ok());
    numbers.collect()
}

fn from_base64(text: &str) -> Option<Vec<f32>> {
    // Slashes may be escaped in JSON.
    let bytes = if text.contains('\\') {
        BASE64.decode(text.replace("\\/", "/").as_bytes())
    } else {
        BASE64.decode(text.as_bytes())
    };
    let bytes = bytes.ok()?;
    let (floats, rest) = bytes.as_chunks::<FLOAT_BYTES>();
    rest.is_empty().then(|| {
        floats
            .iter()
            .map(|float| f32::from_le_bytes(*float))
            .collect()
    })
}

/// Writes a vector into `json`, in base64 or as an array of the shortest digits that read back
/// the same.
pub(super) fn write(vector: &[f32], base64: bool, json: &mut String) {
    if base64 {
        let bytes: Vec<u8> = vector
            .iter()
            .flat_map(|float| float.to_le_bytes())
            .collect();
        json.push('"');
        BASE64.encode_append(&bytes, json);
        json.push('"');
        return;
    }
    json.push('[');
    for (position, float) in vector.iter().enumerate() {
        if position > 0 {
            json.push(',');
        }
        // Rust's own form of a finite float is JSON, and not that of the 64-bit float it widens to.
        json.push_str(&format!("{float:?}"));
    }
    json.push(']');
}
