//! Models, deployments and health.

use std::time::Duration;

use super::super::reader::Section;
use super::super::{
    Deployment, Fallbacks, Health, Limits, Model, OnCut, Price, Probe, STRATEGIES, Shadow, Sticky,
    Strategy, TimeoutsOver,
};
use super::COUNT_MAX;

pub(in super::super) const ON_CUT: [(&str, OnCut); 2] =
    [("error", OnCut::Error), ("continue", OnCut::Continue)];
pub(in super::super) const STICKY: [(&str, Sticky); 3] = [
    ("none", Sticky::None),
    ("user", Sticky::User),
    ("prefix", Sticky::Prefix),
];
pub(in super::super) const PROBES: [(&str, Probe); 1] = [("models", Probe::Models)];

/// Nano-dollars in a dollar.
const NANOS: f64 = 1e9;
/// Dearer than any model, in dollars per million tokens.
const PRICE_MAX: f64 = 1e6;

pub(super) fn model(mut section: Section<'_>) -> Model {
    let name = section.required("name").unwrap_or_default();
    let aliases = section.or("aliases", Vec::new());
    let strategy = section
        .word("strategy", &STRATEGIES)
        .unwrap_or(Strategy::Weighted);
    let attempts_max = section.number("attempts_max", 1..=100).unwrap_or(3);
    let mut lists = section.section("fallbacks");
    let fallbacks = Fallbacks {
        error: lists.or("error", Vec::new()),
        context_length: lists.or("context_length", Vec::new()),
        content_policy: lists.or("content_policy", Vec::new()),
    };
    lists.finish();
    let mut timeouts = section.section("timeouts");
    let timeouts_read = TimeoutsOver {
        first_token: timeouts.some_duration("first_token"),
        idle: timeouts.some_duration("idle"),
        total: timeouts.some_duration("total"),
    };
    timeouts.finish();
    let deployments = section.list("deployments");
    let model = Model {
        name,
        aliases,
        strategy,
        deployments: deployments.into_iter().map(deployment).collect(),
        attempts_max,
        timeouts: timeouts_read,
        fallbacks,
        on_cut: section.word("on_cut", &ON_CUT).unwrap_or(OnCut::Error),
        sticky: section.word("sticky", &STICKY).unwrap_or(Sticky::None),
        shadow: shadow(section.section("shadow")),
    };
    section.finish();
    model
}

fn shadow(mut section: Section<'_>) -> Option<Shadow> {
    let share = section.decimal("share", 0.0, 1.0);
    let model: Option<String> = if share.is_some() {
        section.required("model")
    } else {
        section.optional("model")
    };
    section.finish();
    model.map(|model| Shadow {
        model,
        share: share.unwrap_or(0.01),
    })
}

fn deployment(mut section: Section<'_>) -> Deployment {
    let mut limits = section.section("limits");
    let limits_read = Limits {
        concurrency: limits.number("concurrency", 1..=COUNT_MAX),
        adaptive: limits.or("adaptive", false),
        requests_per_minute: limits.number("requests_per_minute", 1..=i64::MAX),
        tokens_per_minute: limits.number("tokens_per_minute", 1..=i64::MAX),
    };
    limits.finish();
    let deployment = Deployment {
        provider: section.required("provider").unwrap_or_default(),
        model: section.required("model").unwrap_or_default(),
        weight: section.number("weight", 1..=1_000_000).unwrap_or(1),
        tier: section.number("tier", 0..=1_000).unwrap_or(1),
        context_tokens: section.number("context_tokens", 1..=COUNT_MAX),
        price: price(section.section("price")),
        limits: limits_read,
        tags: section.or("tags", Vec::new()),
        version: section.optional("version"),
    };
    section.finish();
    deployment
}

fn price(mut section: Section<'_>) -> Option<Price> {
    let mut dollars = |name| {
        let dollars = section.decimal(name, 0.0, PRICE_MAX)?;
        // Within bounds, so that it fits; below a nano-dollar nothing is said.
        Some((dollars * NANOS).round() as i64)
    };
    let (input, cached_input, output) =
        (dollars("input"), dollars("cached_input"), dollars("output"));
    let price = match (input, output) {
        (None, None) => {
            if cached_input.is_some() {
                section.fault(
                    "cached_input",
                    "this alone is no price",
                    "write input and output too",
                );
            }
            None
        }
        (Some(input), Some(output)) => Some(Price {
            input,
            cached_input: cached_input.unwrap_or(input),
            output,
        }),
        (Some(_), None) => {
            section.fault(
                "output",
                "this is missing",
                "write dollars per million tokens, for example 10",
            );
            None
        }
        (None, Some(_)) => {
            section.fault(
                "input",
                "this is missing",
                "write dollars per million tokens, for example 2.5",
            );
            None
        }
    };
    section.finish();
    price
}

pub(super) fn health(mut section: Section<'_>) -> Health {
    let default = Health::default();
    let mut active = section.section("active");
    let active_every: Option<Duration> = active.optional("every");
    if active_every.is_some_and(|every| every < Duration::from_millis(100)) {
        active.fault(
            "every",
            "a provider would see little else",
            "write for example 10s",
        );
    }
    let probe = active.word("probe", &PROBES).unwrap_or(default.probe);
    active.finish();
    let health = Health {
        active_every,
        probe,
        failures_in_a_row: section
            .number("failures_in_a_row", 1..=1_000_000)
            .unwrap_or(default.failures_in_a_row),
        error_ratio: section
            .decimal("error_ratio", 0.01, 1.0)
            .unwrap_or(default.error_ratio),
        window: section.duration("window", default.window),
        rest: section.duration("rest", default.rest),
        panic_threshold: section
            .decimal("panic_threshold", 0.0, 1.0)
            .unwrap_or(default.panic_threshold),
    };
    section.finish();
    health
}
