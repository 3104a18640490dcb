//! Anthropic's Messages API (<https://platform.claude.com/docs/en/api/messages>).

use ::http::{HeaderMap, HeaderName, HeaderValue};
use runtime::config::Http;
use schemas::attribute;
use schemas::dialect::anthropic;
use schemas::event::ErrorBody;
use schemas::model::Said;
use schemas::request::Endpoint;
use url::Url;

use super::{Outgoing, Reader, Whole, Wire, under};
use crate::adapters::Ask;
use crate::adapters::keys::Credential;
use crate::adapters::operation::Operation;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const BETA: HeaderName = HeaderName::from_static("anthropic-beta");
const VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// One model at Anthropic.
#[derive(Debug)]
pub(super) struct Anthropic {
    model: String,
    messages: Url,
    count_tokens: Url,
    version: Option<HeaderValue>,
}

impl Anthropic {
    pub(super) fn new(provider: &Http, model: &str) -> Self {
        // The SDKs have their base without it.
        let is_bare = provider.base_url.path() == "/";
        let base = if is_bare { "/v1" } else { "" };
        let version = provider.api_version.as_deref();
        Self {
            model: model.to_owned(),
            messages: under(&provider.base_url, &format!("{base}/messages")),
            count_tokens: under(&provider.base_url, &format!("{base}/messages/count_tokens")),
            version: version.and_then(|version| HeaderValue::try_from(version).ok()),
        }
    }
}

impl Wire for Anthropic {
    fn serves(&self, endpoint: Endpoint) -> bool {
        match endpoint {
            Endpoint::ChatCompletions
            | Endpoint::Completions
            | Endpoint::Messages
            | Endpoint::CountTokens => true,
            Endpoint::Embeddings | Endpoint::Responses | Endpoint::Unknown => false,
        }
    }

    fn counts_tokens(&self) -> bool {
        true
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Outgoing, ErrorBody> {
        Ok(match ask.operation {
            Operation::Messages(asked) => {
                let body = anthropic::upstream_request(ask.body, &self.model, asked.stream);
                as_the_client_says(Outgoing::same(&self.messages, body), ask)
            }
            Operation::CountTokens(_) => {
                let body = anthropic::upstream_request(ask.body, &self.model, false);
                as_the_client_says(Outgoing::same(&self.count_tokens, body), ask)
            }
            Operation::Chat(_) | Operation::Completion(_) => {
                let chat = ask.operation.chat(ask.body)?;
                let body = anthropic::write_request(&chat, &self.model)?;
                Outgoing::other(&self.messages, body, MessageReader::default())
            }
            Operation::Embeddings(_) => return Err(ask.operation.not_served()),
        })
    }

    fn headers(&self, credential: Option<&Credential>, headers: &mut HeaderMap) {
        if let Some(version) = &self.version {
            headers.insert(VERSION, version.clone());
        }
        if let Some(credential) = credential {
            headers.insert(API_KEY, credential.plain.clone());
        }
    }

    fn error(&self, status: u16, body: &[u8]) -> ErrorBody {
        anthropic::read_error(status, body)
    }
}

/// In the version that the client wrote its body for, and with the features that it switches on.
fn as_the_client_says(mut outgoing: Outgoing, ask: &Ask<'_>) -> Outgoing {
    for (attribute, header) in [
        (attribute::ANTHROPIC_VERSION, VERSION),
        (attribute::ANTHROPIC_BETA, BETA),
    ] {
        let said = ask.attributes.get(attribute);
        if let Some(value) = said.and_then(|value| HeaderValue::try_from(value).ok()) {
            outgoing.headers.push((header, value));
        }
    }
    outgoing
}

/// Reads messages for clients of another dialect.
#[derive(Debug, Default)]
struct MessageReader(anthropic::StreamReader);

impl Reader for MessageReader {
    fn event(&mut self, data: &[u8]) -> Result<Said, ErrorBody> {
        self.0.read(data)
    }

    fn whole(&mut self, body: &[u8]) -> Result<Whole, ErrorBody> {
        anthropic::read_answer(body).map(Whole::Text)
    }
}
