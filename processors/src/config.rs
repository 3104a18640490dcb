//! What the processors need of the configuration, and the models made of it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use runtime::config::{
    self, Fallbacks, KeySource, Names, OnCut, Price, ProviderKind, RoutingDocument, ScriptLine,
    Shadow, Sticky, Timeouts,
};
use runtime::store::secrets::SecretSnapshot;
use runtime::upstream::Policy;
use schemas::request::Endpoint;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use crate::adapters::http::{Connections, Http};
use crate::adapters::keys::{Key, Keys};
use crate::adapters::scripted::Scripted;
use crate::adapters::{Adapter, wire};
use crate::clock::Clock;
use crate::error::Error;
use crate::gate::{Gate, Slack};
use crate::health::active::Watch;
use crate::health::{Health, State};
use crate::metrics::Metrics;
use crate::router::budget::Budget;
use crate::router::load::Load;
use crate::router::{Router, Seat, View};

/// Settings of the processors.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bounds of the work.
    pub processors: config::Processors,
    /// The routing document in force at the start.
    pub routing: RoutingDocument,
    /// Where limits are shared with other processes.
    pub redis: config::Redis,
    /// Longest that work in flight may take after the stop.
    pub grace: Duration,
    /// Where the stop has begun before theirs, as in a process of several roles: when the grace period of all is over.
    /// Set before the stop, or never.
    pub deadline: Arc<OnceLock<Instant>>,
}

/// The models, by the names that clients may write. It is made of one routing document and never changes: a request keeps the
/// one that it began with.
#[derive(Debug)]
pub(crate) struct Models {
    /// Version of the routing document, told in every `Started`.
    pub(crate) version: String,
    names: Names,
    list: Vec<Model>,
    /// What the times of health and load count by.
    pub(crate) clock: Clock,
    /// Whether any of them chooses by the length of requests.
    pub(crate) estimates: bool,
    /// Counts what the router declines.
    pub(crate) metrics: Arc<Metrics>,
}

/// A model that clients may name.
#[derive(Debug)]
pub(crate) struct Model {
    /// Its name.
    pub(crate) name: String,
    /// Place in the configuration.
    pub(crate) place: usize,
    /// Chooses among the deployments.
    pub(crate) router: Router,
    /// In the configuration's order.
    pub(crate) deployments: Vec<Deployment>,
    /// Most attempts of one request.
    pub(crate) attempts_max: u32,
    /// How many calls may be repeated.
    pub(crate) budget: Arc<Mutex<Budget>>,
    /// Models that step in.
    pub(crate) fallbacks: Fallbacks,
    /// What becomes of a stream that is cut.
    pub(crate) on_cut: OnCut,
    /// Which requests go to the same deployment.
    pub(crate) sticky: Sticky,
    /// A model that gets copies of some requests.
    pub(crate) shadow: Option<Shadow>,
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
    /// Whether it is well.
    pub(crate) health: Arc<Health>,
    /// What it is doing.
    pub(crate) load: Arc<Load>,
    /// What it costs.
    pub(crate) price: Option<Price>,
    /// By what its gate and its health were made.
    basis: Basis,
}

/// What a deployment's gate and health are made by; equal ones live on in the next routing document, with what they have
/// learnt and whom they hold.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Basis {
    limits: config::Limits,
    health: config::Health,
}

/// The state of one deployment, for metrics and the admin API.
#[derive(Debug, Clone)]
pub(crate) struct DeploymentHealth {
    /// `provider/model`.
    pub(crate) deployment: Arc<str>,
    /// How it is.
    pub(crate) state: State,
}

impl Models {
    /// No models, for tests of what needs none.
    #[cfg(test)]
    pub(crate) fn none() -> Arc<Self> {
        Arc::new(Self {
            version: "v".into(),
            names: Names::default(),
            list: Vec::new(),
            clock: Clock::new(),
            estimates: false,
            metrics: Metrics::new(),
        })
    }

