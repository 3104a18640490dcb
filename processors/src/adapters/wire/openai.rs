//! OpenAI's API, and all that speak it: vLLM, Ollama, and look-alikes.

use ::http::HeaderMap;
use ::http::header::AUTHORIZATION;
use runtime::config::Http;
use schemas::dialect::openai;
use schemas::event::ErrorBody;
use schemas::model::Said;
use schemas::request::Endpoint;
use url::Url;

use super::prefix::{self, Mark};
use super::{Outgoing, Reader, Whole, Wire, under};
use crate::adapters::Ask;
use crate::adapters::keys::Credential;
use crate::adapters::operation::Operation;

/// One model at an OpenAI-like server.
#[derive(Debug)]
pub(super) struct OpenAi {
    model: String,
    chat: Url,
    completions: Url,
    embeddings: Url,
}

impl OpenAi {
    pub(super) fn new(provider: &Http, model: &str) -> Self {
        Self::at(model, |path| under(&provider.base_url, path))
    }

    /// The model whose operations are where `place` says.
    pub(super) fn at(model: &str, place: impl Fn(&str) -> Url) -> Self {
        Self {
            model: model.to_owned(),
            chat: place("/chat/completions"),
            completions: place("/completions"),
            embeddings: place("/embeddings"),
        }
    }
}

impl Wire for OpenAi {
    fn serves(&self, endpoint: Endpoint) -> bool {
        match endpoint {
            Endpoint::ChatCompletions
            | Endpoint::Completions
            | Endpoint::Embeddings
            | Endpoint::Messages
            | Endpoint::CountTokens => true,
            Endpoint::Responses | Endpoint::Unknown => false,
        }
    }

    fn takes_prefix(&self) -> bool {
        true
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Outgoing, ErrorBody> {
        Ok(match ask.operation {
            Operation::Chat(asked) => {
                let body = openai::upstream_request(ask.body, &self.model, asked.stream);
                let body = match ask.prefix {
                    Some(prefix) => prefix::append(&body, prefix, Mark::All),
                    None => body,
                };
                Outgoing::same(&self.chat, body)
            }
            Operation::Completion(asked) => {
                let body = openai::upstream_completion(ask.body, &self.model, asked.stream);
                Outgoing::same(&self.completions, body)
            }
            Operation::Embeddings(_) => {
                let body = openai::upstream_embeddings(ask.body, &self.model);
                Outgoing::same(&self.embeddings, body)
            }
            Operation::Messages(_) => {
                let chat = ask.operation.chat(ask.body)?;
                let body = openai::write_request(&chat, &self.model)?;
                let body = match ask.prefix {
                    Some(prefix) => prefix::append(&body, prefix, Mark::All),
                    None => body,
                };
                Outgoing::other(&self.chat, body, ChatReader)
            }
            Operation::CountTokens(_) => return Err(ask.operation.not_served()),
        })
    }

    fn headers(&self, credential: Option<&Credential>, headers: &mut HeaderMap) {
        if let Some(credential) = credential {
            headers.insert(AUTHORIZATION, credential.bearer.clone());
        }
    }

    fn error(&self, status: u16, body: &[u8]) -> ErrorBody {
        openai::read_error(status, body)
    }
}

/// Reads chat completions for clients of another dialect.
#[derive(Debug)]
pub(super) struct ChatReader;

impl Reader for ChatReader {
    fn event(&mut self, data: &[u8]) -> Result<Said, ErrorBody> {
        openai::read_event(data)
    }

    fn whole(&mut self, body: &[u8]) -> Result<Whole, ErrorBody> {
        openai::read_answer(body).map(Whole::Text)
    }
}
