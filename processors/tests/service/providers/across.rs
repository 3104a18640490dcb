//! Models whose deployments speak different dialects.

use std::time::Duration;

use runtime::config::{Api, TimeoutsOver};
use schemas::fold::End;
use schemas::request::Endpoint;
use serde_json::json;

use super::{chat, whole};
use crate::rig::{Rig, asks, request, settings, speaks};
use crate::upstream::{Act, Upstream, answer, done, finish, response, stream_head, token};

#[tokio::test(flavor = "multi_thread")]
async fn failover_crosses_dialects_unseen() {
    let overloaded = include_str!("../../../../schemas/fixtures/anthropic/errors/529.json");
    let first =
        Upstream::start(move |_| vec![response(529, "application/json", "", overloaded)]).await;
    let second =
        Upstream::start(|_| vec![stream_head(), token("ok"), finish(), done(), Act::Close]).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&first.url, &second.url]);
    speaks(&mut settings, 0, Api::Anthropic);
    let _processors = rig.start(settings);
    let answer = rig.answer(rig.submit(&request(true)).await).await;
    assert_eq!(answer.fold.end, Some(End::Completed));
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.terminal().deployment.as_deref(), Some("p1/m1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_deployment_cannot_say_goes_to_the_next() {
    let first = Upstream::start(|_| vec![Act::Close]).await;
    let second = Upstream::start(|_| answer("from the second")).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&first.url, &second.url]);
    speaks(&mut settings, 0, Api::Anthropic);
    let _processors = rig.start(settings);
    let answer = rig.answer(rig.submit(&chat(json!({"n": 2}))).await).await;
    assert_eq!(answer.fold.end, Some(End::Completed));
    assert_eq!(first.calls(), 0);
    let attempts = &answer.terminal().attempts;
    let error = attempts[0].error.as_ref().unwrap();
    assert_eq!(error.param.as_deref(), Some("n"), "the time line tells why");
    assert_eq!(attempts[0].status, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_deployment_cannot_say_it_hides_no_failure_of_another() {
    let first = Upstream::start(|_| vec![Act::Close]).await;
    let second = Upstream::start(|_| vec![response(503, "text/plain", "", "")]).await;
    for order in [[0, 1], [1, 0]] {
        let urls = [&first.url, &second.url].map(String::as_str);
        let rig = Rig::new().await;
        let mut settings = settings(&order.map(|index| urls[index]));
        let strict = order.iter().position(|index| *index == 0).unwrap();
        speaks(&mut settings, strict, Api::Anthropic);
        let _processors = rig.start(settings);
        let answer = rig.answer(rig.submit(&chat(json!({"n": 2}))).await).await;
        assert_eq!(answer.code(), "upstream_failed", "order {order:?}");
    }
    assert_eq!(first.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn deployments_that_do_not_serve_an_operation_are_passed_over() {
    let vectors = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1]}],"model":"e"}"#;
    let first = Upstream::start(|_| vec![Act::Close]).await;
    let second = Upstream::start(move |_| whole(vectors)).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&first.url, &second.url]);
    speaks(&mut settings, 0, Api::Anthropic);
    let _processors = rig.start(settings);
    let embed = asks(Endpoint::Embeddings, json!({"input": "hi"}));
    let answer = rig.answer(rig.submit(&embed).await).await;
    assert_eq!(answer.fold.end, Some(End::Completed));
    assert_eq!(answer.terminal().attempts.len(), 1);
    assert!(answer.terminal().usage.unwrap().estimated, "it told none");
    assert_eq!(first.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_has_time_outs_of_its_own() {
    let silent = Upstream::start(|_| vec![Act::Hang]).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&silent.url]);
    crate::rig::timeouts(&mut settings).total = Duration::from_secs(60);
    settings.routing.models[0].timeouts = TimeoutsOver {
        total: Some(Duration::from_millis(200)),
        ..TimeoutsOver::default()
    };
    let _processors = rig.start(settings);
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(answer.code(), "upstream_timeout");
}
