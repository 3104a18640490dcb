//! Legacy completions in OpenAI's dialect.

use bytes::Bytes;
use schemas::dialect::openai::{self, CompletionWriter};
use schemas::event::{Chunk, ErrorBody, Usage};
use schemas::model::Said;

use super::Rendering;
use super::chat::openai_model;
use crate::adapters::assembly::Came;
use crate::adapters::wire::Whole;

/// A completion, streamed or whole.
#[derive(Debug)]
pub(super) struct Completion {
    include_usage: bool,
    usage_shown: bool,
    /// Where the provider speaks another dialect.
    writer: Option<CompletionWriter>,
}

impl Completion {
    pub(super) fn new(include_usage: bool) -> Self {
        Self {
            include_usage,
            usage_shown: false,
            writer: None,
        }
    }

    fn new_writer(&self, came: &Came) -> CompletionWriter {
        CompletionWriter::new(&came.identity, came.model(), self.include_usage)
    }
}

impl Rendering for Completion {
    fn event(&mut self, data: &Bytes, came: &mut Came) -> Result<bool, ErrorBody> {
        let mut chunk = openai::read_completion_chunk(data)?;
        came.learn_model(chunk.model.take());
        came.assembler.push(&chunk);
        let (identity, model) = (&came.identity, came.model());
        let raw = openai::render_completion_chunk(&chunk, identity, model, self.include_usage);
        self.usage_shown |= chunk.usage.is_some() && self.include_usage;
        if let Some(raw) = raw {
            let pieces = chunk.pieces;
            came.show(Chunk { pieces, raw });
        }
        Ok(false)
    }

    fn said(&mut self, mut said: Said, came: &mut Came) {
        came.learn(&mut said);
        let mut writer = self.writer.take().unwrap_or_else(|| self.new_writer(came));
        for chunk in writer.write(&said) {
            came.show(chunk);
        }
        self.writer = Some(writer);
        came.push(said.pieces);
    }

    fn whole(&mut self, body: &Bytes, came: &mut Came) -> Result<Bytes, ErrorBody> {
        came.learn_model(openai_model(body));
        let answer = openai::render_completion(body, &came.identity, came.model())?;
        came.written_bytes = answer.text.written_bytes();
        came.usage = answer.usage;
        Ok(answer.body)
    }

    fn told(&mut self, whole: Whole, came: &mut Came) -> Result<Bytes, ErrorBody> {
        let (text, usage) = came.text(whole)?;
        let (identity, model) = (&came.identity, came.model());
        Ok(openai::write_completion(
            &text,
            identity,
            model,
            Some(&usage),
        ))
    }

    fn finish(&mut self, usage: &Usage, came: &mut Came) {
        if std::mem::replace(&mut self.usage_shown, true) {
            return;
        }
        // A provider of this dialect that did not tell the usage is helped out by the same chunk.
        for chunk in self.new_writer(came).finish(usage) {
            came.show(chunk);
        }
    }

    fn so_far(&self, usage: &Usage, came: &Came) -> Bytes {
        let (identity, model) = (&came.identity, came.model());
        match self.writer {
            Some(_) => {
                openai::write_completion(came.assembler.text(), identity, model, Some(usage))
            }
            None => came.assembler.text_completion(identity, model, Some(usage)),
        }
    }
}
