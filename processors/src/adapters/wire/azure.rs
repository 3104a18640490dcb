//! OpenAI's models on Azure: OpenAI's API at other places, with the key in another header
//! (<https://learn.microsoft.com/azure/ai-foundry/openai/reference>).

use ::http::{HeaderMap, HeaderName};
use runtime::config::Http;
use schemas::event::ErrorBody;
use schemas::request::Endpoint;
use url::Url;

use super::openai::OpenAi;
use super::{Outgoing, Wire, under};
use crate::adapters::Ask;
use crate::adapters::keys::Credential;

const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// One deployment of a model on Azure.
#[derive(Debug)]
pub(super) struct Azure(OpenAi);

impl Azure {
    pub(super) fn new(provider: &Http, model: &str) -> Self {
        let base = base_of(&provider.base_url, model);
        Self(OpenAi::at(model, |path| {
            let mut url = under(&base, path);
            if let Some(version) = &provider.api_version {
                url.query_pairs_mut().append_pair("api-version", version);
            }
            url
        }))
    }
}

/// What the paths of OpenAI's API come after. In the newer API, whose base ends in `/v1`, the body names the model, in the
/// other one the path does.
fn base_of(base: &Url, model: &str) -> Url {
    let path = base.path().trim_end_matches('/');
    if path.ends_with("/v1") {
        return base.clone();
    }
    let is_within = path.ends_with("/openai");
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty();
        if !is_within {
            segments.push("openai");
        }
        segments.extend(["deployments", model]);
    }
    url
}

impl Wire for Azure {
    fn serves(&self, endpoint: Endpoint) -> bool {
        self.0.serves(endpoint)
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Outgoing, ErrorBody> {
        self.0.request(ask)
    }

    fn headers(&self, credential: Option<&Credential>, headers: &mut HeaderMap) {
        if let Some(credential) = credential {
            headers.insert(API_KEY, credential.plain.clone());
        }
    }

    fn error(&self, status: u16, body: &[u8]) -> ErrorBody {
        self.0.error(status, body)
    }
}
