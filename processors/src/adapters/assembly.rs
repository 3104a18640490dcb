//! The answer of one attempt as it grows.

use bytes::Bytes;
use schemas::dialect::Identity;
use schemas::dialect::openai::{self, Answer, Assembler, ChatRequest};
use schemas::event::{Chunk, ErrorBody, Usage};
use schemas::request::Request;

/// What came so far, and how to show it to the client.
#[derive(Debug)]
pub(crate) struct Assembly {
    assembler: Assembler,
    identity: Identity,
    include_usage: bool,
    prompt_bytes: usize,
    /// The model that the provider says it is, by its first word on it.
    model: Option<String>,
    /// Usage of an answer of our own making.
    own_usage: Option<Usage>,
    usage_shown: bool,
    /// Bytes of text of a whole answer.
    written_bytes: usize,
}

/// What one event of a provider adds.
#[derive(Debug)]
pub(crate) struct Added {
    /// For the client; none when it is not for it.
    pub(crate) chunk: Option<Chunk>,
    /// Whether the model wrote something.
    pub(crate) token: bool,
}

impl Assembly {
    /// Nothing yet of the answer to `request`.
    pub(crate) fn new(request: &Request) -> Self {
        Self {
            assembler: Assembler::default(),
            identity: Identity::new(request.endpoint, request.id, request.accepted_at),
            include_usage: false,
            prompt_bytes: 0,
            model: None,
            own_usage: None,
            usage_shown: false,
            written_bytes: 0,
        }
    }

    /// Learns what was asked for.
    pub(crate) fn ask(&mut self, chat: &ChatRequest<'_>) {
        self.include_usage = chat.include_usage;
        self.prompt_bytes = chat.prompt_bytes;
    }

    /// Forgets what came: another attempt begins.
    pub(crate) fn clear(&mut self) {
        self.assembler.clear();
        self.model = None;
        self.own_usage = None;
        self.usage_shown = false;
    }

    /// Takes in the data of an event of a stream in OpenAI's dialect; `deployed` names the
    /// model where the provider does not.
    pub(crate) fn event(&mut self, data: &[u8], deployed: &str) -> Result<Added, ErrorBody> {
        let mut chunk = openai::read_chunk(data)?;
        let said = chunk.model.take().filter(|model| !model.is_empty());
        let model = self
            .model
            .get_or_insert_with(|| said.unwrap_or_else(|| deployed.to_owned()));
        self.assembler.push(&chunk);
        let raw = openai::render_chunk(&chunk, &self.identity, model, self.include_usage);
        self.usage_shown |= chunk.usage.is_some() && self.include_usage;
        let token = chunk.is_token();
        let pieces = chunk.pieces;
        Ok(Added {
            chunk: raw.map(|raw| Chunk { pieces, raw }),
            token,
        })
    }

    /// Takes in a whole answer in OpenAI's dialect.
    pub(crate) fn answer(&mut self, body: &[u8], deployed: &str) -> Result<Answer, ErrorBody> {
        let model = openai_model(body);
        let model = self
            .model
            .insert(model.unwrap_or_else(|| deployed.to_owned()));
        let answer = openai::render_answer(body, &self.identity, model)?;
        self.written_bytes = answer.text.written_bytes();
        Ok(answer)
    }

    /// Takes in a chunk of our own making.
    pub(crate) fn own(&mut self, chunk: &Chunk, deployed: &str) {
        self.model.get_or_insert_with(|| deployed.to_owned());
        self.assembler.push_pieces(chunk);
    }

    /// Takes in the usage of an answer of our own making.
    pub(crate) fn report(&mut self, usage: Usage) {
        self.own_usage = Some(usage);
    }

    /// What names the answer.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the client wants usage in its stream.
    pub(crate) fn include_usage(&self) -> bool {
        self.include_usage
    }

    /// Whether every choice that began has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.assembler.is_finished()
    }

    /// Whether anything was written or ended.
    pub(crate) fn is_empty(&self) -> bool {
        self.assembler.text().is_empty()
    }

    /// Usage as reported, else estimated and marked so.
    pub(crate) fn usage(&self) -> Usage {
        self.own_usage
            .or(self.assembler.usage())
            .unwrap_or_else(|| {
                let written = self
                    .assembler
                    .text()
                    .written_bytes()
                    .max(self.written_bytes);
                openai::estimate_usage(self.prompt_bytes, written)
            })
    }

    /// The chunk that tells the usage, for a client that asked and a provider that did not say.
    pub(crate) fn usage_chunk(&mut self, usage: &Usage) -> Option<Chunk> {
        if !self.include_usage || self.usage_shown {
            return None;
        }
        self.usage_shown = true;
        let model = self.model.as_deref().unwrap_or_default();
        Some(openai::usage_chunk(&self.identity, model, usage))
    }

    /// The answer so far as a client reads it that did not ask for a stream.
    pub(crate) fn completion(&self, usage: &Usage) -> Bytes {
        let model = self.model.as_deref().unwrap_or_default();
        self.assembler
            .completion(&self.identity, model, Some(usage))
    }
}

/// The model that a whole answer names.
fn openai_model(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        model: Option<std::borrow::Cow<'a, str>>,
    }
    let named: Named<'_> = serde_json::from_slice(body).ok()?;
    named
        .model
        .filter(|model| !model.is_empty())
        .map(Into::into)
}
