//! How the model is asked to think and to draw tokens: what Anthropic takes of it depends on the model's version and
//! on the rest of the request.

use super::request::BUDGET_MIN;
use crate::model::{Chat, Effort, Message, Part, Reasoning, Role, ToolChoice};

/// `max_tokens` of a request that sets no bound, besides what it may think.
const TOKENS_MAX_DEFAULT: i64 = 4096;

/// Least `top_p` while thinking
/// (<https://platform.claude.com/docs/en/build-with-claude/extended-thinking>).
const THINKING_TOP_P_MIN: f64 = 0.95;

/// Version of a model, `(major, minor)`.
type Version = (u32, u32);

/// From this one on, a model thinks as much as it sees fit and is told an effort; a budget is deprecated, then refused
/// (<https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking>).
const ADAPTIVE: Version = (4, 6);
/// From this one on, a last message by the assistant is refused
/// (<https://platform.claude.com/docs/en/about-claude/models/migration-guide>).
const NO_PREFIX: Version = (4, 6);
/// From this one on, `temperature`, `top_p` and `top_k` are refused.
const NO_SAMPLING: Version = (4, 7);
/// From this one on, `temperature` and `top_p` are refused together.
const ONE_SAMPLER: Version = (4, 1);

/// How to generate.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Generation {
    pub(super) max_tokens: i64,
    pub(super) thinking: Option<Thinking>,
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) top_k: Option<i64>,
}

/// How to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thinking {
    /// With at most so many tokens.
    Budget(i64),
    /// As the model sees fit, at this level of effort.
    Adaptive(&'static str),
}

impl Generation {
    /// What `chat` asks of `model`, as far as that takes it.
    pub(super) fn of(chat: &Chat, model: &str) -> Self {
        let version = version(model);
        let thinking = thinking(chat, version);
        let max_tokens = chat.tokens_max.unwrap_or_else(|| {
            let thoughts = match (thinking, chat.reasoning) {
                (None, _) => 0,
                (Some(_), Some(Reasoning::Effort(effort))) => budget_of(effort),
                (Some(_), Some(Reasoning::Tokens(tokens))) => tokens.max(BUDGET_MIN),
                (Some(_), _) => BUDGET_MIN,
            };
            TOKENS_MAX_DEFAULT.saturating_add(thoughts)
        });
        let sampling = &chat.sampling;
        // Ours goes to 2; Anthropic caps what comes over its OpenAI-like door, too.
        let temperature = sampling.temperature.map(|temperature| temperature.min(1.0));
        let (temperature, top_p, top_k) = if version.is_some_and(|version| version >= NO_SAMPLING) {
            (None, None, None)
        } else if thinking.is_some() {
            let top_p = sampling.top_p.filter(|top_p| *top_p >= THINKING_TOP_P_MIN);
            (None, top_p, None)
        } else {
            let takes_both = version.is_some_and(|version| version < ONE_SAMPLER);
            let (temperature, top_p) = match (temperature, sampling.top_p) {
                // The one that changes nothing can go.
                (Some(temperature), Some(top_p)) if !takes_both && top_p < 1.0 => {
                    if temperature < 1.0 {
                        (Some(temperature), None)
                    } else {
                        (None, Some(top_p))
                    }
                }
                (Some(temperature), Some(_)) if !takes_both => (Some(temperature), None),
                both => both,
            };
            (temperature, top_p, sampling.top_k)
        };
        Self {
            max_tokens,
            thinking,
            temperature,
            top_p,
            top_k,
        }
    }
}

