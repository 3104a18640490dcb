//! What a provider of another dialect says, as a stream of this one.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use serde::Serialize;

use super::arguments::Input;
use super::stream_reader::TextBlocks;
use super::wire::{Block, Message, new_call_id};
use super::{stop_reason, usage};
use crate::dialect::Identity;
use crate::dialect::json;
use crate::event::{Channel, Piece, Usage};
use crate::model::Said;

/// Writes the stream of one answer, of which it has the first choice: this dialect knows no others.
///
/// Blocks follow one another and never interleave. A block is closed when something of another one comes; a call, only
/// once its arguments are a whole object. What comes in between waits: it grows with the answer, whose size is bounded
/// by whoever feeds it.
#[derive(Debug, Clone)]
pub struct StreamWriter {
    identity: Identity,
    model: String,
    prompt_tokens: i64,
    has_begun: bool,
    /// Blocks opened so far.
    blocks: usize,
    open: Option<Open>,
    waiting: VecDeque<Waiting>,
    /// Calls whose blocks were opened.
    calls: BTreeSet<i32>,
    finish_reason: Option<String>,
}

/// Which block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
    /// A call, by its index.
    Call(i32),
}

/// The block that is open.
#[derive(Debug, Clone)]
struct Open {
    kind: Kind,
    arguments: Arguments,
}

impl Open {
    /// Whether more of it may come.
    fn is_unfinished(&self) -> bool {
        matches!(self.kind, Kind::Call(_)) && !self.arguments.is_whole
    }
}

/// A block to be opened.
#[derive(Debug, Clone)]
struct Waiting {
    kind: Kind,
    id: String,
    name: String,
    text: String,
    has_arguments: bool,
}

impl Waiting {
    /// Whether what has to be told at its beginning is known; a name may come in parts, until the arguments do.
    fn is_ready(&self) -> bool {
        !matches!(self.kind, Kind::Call(_)) || (self.has_arguments && !self.name.is_empty())
    }
}

/// How far the arguments of a call have come.
#[derive(Debug, Clone, Copy, Default)]
struct Arguments {
    depth: usize,
    is_in_string: bool,
    is_escaped: bool,
    is_whole: bool,
}

impl Arguments {
    /// Takes in more; an object is whole when its brace closes, because no JSON object begins with a whole one.
    fn push(&mut self, text: &str) {
        for byte in text.bytes() {
            if self.is_escaped {
                self.is_escaped = false;
                continue;
            }
            match byte {
                b'\\' if self.is_in_string => self.is_escaped = true,
                b'"' => self.is_in_string = !self.is_in_string,
                b'{' if !self.is_in_string => self.depth += 1,
                b'}' if !self.is_in_string => {
                    self.depth = self.depth.saturating_sub(1);
                    self.is_whole |= self.depth == 0;
                }
                _ => {}
            }
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame<'a> {
    MessageStart {
        message: Message<'a>,
    },
    ContentBlockStart {
        index: usize,
        content_block: Block<'a>,
    },
    ContentBlockDelta {
        index: usize,
        delta: Delta<'a>,
    },
    ContentBlockStop {
        index: usize,
    },
    MessageDelta {
        delta: Stop<'a>,
        usage: usage::Written,
    },
    MessageStop,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Delta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "input_json_delta")]
    Input { partial_json: &'a str },
}

#[derive(Serialize)]
struct Stop<'a> {
    stop_reason: &'a str,
    stop_sequence: Option<&'a str>,
}

impl StreamWriter {
    /// A stream of the answer that `identity` names, by `model`, to a prompt of `prompt_tokens` (an estimate; the end of
    /// the stream tells them again).
    #[must_use]
    pub fn new(identity: &Identity, model: &str, prompt_tokens: i64) -> Self {
        Self {
            identity: identity.clone(),
            model: model.to_owned(),
            prompt_tokens,
            has_begun: false,
            blocks: 0,
            open: None,
            waiting: VecDeque::new(),
            calls: BTreeSet::new(),
            finish_reason: None,
        }
    }

    /// As [`StreamWriter::new`], where a provider's own frames began the message with `blocks`: it goes on with the open one,
    /// or with a further one.
    #[must_use]
    pub fn going_on(identity: &Identity, model: &str, blocks: TextBlocks) -> Self {
        Self {
            has_begun: true,
            blocks: blocks.begun,
            open: blocks.is_open.then(|| Open {
                kind: Kind::Text,
                arguments: Arguments::default(),
            }),
            ..Self::new(identity, model, 0)
        }
    }

    /// The data of the frames that tell what `said` adds; the first ones begin the message.
    pub fn write(&mut self, said: &Said) -> Vec<Bytes> {
        let mut frames = Vec::new();
        self.begin(&mut frames);
        for piece in said.pieces.iter().filter(|piece| piece.choice == 0) {
            self.take(piece, &mut frames);
        }
        frames
    }

    /// The data of the last frames: what waits, why the answer ended, and its usage. Called once, at the end of an
    /// answer that is whole; a stream that is cut ends with an `error` event instead.
    pub fn finish(&mut self, usage: &Usage) -> Vec<Bytes> {
        let mut frames = Vec::new();
        self.begin(&mut frames);
        while let Some(block) = self.waiting.pop_front() {
            self.start(block, &mut frames);
        }
        self.stop(&mut frames);
        let reason = stop_reason(self.finish_reason.as_deref(), !self.calls.is_empty());
        frames.push(json::bytes(&Frame::MessageDelta {
            delta: Stop {
                stop_reason: reason,
                stop_sequence: None,
            },
            usage: usage.into(),
        }));
        frames.push(json::bytes(&Frame::MessageStop));
        frames
    }

