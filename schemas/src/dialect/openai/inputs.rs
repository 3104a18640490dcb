//! Prompts of completions and inputs of embeddings: text, texts, tokens, or arrays of tokens.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::dialect::check::{missing, refuse};
use crate::dialect::json;
use crate::event::ErrorBody;

/// What a client gave, in one of the four forms.
pub(super) enum Inputs<'a> {
    /// A string, or an array of them; never empty.
    Texts(Vec<Cow<'a, str>>),
    /// An array of token ids, or an array of such arrays; never empty, nor any of them.
    Tokens(Vec<Vec<i64>>),
}

impl Inputs<'_> {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Tokens(tokens) => tokens.len(),
        }
    }
}

/// Reads `raw`, the value of `field`.
pub(super) fn read<'a>(field: &str, raw: &'a RawValue) -> Result<Inputs<'a>, ErrorBody> {
    if let Some(text) = json::string(raw) {
        return Ok(Inputs::Texts(vec![text]));
    }
    let inner = raw.get().strip_prefix('[').unwrap_or_default();
    let inputs = match inner.trim_start().bytes().next() {
        Some(b']') => return Err(missing(field)),
        Some(b'"') => texts(raw).map(Inputs::Texts),
        Some(b'[') => serde_json::from_str(raw.get()).ok().map(Inputs::Tokens),
        _ => {
            let tokens: Option<Vec<i64>> = serde_json::from_str(raw.get()).ok();
            tokens.map(|tokens| Inputs::Tokens(vec![tokens]))
        }
    };
    inputs.filter(is_sound).ok_or_else(|| {
        let message = format!(
            "`{field}` must be a string, an array of strings, an array of token ids, or an \
             array of such arrays, none of them empty"
        );
        refuse(Some(field), message)
    })
}

fn texts(raw: &RawValue) -> Option<Vec<Cow<'_, str>>> {
    let texts: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
    texts.into_iter().map(json::string).collect()
}

fn is_sound(inputs: &Inputs<'_>) -> bool {
    match inputs {
        Inputs::Texts(texts) => !texts.is_empty(),
        Inputs::Tokens(arrays) => arrays
            .iter()
            .all(|tokens| !tokens.is_empty() && tokens.iter().all(|token| *token >= 0)),
    }
}
