//! What a provider of another dialect says, as a stream of OpenAI's chunks.

use std::collections::{BTreeMap, BTreeSet};

use super::write::{Delta, Function, ToolCall, delta_bytes};
use super::{FUNCTION_CALL, finish_chunk, role_chunk, usage_chunk};
use crate::dialect::Identity;
use crate::event::{Channel, Chunk, Piece, Usage};
use crate::model::Said;

/// Writes the chunks of one answer.
///
/// The first chunk of a choice tells its role, the last only why it ended. The first delta of a
/// tool call has its id (one of ours, where the provider gives none), type and name, later ones
/// its arguments alone; it waits for the name. A chunk's pieces are those that its bytes say.
#[derive(Debug, Clone)]
pub struct StreamWriter {
    identity: Identity,
    model: String,
    include_usage: bool,
    choices: BTreeSet<i32>,
    /// By choice and index.
    calls: BTreeMap<(i32, i32), Call>,
}

#[derive(Debug, Clone, Default)]
struct Call {
    id: String,
    name: String,
    /// The first delta is out, with whatever was known then.
    is_open: bool,
}

/// What is added to one choice by one chunk.
#[derive(Default)]
struct Group {
    text: Option<String>,
    reasoning: Option<String>,
    refusal: Option<String>,
    calls: Vec<CallDelta>,
}

#[derive(Default)]
struct CallDelta {
    index: i32,
    id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
}

impl StreamWriter {
    /// The writer of the answer that `identity` names; with `include_usage`, for a client that
    /// asked for usage in the stream.
    #[must_use]
    pub fn new(identity: &Identity, model: &str, include_usage: bool) -> Self {
        Self {
            identity: identity.clone(),
            model: model.to_owned(),
            include_usage,
            choices: BTreeSet::new(),
            calls: BTreeMap::new(),
        }
    }

    /// As [`StreamWriter::new`], when another writer or provider has begun the first choice with text: its role is not told
    /// again.
    #[must_use]
    pub fn going_on(identity: &Identity, model: &str, include_usage: bool) -> Self {
        Self {
            choices: BTreeSet::from([0]),
            ..Self::new(identity, model, include_usage)
        }
    }

    /// The chunks that tell what `said` adds: of its pieces, one for each run of the same choice,
    /// and one for each finish reason. Usage in it is left to [`StreamWriter::finish`].
    pub fn write(&mut self, said: &Said) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let runs = said
            .pieces
            .chunk_by(|one, next| one.choice == next.choice && !ends(one) && !ends(next));
        for run in runs {
            let Some(first) = run.first() else { continue };
            let choice = first.choice;
            // No reason is no end.
            if ends(first) && first.text.is_empty() {
                continue;
            }
            if self.choices.insert(choice) {
                let identity = &self.identity;
                chunks.push(role_chunk(
                    identity,
                    &self.model,
                    choice,
                    self.include_usage,
                ));
            }
            if ends(first) {
                chunks.extend(self.open_waiting(choice));
                chunks.push(self.finished(choice, &first.text));
            } else {
                let mut group = Group::default();
                for piece in run {
                    self.add(&mut group, piece);
                }
                chunks.extend(self.chunk(choice, &group));
            }
        }
        chunks
    }

    /// The chunks after the last of the provider's: what was held back, and the usage for a
    /// client that asked.
    pub fn finish(&mut self, usage: &Usage) -> Vec<Chunk> {
        let choices: Vec<_> = self.choices.iter().copied().collect();
        let waiting = choices
            .into_iter()
            .filter_map(|choice| self.open_waiting(choice));
        let mut chunks: Vec<_> = waiting.collect();
        if self.include_usage {
            chunks.push(usage_chunk(&self.identity, &self.model, usage));
        }
        chunks
    }

    fn finished(&self, choice: i32, reason: &str) -> Chunk {
        finish_chunk(
            &self.identity,
            &self.model,
            choice,
            reason,
            self.include_usage,
        )
    }

    fn add(&mut self, group: &mut Group, piece: &Piece) {
        let text = piece.text.as_str();
        match piece.channel {
            Channel::Text => append(&mut group.text, text),
            Channel::Reasoning => append(&mut group.reasoning, text),
            Channel::Refusal => append(&mut group.refusal, text),
            Channel::ToolId => {
                let call = self.calls.entry((piece.choice, piece.index)).or_default();
                if call.id.is_empty() && !call.is_open {
                    text.clone_into(&mut call.id);
                }
            }
            Channel::ToolName => {
                let call = self.calls.entry((piece.choice, piece.index)).or_default();
                // Some providers repeat it with every piece of the call.
                if call.name == text || text.is_empty() {
                    return;
                }
                call.name.push_str(text);
                if call.is_open {
                    append(&mut group.call(piece.index).name, text);
                } else {
                    self.open(group, piece.choice, piece.index);
                }
            }
            Channel::ToolArguments => {
                self.open(group, piece.choice, piece.index);
                append(&mut group.call(piece.index).arguments, text);
            }
            Channel::Finish | Channel::Unknown => {}
        }
    }

    /// Puts the beginning of a call into `group`, unless it was told before.
    fn open(&mut self, group: &mut Group, choice: i32, index: i32) {
        let call = self.calls.entry((choice, index)).or_default();
        if call.is_open {
            return;
        }
        call.is_open = true;
        if call.id.is_empty() && index != FUNCTION_CALL {
            call.id = call_id(&self.identity, choice, index);
        }
        let delta = group.call(index);
        delta.id = Some(call.id.clone()).filter(|_| index != FUNCTION_CALL);
        delta.name = Some(call.name.clone());
        append(&mut delta.arguments, "");
    }

    /// The beginnings of calls that waited for a name, which does not come any more.
    fn open_waiting(&mut self, choice: i32) -> Option<Chunk> {
        let calls = self.calls.range((choice, i32::MIN)..=(choice, i32::MAX));
        let waiting = calls.filter(|(_, call)| !call.is_open);
        let indexes: Vec<_> = waiting.map(|((_, index), _)| *index).collect();
        let mut group = Group::default();
        for index in indexes {
            self.open(&mut group, choice, index);
        }
        self.chunk(choice, &group)
    }

    fn chunk(&self, choice: i32, group: &Group) -> Option<Chunk> {
        let pieces = group.pieces(choice);
        if pieces.is_empty() {
            return None;
        }
        let function = |call: &CallDelta| call.index == FUNCTION_CALL;
        let tool_calls: Vec<_> = group
            .calls
            .iter()
            .filter(|call| !function(call))
            .map(|call| ToolCall {
                index: call.index,
                id: call.id.as_deref(),
                r#type: call.id.is_some().then_some("function"),
                function: call.function(),
            })
            .collect();
        let delta = Delta {
            role: None,
            content: group.text.as_deref(),
            reasoning_content: group.reasoning.as_deref(),
            refusal: group.refusal.as_deref(),
            tool_calls: &tool_calls,
            function_call: group
                .calls
                .iter()
                .find(|call| function(call))
                .map(CallDelta::function),
        };
        let include_usage = self.include_usage;
        let raw = delta_bytes(
            &self.identity,
            &self.model,
            include_usage,
            choice,
            &delta,
            None,
        );
        Some(Chunk { pieces, raw })
    }
}

