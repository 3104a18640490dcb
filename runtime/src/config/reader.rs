//! Typed reading of a tree of values. What does not fit is noted by key, and reading goes on, so that all faults
//! come together.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::SecretString;
use serde_json::{Map, Value};
use url::Url;

use super::Fault;
use crate::secrets::SecretName;
use crate::upstream::Exception;

/// Notes faults, and which keys were asked for.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) faults: RefCell<Vec<Fault>>,
    /// With `[]` for any place in a list; the documentation must have exactly these.
    pub(super) asked: RefCell<BTreeSet<String>>,
}

impl Notes {
    pub(super) fn fault(&self, key: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.faults.borrow_mut().push(Fault {
            key: key.to_owned(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }
}

/// A value that can be read from one node.
pub(super) trait Setting: Sized {
    /// What it is, after "is not".
    const WHAT: &'static str;
    /// Good values, after "write for example".
    const EXAMPLE: &'static str;
    /// Whether messages must not show it.
    const SECRET: bool = false;

    fn read(value: &Value) -> Option<Self>;
}

/// A map of settings at a key.
pub(super) struct Section<'a> {
    /// Empty at the root.
    key: String,
    entries: Map<String, Value>,
    known: Vec<&'static str>,
    notes: &'a Notes,
}

impl<'a> Section<'a> {
    pub(super) fn new(key: String, value: Value, notes: &'a Notes) -> Self {
        let entries = match value {
            Value::Object(entries) => entries,
            Value::Null => Map::new(),
            _ => {
                notes.fault(&key, "this is a single value", "write a map of keys here");
                Map::new()
            }
        };
        Self {
            key,
            entries,
            known: Vec::new(),
            notes,
        }
    }

    /// The full key of `name` in this section.
    pub(super) fn key(&self, name: &str) -> String {
        if self.key.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.key)
        }
    }

    pub(super) fn fault(&self, name: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.notes.fault(&self.key(name), problem, remedy);
    }

