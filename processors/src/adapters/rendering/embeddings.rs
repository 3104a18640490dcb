//! Embeddings in OpenAI's dialect.

use bytes::Bytes;
use schemas::dialect::openai;
use schemas::event::ErrorBody;

use super::Rendering;
use super::chat::openai_model;
use crate::adapters::assembly::Came;
use crate::adapters::wire::Whole;

/// A list of vectors.
#[derive(Debug)]
pub(super) struct Embeddings {
    /// As base64 of little-endian 32-bit floats, else as arrays of numbers.
    base64: bool,
    count: usize,
}

impl Embeddings {
    pub(super) fn new(base64: bool, count: usize) -> Self {
        Self { base64, count }
    }
}

impl Rendering for Embeddings {
    fn whole(&mut self, body: &Bytes, came: &mut Came) -> Result<Bytes, ErrorBody> {
        came.learn_model(openai_model(body));
        let (body, usage) = openai::render_embeddings(body, came.model(), self.base64, self.count)?;
        came.usage = usage;
        Ok(body)
    }

    fn told(&mut self, whole: Whole, came: &mut Came) -> Result<Bytes, ErrorBody> {
        let Whole::Embeddings(mut embeddings) = whole else {
            return Err(ErrorBody::internal());
        };
        if embeddings.vectors.len() != self.count {
            let (found, asked) = (embeddings.vectors.len(), self.count);
            let message = format!("the provider sent {found} embeddings of {asked} inputs");
            return Err(ErrorBody::upstream_failed(message));
        }
        came.learn_model(embeddings.model.take());
        let usage = embeddings.usage.unwrap_or_else(|| came.estimate());
        embeddings.usage = Some(usage);
        came.usage = Some(usage);
        Ok(openai::write_embeddings(
            &embeddings,
            came.model(),
            self.base64,
        ))
    }
}
