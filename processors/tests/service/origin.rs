//! Routing documents that are not from the configuration file: where their base URLs may lead.

use std::error::Error;
use std::sync::Arc;

use processors::Settings;
use runtime::config::{Origin, ProviderKind, RoutingDocument, ScriptLine};
use runtime::upstream::Policy;
use schemas::fold::End;

use crate::rig::{Answer, Rig, request, settings};
use crate::upstream::{Upstream, answer};

/// From elsewhere, with these exceptions.
fn elsewhere(exceptions: &[&str]) -> Origin {
    let exceptions = exceptions.iter().map(|text| text.parse().unwrap());
    Origin::Elsewhere(Policy::new(&exceptions.collect::<Vec<_>>()))
}

/// Settings from elsewhere whose first provider is `upstream` by the name `localhost`, and whose second needs no network.
fn by_name(upstream: &Upstream, exceptions: &[&str]) -> Settings {
    let url = upstream.url.replace("127.0.0.1", "localhost");
    let mut settings = settings(&[&url, "http://nowhere"]);
    settings.routing.origin = elsewhere(exceptions);
    settings.routing.providers[1].kind = ProviderKind::Scripted {
        script: vec![ScriptLine {
            model: "m1".into(),
            reply: "from the second".into(),
            delay: Default::default(),
            status: None,
            cut_after: None,
        }],
    };
    settings
}

fn said(answer: &Answer) -> String {
    let body = answer.body();
    let said = body["choices"][0]["message"]["content"].as_str();
    said.unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_inside_refuses_the_whole_document_and_says_what_to_do() {
    let upstream = Upstream::start(|_| answer("inside")).await;
    let rig = Rig::new().await;
    let mut settings = settings(&["http://models.example", &upstream.url]);
    settings.routing.origin = elsewhere(&["10.0.0.0/8"]);
    let error = rig.start(settings).failure().await;
    assert_eq!(
        error.to_string(),
        "providers[1].base_url of provider p1 is refused"
    );
    let cause = error.source().unwrap().to_string();
    assert!(
        cause.contains("127.0.0.1 leads to 127.0.0.1, which is"),
        "{cause}"
    );
    assert!(
        cause.contains("add it to server.allow_upstreams"),
        "{cause}"
    );
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_document_leaves_the_files_in_force_and_one_with_the_exception_is_taken_on() {
    let upstream = Upstream::start(|_| answer("inside")).await;
    let rig = Rig::new().await;
    let processors = rig.start(settings(&[&upstream.url]));
    let put = |version: &str, origin: Origin| {
        let mut document = RoutingDocument::clone(&processors.routing.borrow());
        document.version = version.into();
        document.origin = origin;
        processors.routing.send_replace(Arc::new(document));
    };
    put("v2", elsewhere(&[]));
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(answer.terminal().config_version.as_deref(), Some("v1"));
    assert_eq!(said(&answer), "inside");

    put("v3", elsewhere(&["127.0.0.1"]));
    loop {
        let answer = rig.answer(rig.submit(&request(false)).await).await;
        assert_eq!(said(&answer), "inside");
        let version = answer.terminal().config_version.as_deref();
        if version == Some("v3") {
            break;
        }
        assert_eq!(version, Some("v1"));
    }
    processors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_inside_cannot_be_reached_and_the_next_deployment_answers() {
    let upstream = Upstream::start(|_| answer("inside")).await;
    let rig = Rig::new().await;
    let processors = rig.start(by_name(&upstream, &[]));
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(answer.fold.end, Some(End::Completed));
    assert_eq!(said(&answer), "from the second");
    let first = &answer.terminal().attempts[0];
    assert_eq!(first.deployment, "p0/m0");
    let error = first.error.as_ref().unwrap();
    assert_eq!(
        (error.status, error.message.as_str()),
        (502, "the provider could not be reached")
    );
    assert_eq!(upstream.calls(), 0, "nothing was sent inside");
    processors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_may_lead_inside_serves() {
    let upstream = Upstream::start(|_| answer("inside")).await;
    let rig = Rig::new().await;
    let processors = rig.start(by_name(&upstream, &["localhost"]));
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(said(&answer), "inside");
    processors.stop().await;
}
