//! JSON objects that are looked into and edited without being taken apart.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Deeper nesting than this is refused, long before anybody's stack is in danger.
pub(super) const DEPTH_MAX: usize = 64;

/// A JSON object: its text and where its members are.
pub(super) struct Object<'a> {
    text: &'a str,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Reads the members of the object that `text` is, and checks the syntax of all of it.
    pub(super) fn parse(text: &'a str) -> serde_json::Result<Self> {
        let Members(members) = serde_json::from_str(text)?;
        Ok(Self { text, members })
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.members
            .iter()
            .map(|(key, value)| (key.as_ref(), *value))
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.position(key)
            .and_then(|index| self.members.get(index))
            .map(|(_, value)| *value)
    }

    /// As [`Object::get`]; none also for `null`.
    pub(super) fn some(&self, key: &str) -> Option<&'a RawValue> {
        self.get(key).filter(|value| value.get() != "null")
    }

    /// The first of `keys` that is there twice.
    pub(super) fn duplicate<'k>(&self, keys: &[&'k str]) -> Option<&'k str> {
        keys.iter()
            .find(|key| self.members().filter(|(name, _)| name == *key).count() > 1)
            .copied()
    }

    pub(super) fn edit(&self) -> Edit<'_, 'a> {
        Edit {
            object: self,
            changes: Vec::new(),
            removed: 0,
            added: String::new(),
        }
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.members.iter().position(|(name, _)| name == key)
    }

    fn span(&self, value: &RawValue) -> Range<usize> {
        // The value borrows from the text.
        let start = value.get().as_ptr() as usize - self.text.as_ptr() as usize;
        start..start + value.get().len()
    }
}

/// Changes to the members of an object; the rest of its text stays byte for byte.
pub(super) struct Edit<'o, 'a> {
    object: &'o Object<'a>,
    changes: Vec<(Range<usize>, Cow<'o, str>)>,
    removed: usize,
    added: String,
}

impl<'o> Edit<'o, '_> {
    /// Gives `key` the value `json`, in its place or at the end.
    pub(super) fn set(&mut self, key: &str, json: impl Into<Cow<'o, str>>) {
        let json = json.into();
        if let Some(value) = self.object.get(key) {
            if value.get() != json {
                self.changes.push((self.object.span(value), json));
            }
        } else {
            if !self.added.is_empty() {
                self.added.push(',');
            }
            self.added.push_str(&quoted(key));
            self.added.push(':');
            self.added.push_str(&json);
        }
    }

    /// Takes the member `key` out; once per edit.
    pub(super) fn remove(&mut self, key: &str) {
        let Some(index) = self.object.position(key) else {
            return;
        };
        let end_of = |index: usize| {
            let (_, value) = self.object.members.get(index)?;
            Some(self.object.span(value).end)
        };
        let Some(end) = end_of(index) else {
            return;
        };
        let text = self.object.text;
        let range = match index.checked_sub(1).and_then(end_of) {
            // With the comma before it …
            Some(previous_end) => previous_end..end,
            // … or, of the first member, the one behind it.
            None => {
                let start = text.find('{').map_or(0, |brace| brace + 1);
                let rest = text.get(end..).unwrap_or_default();
                let comma = rest.len() - rest.trim_start().len();
                let more = self.object.members.len() > 1;
                start..if more { end + comma + 1 } else { end }
            }
        };
        self.changes.push((range, Cow::Borrowed("")));
        self.removed += 1;
    }

    /// The edited text; none when it is as it was.
    pub(super) fn finish(mut self) -> Option<String> {
        if self.changes.is_empty() && self.added.is_empty() {
            return None;
        }
        let text = self.object.text;
        if !self.added.is_empty() {
            let brace = text.rfind('}').unwrap_or(text.len());
            if self.object.members.len() > self.removed {
                self.added.insert(0, ',');
            }
            self.changes.push((brace..brace, Cow::Owned(self.added)));
        }
        // Stable: what is added at the end stays behind what is removed there.
        self.changes.sort_by_key(|(range, _)| range.start);
        let grown: usize = self.changes.iter().map(|(_, with)| with.len()).sum();
        let mut edited = String::with_capacity(text.len() + grown);
        let mut done = 0;
        for (range, with) in &self.changes {
            edited.push_str(text.get(done..range.start).unwrap_or_default());
            edited.push_str(with);
            done = range.end;
        }
        edited.push_str(text.get(done..).unwrap_or_default());
        Some(edited)
    }
}