    /// The model that a client means by `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Model> {
        self.list.get(self.names.find(name)?.model)
    }

    /// The version that a client asks for by `name`.
    pub(crate) fn version<'n>(&self, name: &'n str) -> Option<&'n str> {
        self.names.find(name)?.version
    }

    fn deployment(&self, name: &str) -> Option<&Deployment> {
        let mut deployments = self.list.iter().flat_map(|model| &model.deployments);
        deployments.find(|deployment| *deployment.name == *name)
    }

    /// In the configuration's order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Model> {
        self.list.iter()
    }

    /// The gate of every deployment, each once.
    pub(crate) fn gates(&self) -> Vec<&Gate> {
        let deployments = self.list.iter().flat_map(|model| &model.deployments);
        let gates: BTreeMap<&Arc<str>, &Gate> =
            deployments.map(|one| (&one.name, &one.gate)).collect();
        gates.into_values().collect()
    }

    /// The state of every deployment, each once, by name.
    pub(crate) fn health(&self) -> Vec<DeploymentHealth> {
        let now = self.clock.now();
        let deployments = self.list.iter().flat_map(|model| &model.deployments);
        let states: BTreeMap<&Arc<str>, State> = deployments
            .map(|one| (&one.name, one.health.state(now)))
            .collect();
        states
            .into_iter()
            .map(|(name, state)| DeploymentHealth {
                deployment: Arc::clone(name),
                state,
            })
            .collect()
    }
}

