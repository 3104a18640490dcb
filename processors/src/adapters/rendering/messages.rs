//! Messages, and counts of their tokens, in Anthropic's dialect.

use bytes::Bytes;
use schemas::dialect::anthropic::{self, StreamReader, StreamWriter};
use schemas::event::{Chunk, ErrorBody, Piece, Usage};
use schemas::model::Said;

use super::Rendering;
use crate::adapters::assembly::Came;
use crate::adapters::wire::Whole;

/// The event that ends a stream.
const STOP: &[u8] = br#"{"type":"message_stop"}"#;

/// A message, streamed or whole.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// Of a provider that speaks this dialect.
    reader: StreamReader,
    /// Such a provider said its last word, which the client saw.
    stopped: bool,
    /// Where the provider speaks another dialect.
    writer: Option<StreamWriter>,
    /// What was said, but is not in any frame yet.
    owed: Vec<Piece>,
}

impl Messages {
    /// Shows frames. The log has what they say with the last of them, so that nothing before is taken for a token.
    fn show(&mut self, frames: Vec<Bytes>, came: &mut Came) {
        let last = frames.len().saturating_sub(1);
        for (place, raw) in frames.into_iter().enumerate() {
            let pieces = if place == last {
                std::mem::take(&mut self.owed)
            } else {
                Vec::new()
            };
            came.show(Chunk { pieces, raw });
        }
    }
}

impl Rendering for Messages {
    fn event(&mut self, data: &Bytes, came: &mut Came) -> Result<bool, ErrorBody> {
        let mut said = self.reader.read(data)?;
        came.learn(&mut said);
        came.push(said.pieces.clone());
        let raw = anthropic::render_event(data, &came.identity, came.model());
        let pieces = said.pieces;
        came.show(Chunk { pieces, raw });
        self.stopped |= said.is_end;
        Ok(said.is_end)
    }

    fn said(&mut self, mut said: Said, came: &mut Came) {
        came.learn(&mut said);
        let prompt_tokens = came.estimate().prompt_tokens;
        let writer = self
            .writer
            .get_or_insert_with(|| StreamWriter::new(&came.identity, came.model(), prompt_tokens));
        let frames = writer.write(&said);
        self.owed.extend(said.pieces.iter().cloned());
        came.push(said.pieces);
        self.show(frames, came);
    }

    fn whole(&mut self, body: &Bytes, came: &mut Came) -> Result<Bytes, ErrorBody> {
        let answer = anthropic::read_answer(body)?;
        came.learn_model(answer.model);
        came.written_bytes = answer.text.written_bytes();
        came.usage = answer.usage;
        Ok(anthropic::render_answer(body, &came.identity, came.model()))
    }

    fn told(&mut self, whole: Whole, came: &mut Came) -> Result<Bytes, ErrorBody> {
        let (text, usage) = came.text(whole)?;
        let (identity, model) = (&came.identity, came.model());
        Ok(anthropic::write_answer(&text, identity, model, &usage))
    }

    fn can_go_on(&self) -> bool {
        self.writer.is_some() || self.reader.text_blocks().is_some()
    }

    fn go_on(&mut self, came: &Came) {
        // Whoever goes on is read as if it spoke another dialect: its own frames would begin another message.
        if self.writer.is_none()
            && let Some(blocks) = self.reader.text_blocks()
        {
            let writer = StreamWriter::going_on(&came.identity, came.model(), blocks);
            self.writer = Some(writer);
        }
    }

    fn finish(&mut self, usage: &Usage, came: &mut Came) {
        if let Some(writer) = &mut self.writer {
            let frames = writer.finish(usage);
            self.show(frames, came);
        } else if !self.stopped {
            self.show(vec![Bytes::from_static(STOP)], came);
        }
    }

    fn so_far(&self, usage: &Usage, came: &Came) -> Bytes {
        anthropic::write_answer(came.assembler.text(), &came.identity, came.model(), usage)
    }
}

/// A count of tokens, which costs none.
#[derive(Debug)]
pub(super) struct Count;

impl Rendering for Count {
    fn whole(&mut self, body: &Bytes, came: &mut Came) -> Result<Bytes, ErrorBody> {
        came.usage = Some(Usage::default());
        match anthropic::read_count(body) {
            Some(_) => Ok(body.clone()),
            None => Err(ErrorBody::upstream_failed(
                "the provider's answer is no count of tokens",
            )),
        }
    }

    fn told(&mut self, whole: Whole, came: &mut Came) -> Result<Bytes, ErrorBody> {
        let Whole::Tokens(tokens) = whole else {
            return Err(ErrorBody::internal());
        };
        came.usage = Some(Usage::default());
        Ok(anthropic::count_tokens_json(tokens))
    }
}