    fn begin(&mut self, frames: &mut Vec<Bytes>) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let usage = Usage {
            prompt_tokens: self.prompt_tokens,
            ..Usage::default()
        };
        frames.push(json::bytes(&Frame::MessageStart {
            message: Message {
                id: &self.identity.id,
                r#type: "message",
                role: "assistant",
                model: &self.model,
                content: Vec::new(),
                stop_reason: None,
                stop_sequence: None,
                usage: (&usage).into(),
            },
        }));
    }

    /// Takes in a piece: into the open block when it is of that, else into the one that waits for it.
    fn take(&mut self, piece: &Piece, frames: &mut Vec<Bytes>) {
        let kind = match piece.channel {
            // A refusal is what the client reads, too.
            Channel::Text | Channel::Refusal => Kind::Text,
            Channel::Reasoning => Kind::Thinking,
            Channel::ToolId | Channel::ToolName | Channel::ToolArguments => Kind::Call(piece.index),
            Channel::Finish => {
                self.finish_reason = Some(piece.text.clone());
                return;
            }
            Channel::Unknown => return,
        };
        let is_named = matches!(piece.channel, Channel::ToolId | Channel::ToolName);
        // What waits came first.
        let is_overtaking = self.waiting.iter().any(|block| block.kind == kind);
        if let Some(open) = &mut self.open
            && open.kind == kind
            && !is_overtaking
        {
            // Some providers repeat the id and the name with every piece.
            if !is_named {
                open.arguments.push(&piece.text);
                self.add(kind, &piece.text, frames);
                self.advance(frames);
            }
            return;
        }
        match kind {
            // Only blanks can follow a whole object.
            Kind::Call(index) if self.calls.contains(&index) => return,
            Kind::Text | Kind::Thinking if piece.text.is_empty() => return,
            _ => {}
        }
        let block = self.waiting(kind);
        match piece.channel {
            Channel::ToolId if block.id.is_empty() => block.id.clone_from(&piece.text),
            Channel::ToolId => {}
            Channel::ToolName if block.name == piece.text => {}
            Channel::ToolName => block.name.push_str(&piece.text),
            _ => {
                block.has_arguments = true;
                block.text.push_str(&piece.text);
            }
        }
        self.advance(frames);
    }

    /// The block that waits for pieces of `kind`: of a call, wherever it stands, else the last one.
    fn waiting(&mut self, kind: Kind) -> &mut Waiting {
        let position = match kind {
            Kind::Call(_) => self.waiting.iter().position(|block| block.kind == kind),
            _ => {
                let last = self.waiting.back().filter(|block| block.kind == kind);
                last.map(|_| self.waiting.len() - 1)
            }
        };
        let position = position.unwrap_or_else(|| {
            self.waiting.push_back(Waiting {
                kind,
                id: String::new(),
                name: String::new(),
                text: String::new(),
                has_arguments: false,
            });
            self.waiting.len() - 1
        });
        &mut self.waiting[position]
    }

    /// Opens what waits, in order, as far as that is possible yet.
    fn advance(&mut self, frames: &mut Vec<Bytes>) {
        while self.waiting.front().is_some_and(Waiting::is_ready)
            && !self.open.as_ref().is_some_and(Open::is_unfinished)
        {
            if let Some(block) = self.waiting.pop_front() {
                self.start(block, frames);
            }
        }
    }

    /// Closes the open block and opens `block`.
    fn start(&mut self, block: Waiting, frames: &mut Vec<Bytes>) {
        self.stop(frames);
        let content_block = match block.kind {
            Kind::Text => Block::Text { text: "" },
            Kind::Thinking => Block::Thinking {
                thinking: "",
                signature: "",
            },
            Kind::Call(index) => {
                self.calls.insert(index);
                Block::ToolUse {
                    id: new_call_id(&block.id, &self.identity, index),
                    name: &block.name,
                    input: Input::Empty {},
                }
            }
        };
        frames.push(json::bytes(&Frame::ContentBlockStart {
            index: self.blocks,
            content_block,
        }));
        self.blocks += 1;
        let mut arguments = Arguments::default();
        arguments.push(&block.text);
        self.open = Some(Open {
            kind: block.kind,
            arguments,
        });
        self.add(block.kind, &block.text, frames);
    }

    /// Adds `text` to the open block, which is of `kind`.
    fn add(&self, kind: Kind, text: &str, frames: &mut Vec<Bytes>) {
        if text.is_empty() {
            return;
        }
        frames.push(json::bytes(&Frame::ContentBlockDelta {
            index: self.blocks.saturating_sub(1),
            delta: match kind {
                Kind::Text => Delta::Text { text },
                Kind::Thinking => Delta::Thinking { thinking: text },
                Kind::Call(_) => Delta::Input { partial_json: text },
            },
        }));
    }

    fn stop(&mut self, frames: &mut Vec<Bytes>) {
        if self.open.take().is_some() {
            let index = self.blocks.saturating_sub(1);
            frames.push(json::bytes(&Frame::ContentBlockStop { index }));
        }
    }
}
