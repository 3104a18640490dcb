//! Where requests go: other deployments, other models, and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use processors::Settings;
use runtime::config::{Deployment, Model, OnCut, Price, Shadow, Strategy};
use schemas::attribute::{DEPLOYMENT, GUARDED, TAGS};
use schemas::fold::{End, Fold, Step};
use schemas::request::Request;
use schemas::topic;

use crate::rig::{Answer, Rig, request, settings};
use crate::upstream::{
    Act, Call, Upstream, answer, done, finish, response, stream_head, token, usage,
};

fn refusal(code: &str) -> Vec<Act> {
    let text =
        format!(r#"{{"error":{{"message":"no","type":"invalid_request_error","code":"{code}"}}}}"#);
    vec![response(400, "application/json", "", &text)]
}

fn failure() -> Vec<Act> {
    vec![response(503, "text/plain", "", "")]
}

/// Model `m` at the first provider, and `other` at the second.
fn two_models(urls: &[&str]) -> Settings {
    let mut settings = settings(urls);
    settings.routing.models[0].deployments.truncate(1);
    let other = Model::new("other", vec![Deployment::new("p1", "m1")]);
    settings.routing.models.push(other);
    settings
}

fn with(mut request: Request, attributes: &[(&str, &str)]) -> Request {
    for (name, value) in attributes {
        request
            .attributes
            .insert((*name).to_owned(), (*value).to_owned());
    }
    request
}

fn deployments(answer: &Answer) -> Vec<&str> {
    let attempts = answer.terminal().attempts.iter();
    attempts
        .map(|attempt| attempt.deployment.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_steps_in_for_each_reason_that_is_configured() {
    for (bad, list) in [
        (failure as fn() -> Vec<Act>, "error"),
        (|| refusal("context_length_exceeded"), "context_length"),
        (|| refusal("content_policy_violation"), "content_policy"),
    ] {
        let first = Upstream::start(move |_| bad()).await;
        let second = Upstream::start(|_| answer("from the other")).await;
        let rig = Rig::new().await;
        let mut settings = two_models(&[&first.url, &second.url]);
        let fallbacks = &mut settings.routing.models[0].fallbacks;
        match list {
            "error" => fallbacks.error = vec!["other".into()],
            "context_length" => fallbacks.context_length = vec!["other".into()],
            _ => fallbacks.content_policy = vec!["other".into()],
        }
        let _processors = rig.start(settings);
        let answer = rig.answer(rig.submit(&request(false)).await).await;
        assert_eq!(deployments(&answer), ["p0/m0", "p1/m1"], "{list}");
        assert_eq!(answer.fold.end, Some(End::Completed), "{list}");
        assert_eq!(first.calls(), 1, "{list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_without_a_list_for_it_goes_to_the_client() {
    let first = Upstream::start(|_| refusal("content_policy_violation")).await;
    let second = Upstream::start(|_| answer("no")).await;
    let rig = Rig::new().await;
    let mut settings = two_models(&[&first.url, &second.url]);
    settings.routing.models[0].fallbacks.error = vec!["other".into()];
    settings.routing.models[0].fallbacks.context_length = vec!["other".into()];
    let _processors = rig.start(settings);
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(answer.terminal().status, 400);
    assert_eq!(second.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_stand_in_for_each_other_end_at_the_attempts_allowed() {
    let first = Upstream::start(|_| failure()).await;
    let second = Upstream::start(|_| failure()).await;
    let rig = Rig::new().await;
    let mut settings = two_models(&[&first.url, &second.url]);
    settings.routing.models[0].fallbacks.error = vec!["other".into()];
    settings.routing.models[1].fallbacks.error = vec!["m".into()];
    let _processors = rig.start(settings);
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(answer.code(), "upstream_failed");
    assert_eq!(deployments(&answer), ["p0/m0", "p1/m1", "p1/m1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_long_goes_where_it_fits_and_else_the_provider_decides() {
    let first = Upstream::start(|_| answer("short")).await;
    let second = Upstream::start(|_| answer("long")).await;
    let rig = Rig::new().await;
    let mut settings = two_models(&[&first.url, &second.url]);
    settings.routing.models[0].deployments[0].context_tokens = Some(5);
    settings.routing.models[0].fallbacks.context_length = vec!["other".into()];
    let mut alone = settings.routing.models[0].clone();
    alone.name = "alone".into();
    alone.fallbacks.context_length.clear();
    settings.routing.models.push(alone);
    let _processors = rig.start(settings);
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(deployments(&answer), ["p1/m1"]);
    let alone = Request {
        model: "alone".into(),
        ..request(false)
    };
    let answer = rig.answer(rig.submit(&alone).await).await;
    assert_eq!(deployments(&answer), ["p0/m0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_choose_by_alias_version_tags_and_name() {
    let first = Upstream::start(|_| answer("first")).await;
    let second = Upstream::start(|_| answer("second")).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&first.url, &second.url]);
    settings.routing.models[0].aliases = vec!["m-*".into()];
    settings.routing.models[0].strategy = Strategy::Priority;
    settings.routing.models[0].deployments[1].tags = vec!["eu".into()];
    settings.routing.models[0].deployments[1].version = Some("2".into());
    let _processors = rig.start(settings);
    let named = |name: &str| Request {
        model: name.into(),
        ..request(false)
    };
    for (asked, expected) in [
        (named("m-latest"), "p0/m0"),
        (named("m@2"), "p1/m1"),
        (with(request(false), &[(TAGS, "eu")]), "p1/m1"),
        (with(request(false), &[(DEPLOYMENT, "p1/m1")]), "p1/m1"),
    ] {
        let answer = rig.answer(rig.submit(&asked).await).await;
        assert_eq!(deployments(&answer), [expected]);
    }
    for asked in [named("m@3"), with(request(false), &[(TAGS, "us")])] {
        let answer = rig.answer(rig.submit(&asked).await).await;
        assert_eq!(answer.terminal().status, 400);
        assert!(answer.terminal().attempts.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_deployment_is_taken_out_and_its_clients_see_nothing() {
    let first = Upstream::start(|_| failure()).await;
    let second = Upstream::start(|_| answer("ok")).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&first.url, &second.url]);
    settings.routing.providers[0].health.failures_in_a_row = 3;
    settings.routing.providers[0].health.rest = Duration::from_secs(600);
    let _processors = rig.start(settings);
    for _ in 0..6 {
        let answer = rig.answer(rig.submit(&request(false)).await).await;
        assert_eq!(answer.fold.end, Some(End::Completed));
    }
    assert_eq!(first.calls(), 3);
    assert_eq!(second.calls(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_all_are_out_clients_are_told_at_once_and_recovery_is_found() {
    let is_back = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&is_back);
    let script = move |_: &Call| {
        if flag.load(Ordering::SeqCst) {
            answer("back")
        } else {
            failure()
        }
    };
    let upstream = Upstream::start(script).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&upstream.url]);
    settings.routing.providers[0].health.failures_in_a_row = 3;
    settings.routing.providers[0].health.rest = Duration::from_secs(600);
    let _processors = rig.start(settings);
    let mut refused = None;
    for _ in 0..100 {
        let answer = rig.answer(rig.submit(&request(false)).await).await;
        if answer.code() == "upstream_unavailable" {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.code(), "upstream_failed");
    }
    let refused = refused.expect("a refusal without a call");
    let terminal = refused.terminal();
    assert_eq!(terminal.status, 503);
    assert!(terminal.attempts.is_empty());
    let error = terminal.error.as_ref().unwrap();
    assert!(error.retry_after_millis.unwrap() >= 1_000);
    // No rest is waited for when there is nobody else.
    is_back.store(true, Ordering::SeqCst);
    loop {
        let answer = rig.answer(rig.submit(&request(false)).await).await;
        if answer.fold.end == Some(End::Completed) {
            break;
        }
    }
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(answer.fold.end, Some(End::Completed), "all of it is back");
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_take_out_a_provider_that_is_not_there() {
    let script = |call: &Call| {
        if call.head.starts_with("GET /v1/models ") {
            failure()
        } else {
            answer("first")
        }
    };
    let mut first = Upstream::start(script).await;
    let second = Upstream::start(|_| answer("second")).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&first.url, &second.url]);
    let health = &mut settings.routing.providers[0].health;
    health.active_every = Some(Duration::from_millis(100));
    health.failures_in_a_row = 2;
    health.rest = Duration::from_secs(600);
    let _processors = rig.start(settings);
    for _ in 0..3 {
        // The third begins when the second has been judged.
        let probe = first.call().await;
        assert!(probe.head.to_lowercase().contains("authorization: bearer"));
    }
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(deployments(&answer), ["p1/m1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_stream_shows_only_the_answer_that_became_whole() {
    let first = Upstream::start(|_| vec![stream_head(), token("void"), Act::Close]).await;
    let second = Upstream::start(|_| {
        vec![
            stream_head(),
            token("wh"),
            token("ole"),
            finish(),
            done(),
            Act::Close,
        ]
    })
    .await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&first.url, &second.url]));
    let guarded = with(request(true), &[(GUARDED, "true")]);
    let answer = rig.answer(rig.submit(&guarded).await).await;
    assert_eq!(answer.fold.end, Some(End::Completed));
    assert_eq!(answer.text(), "whole");
    assert_eq!(deployments(&answer), ["p0/m0", "p1/m1"]);
    let first = &answer.terminal().attempts[0];
    assert_eq!(
        first.error.as_ref().unwrap().code.as_deref(),
        Some("upstream_cut")
    );
    assert!(first.first_token_micros.is_some());
    assert_eq!(answer.body()["choices"][0]["message"]["content"], "whole");
}

/// A first provider that cuts after `Hel`, and a second with `rest`; the model continues.
async fn cut(
    rig: &Rig,
    continues: bool,
    rest: impl Fn(&Call) -> Vec<Act> + Send + Sync + 'static,
) -> (Answer, Upstream) {
    let first = Upstream::start(|_| vec![stream_head(), token("Hel"), Act::Close]).await;
    let second = Upstream::start(rest).await;
    let mut settings = settings(&[&first.url, &second.url]);
    settings.routing.providers[1].continues = continues;
    settings.routing.models[0].on_cut = OnCut::Continue;
    settings.routing.models[0].deployments[0].price = Some(Price {
        input: 1_000_000_000,
        cached_input: 1_000_000_000,
        output: 1_000_000_000,
    });
    let processors = rig.start(settings);
    let answer = rig.answer(rig.submit(&request(true)).await).await;
    drop(processors);
    (answer, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_stream_goes_on_elsewhere_with_the_text_so_far() {
    let rig = Rig::new().await;
    let rest = |_: &Call| {
        vec![
            stream_head(),
            token("lo"),
            finish(),
            usage(),
            done(),
            Act::Close,
        ]
    };
    let (answer, mut second) = cut(&rig, true, rest).await;
    assert_eq!(answer.fold.end, Some(End::Completed));
    assert_eq!(answer.text(), "Hello");
    assert_eq!(answer.body()["choices"][0]["message"]["content"], "Hello");
    let call = second.call().await;
    let messages = call.body["messages"].as_array().unwrap();
    assert_eq!(messages.last().unwrap()["role"], "assistant");
    assert_eq!(messages.last().unwrap()["content"], "Hel");
    // What was appended again because its append was not confirmed in time does not count.
    let mut fold = Fold::default();
    let seams: Vec<_> = answer
        .records
        .iter()
        .flatten()
        .filter_map(|event| match fold.apply(event) {
            Step::Started { started, replaces } => Some((started.continues_from, replaces)),
            _ => None,
        })
        .collect();
    assert_eq!(seams, [(None, false), (Some(1), false)]);
    let attempts = &answer.terminal().attempts;
    assert_eq!(attempts.len(), 2);
    let partial = attempts[0].usage.expect("what came is metered");
    assert!(partial.estimated);
    assert_eq!(
        attempts[0].cost_nanos,
        Some((partial.prompt_tokens + partial.completion_tokens) * 1_000)
    );
    assert_eq!(answer.terminal().cost_nanos, attempts[0].cost_nanos);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_stream_that_nobody_can_continue_is_an_error_with_what_came() {
    let rig = Rig::new().await;
    let (answer, second) = cut(&rig, false, |_: &Call| panic!("it cannot continue")).await;
    assert_eq!(answer.code(), "upstream_cut");
    assert_eq!(answer.text(), "Hel");
    assert_eq!(second.calls(), 0);
    assert!(answer.terminal().partial);
    assert!(answer.terminal().usage.unwrap().estimated);
    let (answer, second) = cut(&rig, true, |_: &Call| refusal("invalid_prefix")).await;
    assert_eq!(
        answer.code(),
        "upstream_cut",
        "a refused prefix is the cut's error"
    );
    assert_eq!(answer.text(), "Hel");
    assert_eq!(second.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_gets_a_copy_and_its_answer_is_marked() {
    let first = Upstream::start(|_| answer("for the client")).await;
    let mut second = Upstream::start(|_| answer("for nobody")).await;
    let rig = Rig::new().await;
    let mut settings = two_models(&[&first.url, &second.url]);
    let shadow = |model: &str| {
        Some(Shadow {
            model: model.into(),
            share: 1.0,
        })
    };
    settings.routing.models[0].shadow = shadow("other");
    // A copy is not copied again.
    settings.routing.models[1].shadow = shadow("m");
    let _processors = rig.start(settings);
    let id = rig.submit(&request(false)).await;
    let answer = rig.answer(id).await;
    assert_eq!(deployments(&answer), ["p0/m0"]);
    assert_eq!(second.call().await.body["model"], "m1");
    let copy = rig.shadow_of(id).await;
    assert_eq!(copy.lane.topic(), topic::REQUESTS_BACKGROUND);
    assert_eq!(copy.model, "other");
    let told = rig.answer(copy.id).await;
    assert_eq!(deployments(&told), ["p1/m1"]);
    assert_eq!((first.calls(), second.calls()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_and_requests_have_their_cost() {
    let first = Upstream::start(|_| failure()).await;
    let second = Upstream::start(|_| answer("ok")).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&first.url, &second.url]);
    let price = Price {
        input: 2_500_000_000,
        cached_input: 0,
        output: 10_000_000_000,
    };
    for deployment in &mut settings.routing.models[0].deployments {
        deployment.price = Some(price);
    }
    let _processors = rig.start(settings);
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    let terminal = answer.terminal();
    assert_eq!(terminal.attempts[0].cost_nanos, None, "it used no tokens");
    // 7 tokens of the prompt and 3 of the answer.
    assert_eq!(terminal.attempts[1].cost_nanos, Some(47_500));
    assert_eq!(terminal.cost_nanos, Some(47_500));
}