impl Group {
    fn call(&mut self, index: i32) -> &mut CallDelta {
        let position = self.calls.iter().position(|call| call.index == index);
        let position = position.unwrap_or_else(|| {
            self.calls.push(CallDelta {
                index,
                ..CallDelta::default()
            });
            self.calls.len() - 1
        });
        &mut self.calls[position]
    }

    /// What the chunk says, in the order in which it is read back.
    fn pieces(&self, choice: i32) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut push = |channel, index, text: &Option<String>| {
            if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
                pieces.push(Piece {
                    choice,
                    channel,
                    index,
                    text: text.clone(),
                });
            }
        };
        push(Channel::Reasoning, 0, &self.reasoning);
        push(Channel::Text, 0, &self.text);
        push(Channel::Refusal, 0, &self.refusal);
        for call in &self.calls {
            push(Channel::ToolId, call.index, &call.id);
            push(Channel::ToolName, call.index, &call.name);
            push(Channel::ToolArguments, call.index, &call.arguments);
        }
        pieces
    }
}

impl CallDelta {
    fn function(&self) -> Function<'_> {
        Function {
            name: self.name.as_deref(),
            arguments: self.arguments.as_deref(),
        }
    }
}

/// An id for a call to which the provider gave none; the same in every rendering.
pub(super) fn call_id(identity: &Identity, choice: i32, index: i32) -> String {
    let (_, suffix) = identity
        .id
        .split_once(['-', '_'])
        .unwrap_or(("", &identity.id));
    format!("call_{suffix}_{choice}_{index}")
}

/// Makes of the calls in `pieces` the one that a client reads who speaks of `functions`
/// ([`super::wants_function_calls`]): the first of each choice; that dialect knows no others.
pub fn as_function_call(pieces: &mut Vec<Piece>) {
    pieces.retain_mut(|piece| match piece.channel {
        Channel::ToolId => false,
        Channel::ToolName | Channel::ToolArguments => {
            let is_first = matches!(piece.index, 0 | FUNCTION_CALL);
            piece.index = FUNCTION_CALL;
            is_first
        }
        Channel::Finish => {
            if piece.text == "tool_calls" {
                "function_call".clone_into(&mut piece.text);
            }
            true
        }
        _ => true,
    });
}

fn ends(piece: &Piece) -> bool {
    piece.channel == Channel::Finish
}

fn append(text: &mut Option<String>, added: &str) {
    text.get_or_insert_default().push_str(added);
}
