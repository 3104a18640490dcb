//! Tokens: as reported, as rendered, as estimated.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::Usage;

/// Bytes of text that make up a token, about: English prose has some 4 characters a token
/// (<https://help.openai.com/en/articles/4936856>), and scripts with fewer characters a token
/// have more bytes a character, so that bytes are the fairer measure.
const TOKEN_BYTES: usize = 4;

/// Tokens of a text of so many bytes: a quarter, rounded up.
#[must_use]
pub fn estimate_tokens(bytes: usize) -> i64 {
    i64::try_from(bytes.div_ceil(TOKEN_BYTES)).unwrap_or(i64::MAX)
}

/// Usage that the provider did not report, from the bytes of the prompt (`messages` as JSON)
/// and of the text that came; marked as estimated.
#[must_use]
pub fn estimate_usage(prompt_bytes: usize, answer_bytes: usize) -> Usage {
    Usage {
        prompt_tokens: estimate_tokens(prompt_bytes),
        completion_tokens: estimate_tokens(answer_bytes),
        cached_tokens: 0,
        reasoning_tokens: 0,
        estimated: true,
    }
}

#[derive(Deserialize)]
struct Reported {
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    prompt_tokens_details: Option<Details>,
    completion_tokens_details: Option<Details>,
    /// DeepSeek's word for cached tokens.
    prompt_cache_hit_tokens: Option<i64>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<i64>,
    reasoning_tokens: Option<i64>,
}

/// Usage as a provider reports it; none when it is `null` or not understood.
pub(super) fn read(raw: &RawValue) -> Option<Usage> {
    let reported: Reported = serde_json::from_str(raw.get()).ok()?;
    let prompt = reported.prompt_tokens;
    let completion = reported.completion_tokens;
    if prompt.is_none() && completion.is_none() {
        return None;
    }
    let tokens = |count: Option<i64>| count.unwrap_or(0).max(0);
    let prompt_details = reported.prompt_tokens_details;
    let cached = prompt_details.and_then(|details| details.cached_tokens);
    let completion_details = reported.completion_tokens_details;
    Some(Usage {
        prompt_tokens: tokens(prompt),
        completion_tokens: tokens(completion),
        cached_tokens: tokens(cached.or(reported.prompt_cache_hit_tokens)),
        reasoning_tokens: tokens(completion_details.and_then(|details| details.reasoning_tokens)),
        estimated: false,
    })
}

/// Whether usage, as JSON, is told in DeepSeek's words, too.
pub(super) fn counts_cache_misses(usage: &str) -> bool {
    usage.contains(r#""prompt_cache_hit_tokens""#)
}

/// Usage as the wire format has it; details only where there are any.
#[derive(Serialize)]
pub(super) struct Rendered {
    prompt_tokens: i64,
    completion_tokens: i64,
    total_tokens: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_hit_tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_miss_tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<Cached>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<Reasoning>,
}

#[derive(Serialize)]
struct Cached {
    cached_tokens: i64,
}

#[derive(Serialize)]
struct Reasoning {
    reasoning_tokens: i64,
}

impl From<&Usage> for Rendered {
    fn from(usage: &Usage) -> Self {
        let Usage {
            cached_tokens,
            reasoning_tokens,
            ..
        } = *usage;
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            prompt_cache_hit_tokens: None,
            prompt_cache_miss_tokens: None,
            prompt_tokens_details: (cached_tokens != 0).then_some(Cached { cached_tokens }),
            completion_tokens_details: (reasoning_tokens != 0)
                .then_some(Reasoning { reasoning_tokens }),
        }
    }
}

impl Rendered {
    /// With DeepSeek's words for tokens that its cache had and had not.
    pub(super) fn with_cache_misses(self) -> Self {
        let hits = self.prompt_tokens_details.as_ref();
        let hits = hits.map_or(0, |details| details.cached_tokens);
        Self {
            prompt_cache_hit_tokens: Some(hits),
            prompt_cache_miss_tokens: Some(self.prompt_tokens.saturating_sub(hits)),
            ..self
        }
    }
}
