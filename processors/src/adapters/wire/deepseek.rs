//! DeepSeek's API: OpenAI's with words of its own (<https://api-docs.deepseek.com>).

use ::http::HeaderMap;
use runtime::config::Http;
use schemas::dialect::openai;
use schemas::event::ErrorBody;
use schemas::request::Endpoint;
use url::Url;

use super::openai::{ChatReader, OpenAi};
use super::prefix::{self, Mark};
use super::{Outgoing, Wire, under};
use crate::adapters::Ask;
use crate::adapters::keys::Credential;
use crate::adapters::operation::Operation;

/// One model at DeepSeek.
#[derive(Debug)]
pub(super) struct DeepSeek {
    model: String,
    chat: Url,
    /// Where beginnings of an answer are continued.
    chat_beta: Url,
    /// What it has as OpenAI has it.
    rest: OpenAi,
}

impl DeepSeek {
    pub(super) fn new(provider: &Http, model: &str) -> Self {
        let beta = beta_of(&provider.base_url);
        Self {
            model: model.to_owned(),
            chat: under(&provider.base_url, "/chat/completions"),
            chat_beta: under(&beta, "/chat/completions"),
            rest: OpenAi::at(model, |path| under(&beta, path)),
        }
    }

    /// Where to send `body`. It may say `prefix` and mean something else; the beta serves that, too.
    fn chat_for(&self, body: &[u8]) -> &Url {
        const PREFIX: &[u8] = br#""prefix""#;
        let is_prefixed = body.windows(PREFIX.len()).any(|window| window == PREFIX);
        if is_prefixed {
            &self.chat_beta
        } else {
            &self.chat
        }
    }
}

/// Where DeepSeek serves what it calls beta; a base with a path of its own is another server's, which has all in one place.
fn beta_of(base: &Url) -> Url {
    let mut beta = base.clone();
    if ["", "/v1"].contains(&base.path().trim_end_matches('/')) {
        beta.set_path("/beta");
    }
    beta
}

impl Wire for DeepSeek {
    fn serves(&self, endpoint: Endpoint) -> bool {
        endpoint != Endpoint::Embeddings && self.rest.serves(endpoint)
    }

    fn takes_prefix(&self) -> bool {
        true
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Outgoing, ErrorBody> {
        match ask.operation {
            Operation::Chat(asked) => {
                let body = openai::deepseek_request(ask.body, &self.model, asked.stream);
                let body = match ask.prefix {
                    Some(prefix) => prefix::append(&body, prefix, Mark::Message),
                    None => body,
                };
                Ok(Outgoing::same(self.chat_for(&body), body))
            }
            Operation::Messages(_) => {
                let chat = prefix::chat(ask)?;
                let body = openai::write_deepseek_request(&chat, &self.model)?;
                Ok(Outgoing::other(self.chat_for(&body), body, ChatReader))
            }
            Operation::Completion(_) => self.rest.request(ask),
            Operation::Embeddings(_) | Operation::CountTokens(_) => Err(ask.operation.not_served()),
        }
    }

    fn headers(&self, credential: Option<&Credential>, headers: &mut HeaderMap) {
        self.rest.headers(credential, headers);
    }

    fn error(&self, status: u16, body: &[u8]) -> ErrorBody {
        self.rest.error(status, body)
    }
}
