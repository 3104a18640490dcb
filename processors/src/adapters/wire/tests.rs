use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use runtime::config::Timeouts;
use schemas::id::RequestId;
use schemas::request::Dialect;
use schemas::topic::{ReplyPlace, ReplyTopic};

use super::*;
use crate::adapters::operation::Operation;

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const STREAMED: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#;
const COMPLETION: &str = r#"{"model":"m","prompt":"hi"}"#;
const EMBEDDINGS: &str = r#"{"model":"m","input":["hi"]}"#;
const MESSAGES: &str =
    r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;

fn wire(api: Api, base_url: &str, api_version: Option<&str>, model: &str) -> Arc<dyn Wire> {
    let provider = Http {
        api,
        base_url: base_url.parse().unwrap(),
        api_version: api_version.map(str::to_owned),
        keys: Vec::new(),
        timeouts: Timeouts {
            connect: Duration::from_secs(1),
            first_token: Duration::from_secs(1),
            idle: Duration::from_secs(1),
            total: Duration::from_secs(1),
        },
    };
    of(&provider, model)
}

fn ask(
    wire: &dyn Wire,
    endpoint: Endpoint,
    body: &str,
    attributes: &[(&str, &str)],
) -> Result<Outgoing, ErrorBody> {
    let body = Bytes::from(body.to_owned());
    let dialect = match endpoint {
        Endpoint::Messages | Endpoint::CountTokens => Dialect::Anthropic,
        _ => Dialect::OpenAi,
    };
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let attributes: BTreeMap<_, _> = attributes.iter().map(owned).collect();
    wire.request(&Ask {
        prefix: None,
        id: RequestId::new(ReplyPlace {
            topic: ReplyTopic::Responses,
            partition: 0,
        }),
        traceparent: None,
        body: &body,
        operation: &Operation::parse(endpoint, dialect, &body).unwrap(),
        attributes: &attributes,
    })
}

fn url(wire: &dyn Wire, endpoint: Endpoint, body: &str) -> String {
    ask(wire, endpoint, body, &[]).unwrap().url.into()
}

