//! The text of an answer, collected from what the fold lets count.

use std::collections::BTreeMap;

use super::Step;
use crate::event::{Channel, Chunk, Piece};

/// What an answer says so far, by choice, channel and index, free of any dialect.
///
/// Grows with the answer; whoever feeds it bounds the size of answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text {
    parts: BTreeMap<(i32, Channel, i32), String>,
}

impl Text {
    /// Takes in what [`super::Fold::apply`] said: appends what is new, forgets what was replaced.
    pub fn apply(&mut self, step: &Step<'_>) {
        match step {
            Step::Started { replaces: true, .. } => self.parts.clear(),
            Step::Delta { delta, from } => {
                for chunk in delta.chunks.get(*from..).unwrap_or_default() {
                    self.append(chunk);
                }
            }
            _ => {}
        }
    }

    /// Appends all pieces of a chunk.
    pub fn append(&mut self, chunk: &Chunk) {
        for piece in &chunk.pieces {
            self.push(piece);
        }
    }

    /// Appends one piece. A finish reason replaces an earlier one, and the id or name of a tool
    /// call that a provider repeats with every piece of the call counts once.
    pub fn push(&mut self, piece: &Piece) {
        let key = (piece.choice, piece.channel, piece.index);
        let part = self.parts.entry(key).or_default();
        match piece.channel {
            Channel::Finish => part.clone_from(&piece.text),
            Channel::ToolId if !part.is_empty() => {}
            Channel::ToolName if *part == piece.text => {}
            _ => part.push_str(&piece.text),
        }
    }

    /// The text of one channel; none when no piece of it came (an empty piece counts).
    #[must_use]
    pub fn get(&self, choice: i32, channel: Channel, index: i32) -> Option<&str> {
        self.parts
            .get(&(choice, channel, index))
            .map(String::as_str)
    }

    /// The indexes of the choices that said anything, ascending.
    #[must_use]
    pub fn choices(&self) -> Vec<i32> {
        let mut choices: Vec<_> = self.parts.keys().map(|(choice, _, _)| *choice).collect();
        choices.dedup();
        choices
    }

    /// The indexes of the tool calls of a choice, ascending.
    #[must_use]
    pub fn tools(&self, choice: i32) -> Vec<i32> {
        let mut tools: Vec<_> = self
            .parts
            .range((choice, Channel::ToolId, i32::MIN)..=(choice, Channel::ToolArguments, i32::MAX))
            .map(|((_, _, index), _)| *index)
            .collect();
        tools.sort_unstable();
        tools.dedup();
        tools
    }

    /// Every part as one piece, by choice, then channel, then index.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.parts
            .iter()
            .map(|(&(choice, channel, index), text)| Piece {
                choice,
                channel,
                index,
                text: text.clone(),
            })
    }

    /// Whether nothing was said: no text in any channel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.values().all(String::is_empty)
    }

    /// Bytes of text the model wrote: all channels but ids and finish reasons.
    #[must_use]
    pub fn written_bytes(&self) -> usize {
        self.parts
            .iter()
            .filter(|((_, channel, _), _)| !matches!(channel, Channel::ToolId | Channel::Finish))
            .map(|(_, text)| text.len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(choice: i32, channel: Channel, index: i32, text: &str) -> Piece {
        Piece {
            choice,
            channel,
            index,
            text: text.to_owned(),
        }
    }

    #[test]
    fn interleaved_calls_and_choices_are_told_apart() {
        let mut text = Text::default();
        for piece in [
            piece(1, Channel::Text, 0, "two"),
            piece(0, Channel::ToolId, 1, "b"),
            piece(0, Channel::ToolName, 1, "g"),
            piece(0, Channel::ToolId, 0, "a"),
            piece(0, Channel::ToolArguments, 0, "{\"x\""),
            piece(0, Channel::ToolId, 0, "a"),
            piece(0, Channel::ToolName, 1, "g"),
            piece(0, Channel::ToolArguments, 1, "{}"),
            piece(0, Channel::ToolArguments, 0, ":1}"),
            piece(0, Channel::Finish, 0, "stop"),
            piece(0, Channel::Finish, 0, "tool_calls"),
        ] {
            text.push(&piece);
        }
        assert_eq!(text.choices(), [0, 1]);
        assert_eq!(text.tools(0), [0, 1]);
        assert_eq!(text.get(0, Channel::ToolId, 0), Some("a"));
        assert_eq!(text.get(0, Channel::ToolName, 1), Some("g"));
        assert_eq!(text.get(0, Channel::ToolArguments, 0), Some("{\"x\":1}"));
        assert_eq!(text.get(0, Channel::Finish, 0), Some("tool_calls"));
        assert_eq!(text.get(1, Channel::Text, 0), Some("two"));
        assert_eq!(text.written_bytes(), 3 + 1 + 7 + 2);
        let mut again = Text::default();
        text.pieces().for_each(|piece| again.push(&piece));
        assert_eq!(again, text);
    }
}
