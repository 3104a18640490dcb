//! Arguments of a call: an object in this dialect, its text in the internal form.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::dialect::json::{self, Object};

/// Member of the object in which arguments stand that are no JSON object: what Anthropic's documentation says to send
/// (<https://platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming>).
const INVALID: &str = "INVALID_JSON";

/// The `input` of a call.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Input<'a> {
    /// As the model wrote it.
    Object(&'a RawValue),
    /// The model wrote something else, or the answer ended before the object did.
    Invalid {
        #[serde(rename = "INVALID_JSON")]
        text: &'a str,
    },
    /// No arguments.
    Empty {},
}

/// The object for arguments as text.
pub(super) fn input(arguments: &str) -> Input<'_> {
    let text = arguments.trim();
    if text.is_empty() {
        return Input::Empty {};
    }
    let object = || {
        let raw: &RawValue = serde_json::from_str(text).ok()?;
        (text.starts_with('{') && json::is_shallow(text)).then_some(raw)
    };
    match object() {
        Some(raw) => Input::Object(raw),
        None => Input::Invalid { text: arguments },
    }
}

/// The arguments of an `input`; reads back what [`input`] writes.
pub(super) fn arguments(input: &RawValue) -> String {
    let invalid = || {
        let object = Object::parse(input.get()).ok()?;
        let is_alone = object.members().count() == 1;
        let text = object.get(INVALID).and_then(json::string)?;
        is_alone.then(|| text.into_owned())
    };
    invalid().unwrap_or_else(|| input.get().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(text: &str) -> (String, String) {
        let json = serde_json::to_string(&input(text)).unwrap();
        let raw: Box<RawValue> = serde_json::from_str(&json).unwrap();
        let back = arguments(&raw);
        (json, back)
    }

    #[test]
    fn an_object_stays_as_it_was_written() {
        let text = r#"{"a": 1.50, "b":"\u00e9"}"#;
        assert_eq!(there_and_back(text), (text.to_owned(), text.to_owned()));
        assert_eq!(
            there_and_back("  "),
            ("{}".to_owned(), "{}".to_owned()),
            "no arguments are an empty object"
        );
    }

    #[test]
    fn what_is_no_object_is_told_apart_and_comes_back() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
        for text in ["{\"a\": tru", "[1]", "null", "{} {}", deep.as_str()] {
            let (json, back) = there_and_back(text);
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(value[INVALID], text);
            assert_eq!(back, text);
        }
    }

    #[test]
    fn an_argument_of_that_name_among_others_is_one() {
        let json = r#"{"INVALID_JSON":"x","a":1}"#;
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        assert_eq!(arguments(&raw), json);
    }
}
