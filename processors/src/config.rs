//! What the processors need of the configuration, and the models made of it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use runtime::config::{self, KeySource, ProviderKind, ScriptLine, Timeouts};
use runtime::store::secrets::SecretSnapshot;
use schemas::request::Endpoint;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use crate::adapters::http::{Connections, Http};
use crate::adapters::keys::{Key, Keys};
use crate::adapters::scripted::Scripted;
use crate::adapters::{Adapter, wire};
use crate::error::Error;
use crate::gate::{Gate, Limits, Slack};
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
    /// The model's name at the provider.
    pub(crate) model: Arc<str>,
    /// How it is called.
    pub(crate) adapter: Arc<dyn Adapter>,
    /// The bounds of one attempt; none: only the request's deadline.
    pub(crate) timeouts: Option<Timeouts>,
    /// How many calls it takes at once.
    pub(crate) gate: Gate,
}

enum Provider<'c> {
    Http {
        connections: Connections,
        settings: &'c config::Http,
        keys: Keys,
    },
    Scripted(&'c [ScriptLine]),
}

impl Model {
    /// Whether any of its deployments can be asked for this.
    pub(crate) fn serves(&self, endpoint: Endpoint) -> bool {
        let mut deployments = self.deployments.iter();
        deployments.any(|deployment| deployment.adapter.serves(endpoint))
    }
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
            let provider = providers.get(deployment.provider.as_str()).ok_or_else(|| {
                Error::UnknownProvider {
                    model: model.name.clone(),
                    provider: deployment.provider.clone(),
                }
            })?;
            let (adapter, gate) = deployments.entry(name).or_insert_with_key(|name| {
                let name = name.as_str().into();
                let gate = Gate::new(name, limits(&deployment.limits), Arc::clone(slack));
                (provider.adapter(&deployment.model), gate)
            });
            own.push(Deployment {
                name: Arc::clone(gate.name()),
                model: deployment.model.as_str().into(),
                adapter: Arc::clone(adapter),
                timeouts: provider.timeouts().map(|own| model.timeouts.over(own)),
                gate: gate.clone(),
            });
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

fn limits(limits: &config::Limits) -> Limits {
    Limits {
        concurrency_max: limits.concurrency,
        adaptive: limits.adaptive,
        requests_per_minute: limits.requests_per_minute,
        tokens_per_minute: limits.tokens_per_minute,
    }
}

fn set_up<'p>(
    provider: &'p config::Provider,
    secrets: &SecretSnapshot,
) -> Result<Provider<'p>, Error> {
    Ok(match &provider.kind {
        ProviderKind::Http(settings) => {
            let connections = Connections::new(settings.timeouts.connect);
            let keys = settings.keys.iter();
            let keys: Result<Vec<Key>, Error> = keys
                .map(|source| key(&provider.name, source, secrets))
                .collect();
            Provider::Http {
                connections: connections.map_err(|source| Error::Provider {
                    provider: provider.name.clone(),
                    source,
                })?,
                settings,
                keys: Keys::new(keys?),
            }
        }
        ProviderKind::Scripted { script } => Provider::Scripted(script),
    })
}

impl Provider<'_> {
    fn adapter(&self, model: &str) -> Arc<dyn Adapter> {
        match self {
            Self::Http {
                connections,
                settings,
                keys,
            } => {
                let wire = wire::of(settings, model);
                Arc::new(Http::new(connections.clone(), wire, keys.for_model()))
            }
            Self::Scripted(script) => Arc::new(Scripted::new(script, model)),
        }
    }

    /// The bounds of one attempt; none: only the request's deadline.
    fn timeouts(&self) -> Option<Timeouts> {
        match self {
            Self::Http { settings, .. } => Some(settings.timeouts),
            Self::Scripted(_) => None,
        }
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
