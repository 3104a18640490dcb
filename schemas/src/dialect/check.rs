//! What the fields of a client's request must be, in every dialect.

use serde_json::value::RawValue;

use super::json::{self, DEPTH_MAX, Object};
use crate::event::ErrorBody;

/// What a field must be; every field may also be `null`, which means absent.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Boolean,
    Text,
    Object,
    Array,
    TextOrArray,
    TextOrObject,
    /// Within bounds, both included.
    Number(f64, f64),
    /// Within bounds, both included.
    Integer(i64, i64),
}

/// The client's body as an object.
///
/// # Errors
/// 400 without `param`: not UTF-8, nested deeper than [`DEPTH_MAX`], not a JSON object.
pub(super) fn object(body: &[u8]) -> Result<Object<'_>, ErrorBody> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let place = error.valid_up_to();
        refuse(None, format!("the body is not UTF-8 at byte {place}"))
    })?;
    if !json::is_shallow(text) {
        let message = format!("the body is nested deeper than {DEPTH_MAX} levels");
        return Err(refuse(None, message));
    }
    Object::parse(text).map_err(|error| {
        refuse(
            None,
            format!("the body is not a valid JSON object: {error}"),
        )
    })
}

/// Checks the members of the body that `known` names; others pass.
///
/// # Errors
/// 400 whose `param` names a member that is there twice or is not what it must be.
pub(super) fn fields(object: &Object<'_>, known: &[(&str, Kind)]) -> Result<(), ErrorBody> {
    fields_at("", object, known)
}

/// As [`fields`] for an object within the body; `path` leads to it, with the separator at its end.
pub(super) fn fields_at(
    path: &str,
    object: &Object<'_>,
    known: &[(&str, Kind)],
) -> Result<(), ErrorBody> {
    debug_assert!(known.len() <= 32, "one bit each");
    let mut seen = 0_u32;
    for (key, raw) in object.members() {
        let Some(index) = known.iter().position(|(name, _)| *name == key) else {
            continue;
        };
        let field = format!("{path}{key}");
        if seen & (1 << index) != 0 {
            return Err(refuse(Some(&field), format!("`{field}` is given twice")));
        }
        seen |= 1 << index;
        let (_, kind) = known[index];
        value(&field, raw, kind)?;
    }
    Ok(())
}

/// Checks one value.
///
/// # Errors
/// 400 whose `param` is `field`.
pub(super) fn value(field: &str, value: &RawValue, kind: Kind) -> Result<(), ErrorBody> {
    let text = value.get();
    if text == "null" {
        return Ok(());
    }
    let starts = |with: &[char]| text.starts_with(with);
    let (fits, expected) = match kind {
        Kind::Boolean => (starts(&['t', 'f']), "true or false".to_owned()),
        // A string with half a surrogate pair is JSON, but no text.
        Kind::Text => (json::string(value).is_some(), "a string".to_owned()),
        Kind::Object => (starts(&['{']), "an object".to_owned()),
        Kind::Array => (starts(&['[']), "an array".to_owned()),
        Kind::TextOrArray => (starts(&['"', '[']), "a string or an array".to_owned()),
        Kind::TextOrObject => (starts(&['"', '{']), "a string or an object".to_owned()),
        Kind::Number(least, most) => (
            serde_json::from_str::<f64>(text).is_ok_and(|number| (least..=most).contains(&number)),
            format!("a number from {least} to {most}"),
        ),
        Kind::Integer(least, most) => (
            serde_json::from_str::<i64>(text).is_ok_and(|number| (least..=most).contains(&number)),
            match (least, most) {
                (i64::MIN, _) => "an integer".to_owned(),
                (_, i64::MAX) => format!("an integer of at least {least}"),
                _ => format!("an integer from {least} to {most}"),
            },
        ),
    };
    if fits {
        Ok(())
    } else {
        Err(refuse(Some(field), format!("`{field}` must be {expected}")))
    }
}

/// 400: the request is at fault.
pub(super) fn refuse(param: Option<&str>, message: impl Into<String>) -> ErrorBody {
    ErrorBody::invalid_request(param, message)
}

/// 400: `field` is not there, or empty.
pub(super) fn missing(field: &str) -> ErrorBody {
    let message = format!("you must provide `{field}`, and it must not be empty");
    refuse(Some(field), message)
}

pub(super) fn is_true(raw: &RawValue) -> bool {
    raw.get() == "true"
}