impl Deployment {
    /// How it stands at `now`.
    pub(crate) fn view(&self, now: Duration) -> View {
        let in_flight = self.load.in_flight();
        View {
            standing: self.health.standing(now),
            full: usize::try_from(in_flight).unwrap_or(usize::MAX) >= self.gate.capacity(),
            in_flight,
        }
    }
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

/// The models of `document`, and who is to be asked how their deployments are. What is the same as in `before` goes on: gates,
/// health, load and retry budgets.
///
/// # Errors
/// When a key cannot be read, a client not built, a provider is not there, or a base URL leads where the document's origin may
/// not send us.
pub(crate) fn models(
    document: &RoutingDocument,
    before: Option<&Models>,
    secrets: &SecretSnapshot,
    slack: &Arc<Slack>,
    metrics: &Arc<Metrics>,
) -> Result<(Models, Vec<Watch>), Error> {
    let mut providers = HashMap::new();
    let policy = document.origin.policy();
    for (place, provider) in document.providers.iter().enumerate() {
        if let (Some(policy), ProviderKind::Http(settings)) = (policy, &provider.kind) {
            let checked = policy.check_text(&settings.base_url);
            checked.map_err(|source| Error::BaseUrl {
                place,
                provider: provider.name.clone(),
                source,
            })?;
        }
        let tools = set_up(provider, secrets, policy)?;
        providers.insert(provider.name.as_str(), (provider, tools));
    }
    // Two models may share a deployment, which has one gate, one health and one set of keys.
    let mut shared: HashMap<String, Deployment> = HashMap::new();
    let mut watches: BTreeMap<&str, Watch> = BTreeMap::new();
    let mut models = Vec::with_capacity(document.models.len());
    for (place, model) in document.models.iter().enumerate() {
        let mut own = Vec::with_capacity(model.deployments.len());
        let mut panic_threshold = 1.0_f64;
        for deployment in &model.deployments {
            let name = deployment_name(deployment);
            let unknown = || Error::UnknownProvider {
                model: model.name.clone(),
                provider: deployment.provider.clone(),
            };
            let (provider, tools) = providers
                .get(deployment.provider.as_str())
                .ok_or_else(unknown)?;
            panic_threshold = panic_threshold.min(provider.health.panic_threshold);
            let known = match shared.entry(name) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(vacant) => {
                    let basis = Basis {
                        limits: deployment.limits,
                        health: provider.health,
                    };
                    let known = before.and_then(|before| before.deployment(vacant.key()));
                    let known = known.filter(|known| known.basis == basis);
                    let name: Arc<str> = vacant.key().as_str().into();
                    let gate = || Gate::new(Arc::clone(&name), basis.limits, Arc::clone(slack));
                    let health = || Arc::new(Health::new(basis.health));
                    let one = Deployment {
                        model: deployment.model.as_str().into(),
                        adapter: tools.adapter(&deployment.model, provider.continues),
                        timeouts: None,
                        gate: known.map_or_else(gate, |known| known.gate.clone()),
                        health: known.map_or_else(health, |known| Arc::clone(&known.health)),
                        load: known.map_or_else(Arc::default, |known| Arc::clone(&known.load)),
                        name,
                        price: None,
                        basis,
                    };
                    if let Some(every) = provider.health.active_every {
                        let watch = watches.entry(&provider.name).or_insert_with(|| Watch {
                            provider: provider.name.clone(),
                            adapter: Arc::clone(&one.adapter),
                            healths: Vec::new(),
                            every,
                        });
                        watch.healths.push(Arc::clone(&one.health));
                    }
                    vacant.insert(one)
                }
            };
            own.push(Deployment {
                name: Arc::clone(&known.name),
                model: Arc::clone(&known.model),
                adapter: Arc::clone(&known.adapter),
                timeouts: tools.timeouts().map(|own| model.timeouts.over(own)),
                gate: known.gate.clone(),
                health: Arc::clone(&known.health),
                load: Arc::clone(&known.load),
                price: deployment.price,
                basis: known.basis,
            });
        }
        let seats = model.deployments.iter().map(seat).collect();
        models.push(Model {
            name: model.name.clone(),
            place,
            router: Router::new(model.strategy, seats, panic_threshold),
            deployments: own,
            attempts_max: model.attempts_max,
            budget: before
                .and_then(|before| before.list.iter().find(|known| known.name == model.name))
                .map_or_else(Arc::default, |known| Arc::clone(&known.budget)),
            fallbacks: model.fallbacks.clone(),
            on_cut: model.on_cut,
            sticky: model.sticky,
            shadow: model.shadow.clone(),
        });
    }
    let models = Models {
        version: document.version.clone(),
        names: Names::new(&document.models),
        list: models,
        // What goes on counts by it.
        clock: before.map_or_else(Clock::new, |before| before.clock),
        estimates: document.models.iter().any(|model| {
            let limited = |one: &config::Deployment| one.context_tokens.is_some();
            let priced = |one: &config::Deployment| one.price.is_some();
            // A request may ask for the strategy that needs prices.
            model
                .deployments
                .iter()
                .any(|one| limited(one) || priced(one))
        }),
        metrics: Arc::clone(metrics),
    };
    Ok((models, watches.into_values().collect()))
}

fn deployment_name(deployment: &config::Deployment) -> String {
    format!("{}/{}", deployment.provider, deployment.model)
}

fn seat(deployment: &config::Deployment) -> Seat {
    Seat {
        name: deployment_name(deployment),
        weight: deployment.weight,
        tier: deployment.tier,
        context_tokens: deployment.context_tokens,
        price: deployment.price,
        tags: deployment.tags.clone(),
        version: deployment.version.clone(),
    }
}

fn set_up<'p>(
    provider: &'p config::Provider,
    secrets: &SecretSnapshot,
    policy: Option<&Policy>,
) -> Result<Provider<'p>, Error> {
    Ok(match &provider.kind {
        ProviderKind::Http(settings) => {
            let connections = Connections::new(settings.timeouts.connect, policy.cloned());
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
    fn adapter(&self, model: &str, continues: bool) -> Arc<dyn Adapter> {
        match self {
            Self::Http {
                connections,
                settings,
                keys,
            } => {
                let wire = wire::of(settings, model);
                let connections = connections.clone();
                let base_url = &settings.base_url;
                let keys = keys.for_model();
                Arc::new(Http::new(connections, wire, keys, base_url, continues))
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
