//! Google's Gemini API (<https://ai.google.dev/api>); no client speaks it.

use ::http::{HeaderMap, HeaderName};
use runtime::config::Http;
use schemas::dialect::{gemini, openai};
use schemas::event::ErrorBody;
use schemas::model::Said;
use schemas::request::Endpoint;
use url::Url;

use super::{Outgoing, Reader, Whole, Wire, under};
use crate::adapters::Ask;
use crate::adapters::keys::Credential;
use crate::adapters::operation::Operation;

const API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");

/// One Gemini model.
#[derive(Debug)]
pub(super) struct Gemini {
    model: String,
    whole: Url,
    stream: Url,
    embeddings: Url,
}

impl Gemini {
    pub(super) fn new(provider: &Http, model: &str) -> Self {
        let place = |path: String| under(&provider.base_url, &format!("/{path}"));
        Self {
            model: model.to_owned(),
            whole: place(gemini::path(model, false)),
            stream: place(gemini::path(model, true)),
            embeddings: place(gemini::embed_path(model)),
        }
    }
}

impl Wire for Gemini {
    fn serves(&self, endpoint: Endpoint) -> bool {
        match endpoint {
            Endpoint::ChatCompletions
            | Endpoint::Completions
            | Endpoint::Messages
            | Endpoint::CountTokens
            | Endpoint::Embeddings => true,
            Endpoint::Responses | Endpoint::Unknown => false,
        }
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Outgoing, ErrorBody> {
        if let Operation::Embeddings(_) = ask.operation {
            let embed = openai::read_embeddings_request(ask.body)?;
            let body = gemini::write_embeddings(&embed, &self.model)?;
            return Ok(Outgoing::other(&self.embeddings, body, EmbeddingsReader));
        }
        let chat = ask.operation.chat(ask.body)?;
        let url = if chat.stream {
            &self.stream
        } else {
            &self.whole
        };
        let reader = ContentReader(gemini::StreamReader::new(chat.n));
        Ok(Outgoing::other(url, gemini::write_request(&chat)?, reader))
    }

    fn headers(&self, credential: Option<&Credential>, headers: &mut HeaderMap) {
        if let Some(credential) = credential {
            headers.insert(API_KEY, credential.plain.clone());
        }
    }

    fn error(&self, status: u16, body: &[u8]) -> ErrorBody {
        gemini::read_error(status, body)
    }
}

/// Reads generated content.
#[derive(Debug)]
struct ContentReader(gemini::StreamReader);

impl Reader for ContentReader {
    fn event(&mut self, data: &[u8]) -> Result<Said, ErrorBody> {
        self.0.read(data)
    }

    fn whole(&mut self, body: &[u8]) -> Result<Whole, ErrorBody> {
        gemini::read_answer(body).map(Whole::Text)
    }
}

/// Reads embeddings.
#[derive(Debug)]
struct EmbeddingsReader;

impl Reader for EmbeddingsReader {
    fn event(&mut self, _: &[u8]) -> Result<Said, ErrorBody> {
        Err(ErrorBody::internal())
    }

    fn whole(&mut self, body: &[u8]) -> Result<Whole, ErrorBody> {
        gemini::read_embeddings(body).map(Whole::Embeddings)
    }
}
