//! Models, deployments and health.

use super::super::resolve::{ON_CUT, PROBES, STICKY};
use super::super::{Deployment, Health, Model, Price, STRATEGIES, Shadow};
use super::{Node, duration, list, map, number, optional, text, word};

pub(super) fn model(model: &Model) -> Node {
    let fallbacks = &model.fallbacks;
    let timeouts = model.timeouts;
    map([
        ("name", text(&model.name)),
        ("aliases", list(&model.aliases, |one| text(one))),
        ("strategy", word(model.strategy, &STRATEGIES)),
        ("attempts_max", number(model.attempts_max)),
        (
            "timeouts",
            map([
                ("first_token", optional(timeouts.first_token, duration)),
                ("idle", optional(timeouts.idle, duration)),
                ("total", optional(timeouts.total, duration)),
            ]),
        ),
        (
            "fallbacks",
            map([
                ("error", list(&fallbacks.error, |one| text(one))),
                (
                    "context_length",
                    list(&fallbacks.context_length, |one| text(one)),
                ),
                (
                    "content_policy",
                    list(&fallbacks.content_policy, |one| text(one)),
                ),
            ]),
        ),
        ("on_cut", word(model.on_cut, &ON_CUT)),
        ("sticky", word(model.sticky, &STICKY)),
        ("shadow", optional(model.shadow.as_ref(), shadow)),
        ("deployments", list(&model.deployments, deployment)),
    ])
}

fn shadow(shadow: &Shadow) -> Node {
    map([
        ("model", text(&shadow.model)),
        ("share", Node::Decimal(shadow.share)),
    ])
}

fn deployment(deployment: &Deployment) -> Node {
    let limits = &deployment.limits;
    map([
        ("provider", text(&deployment.provider)),
        ("model", text(&deployment.model)),
        ("weight", number(deployment.weight)),
        ("tier", number(deployment.tier)),
        (
            "context_tokens",
            optional(deployment.context_tokens, number),
        ),
        ("price", optional(deployment.price.as_ref(), price)),
        (
            "limits",
            map([
                ("concurrency", optional(limits.concurrency, number)),
                ("adaptive", Node::Bool(limits.adaptive)),
                (
                    "requests_per_minute",
                    optional(limits.requests_per_minute, number),
                ),
                (
                    "tokens_per_minute",
                    optional(limits.tokens_per_minute, number),
                ),
            ]),
        ),
        ("tags", list(&deployment.tags, |one| text(one))),
        ("version", optional(deployment.version.as_ref(), text)),
    ])
}

fn price(price: &Price) -> Node {
    let dollars = |nanos: i64| Node::Decimal(nanos as f64 / 1e9);
    map([
        ("input", dollars(price.input)),
        ("cached_input", dollars(price.cached_input)),
        ("output", dollars(price.output)),
    ])
}

pub(super) fn health(health: &Health) -> Node {
    map([
        (
            "active",
            map([
                ("every", optional(health.active_every, duration)),
                ("probe", word(health.probe, &PROBES)),
            ]),
        ),
        ("failures_in_a_row", number(health.failures_in_a_row)),
        ("error_ratio", Node::Decimal(health.error_ratio)),
        ("window", duration(health.window)),
        ("rest", duration(health.rest)),
        ("panic_threshold", Node::Decimal(health.panic_threshold)),
    ])
}
