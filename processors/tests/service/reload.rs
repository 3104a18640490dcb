//! Routing documents that change while requests are worked on.

use std::sync::Arc;

use runtime::config::{Deployment, Model, RoutingDocument};
use schemas::fold::End;
use tokio::sync::Notify;

use crate::rig::{Answer, Processors, Rig, request, settings};
use crate::upstream::{Act, Call, Upstream, answer};

fn put(processors: &Processors, change: impl FnOnce(&mut RoutingDocument)) {
    let mut document = RoutingDocument::clone(&processors.routing.borrow());
    change(&mut document);
    processors.routing.send_replace(Arc::new(document));
}

/// Asks until the answer is by `version`.
async fn answered_by(rig: &Rig, version: &str) -> Answer {
    loop {
        let answer = rig.answer(rig.submit(&request(false)).await).await;
        if answer.terminal().config_version.as_deref() == Some(version) {
            return answer;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_document_is_taken_on_and_what_is_in_flight_keeps_the_old() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let script = move |call: &Call| {
        let mut acts = answer("old");
        if call.number == 1 {
            acts.insert(0, Act::Wait(Arc::clone(&wait)));
        }
        acts
    };
    let mut first = Upstream::start(script).await;
    let second = Upstream::start(|_| answer("new")).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&first.url, &second.url]);
    settings.routing.models[0].deployments.truncate(1);
    let processors = rig.start(settings);
    let held = rig.submit(&request(false)).await;
    first.call().await;

    put(&processors, |document| {
        document.models[0].deployments = vec![Deployment::new("p1", "m1")];
        document.version = "v2".into();
    });
    let new = answered_by(&rig, "v2").await;
    assert_eq!(new.terminal().deployment.as_deref(), Some("p1/m1"));

    go.notify_one();
    let old = rig.answer(held).await;
    assert_eq!(old.fold.end, Some(End::Completed));
    let terminal = old.terminal();
    assert_eq!(terminal.config_version.as_deref(), Some("v1"));
    assert_eq!(terminal.deployment.as_deref(), Some("p0/m0"));
    processors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_cannot_be_used_is_refused_and_the_next_one_is_not() {
    let upstream = Upstream::start(|_| answer("ok")).await;
    let rig = Rig::new().await;
    let processors = rig.start(settings(&[&upstream.url]));
    put(&processors, |document| {
        document.models = vec![Model::new("m", vec![Deployment::new("nobody", "x")])];
        document.version = "v2".into();
    });
    // It may not have been looked at yet; whatever was, the next one is.
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(answer.terminal().config_version.as_deref(), Some("v1"));
    put(&processors, |document| {
        document.models = vec![Model::new("m", vec![Deployment::new("p0", "other")])];
        document.version = "v3".into();
    });
    let answer = answered_by(&rig, "v3").await;
    assert_eq!(answer.terminal().deployment.as_deref(), Some("p0/other"));
    processors.stop().await;
}
