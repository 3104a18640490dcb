//! What a request wants of the router: from its attributes, and from its body as far as the
//! router has to know it.

use std::collections::BTreeMap;

use runtime::config::{STRATEGIES, Sticky};
use schemas::attribute::{DEPLOYMENT, GUARDED, STRATEGY, TAGS};
use schemas::dialect::openai;
use schemas::event::ErrorBody;
use schemas::request::Request;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::router::{Wish, hash};

/// Requests whose messages have these first bytes in common stick together.
const PREFIX_BYTES: usize = 4 * 1024;
/// ASCII without a blank for longer than this is no text, but a picture or the like.
const RUN_BYTES: usize = 2 * 1024;
/// What such a run counts as: about what providers charge for a picture.
const RUN_TOKENS: i64 = 1_000;

/// Members of a body in any dialect that say how long it is and whose it is.
#[derive(Default, Deserialize)]
struct Members<'b> {
    #[serde(borrow)]
    messages: Option<&'b RawValue>,
    #[serde(borrow)]
    system: Option<&'b RawValue>,
    #[serde(borrow)]
    prompt: Option<&'b RawValue>,
    #[serde(borrow)]
    input: Option<&'b RawValue>,
    #[serde(borrow)]
    tools: Option<&'b RawValue>,
    #[serde(borrow)]
    max_tokens: Option<&'b RawValue>,
    #[serde(borrow)]
    max_completion_tokens: Option<&'b RawValue>,
    #[serde(borrow)]
    max_output_tokens: Option<&'b RawValue>,
    #[serde(borrow)]
    user: Option<&'b RawValue>,
    #[serde(borrow)]
    metadata: Option<&'b RawValue>,
}

/// Whether the client wants its stream only once it is whole.
pub(crate) fn is_guarded(request: &Request) -> bool {
    attribute(&request.attributes, GUARDED) == Some("true")
}

/// Reads the wish; `version` is the one that the model's name asks for. The body is looked into only for what `sticky` and `estimates` need.
///
/// # Errors
/// 400 when an attribute is not what it should be.
pub(crate) fn read(
    request: &Request,
    version: Option<&str>,
    body: &[u8],
    sticky: Sticky,
    estimates: bool,
) -> Result<Wish, ErrorBody> {
    let attributes = &request.attributes;
    let strategy = attribute(attributes, STRATEGY).map(|word| {
        let known = STRATEGIES.iter().find(|(known, _)| *known == word);
        known.map(|(_, strategy)| *strategy).ok_or_else(|| {
            let known: Vec<&str> = STRATEGIES.iter().map(|(known, _)| *known).collect();
            let message = format!("there is no such strategy; known are {}", known.join(", "));
            ErrorBody::invalid_request(None, message)
        })
    });
    let strategy = strategy.transpose()?;
    let tags = attribute(attributes, TAGS).unwrap_or_default();
    let mut wish = Wish {
        strategy,
        deployment: attribute(attributes, DEPLOYMENT).map(str::to_owned),
        tags: tags
            .split(',')
            .map(str::trim)
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect(),
        version: version.map(str::to_owned),
        ..Wish::default()
    };
    if sticky == Sticky::None && !estimates {
        return Ok(wish);
    }
    // The body was validated; one that cannot be read here is only routed with less knowledge.
    let members: Members<'_> = serde_json::from_slice(body).unwrap_or_default();
    if estimates {
        wish.prompt_tokens = members.prompt_tokens();
        wish.answer_tokens = members.answer_tokens();
    }
    wish.sticky = match sticky {
        Sticky::None => None,
        Sticky::User => members.user(),
        Sticky::Prefix => members.prefix(),
    };
    Ok(wish)
}

fn attribute<'a>(attributes: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    attributes.get(name).map(String::as_str)
}

impl Members<'_> {
    fn prompt_tokens(&self) -> i64 {
        let parts = [
            self.system,
            self.messages,
            self.prompt,
            self.input,
            self.tools,
        ];
        let tokens = parts.iter().flatten().map(|part| estimate(part.get()));
        tokens.fold(0, i64::saturating_add)
    }

    fn answer_tokens(&self) -> Option<i64> {
        let fields = [
            self.max_completion_tokens,
            self.max_tokens,
            self.max_output_tokens,
        ];
        let mut numbers = fields
            .iter()
            .flatten()
            .filter_map(|raw| raw.get().parse().ok());
        numbers.next()
    }

    /// The end user (`user`, or `metadata.user_id` in Anthropic's dialect).
    fn user(&self) -> Option<u64> {
        #[derive(Deserialize)]
        struct Metadata<'b> {
            #[serde(borrow)]
            user_id: Option<&'b RawValue>,
        }
        let user_id = || {
            let metadata = serde_json::from_str::<Metadata<'_>>(self.metadata?.get());
            metadata.ok()?.user_id
        };
        let user = self.user.or_else(user_id)?.get();
        (user != "null" && user != r#""""#).then(|| hash::bytes(user.as_bytes()))
    }

    fn prefix(&self) -> Option<u64> {
        let messages = self.messages.or(self.prompt).or(self.input)?;
        let system = self.system.map_or("", RawValue::get).as_bytes();
        let start = &system[..system.len().min(PREFIX_BYTES)];
        let rest = messages.get().as_bytes();
        let rest = &rest[..rest.len().min(PREFIX_BYTES - start.len())];
        Some(hash::mix(hash::bytes(start), hash::bytes(rest)))
    }
}

/// Tokens of a part of a body as JSON.
fn estimate(json: &str) -> i64 {
    let mut bytes = 0;
    let mut tokens: i64 = 0;
    let ends_run = |byte: &u8| !byte.is_ascii() || matches!(byte, b' ' | b'"' | b'\\');
    for run in json.as_bytes().split_inclusive(ends_run) {
        if run.len() > RUN_BYTES {
            tokens = tokens.saturating_add(RUN_TOKENS);
        } else {
            bytes += run.len();
        }
    }
    tokens.saturating_add(openai::estimate_tokens(bytes))
}

#[cfg(test)]
#[path = "wish_tests.rs"]
mod tests;