    /// Takes a node out; null is as good as missing.
    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.entries.remove(name).filter(|value| !value.is_null())
    }

    fn ask(&self, name: &str) {
        let mut key = String::new();
        let mut in_place = false;
        for character in self.key(name).chars() {
            in_place = (in_place || character == '[') && character != ']';
            if !in_place || character == '[' {
                key.push(character);
            }
        }
        self.notes.asked.borrow_mut().insert(key);
    }

    /// The section `name`, empty when it is missing.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'a> {
        let value = self.take(name).unwrap_or_default();
        Section::new(self.key(name), value, self.notes)
    }

    /// The sections in the list `name`, empty when it is missing.
    pub(super) fn list(&mut self, name: &'static str) -> Vec<Section<'a>> {
        let key = self.key(name);
        match self.take(name) {
            None => Vec::new(),
            Some(Value::Array(values)) => values
                .into_iter()
                .enumerate()
                .map(|(index, value)| Section::new(format!("{key}[{index}]"), value, self.notes))
                .collect(),
            Some(_) => {
                self.fault(name, "this is not a list", "write a list of maps");
                Vec::new()
            }
        }
    }

    /// All entries of the map `name`, whose names are free.
    pub(super) fn free_map<T: Setting>(&mut self, name: &'static str) -> Vec<(String, T)> {
        self.ask(name);
        let key = self.key(name);
        let value = self.take(name).unwrap_or_default();
        let inner = Section::new(key.clone(), value, self.notes);
        inner
            .entries
            .into_iter()
            .filter_map(|(name, value)| {
                let setting = parse(&format!("{key}.{name}"), &value, self.notes)?;
                Some((name, setting))
            })
            .collect()
    }

    pub(super) fn optional<T: Setting>(&mut self, name: &'static str) -> Option<T> {
        self.ask(name);
        let value = self.take(name)?;
        parse(&self.key(name), &value, self.notes)
    }

    pub(super) fn or<T: Setting>(&mut self, name: &'static str, default: T) -> T {
        self.optional(name).unwrap_or(default)
    }

    /// A setting without default; none when it is missing or wrong, which is noted.
    pub(super) fn required<T: Setting>(&mut self, name: &'static str) -> Option<T> {
        if self.entries.get(name).is_none_or(Value::is_null) {
            self.ask(name);
            self.known.push(name);
            self.entries.remove(name);
            let remedy = format!("write {}, for example {}", T::WHAT, T::EXAMPLE);
            self.fault(name, "this is missing", remedy);
            return None;
        }
        self.optional(name)
    }

    /// A whole number within bounds.
    pub(super) fn number<N: TryFrom<i64>>(
        &mut self,
        name: &'static str,
        bounds: RangeInclusive<i64>,
    ) -> Option<N> {
        let number: i64 = self.optional(name)?;
        match N::try_from(number) {
            Ok(within) if bounds.contains(&number) => Some(within),
            _ => {
                let (low, high) = (bounds.start(), bounds.end());
                let problem = format!("{number} is out of bounds");
                self.fault(
                    name,
                    problem,
                    format!("write a number from {low} to {high}"),
                );
                None
            }
        }
    }

    /// A number with or without decimals within bounds, both included.
    pub(super) fn decimal(&mut self, name: &'static str, low: f64, high: f64) -> Option<f64> {
        let number: f64 = self.optional(name)?;
        if (low..=high).contains(&number) {
            return Some(number);
        }
        let problem = format!("{number} is out of bounds");
        let remedy = format!("write a number from {low} to {high}");
        self.fault(name, problem, remedy);
        None
    }

    /// A time longer than zero.
    pub(super) fn duration(&mut self, name: &'static str, default: Duration) -> Duration {
        self.some_duration(name).unwrap_or(default)
    }

    /// As [`Section::duration`], without default.
    pub(super) fn some_duration(&mut self, name: &'static str) -> Option<Duration> {
        let duration: Duration = self.optional(name)?;
        if duration.is_zero() {
            self.fault(
                name,
                "no time at all never suffices",
                "write for example 30s",
            );
        }
        Some(duration)
    }

    /// A size above zero.
    pub(super) fn size(&mut self, name: &'static str, default: ByteSize) -> ByteSize {
        let size = self.or(name, default);
        if size.as_u64() == 0 {
            self.fault(
                name,
                "nothing fits into no bytes",
                "write for example 20MiB",
            );
        }
        size
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        let word: String = self.optional(name)?;
        let found = words.iter().find(|(known, _)| *known == word);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(known, _)| *known).collect();
            let problem = format!("{word:?} is none of the known words");
            self.fault(name, problem, format!("write one of: {}", known.join(", ")));
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// As [`Section::word`], without default.
    pub(super) fn required_word<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&str, T)],
    ) -> Option<T> {
        if self.entries.get(name).is_none_or(Value::is_null) {
            let known: Vec<&str> = words.iter().map(|(known, _)| *known).collect();
            let remedy = format!("write one of: {}", known.join(", "));
            self.fault(name, "this is missing", remedy);
        }
        self.word(name, words)
    }

    /// Notes that `name` is known here, but means nothing because of another setting.
    pub(super) fn only_with(&mut self, name: &'static str, condition: &str) {
        if self.take(name).is_some() {
            let problem = format!("this means something only with {condition}");
            self.fault(name, problem, "remove it, or change that");
        }
    }

    /// Leaves the rest unread, since what is known here hangs on a setting that is wrong.
    pub(super) fn skip_rest(&mut self) {
        self.entries.clear();
    }

    /// Notes all entries that nobody asked for.
    pub(super) fn finish(self) {
        for name in self.entries.keys() {
            let remedy = match nearest(name, &self.known) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("remove it; known here: {}", self.known.join(", ")),
            };
            self.fault(name, "there is no such key", remedy);
        }
    }
}

fn parse<T: Setting>(key: &str, value: &Value, notes: &Notes) -> Option<T> {
    let setting = T::read(value);
    if setting.is_none() {
        let shown = match value {
            _ if T::SECRET => "the value".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "a map".to_owned(),
            scalar => scalar.to_string(),
        };
        let problem = format!("{shown} is not {}", T::WHAT);
        notes.fault(key, problem, format!("write for example {}", T::EXAMPLE));
    }
    setting
}

