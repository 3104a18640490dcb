//! What the processors need of the configuration, and the models made of it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use runtime::config::{self, KeySource, ProviderKind, ScriptLine, Timeouts};
use runtime::store::secrets::SecretSnapshot;
use secrecy::ExposeSecret;
use tokio::time::Instant;
use url::Url;

use crate::adapters::Adapter;
use crate::adapters::keys::{Key, Keys};
use crate::adapters::openai::{self, OpenAi};
use crate::adapters::scripted::Scripted;
use crate::error::Error;
use crate::gate::{Gate, Slack};
use crate::router::Router;

/// Settings of the processors.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bounds of the work.
    pub processors: config::Processors,
    /// Who offers models.
    pub providers: Vec<config::Provider>,
    /// The models that clients may name.
    pub models: Vec<config::Model>,
    /// Version of the routing document, told in every `Started`.
    pub config_version: String,
    /// Longest that work in flight may take after the stop.
    pub grace: Duration,
    /// Where the stop has begun before theirs, as in a process of several roles: when the grace period of all is over.
    /// Set before the stop, or never.
    pub deadline: Arc<OnceLock<Instant>>,
}

/// A model that clients may name.
#[derive(Debug)]
pub(crate) struct Model {
    /// Chooses among the deployments.
    pub(crate) router: Router,
    /// In the configuration's order.
    pub(crate) deployments: Vec<Deployment>,
}

/// A deployment of a model.
#[derive(Debug)]
pub(crate) struct Deployment {
    /// `provider/model`.
    pub(crate) name: Arc<str>,
    /// How it is called.
    pub(crate) adapter: Arc<dyn Adapter>,
    /// How many calls it takes at once.
    pub(crate) gate: Gate,
}

enum Provider {
    OpenAi {
        client: reqwest::Client,
        base_url: Url,
        keys: Keys,
        timeouts: Timeouts,
    },
    Scripted(Vec<ScriptLine>),
}

/// The models by name.
///
/// # Errors
/// When a key cannot be read, a client not built, or a provider is not there.
pub(crate) fn models(
    settings: &Settings,
    secrets: &SecretSnapshot,
    slack: &Arc<Slack>,
) -> Result<HashMap<String, Model>, Error> {
    let mut providers = HashMap::new();
    for provider in &settings.providers {
        providers.insert(provider.name.as_str(), set_up(provider, secrets)?);
    }
    // Two models may share a deployment, which has one gate and one set of keys.
    let mut deployments: HashMap<String, (Arc<dyn Adapter>, Gate)> = HashMap::new();
    let mut models = HashMap::new();
    for model in &settings.models {
        let mut own = Vec::with_capacity(model.deployments.len());
        for deployment in &model.deployments {
            let name = format!("{}/{}", deployment.provider, deployment.model);
            if !deployments.contains_key(&name) {
                let provider = providers.get(deployment.provider.as_str()).ok_or_else(|| {
                    Error::UnknownProvider {
                        model: model.name.clone(),
                        provider: deployment.provider.clone(),
                    }
                })?;
                let gate = Gate::new(
                    name.as_str().into(),
                    deployment.concurrency_max,
                    Arc::clone(slack),
                );
                deployments.insert(name.clone(), (adapter(provider, &deployment.model), gate));
            }
            if let Some((adapter, gate)) = deployments.get(&name) {
                own.push(Deployment {
                    name: Arc::clone(gate.name()),
                    adapter: Arc::clone(adapter),
                    gate: gate.clone(),
                });
            }
        }
        let weights: Vec<u32> = model.deployments.iter().map(|own| own.weight).collect();
        models.insert(
            model.name.clone(),
            Model {
                router: Router::new(&weights, model.attempts_max),
                deployments: own,
            },
        );
    }
    Ok(models)
}

fn set_up(provider: &config::Provider, secrets: &SecretSnapshot) -> Result<Provider, Error> {
    Ok(match &provider.kind {
        ProviderKind::OpenAi {
            base_url,
            keys,
            timeouts,
        } => Provider::OpenAi {
            client: openai::client(timeouts).map_err(|source| Error::Provider {
                provider: provider.name.clone(),
                source,
            })?,
            base_url: base_url.clone(),
            keys: Keys::new(
                keys.iter()
                    .map(|source| key(&provider.name, source, secrets))
                    .collect::<Result<_, _>>()?,
            ),
            timeouts: *timeouts,
        },
        ProviderKind::Scripted { script } => Provider::Scripted(script.clone()),
    })
}

fn adapter(provider: &Provider, model: &str) -> Arc<dyn Adapter> {
    match provider {
        Provider::OpenAi {
            client,
            base_url,
            keys,
            timeouts,
        } => Arc::new(OpenAi::new(
            client.clone(),
            base_url,
            model,
            keys.for_model(),
            *timeouts,
        )),
        Provider::Scripted(script) => Arc::new(Scripted::new(script, model)),
    }
}

fn key(provider: &str, source: &KeySource, secrets: &SecretSnapshot) -> Result<Key, Error> {
    let name = source.name();
    let fault = |error: &dyn std::error::Error| Error::Key {
        provider: provider.to_owned(),
        key: name.clone(),
        reason: error.to_string(),
    };
    let key = match source {
        KeySource::Secret(secret) => {
            let handle = secrets.handle(secret).map_err(|error| fault(&error))?;
            Key::stored(&name, handle)
        }
        KeySource::Env { .. } | KeySource::File(_) => {
            let secret = source.secret().map_err(|error| fault(&error))?;
            let secret = secret.as_ref().map_or("", |secret| secret.expose_secret());
            Key::fixed(&name, secret)
        }
    };
    key.map_err(|error| fault(&error))
}
