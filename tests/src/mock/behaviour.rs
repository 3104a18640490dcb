use std::time::Duration;

use crate::fault::Fault;

/// What the mock does with one call. The module documentation names the directive of each field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    /// Number of content deltas, and their tokens in the usage. At least 1 is sent.
    pub tokens: u32,
    /// Text of each token; `None`: `tokI ` with I from 0.
    pub text: Option<String>,
    /// The tokens are the words of the last user message, instead of `tokens` and `text`.
    pub echo: bool,
    /// The function that is called instead of text; once the conversation ends in the result of a call, the tokens are its
    /// name, `says`, and the words of the result.
    pub tool: Option<String>,
    /// A conversation that ends in the beginning of an answer is answered by the tokens that are missing.
    pub continues: bool,
    /// Number of thoughts before the first token; each is a token in the usage.
    pub think: u32,
    /// Each token is padded to this many bytes.
    pub token_bytes_min: usize,
    /// Each token begins with the time of its writing, 19 digits of Unix nanoseconds and a space.
    pub stamp: bool,
    /// Wait before the first token.
    pub first: Duration,
    /// Wait between two tokens.
    pub delay: Duration,
    /// Head and role delta go out at once instead of together with the first token.
    pub early_head: bool,
    /// Waits before this token until it is released; 0 is before the first byte.
    pub hold: Option<u32>,
    /// The finish reason.
    pub finish: String,
    /// Prompt tokens in the usage.
    pub prompt_tokens: u32,
    /// How many of them were read from a cache.
    pub cached: u32,
    /// The key that a call must come with.
    pub key: Option<String>,
    /// Tokens that go out before a fault of a running stream strikes.
    pub after: u32,
    /// What goes wrong, if anything.
    pub fault: Option<Fault>,
    /// `Retry-After` of an error status, in seconds.
    pub retry_after: Option<u32>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            tokens: 8,
            text: None,
            echo: false,
            tool: None,
            continues: false,
            think: 0,
            token_bytes_min: 0,
            stamp: false,
            first: Duration::ZERO,
            delay: Duration::ZERO,
            early_head: false,
            hold: None,
            finish: "stop".into(),
            prompt_tokens: 7,
            cached: 0,
            key: None,
            after: 1,
            fault: None,
            retry_after: None,
        }
    }
}

/// A directive that the mock does not know, or a value that does not fit it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownDirective(pub String);

impl std::fmt::Display for UnknownDirective {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown mock directive {:?}", self.0)
    }
}

impl std::error::Error for UnknownDirective {}

impl Behaviour {
    /// The default changed by `directives`, such as `tokens=64,delay=20ms`.
    ///
    /// # Errors
    /// The first directive that is unknown or whose value does not fit.
    pub fn parse(directives: &str) -> Result<Self, UnknownDirective> {
        let mut behaviour = Self::default();
        behaviour.apply(directives)?;
        Ok(behaviour)
    }

    /// The default behaviour with one fault.
    #[must_use]
    pub fn fault(fault: Fault) -> Self {
        Self {
            fault: Some(fault),
            ..Self::default()
        }
    }

    /// Applies the directives that follow `mock:` in `text`, if there are any.
    pub(crate) fn apply_found_in(&mut self, text: &str) -> Result<(), UnknownDirective> {
        let Some(start) = text.find("mock:") else {
            return Ok(());
        };
        let rest = &text[start + "mock:".len()..];
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        self.apply(&rest[..end])
    }

    /// Applies directives joined by commas.
    ///
    /// # Errors
    /// The first directive that is unknown or whose value does not fit.
    pub fn apply(&mut self, directives: &str) -> Result<(), UnknownDirective> {
        for directive in directives.split(',').filter(|part| !part.is_empty()) {
            self.apply_one(directive)
                .ok_or_else(|| UnknownDirective(directive.into()))?;
        }
        Ok(())
    }

    fn apply_one(&mut self, directive: &str) -> Option<()> {
        let (name, value) = match directive.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (directive, None),
        };
        match (name, value) {
            ("tokens", Some(value)) => self.tokens = value.parse().ok()?,
            ("text", Some(value)) => self.text = Some(value.into()),
            ("echo", None) => self.echo = true,
            ("tool", Some(value)) => self.tool = Some(value.into()),
            ("continue", None) => self.continues = true,
            ("think", Some(value)) => self.think = value.parse().ok()?,
            ("bytes", Some(value)) => self.token_bytes_min = value.parse().ok()?,
            ("stamp", None) => self.stamp = true,
            ("first", Some(value)) => self.first = parse_duration(value)?,
            ("delay", Some(value)) => self.delay = parse_duration(value)?,
            ("early_head", None) => self.early_head = true,
            ("hold", None) => self.hold = Some(0),
            ("hold", Some(value)) => self.hold = Some(value.parse().ok()?),
            ("finish", Some(value)) => self.finish = value.into(),
            ("prompt_tokens", Some(value)) => self.prompt_tokens = value.parse().ok()?,
            ("cached", Some(value)) => self.cached = value.parse().ok()?,
            ("key", Some(value)) => self.key = Some(value.into()),
            ("after", Some(value)) => self.after = value.parse().ok()?,
            ("status", Some(value)) => self.fault = Some(Fault::Status(value.parse().ok()?)),
            ("retry_after", Some(value)) => self.retry_after = Some(value.parse().ok()?),
            ("ok", None) => self.fault = None,
            (name, None) => self.fault = Some(Fault::from_name(name)?),
            _ => return None,
        }
        Some(())
    }
}

/// Reads `2s`, `20ms` or `500us`.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    match &text[digits..] {
        "s" => Some(Duration::from_secs(number)),
        "ms" => Some(Duration::from_millis(number)),
        "us" => Some(Duration::from_micros(number)),
        _ => None,
    }
}