/// The known name that `name` is most probably a slip of.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let far = (name.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|known| (edits(name, known), *known))
        .filter(|(edits, known)| *edits <= far || known.contains(name) || name.contains(known))
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein distance.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, from) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (left, to) in to.iter().enumerate() {
            let replace = diagonal + usize::from(from != *to);
            diagonal = row[left + 1];
            row[left + 1] = replace.min(row[left] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

impl Setting for String {
    const WHAT: &'static str = "text";
    const EXAMPLE: &'static str = "\"name\"";

    fn read(value: &Value) -> Option<Self> {
        // A name such as 4711 or true needs no quotes.
        match value {
            Value::String(text) => (!text.is_empty()).then(|| text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }
}

impl Setting for SecretString {
    const WHAT: &'static str = "text";
    const EXAMPLE: &'static str = "\"text\"";
    const SECRET: bool = true;

    fn read(value: &Value) -> Option<Self> {
        String::read(value).map(Self::from)
    }
}

impl Setting for bool {
    const WHAT: &'static str = "true or false";
    const EXAMPLE: &'static str = "true";

    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Setting for i64 {
    const WHAT: &'static str = "a whole number";
    const EXAMPLE: &'static str = "16";

    fn read(value: &Value) -> Option<Self> {
        value.as_i64()
    }
}

impl Setting for f64 {
    const WHAT: &'static str = "a number";
    const EXAMPLE: &'static str = "0.5";

    fn read(value: &Value) -> Option<Self> {
        value.as_f64()
    }
}

impl Setting for SocketAddr {
    const WHAT: &'static str = "an address with port";
    const EXAMPLE: &'static str = "\"127.0.0.1:8080\"";

    fn read(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl Setting for PathBuf {
    const WHAT: &'static str = "a path";
    const EXAMPLE: &'static str = "./data";

    fn read(value: &Value) -> Option<Self> {
        String::read(value).map(Self::from)
    }
}

impl Setting for Duration {
    const WHAT: &'static str = "a time with its unit";
    const EXAMPLE: &'static str = "500ms, 600s, 10m or 7d";

    fn read(value: &Value) -> Option<Self> {
        humantime::parse_duration(value.as_str()?).ok()
    }
}

impl Setting for ByteSize {
    const WHAT: &'static str = "a size with its unit";
    const EXAMPLE: &'static str = "512KiB, 20MiB or 10GiB";

    fn read(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        // Without this a bare number would be bytes, and a bare M a decimal million.
        text.ends_with('B').then(|| text.parse().ok())?
    }
}

impl Setting for Url {
    const WHAT: &'static str = "a URL";
    const EXAMPLE: &'static str = "\"http://127.0.0.1:9100/v1\"";
    // It may hold a password.
    const SECRET: bool = true;

    fn read(value: &Value) -> Option<Self> {
        Self::parse(value.as_str()?).ok()
    }
}

impl Setting for Vec<String> {
    const WHAT: &'static str = "a list of texts";
    const EXAMPLE: &'static str = "[\"127.0.0.1:9092\"]";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Array(values) => values.iter().map(String::read).collect(),
            Value::String(text) => Some(text.split(',').map(|one| one.trim().to_owned()).collect()),
            _ => None,
        }
    }
}

impl Setting for SecretName {
    const WHAT: &'static str = "the name of a secret";
    const EXAMPLE: &'static str = "openai-2";

    fn read(value: &Value) -> Option<Self> {
        String::read(value)?.parse().ok()
    }
}

impl Setting for Vec<Exception> {
    const WHAT: &'static str = "a list of hosts and networks";
    const EXAMPLE: &'static str = "[models.internal, 10.1.0.0/16]";

    fn read(value: &Value) -> Option<Self> {
        let texts = Vec::<String>::read(value)?;
        texts.iter().map(|text| text.parse().ok()).collect()
    }
}