fn headers(wire: &dyn Wire) -> Vec<(String, String)> {
    let mut headers = HeaderMap::new();
    wire.headers(Some(&Credential::new("sk-1", 0).unwrap()), &mut headers);
    assert!(!format!("{headers:?}").contains("sk-1"));
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    let mut headers: Vec<_> = headers.iter().map(text).collect();
    headers.sort();
    headers
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn openai_is_asked_under_its_base_and_its_key_is_a_bearer() {
    let wire = wire(Api::OpenAi, "http://x/v1/?a=b", None, "gpt");
    let url = |endpoint, body| url(&*wire, endpoint, body);
    assert_eq!(
        url(Endpoint::ChatCompletions, CHAT),
        "http://x/v1/chat/completions?a=b"
    );
    assert_eq!(
        url(Endpoint::Messages, MESSAGES),
        "http://x/v1/chat/completions?a=b"
    );
    assert_eq!(
        url(Endpoint::Completions, COMPLETION),
        "http://x/v1/completions?a=b"
    );
    assert_eq!(
        url(Endpoint::Embeddings, EMBEDDINGS),
        "http://x/v1/embeddings?a=b"
    );
    assert_eq!(headers(&*wire), [header("authorization", "Bearer sk-1")]);
}

#[test]
fn a_body_with_nothing_to_change_is_passed_on_without_a_copy() {
    let wire = wire(Api::OpenAi, "http://x/v1", None, "m");
    let body = Bytes::from_static(CHAT.as_bytes());
    let outgoing = wire.request(&Ask {
        prefix: None,
        id: RequestId::new(ReplyPlace {
            topic: ReplyTopic::Responses,
            partition: 0,
        }),
        traceparent: None,
        body: &body,
        operation: &Operation::parse(Endpoint::ChatCompletions, Dialect::OpenAi, &body).unwrap(),
        attributes: &BTreeMap::new(),
    });
    assert_eq!(outgoing.unwrap().body.as_ptr(), body.as_ptr());
}

#[test]
fn azure_names_the_deployment_in_the_path_but_for_its_newer_api() {
    let place = |base: &str, version: Option<&str>| {
        let wire = wire(Api::Azure, base, version, "my gpt/4");
        assert_eq!(headers(&*wire), [header("api-key", "sk-1")]);
        url(&*wire, Endpoint::ChatCompletions, CHAT)
    };
    let deployed = "https://x/openai/deployments/my%20gpt%2F4/chat/completions?api-version=v";
    for base in [
        "https://x",
        "https://x/",
        "https://x/openai",
        "https://x/openai/",
    ] {
        assert_eq!(place(base, Some("v")), deployed, "{base}");
    }
    let newer = "https://x/openai/v1/chat/completions";
    assert_eq!(place("https://x/openai/v1/", None), newer);
    assert_eq!(
        place("https://x/openai/v1", Some("preview")),
        format!("{newer}?api-version=preview")
    );
}

#[test]
fn deepseek_continues_answers_and_texts_in_its_beta() {
    let prefixed = r#"{"model":"m","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"he","prefix":true}]}"#;
    for (base, plain, beta) in [
        ("https://x", "", "/beta"),
        ("https://x/v1", "/v1", "/beta"),
        ("https://x/other", "/other", "/other"),
    ] {
        let wire = wire(Api::DeepSeek, base, None, "m");
        let url = |endpoint, body| url(&*wire, endpoint, body);
        let chat = Endpoint::ChatCompletions;
        assert_eq!(
            url(chat, CHAT),
            format!("https://x{plain}/chat/completions")
        );
        assert_eq!(
            url(chat, prefixed),
            format!("https://x{beta}/chat/completions")
        );
        assert_eq!(
            url(Endpoint::Completions, COMPLETION),
            format!("https://x{beta}/completions")
        );
        assert!(!wire.serves(Endpoint::Embeddings));
    }
}

#[test]
fn anthropic_is_asked_in_its_version_with_the_features_that_its_clients_switch_on() {
    for base in ["https://x/v1", "https://x/v1/", "https://x"] {
        let wire = wire(Api::Anthropic, base, Some("2023-06-01"), "claude");
        let url = |endpoint, body| url(&*wire, endpoint, body);
        assert_eq!(
            url(Endpoint::Messages, MESSAGES),
            "https://x/v1/messages",
            "{base}"
        );
        assert_eq!(
            url(Endpoint::ChatCompletions, CHAT),
            "https://x/v1/messages"
        );
        assert_eq!(
            url(Endpoint::CountTokens, MESSAGES),
            "https://x/v1/messages/count_tokens"
        );
        let version = header("anthropic-version", "2023-06-01");
        assert_eq!(headers(&*wire), [version, header("x-api-key", "sk-1")]);
        let beta = [("anthropic-beta", "a,b")];
        let own = ask(&*wire, Endpoint::Messages, MESSAGES, &beta).unwrap();
        assert_eq!(
            own.headers,
            [(
                HeaderName::from_static("anthropic-beta"),
                HeaderValue::from_static("a,b")
            )]
        );
        let other = ask(&*wire, Endpoint::ChatCompletions, CHAT, &beta).unwrap();
        assert!(other.headers.is_empty(), "the body is ours then");
        assert!(wire.counts_tokens() && !wire.serves(Endpoint::Embeddings));
    }
}

#[test]
fn gemini_names_the_model_in_the_path_and_streams_by_another_method() {
    let wire = wire(Api::Gemini, "https://x/v1beta", None, "gemini-2.5-pro");
    let url = |endpoint, body| url(&*wire, endpoint, body);
    let model = "https://x/v1beta/models/gemini-2.5-pro";
    for (endpoint, body) in [
        (Endpoint::ChatCompletions, CHAT),
        (Endpoint::Messages, MESSAGES),
        (Endpoint::Completions, COMPLETION),
    ] {
        assert_eq!(url(endpoint, body), format!("{model}:generateContent"));
    }
    assert_eq!(
        url(Endpoint::ChatCompletions, STREAMED),
        format!("{model}:streamGenerateContent?alt=sse")
    );
    assert_eq!(
        url(Endpoint::Embeddings, EMBEDDINGS),
        format!("{model}:batchEmbedContents")
    );
    assert_eq!(headers(&*wire), [header("x-goog-api-key", "sk-1")]);
}

#[test]
fn the_key_is_all_that_a_provider_without_one_lacks() {
    for api in [Api::OpenAi, Api::Azure, Api::DeepSeek, Api::Gemini] {
        let mut headers = HeaderMap::new();
        wire(api, "http://x/v1", None, "m").headers(None, &mut headers);
        assert!(headers.is_empty(), "{api:?}");
    }
}
