//! Tokens, as reported and as written, and the counts of a prompt.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::dialect::json;
use crate::event::Usage;

/// Tokens as a provider reports them: in parts, and in a stream more than once; what is told later replaces what was
/// told before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    input: i64,
    cache_creation: i64,
    cache_read: i64,
    output: i64,
    thinking: i64,
}

#[derive(Deserialize)]
struct Reported {
    input_tokens: Option<i64>,
    cache_creation_input_tokens: Option<i64>,
    cache_read_input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    output_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    thinking_tokens: Option<i64>,
}

impl Counts {
    /// Takes in what `raw` tells; false when it tells nothing that is understood.
    pub(super) fn update(&mut self, raw: &RawValue) -> bool {
        let Ok(reported) = serde_json::from_str::<Reported>(raw.get()) else {
            return false;
        };
        let details = reported.output_tokens_details;
        let mut is_told = false;
        for (count, told) in [
            (&mut self.input, reported.input_tokens),
            (
                &mut self.cache_creation,
                reported.cache_creation_input_tokens,
            ),
            (&mut self.cache_read, reported.cache_read_input_tokens),
            (&mut self.output, reported.output_tokens),
            (
                &mut self.thinking,
                details.and_then(|details| details.thinking_tokens),
            ),
        ] {
            if let Some(told) = told {
                *count = told.max(0);
                is_told = true;
            }
        }
        is_told
    }

    /// The same as the internal form counts: the prompt includes what came from the cache and what went into it.
    pub(super) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self
                .input
                .saturating_add(self.cache_creation)
                .saturating_add(self.cache_read),
            completion_tokens: self.output,
            cached_tokens: self.cache_read,
            reasoning_tokens: self.thinking,
            estimated: false,
        }
    }
}

/// Usage as the wire format has it.
#[derive(Serialize)]
pub(super) struct Written {
    input_tokens: i64,
    cache_creation_input_tokens: i64,
    cache_read_input_tokens: i64,
    output_tokens: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens_details: Option<WrittenDetails>,
}

#[derive(Serialize)]
struct WrittenDetails {
    thinking_tokens: i64,
}

impl From<&Usage> for Written {
    fn from(usage: &Usage) -> Self {
        let thinking_tokens = usage.reasoning_tokens;
        Self {
            // Anthropic counts cached tokens apart.
            input_tokens: usage
                .prompt_tokens
                .saturating_sub(usage.cached_tokens)
                .max(0),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: usage.cached_tokens,
            output_tokens: usage.completion_tokens,
            output_tokens_details: (thinking_tokens != 0)
                .then_some(WrittenDetails { thinking_tokens }),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Count {
    input_tokens: i64,
}

/// The answer to a request to count tokens.
#[must_use]
pub fn count_tokens_json(tokens: i64) -> Bytes {
    json::bytes(&Count {
        input_tokens: tokens,
    })
}

/// The count in a provider's answer; none when it is no such answer, or below 0.
#[must_use]
pub fn read_count(body: &[u8]) -> Option<i64> {
    let count: Count = serde_json::from_slice(body).ok()?;
    (count.input_tokens >= 0).then_some(count.input_tokens)
}
