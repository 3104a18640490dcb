//! The formats of providers. Adding one is a file here and a line in [`of`]: `docs/adding-a-provider.md`.

mod anthropic;
mod azure;
mod deepseek;
mod gemini;
mod openai;
mod prefix;

use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use runtime::config::{Api, Http};
use schemas::event::ErrorBody;
use schemas::model::{Answer, Embeddings, Said};
use schemas::request::Endpoint;
use url::Url;

use super::Ask;
use super::keys::Credential;

/// How one model of one provider is asked over HTTP, and how its answers are read.
pub(crate) trait Wire: std::fmt::Debug + Send + Sync {
    /// Whether it can be asked for this at all.
    fn serves(&self, endpoint: Endpoint) -> bool;

    /// Whether the provider counts tokens; if not, [`Wire::request`] is not asked for it and they are estimated.
    fn counts_tokens(&self) -> bool {
        false
    }

    /// Whether it can ask for the rest of an answer ([`Ask::prefix`]) that is text of a chat or a message.
    fn takes_prefix(&self) -> bool {
        false
    }

    /// The request that asks for it.
    ///
    /// # Errors
    /// 400: this format has no way to say what the client asks for.
    fn request(&self, ask: &Ask<'_>) -> Result<Outgoing, ErrorBody>;

    /// Puts the key, if there is one, and what else the provider demands into the headers.
    fn headers(&self, credential: Option<&Credential>, headers: &mut HeaderMap);

    /// What an answer with a status other than 200 says.
    fn error(&self, status: u16, body: &[u8]) -> ErrorBody;
}

/// A request to a provider; always a POST of JSON.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Where to.
    pub(crate) url: Url,
    /// JSON.
    pub(crate) body: Bytes,
    /// Headers of this request alone; they go over those of [`Wire::headers`].
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// How to read the answer; none: it is in the client's own dialect, and its bytes are passed on.
    pub(crate) reader: Option<Box<dyn Reader>>,
}

impl Outgoing {
    /// A request whose answer is in the client's dialect.
    fn same(url: &Url, body: Bytes) -> Self {
        Self {
            url: url.clone(),
            body,
            headers: Vec::new(),
            reader: None,
        }
    }

    /// A request whose answer is for `reader`.
    fn other(url: &Url, body: Bytes, reader: impl Reader + 'static) -> Self {
        Self {
            reader: Some(Box::new(reader)),
            ..Self::same(url, body)
        }
    }
}

/// Reads what a provider says, for a client of another dialect.
pub(crate) trait Reader: std::fmt::Debug + Send {
    /// Reads the data of the next event of a stream.
    ///
    /// # Errors
    /// What the provider reported; or, for which [`schemas::dialect::openai::is_malformed`] holds, that the data is no event.
    fn event(&mut self, data: &[u8]) -> Result<Said, ErrorBody>;

    /// Reads a whole answer.
    ///
    /// # Errors
    /// As [`Reader::event`].
    fn whole(&mut self, body: &[u8]) -> Result<Whole, ErrorBody>;
}

/// A whole answer, free of any dialect.
#[derive(Debug)]
pub(crate) enum Whole {
    /// What a model wrote.
    Text(Answer),
    /// Vectors.
    Embeddings(Embeddings),
    /// The length of a prompt.
    Tokens(i64),
}

/// The wire to `model` at `provider`.
pub(crate) fn of(provider: &Http, model: &str) -> Arc<dyn Wire> {
    match provider.api {
        Api::OpenAi => Arc::new(openai::OpenAi::new(provider, model)),
        Api::Azure => Arc::new(azure::Azure::new(provider, model)),
        Api::DeepSeek => Arc::new(deepseek::DeepSeek::new(provider, model)),
        Api::Anthropic => Arc::new(anthropic::Anthropic::new(provider, model)),
        Api::Gemini => Arc::new(gemini::Gemini::new(provider, model)),
    }
}

/// `base` with `path` after its own; `path` begins with a slash and may have parameters, which come after those of `base`.
pub(super) fn under(base: &Url, path: &str) -> Url {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    if !query.is_empty() {
        let all = base.query().map(|base| format!("{base}&{query}"));
        url.set_query(Some(all.as_deref().unwrap_or(query)));
    }
    url
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
