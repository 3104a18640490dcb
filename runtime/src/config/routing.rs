//! Models, their deployments, and by what rules one of them is chosen.

use std::time::Duration;

use super::TimeoutsOver;

/// Most deployments of one model.
pub const DEPLOYMENTS_MAX: usize = 256;

/// One of `models`.
#[derive(Debug, Clone)]
pub struct Model {
    /// What clients write as `model`; may contain `/`, no `*`.
    pub name: String,
    /// Other names of it; `*` stands for any text.
    pub aliases: Vec<String>,
    /// How a deployment is chosen. Default weighted.
    pub strategy: Strategy,
    /// At least one, at most [`DEPLOYMENTS_MAX`].
    pub deployments: Vec<Deployment>,
    /// Most attempts of one request, over all deployments and fallbacks. Default 3.
    pub attempts_max: u32,
    /// In place of the providers'.
    pub timeouts: TimeoutsOver,
    /// Models that step in.
    pub fallbacks: Fallbacks,
    /// What becomes of a stream that is cut after its first token. Default error.
    pub on_cut: OnCut,
    /// Which requests go to the same deployment. Default none.
    pub sticky: Sticky,
    /// A model that gets a copy of some requests; its answers reach no client.
    pub shadow: Option<Shadow>,
}

impl Model {
    /// A model with the defaults.
    pub fn new(name: impl Into<String>, deployments: Vec<Deployment>) -> Self {
        Self {
            name: name.into(),
            aliases: Vec::new(),
            strategy: Strategy::Weighted,
            deployments,
            attempts_max: 3,
            timeouts: TimeoutsOver::default(),
            fallbacks: Fallbacks::default(),
            on_cut: OnCut::Error,
            sticky: Sticky::None,
            shadow: None,
        }
    }
}

/// How one of several deployments that are ready is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// One after the other.
    RoundRobin,
    /// By weight, exact over a cycle.
    Weighted,
    /// The one with the fewest calls in flight for its weight.
    LeastInFlight,
    /// The better of two at random, by a decaying average of the time to the first token.
    Latency,
    /// The one that is cheapest for this request.
    Cost,
    /// The first in the configuration's order.
    Priority,
}

/// The words for strategies.
pub const STRATEGIES: [(&str, Strategy); 6] = [
    ("round_robin", Strategy::RoundRobin),
    ("weighted", Strategy::Weighted),
    ("least_in_flight", Strategy::LeastInFlight),
    ("latency", Strategy::Latency),
    ("cost", Strategy::Cost),
    ("priority", Strategy::Priority),
];

/// Models that step in, in order, by what went wrong with the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fallbacks {
    /// No deployment of it answered.
    pub error: Vec<String>,
    /// The request is too long for it.
    pub context_length: Vec<String>,
    /// Its provider refused the content.
    pub content_policy: Vec<String>,
}

/// What becomes of a stream that is cut after its first token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCut {
    /// The client gets an error.
    Error,
    /// Another deployment goes on with the text so far, where one can.
    Continue,
}

/// Which requests go to the same deployment as long as it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sticky {
    /// None.
    None,
    /// Those of one end user, as the body names it.
    User,
    /// Those whose messages begin alike.
    Prefix,
}

/// A model that gets a copy of some requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Shadow {
    /// Its name.
    pub model: String,
    /// Share of the requests, 0 to 1.
    pub share: f64,
}

/// One of a model's deployments.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// Name of the provider.
    pub provider: String,
    /// Model name at the provider.
    pub model: String,
    /// Share of the calls, relative to the others. Default 1.
    pub weight: u32,
    /// Lower tiers first; the next one only when nobody of a tier is ready. Default 1.
    pub tier: u32,
    /// Most tokens of prompt and answer together; none: not checked.
    pub context_tokens: Option<i64>,
    /// What it costs; none: not known.
    pub price: Option<Price>,
    /// What it takes.
    pub limits: Limits,
    /// Marks by which requests can ask for it.
    pub tags: Vec<String>,
    /// Version by which requests can ask for it.
    pub version: Option<String>,
}

impl Deployment {
    /// A deployment with the defaults.
    pub fn new(provider: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            provider: provider.into(),
            model: model.into(),
            weight: 1,
            tier: 1,
            context_tokens: None,
            price: None,
            limits: Limits::default(),
            tags: Vec::new(),
            version: None,
        }
    }
}

/// What one deployment takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Calls at once from all processes; none: no limit but [`Limits::CONCURRENCY_MAX`] from each.
    pub concurrency: Option<usize>,
    /// Whether a process makes fewer calls at once while the provider pushes back. Default false.
    pub adaptive: bool,
    /// Calls a minute from all processes; none: no limit.
    pub requests_per_minute: Option<u64>,
    /// Tokens of prompts and answers a minute from all processes; none: no limit.
    pub tokens_per_minute: Option<u64>,
}

impl Limits {
    /// Calls at once from one process where nothing is configured.
    pub const CONCURRENCY_MAX: usize = 1_000;

    /// Whether processes share any of them.
    #[must_use]
    pub fn are_shared(&self) -> bool {
        self.concurrency.is_some()
            || self.requests_per_minute.is_some()
            || self.tokens_per_minute.is_some()
    }
}

/// What tokens cost, in nano-dollars per million tokens: 2.5 dollars are 2,500,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// Tokens of the prompt.
    pub input: i64,
    /// Tokens of the prompt that came from the provider's cache.
    pub cached_input: i64,
    /// Tokens of the answer.
    pub output: i64,
}

/// `providers[].health`: when a deployment is taken out, and when it comes back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// So often each provider is asked whether it is there; none: never.
    pub active_every: Option<Duration>,
    /// What it is asked.
    pub probe: Probe,
    /// So many failures in a row take a deployment out. Default 5.
    pub failures_in_a_row: u32,
    /// So large a share of failures in the window takes it out, 0 to 1. Default 0.5.
    pub error_ratio: f64,
    /// How far back the share of failures looks. Default 30 s.
    pub window: Duration,
    /// How long it is out at first; longer when it fails again and again. Default 5 s.
    pub rest: Duration,
    /// When more than this share of a model's deployments is out, those are called too as soon as the others are
    /// full, 0 to 1. Default 0.5.
    pub panic_threshold: f64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            active_every: None,
            probe: Probe::Models,
            failures_in_a_row: 5,
            error_ratio: 0.5,
            window: Duration::from_secs(30),
            rest: Duration::from_secs(5),
            panic_threshold: 0.5,
        }
    }
}

/// What a provider is asked to see whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// The list of its models.
    Models,
}
