//! What a client is told of a provider's faults, in every dialect.

use crate::event::ErrorBody;

/// Longest text of a provider that is passed on, in characters.
const MESSAGE_CHARS_MAX: usize = 400;

/// `code` of an event or answer that is not what the dialect says.
const MALFORMED: &str = "upstream_malformed";

/// An answer or event of the provider that the dialect does not allow.
pub(super) fn malformed(what: &str) -> ErrorBody {
    let message = format!("the provider's answer is malformed: {what}");
    ErrorBody {
        code: Some(MALFORMED.to_owned()),
        ..ErrorBody::upstream_failed(message)
    }
}

/// Whether the error is that the provider's bytes could not be understood, in contrast to an
/// error that the provider reported. One such event of a stream is skipped.
#[must_use]
pub fn is_malformed(error: &ErrorBody) -> bool {
    error.code.as_deref() == Some(MALFORMED)
}

/// 429: the provider's limit is reached, not the caller's.
pub(super) fn rate_limited() -> ErrorBody {
    ErrorBody::new(
        429,
        "rate_limit_error",
        Some("rate_limit_exceeded"),
        "the provider's rate limit is reached: try again later",
    )
}

/// The text as one bounded line, without words that look like keys.
pub(super) fn safe(text: &str) -> String {
    let mut line = String::new();
    let mut chars_left = MESSAGE_CHARS_MAX;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        let word = if looks_secret(word) { "[hidden]" } else { word };
        let length = word.chars().count() + 1;
        if length > chars_left {
            line.push('…');
            break;
        }
        chars_left -= length;
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

fn looks_secret(word: &str) -> bool {
    let runs = || word.split(|c: char| !(c.is_ascii_alphanumeric() || "-_*".contains(c)));
    let known = ["sk-", "sk_", "gsk_", "AIza", "lg_", "xai-", "hf_"];
    runs().any(|run| {
        let mixed =
            run.bytes().any(|b| b.is_ascii_digit()) && run.bytes().any(|b| b.is_ascii_alphabetic());
        (run.len() > 8 && known.iter().any(|prefix| run.starts_with(prefix)))
            || (run.len() >= 32 && mixed && !run.contains('-'))
    })
}
