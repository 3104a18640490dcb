//! Chat completions in OpenAI's dialect.

use bytes::Bytes;
use schemas::dialect::openai::{self, StreamWriter};
use schemas::event::{Chunk, ErrorBody, Usage};
use schemas::fold::Text;
use schemas::model::Said;

use super::Rendering;
use crate::adapters::assembly::Came;
use crate::adapters::wire::Whole;

/// A chat completion, streamed or whole.
#[derive(Debug)]
pub(super) struct Chat {
    include_usage: bool,
    usage_shown: bool,
    /// Another call began the answer, its role told.
    goes_on: bool,
    /// What the client sent.
    body: Bytes,
    /// Where the provider speaks another dialect.
    converted: Option<Converted>,
}

#[derive(Debug)]
struct Converted {
    writer: StreamWriter,
    /// The client knows the form before `tools`.
    function_calls: bool,
}

impl Chat {
    pub(super) fn new(include_usage: bool, body: Bytes) -> Self {
        Self {
            include_usage,
            usage_shown: false,
            goes_on: false,
            body,
            converted: None,
        }
    }
}

impl Rendering for Chat {
    fn event(&mut self, data: &Bytes, came: &mut Came) -> Result<bool, ErrorBody> {
        let mut chunk = openai::read_chunk(data)?;
        came.learn_model(chunk.model.take());
        came.assembler.push(&chunk);
        // Clients that put deltas together would have the role twice.
        let says_nothing = !chunk.is_token() && chunk.finished().next().is_none();
        if self.goes_on && says_nothing && chunk.usage.is_none() {
            return Ok(false);
        }
        let raw = openai::render_chunk(&chunk, &came.identity, came.model(), self.include_usage);
        self.usage_shown |= chunk.usage.is_some() && self.include_usage;
        if let Some(raw) = raw {
            let pieces = chunk.pieces;
            came.show(Chunk { pieces, raw });
        }
        Ok(false)
    }

    fn said(&mut self, mut said: Said, came: &mut Came) {
        came.learn(&mut said);
        let begin = if self.goes_on {
            StreamWriter::going_on
        } else {
            StreamWriter::new
        };
        let converted = self.converted.get_or_insert_with(|| Converted {
            writer: begin(&came.identity, came.model(), self.include_usage),
            function_calls: openai::wants_function_calls(&self.body),
        });
        if converted.function_calls {
            openai::as_function_call(&mut said.pieces);
        }
        for chunk in converted.writer.write(&said) {
            came.show(chunk);
        }
        came.push(said.pieces);
    }

    fn whole(&mut self, body: &Bytes, came: &mut Came) -> Result<Bytes, ErrorBody> {
        came.learn_model(openai_model(body));
        let answer = openai::render_answer(body, &came.identity, came.model())?;
        came.written_bytes = answer.text.written_bytes();
        came.usage = answer.usage;
        Ok(answer.body)
    }

    fn told(&mut self, whole: Whole, came: &mut Came) -> Result<Bytes, ErrorBody> {
        let (mut text, usage) = came.text(whole)?;
        if openai::wants_function_calls(&self.body) {
            let mut pieces: Vec<_> = text.pieces().collect();
            openai::as_function_call(&mut pieces);
            text = Text::default();
            pieces.iter().for_each(|piece| text.push(piece));
        }
        Ok(openai::write_answer(
            &text,
            &came.identity,
            came.model(),
            Some(&usage),
        ))
    }

    fn can_go_on(&self) -> bool {
        true
    }

    fn go_on(&mut self, _came: &Came) {
        self.goes_on = true;
        // The next provider may speak the client's dialect.
        self.converted = None;
    }

    fn finish(&mut self, usage: &Usage, came: &mut Came) {
        if let Some(Converted { writer, .. }) = &mut self.converted {
            for chunk in writer.finish(usage) {
                came.show(chunk);
            }
        } else if self.include_usage && !self.usage_shown {
            self.usage_shown = true;
            let chunk = openai::usage_chunk(&came.identity, came.model(), usage);
            came.show(chunk);
        }
    }

    fn so_far(&self, usage: &Usage, came: &Came) -> Bytes {
        came.assembler
            .completion(&came.identity, came.model(), Some(usage))
    }
}

/// The model that a whole answer names.
pub(super) fn openai_model(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        model: Option<std::borrow::Cow<'a, str>>,
    }
    let named: Named<'_> = serde_json::from_slice(body).ok()?;
    named.model.map(Into::into)
}
