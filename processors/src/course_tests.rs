use std::sync::Arc;

use runtime::config::{self, Health, Origin, Provider, ProviderKind, RoutingDocument};
use runtime::store::secrets::SecretSnapshot;
use schemas::request::{Endpoint, Lane};

use super::*;
use crate::config::models;
use crate::gate::{Slack, Verdict};
use crate::metrics::Metrics;

fn document(models: Vec<config::Model>) -> RoutingDocument {
    RoutingDocument {
        providers: vec![Provider {
            name: "p".into(),
            kind: ProviderKind::Scripted { script: Vec::new() },
            health: Health::default(),
            continues: false,
        }],
        models,
        version: "v".into(),
        origin: Origin::File,
    }
}

fn deployment(model: &str) -> config::Deployment {
    config::Deployment::new("p", model)
}

fn set_up(all: Vec<config::Model>) -> Models {
    let (models, _) = models(
        &document(all),
        None,
        &SecretSnapshot::none(),
        &Slack::new(10),
        &Metrics::new(),
    )
    .unwrap();
    models
}

fn course<'m>(models: &'m Models, name: &str) -> Course<'m> {
    let model = models.get(name).unwrap();
    Course::new(models, model, Endpoint::ChatCompletions, Wish::default()).unwrap()
}

#[test]
fn repeats_are_bounded_over_all_requests_of_a_model() {
    let models = set_up(vec![config::Model::new(
        "m",
        vec![deployment("a"), deployment("b")],
    )]);
    let now = Instant::now();
    let mut repeats = 0;
    for _ in 0..200 {
        let mut course = course(&models, "m");
        let first = course
            .next(0, now)
            .expect("a first attempt is always allowed");
        course.failed(first.place, Failure::passing("no"));
        repeats += u32::from(course.next(1, now).is_some());
    }
    assert_eq!(repeats, 100 + 200 / 5);
    let now = now + Duration::from_secs(11);
    let mut later = course(&models, "m");
    let first = later.next(0, now).unwrap();
    later.failed(first.place, Failure::passing("no"));
    assert!(
        later.next(1, now).is_some(),
        "what is long past does not count"
    );
}

#[test]
fn while_all_are_out_a_client_is_told_when_to_try_again() {
    let models = set_up(vec![config::Model::new("m", vec![deployment("a")])]);
    let health = &models.get("m").unwrap().deployments[0].health;
    let now = Instant::now() + Duration::from_secs(1);
    let time = models.clock.at(now);
    for _ in 0..5 {
        health.failed(time, time);
    }
    let mut refused = course(&models, "m");
    assert!(refused.next(0, now).is_none());
    let error = refused.last_word();
    assert_eq!(error.status, 503);
    let wait = error.retry_after_millis.unwrap();
    assert!((4_999..=5_000).contains(&wait), "{wait}");
    let now = now + crate::health::TRIAL_EVERY;
    let mut trial = course(&models, "m");
    assert!(trial.next(0, now).is_some(), "one is let through");
    assert!(course(&models, "m").next(0, now).is_none(), "and no other");
    assert_eq!(models.get("m").unwrap().deployments[0].load.in_flight(), 0);
}

#[test]
fn every_model_has_one_turn_and_attempts_are_bounded_over_all() {
    let mut all: Vec<config::Model> = ["a", "b", "c"]
        .iter()
        .map(|name| config::Model::new(*name, vec![deployment(name)]))
        .collect();
    for model in &mut all {
        model.fallbacks.error = vec!["c".into(), "a".into(), "b".into()];
        model.attempts_max = 6;
    }
    let models = set_up(all);
    let mut course = course(&models, "a");
    let mut called = Vec::new();
    while let Some(turn) = course.next(called.len(), Instant::now()) {
        called.push(turn.deployment.name.to_string());
        course.failed(turn.place, Failure::passing("no"));
    }
    assert_eq!(called, ["p/a", "p/c", "p/b", "p/b", "p/b", "p/b"]);
}

#[test]
fn a_call_is_in_flight_as_long_as_its_turn() {
    let models = set_up(vec![config::Model::new("m", vec![deployment("a")])]);
    let load = &models.get("m").unwrap().deployments[0].load;
    let mut course = course(&models, "m");
    let turn = course.next(0, Instant::now());
    assert_eq!(load.in_flight(), 1);
    drop(turn);
    assert_eq!(load.in_flight(), 0);
}

#[tokio::test]
async fn a_deployment_is_full_at_what_it_bears_and_not_at_what_it_may_take() {
    let adaptive = |name: &str, adaptive: bool| {
        let mut one = deployment(name);
        one.limits.concurrency = Some(10);
        one.limits.adaptive = adaptive;
        one
    };
    let deployments = vec![adaptive("a", true), adaptive("b", false)];
    let models = set_up(vec![config::Model::new("m", deployments)]);
    let deployments = &models.get("m").unwrap().deployments;
    let is_full = |place: usize| deployments[place].view(models.clock.now()).full;
    let mut calls = Vec::new();
    for deployment in deployments {
        calls.extend((0..7).map(|_| deployment.load.enter()));
    }
    assert!(!is_full(0) && !is_full(1));
    for deployment in deployments {
        let permit = deployment.gate.enter(Lane::Interactive, "t", 1).await;
        permit.end(Verdict::PushedBack);
    }
    assert!(is_full(0), "it pushed back and bears 7");
    assert!(!is_full(1));
}

#[test]
fn what_is_the_same_in_the_next_document_goes_on_and_the_rest_begins_anew() {
    let model = |name: &str, deployments| config::Model::new(name, deployments);
    let make = |before: Option<&Models>, all| {
        let (slack, metrics) = (Slack::new(10), Metrics::new());
        let secrets = SecretSnapshot::none();
        let (models, _) = models(&document(all), before, &secrets, &slack, &metrics).unwrap();
        models
    };
    let before = make(
        None,
        vec![model("m", vec![deployment("a"), deployment("b")])],
    );
    let mut other = deployment("b");
    other.limits.concurrency = Some(7);
    let after = make(
        Some(&before),
        vec![
            model("n", vec![deployment("c")]),
            model("m", vec![other, deployment("a")]),
        ],
    );
    let of = |models: &'_ Models, name: &str, place: usize| {
        let one = &models.get(name).unwrap().deployments[place];
        (Arc::clone(&one.health), Arc::clone(&one.load))
    };
    let is_same = |one: &(Arc<_>, Arc<_>), other: &(Arc<_>, Arc<_>)| {
        Arc::ptr_eq(&one.0, &other.0) && Arc::ptr_eq(&one.1, &other.1)
    };
    assert!(is_same(&of(&before, "m", 0), &of(&after, "m", 1)), "a");
    assert!(!is_same(&of(&before, "m", 1), &of(&after, "m", 0)), "b");
    let budgets = [&before, &after].map(|models| Arc::clone(&models.get("m").unwrap().budget));
    assert!(Arc::ptr_eq(&budgets[0], &budgets[1]));
    let now = Instant::now();
    assert_eq!(before.clock.at(now), after.clock.at(now));
}
