//! Anthropic's Messages API (<https://platform.claude.com/docs/en/api/messages>).

use ::http::{HeaderMap, HeaderName, HeaderValue};
use runtime::config::Http;
use schemas::attribute;
use schemas::dialect::anthropic;
use schemas::event::ErrorBody;
use schemas::model::Said;
use schemas::request::Endpoint;
use url::Url;

use super::prefix::{self, Seam};
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

    fn takes_prefix(&self) -> bool {
        anthropic::takes_prefix(&self.model)
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Outgoing, ErrorBody> {
        Ok(match ask.operation {
            Operation::Messages(asked) if ask.prefix.is_none() => {
                let body = anthropic::upstream_request(ask.body, &self.model, asked.stream);
                as_the_client_says(Outgoing::same(&self.messages, body), ask)
            }
            Operation::CountTokens(_) => {
                let body = anthropic::upstream_request(ask.body, &self.model, false);
                as_the_client_says(Outgoing::same(&self.count_tokens, body), ask)
            }
            // The rest of a message is read like a stranger's answer: its frames have to go on with those that came.
            Operation::Messages(_) | Operation::Chat(_) | Operation::Completion(_) => {
                let chat = prefix::chat(ask)?;
                let body = anthropic::write_request(&chat, &self.model)?;
                let reader = MessageReader {
                    stream: anthropic::StreamReader::default(),
                    // Blanks at the end of a beginning are not sent: Anthropic refuses them.
                    seam: Seam::of(ask.prefix.map(|prefix| prefix.text)),
                };
                Outgoing::other(&self.messages, body, reader)
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

/// Reads messages for clients of another dialect, and the rest of one that another deployment began.
#[derive(Debug)]
struct MessageReader {
    stream: anthropic::StreamReader,
    seam: Seam,
}

impl Reader for MessageReader {
    fn event(&mut self, data: &[u8]) -> Result<Said, ErrorBody> {
        let mut said = self.stream.read(data)?;
        self.seam.join(&mut said);
        Ok(said)
    }

    fn whole(&mut self, body: &[u8]) -> Result<Whole, ErrorBody> {
        anthropic::read_answer(body).map(Whole::Text)
    }
}