/// `text` as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `value` as JSON.
#[expect(
    clippy::expect_used,
    reason = "our own structs of strings and numbers always have a JSON form"
)]
pub(super) fn bytes<T: serde::Serialize>(value: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("a JSON form"))
}

/// The string that `raw` is; none when it is something else or no valid string.
pub(super) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw.get()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// The text of a message's content: a string, or the texts of an array of parts, joined by
/// line feeds; none for anything else.
pub(super) fn content(raw: &RawValue) -> Option<Cow<'_, str>> {
    if !raw.get().starts_with('[') {
        return string(raw);
    }
    #[derive(serde::Deserialize)]
    struct Part<'a> {
        #[serde(borrow)]
        text: Option<&'a RawValue>,
    }
    let parts: Vec<Part<'_>> = serde_json::from_str(raw.get()).ok()?;
    let texts: Vec<_> = parts
        .iter()
        .filter_map(|part| part.text.and_then(string))
        .collect();
    Some(Cow::Owned(texts.join("\n")))
}

/// Whether no value in `text` is nested deeper than [`DEPTH_MAX`]. Text that is not JSON may
/// pass; it fails in the parser.
pub(super) fn is_shallow(text: &str) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if in_string {
            match byte {
                b'\\' => {
                    bytes.next();
                }
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some((Key(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Read)
    }
}

struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: serde::de::Error>(
                self,
                key: &'de str,
            ) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }

        deserializer.deserialize_str(Read).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, change: impl FnOnce(&mut Edit<'_, '_>)) -> String {
        let object = Object::parse(text).unwrap();
        let mut edit = object.edit();
        change(&mut edit);
        edit.finish().unwrap_or_else(|| text.to_owned())
    }

    #[test]
    fn members_are_set_in_place_or_at_the_end() {
        let text = r#" { "a" : 1 , "b":{"a":2}} "#;
        assert_eq!(
            edited(text, |edit| edit.set("a", "7")),
            r#" { "a" : 7 , "b":{"a":2}} "#
        );
        assert_eq!(
            edited(text, |edit| {
                edit.set("c", "3");
                edit.set("d", "4");
            }),
            r#" { "a" : 1 , "b":{"a":2},"c":3,"d":4} "#
        );
        assert_eq!(edited("{ }", |edit| edit.set("a", "1")), r#"{ "a":1}"#);
        assert_eq!(edited(text, |edit| edit.set("a", "1")), text);
    }

    #[test]
    fn a_member_is_removed_with_its_comma() {
        let cases = [
            (r#"{"a":1,"b":2,"c":3}"#, "a", r#"{"b":2,"c":3}"#),
            (r#"{"a":1,"b":2,"c":3}"#, "b", r#"{"a":1,"c":3}"#),
            (r#"{"a":1,"b":2,"c":3}"#, "c", r#"{"a":1,"b":2}"#),
            (r#"{ "a":1 }"#, "a", "{ }"),
            (r#"{"a":1 , "b":2}"#, "a", r#"{ "b":2}"#),
        ];
        for (text, key, expected) in cases {
            assert_eq!(edited(text, |edit| edit.remove(key)), expected);
        }
        let both = |edit: &mut Edit<'_, '_>| {
            edit.remove("a");
            edit.set("b", "2");
        };
        assert_eq!(edited(r#"{"a":1}"#, both), r#"{"b":2}"#);
        assert_eq!(edited(r#"{"b":1,"a":1}"#, both), r#"{"b":2}"#);
    }

    #[test]
    fn depth_is_counted_outside_of_strings() {
        assert!(is_shallow(&format!("\"{}\\\"[\"", "[".repeat(100))));
        assert!(is_shallow(&"[".repeat(DEPTH_MAX)));
        assert!(!is_shallow(&"[".repeat(DEPTH_MAX + 1)));
        assert!(is_shallow(&"[]".repeat(DEPTH_MAX + 1)));
    }
}
