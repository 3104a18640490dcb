//! What is said to one call, whatever the dialect it is said in.

use super::asked::{Asked, text_of};
use super::behaviour::Behaviour;
use super::wire::{push_escaped, put};

/// The arguments of every call of a function, in the pieces in which a stream brings them.
const ARGUMENTS: [&str; 3] = [r#"{"city""#, r#":"Par"#, r#"is"}"#];

/// What is said to one call.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    /// Number of the call.
    pub(crate) serial: u64,
    /// When it was called, Unix seconds.
    pub(crate) created: u64,
    /// What was asked.
    pub(crate) asked: &'a Asked<'a>,
    /// How it is answered.
    pub(crate) behaviour: &'a Behaviour,
    /// The words that are the tokens, when the behaviour says so.
    words: Option<Vec<String>>,
    /// The function that is called instead of text.
    call: Option<&'a str>,
    /// Tokens that the beginning of the answer has already.
    said: u32,
}

/// One piece of an answer: first the thoughts, then the call or the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The thought of this number.
    Thought(u32),
    /// The token of this number.
    Token(u32),
    /// This part of the arguments of the call.
    Arguments(usize),
}

impl<'a> Answer<'a> {
    /// The answer to `asked` that the behaviour wants.
    pub(crate) fn new(serial: u64, asked: &'a Asked<'a>, behaviour: &'a Behaviour) -> Self {
        let tool = behaviour.tool.as_deref().filter(|_| asked.is_chat);
        let split = |text: String| text.split_whitespace().map(Into::into).collect();
        let words = match (tool, &asked.result) {
            (Some(tool), Some(result)) => Some(split(format!("{tool} says {}", result.text))),
            _ if behaviour.echo => Some(split(asked.last_user_text())),
            _ => None,
        };
        let mut answer = Self {
            serial,
            created: crate::unix_nanos() / 1_000_000_000,
            asked,
            behaviour,
            words,
            call: tool.filter(|_| asked.result.is_none()),
            said: 0,
        };
        if behaviour.continues && answer.call.is_none() {
            answer.said = answer.said_in(asked.prefix_json.map(text_of));
        }
        answer
    }

    /// How many tokens make up the beginning of the answer; 0 when it is another's.
    fn said_in(&self, prefix: Option<String>) -> u32 {
        let mut wanted = Vec::new();
        push_escaped(
            &mut wanted,
            prefix.as_deref().unwrap_or_default().trim_end(),
        );
        let mut text = Vec::new();
        for said in 0..self.all_tokens() {
            if text.trim_ascii_end() == wanted {
                return said;
            }
            self.push_token(&mut text, said);
        }
        if text.trim_ascii_end() == wanted {
            self.all_tokens()
        } else {
            0
        }
    }

    /// The name of the function that is called instead of text.
    pub(crate) fn call(&self) -> Option<&'a str> {
        self.call
    }

    /// Number of thoughts, which come first.
    pub(crate) fn thoughts(&self) -> u32 {
        if self.asked.is_chat {
            self.behaviour.think
        } else {
            0
        }
    }

    /// Number of tokens of the text, or of the arguments of the call; 0 when all was said before.
    pub(crate) fn tokens(&self) -> u32 {
        self.all_tokens() - self.said
    }

    fn all_tokens(&self) -> u32 {
        match &self.words {
            _ if self.call.is_some() => u32::try_from(ARGUMENTS.len()).unwrap_or(u32::MAX),
            Some(words) => u32::try_from(words.len()).unwrap_or(u32::MAX).max(1),
            None => self.behaviour.tokens.max(1),
        }
    }

    /// Number of pieces: thoughts and tokens.
    pub(crate) fn pieces(&self) -> u32 {
        self.thoughts() + self.tokens()
    }

    /// What the piece of this number is.
    pub(crate) fn piece(&self, index: u32) -> Piece {
        match index.checked_sub(self.thoughts()) {
            None => Piece::Thought(index),
            Some(index) if self.call.is_some() => Piece::Arguments(index as usize),
            Some(index) => Piece::Token(self.said + index),
        }
    }

    /// The tokens of the prompt; some of them were cached.
    pub(crate) fn prompt_tokens(&self) -> u32 {
        self.behaviour.prompt_tokens
    }

    /// The tokens of the prompt that were cached.
    pub(crate) fn cached_tokens(&self) -> u32 {
        self.behaviour.cached.min(self.behaviour.prompt_tokens)
    }

    /// The finish reason, in OpenAI's words.
    pub(crate) fn finish(&self) -> &str {
        match self.behaviour.finish.as_str() {
            "stop" if self.call.is_some() => "tool_calls",
            finish => finish,
        }
    }

    /// Appends one thought, for the inside of a JSON string.
    pub(crate) fn push_thought(&self, out: &mut Vec<u8>, index: u32) {
        put(out, format_args!("thought{index} "));
    }

    /// Appends the text of one token, for the inside of a JSON string.
    pub(crate) fn push_token(&self, out: &mut Vec<u8>, index: u32) {
        let start = out.len();
        if self.behaviour.stamp {
            put(out, format_args!("{:019} ", crate::unix_nanos()));
        }
        if let Some(words) = &self.words {
            push_escaped(out, words.get(index as usize).map_or("", String::as_str));
        } else if let Some(text) = &self.behaviour.text {
            push_escaped(out, text);
        } else {
            put(out, format_args!("tok{index}"));
        }
        // The last byte is the space that ends each token.
        let padded = (start + self.behaviour.token_bytes_min).saturating_sub(1);
        if out.len() < padded {
            out.resize(padded, b'.');
        }
        out.push(b' ');
    }

    /// Appends one part of the arguments of the call, for the inside of a JSON string.
    pub(crate) fn push_arguments(&self, out: &mut Vec<u8>, index: usize) {
        push_escaped(out, ARGUMENTS.get(index).copied().unwrap_or_default());
    }

    /// Appends all thoughts, for the inside of a JSON string.
    pub(crate) fn push_thoughts(&self, out: &mut Vec<u8>) {
        for index in 0..self.thoughts() {
            self.push_thought(out, index);
        }
    }

    /// Appends all of the text, for the inside of a JSON string.
    pub(crate) fn push_text(&self, out: &mut Vec<u8>) {
        for index in self.said..self.all_tokens() {
            self.push_token(out, index);
        }
    }
}

/// The arguments of every call of a function, as JSON.
pub(crate) fn arguments() -> String {
    ARGUMENTS.concat()
}

/// Whether this part of the arguments is the last.
pub(crate) fn is_last_of_arguments(index: usize) -> bool {
    index + 1 == ARGUMENTS.len()
}