fn thinking(chat: &Chat, version: Option<Version>) -> Option<Thinking> {
    let reasoning = chat.reasoning.filter(|wanted| *wanted != Reasoning::Off)?;
    let is_forced = matches!(
        chat.tool_choice,
        Some(ToolChoice::Required | ToolChoice::Named(_))
    );
    let is_begun = chat
        .messages
        .last()
        .is_some_and(|message| message.role == Role::Assistant);
    // Thoughts come before all else, so that neither a call can be forced nor an answer be begun for the model.
    if is_forced && !chat.tools.is_empty() || is_begun {
        return None;
    }
    if version.is_some_and(|version| version >= ADAPTIVE) {
        return Some(Thinking::Adaptive(match reasoning {
            Reasoning::Effort(effort) => effort_word(effort),
            Reasoning::Tokens(tokens) => effort_word(effort_of(tokens)),
            Reasoning::Off => return None,
        }));
    }
    if is_amid_calls(&chat.messages) {
        return None;
    }
    let wanted = match reasoning {
        Reasoning::Effort(effort) => match chat.tokens_max {
            // Leaves room for the answer.
            Some(most) => budget_of(effort).min(most / 2),
            None => budget_of(effort),
        },
        Reasoning::Tokens(tokens) => match chat.tokens_max {
            Some(most) => tokens.min(most.saturating_sub(1)),
            None => tokens,
        },
        Reasoning::Off => return None,
    };
    let budget = wanted.max(BUDGET_MIN);
    let fits = chat.tokens_max.is_none_or(|most| budget < most);
    fits.then_some(Thinking::Budget(budget))
}

/// Whether results of calls are answered whose turn does not begin with sealed thoughts: a model with a budget refuses
/// to think on then.
fn is_amid_calls(messages: &[Message]) -> bool {
    let has_results = |message: &Message| {
        let mut parts = message.parts.iter();
        parts.any(|part| matches!(part, Part::ToolResult { .. }))
    };
    // The last turn, over all messages of the one who speaks.
    let mut turn = messages.iter().rev().peekable();
    let mut is_answering = false;
    while let Some(message) = turn.next_if(|message| message.role != Role::Assistant) {
        is_answering |= has_results(message);
    }
    let calls: Vec<_> = turn
        .take_while(|message| message.role == Role::Assistant)
        .collect();
    let first = calls.last().and_then(|message| message.parts.first());
    let is_sealed = matches!(
        first,
        Some(Part::Reasoning {
            signature: Some(_),
            ..
        })
    );
    is_answering && !is_sealed
}

/// Budgets that stand for OpenAI's levels, as Google gives them for its own models
/// (<https://ai.google.dev/gemini-api/docs/openai#thinking>); Anthropic gives none.
fn budget_of(effort: Effort) -> i64 {
    match effort {
        Effort::Minimal | Effort::Low => BUDGET_MIN,
        Effort::Medium => 8192,
        Effort::High => 24_576,
    }
}

fn effort_of(tokens: i64) -> Effort {
    if tokens < budget_of(Effort::Medium) {
        Effort::Low
    } else if tokens < budget_of(Effort::High) {
        Effort::Medium
    } else {
        Effort::High
    }
}

fn effort_word(effort: Effort) -> &'static str {
    match effort {
        Effort::Minimal | Effort::Low => "low",
        Effort::Medium => "medium",
        Effort::High => "high",
    }
}

/// Whether `model` goes on with a last message by the assistant: those before Claude 4.6 do, and one of a name without a
/// version is taken for such a one.
#[must_use]
pub fn takes_prefix(model: &str) -> bool {
    version(model).is_none_or(|version| version < NO_PREFIX)
}

/// The version in a model's name: `claude-3-5-haiku-20241022`, `claude-opus-4-20250514`,
/// `anthropic.claude-opus-4-6-v1`, `claude-4.7-opus`. None when it tells none.
fn version(model: &str) -> Option<Version> {
    let model = model.to_lowercase();
    let (_, name) = model.split_once("claude")?;
    // Longer numbers are dates.
    let number = |word: &str| (word.len() <= 2).then(|| word.parse().ok()).flatten();
    let mut words = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .skip_while(|word| number(word).is_none());
    let major = words.next().and_then(number);
    match major {
        Some(major) => Some((major, words.next().and_then(number).unwrap_or(0))),
        // The one name without a number, of the time of 4.7.
        None => name.contains("mythos").then_some(NO_SAMPLING),
    }
}

#[cfg(test)]
#[path = "generation_tests.rs"]
mod tests;
