//! Load: heartbeats, turns between tenants, shares of what is held.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use runtime::config::{Limits, Model};
use runtime::log::Record;
use schemas::fold::End;
use schemas::request::{Body, Request};
use schemas::status::{DeploymentStatus, HEALTHY, LaneStatus, Status};
use schemas::topic;

use crate::rig::{Rig, request, settings};
use crate::upstream::{Act, Upstream, answer, response};

/// A request of `tenant`, told by its text.
fn request_of(tenant: &str) -> Request {
    let body = serde_json::json!({
        "model": "m", "messages": [{"role": "user", "content": tenant}],
    });
    Request {
        tenant: tenant.to_owned(),
        body: Body::Inline(Bytes::from(body.to_string())),
        ..request(false)
    }
}

/// Heartbeats, until one is as wanted.
async fn heartbeat(rig: &Rig, wanted: impl Fn(&DeploymentStatus) -> bool) -> Status {
    let reading = async {
        let mut tail = rig.log.tail(topic::STATUS, 0, 0).await.unwrap();
        loop {
            for delivery in tail.recv().await.unwrap() {
                let status: Status = rig.codec.decode(&delivery.record.value).await.unwrap();
                assert_eq!(delivery.record.key, status.process.as_bytes());
                if status.deployments.iter().any(&wanted) {
                    return status;
                }
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(20), reading).await;
    status.expect("the heartbeat")
}

/// An upstream whose first call hangs.
async fn stuck_at_first() -> Upstream {
    let calls = AtomicUsize::new(0);
    Upstream::start(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => vec![Act::Hang],
        _ => answer("through"),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_says_what_is_in_flight_and_what_waits() {
    let mut upstream = stuck_at_first().await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&upstream.url]);
    settings.routing.models[0].deployments[0].limits.concurrency = Some(1);
    let _processors = rig.start(settings);
    let idle = heartbeat(&rig, |_| true).await;
    let stuck = request_of("a");
    rig.submit(&stuck).await;
    upstream.call().await;
    rig.submit(&request_of("a")).await;
    let busy = heartbeat(&rig, |one| one.interactive.waiting == 1).await;
    assert_eq!(busy.process, idle.process);
    assert!(busy.at > idle.at);
    let deployment = &busy.deployments[0];
    assert_eq!(deployment.deployment, "p0/m0");
    assert_eq!(deployment.models, ["m"]);
    assert_eq!(deployment.health, HEALTHY);
    assert_eq!((deployment.capacity, deployment.in_flight), (1, 1));
    assert_eq!(deployment.batch.waiting, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_tenant_takes_every_other_turn_and_no_more() {
    let mut upstream = stuck_at_first().await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&upstream.url]);
    settings.routing.models[0].deployments[0].limits.concurrency = Some(1);
    let _processors = rig.start(settings);
    let stuck = request_of("flood");
    rig.submit(&stuck).await;
    upstream.call().await;
    for _ in 0..40 {
        rig.submit(&request_of("flood")).await;
    }
    heartbeat(&rig, |one| one.interactive.waiting == 40).await;
    let quiet = rig.submit(&request_of("quiet")).await;
    heartbeat(&rig, |one| one.interactive.waiting == 41).await;
    rig.cancel(&stuck).await;
    assert_eq!(rig.answer(quiet).await.fold.end, Some(End::Completed));
    let mut order = Vec::new();
    for _ in 0..2 {
        let call = upstream.call().await;
        order.push(call.body["messages"][0]["content"].to_string());
    }
    assert_eq!(order, ["\"flood\"", "\"quiet\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_refused_before_it_keeps_another_tenant_from_being_read() {
    let mut stuck = stuck_at_first().await;
    let free = Upstream::start(|_| answer("through")).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&stuck.url, &free.url]);
    settings.processors.held_max = 20;
    let other = settings.routing.models[0].deployments.pop().unwrap();
    settings.routing.models.push(Model {
        name: "other".to_owned(),
        deployments: vec![other],
        ..settings.routing.models[0].clone()
    });
    settings.routing.models[0].deployments[0].limits.concurrency = Some(1);
    let _processors = rig.start(settings);
    let quiet = || Request {
        model: "other".to_owned(),
        ..request_of("quiet")
    };
    let first = rig.submit(&quiet()).await;
    assert_eq!(rig.answer(first).await.fold.end, Some(End::Completed));
    let hangs = request_of("flood");
    rig.submit(&hangs).await;
    stuck.call().await;
    let mut flood = Vec::new();
    for _ in 0..60 {
        flood.push(rig.submit(&request_of("flood")).await);
    }
    // Behind more of the flood on the log than can be held, none of which moves.
    let second = rig.submit(&quiet()).await;
    assert_eq!(rig.answer(second).await.fold.end, Some(End::Completed));

    rig.cancel(&hangs).await;
    let mut refused = 0;
    for id in flood {
        let answer = rig.answer(id).await;
        if answer.fold.end == Some(End::Completed) {
            continue;
        }
        refused += 1;
        assert_eq!(answer.kinds(), ["failed"]);
        assert_eq!(answer.terminal().status, 429);
        assert_eq!(answer.code(), "rate_limit_exceeded");
        let retry_after = answer.terminal().error.as_ref().unwrap().retry_after_millis;
        assert!(retry_after.unwrap() >= 1_000);
    }
    assert!((1..60).contains(&refused), "{refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adaptive_gate_narrows_while_the_provider_pushes_back() {
    let upstream = Upstream::start(|_| vec![response(503, "text/plain", "", "")]).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&upstream.url]);
    settings.routing.models[0].deployments[0].limits = Limits {
        concurrency: Some(10),
        adaptive: true,
        ..Limits::default()
    };
    let _processors = rig.start(settings);
    heartbeat(&rig, |one| one.capacity == 10).await;
    rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(upstream.calls(), 3);
    heartbeat(&rig, |one| one.capacity == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_rate_wait_and_the_heartbeat_says_how_long() {
    let mut upstream = Upstream::start(|_| answer("through")).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&upstream.url]);
    settings.routing.models[0].deployments[0].limits = Limits {
        requests_per_minute: Some(1),
        ..Limits::default()
    };
    let _processors = rig.start(settings);
    let first = rig.submit(&request(false)).await;
    assert_eq!(rig.answer(first).await.fold.end, Some(End::Completed));
    upstream.call().await;
    let second = request(false);
    rig.submit(&second).await;
    let status = heartbeat(&rig, |one| one.interactive.waiting == 1).await;
    let lane = status.deployments[0].interactive;
    assert!((60_000_000..=120_000_000).contains(&lane.wait_micros));
    rig.cancel(&second).await;
    assert_eq!(rig.answer(second.id).await.kinds(), ["cancelled"]);
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_shared_with_every_processor_that_is_heard() {
    let upstream = Upstream::start(|_| answer("through")).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&upstream.url]);
    settings.routing.models[0].deployments[0].limits = Limits {
        requests_per_minute: Some(1),
        ..Limits::default()
    };
    let _processors = rig.start(settings);
    let first = rig.submit(&request(false)).await;
    assert_eq!(rig.answer(first).await.fold.end, Some(End::Completed));
    rig.submit(&request(false)).await;
    let wait = |one: &DeploymentStatus| one.interactive.wait_micros;
    let alone = heartbeat(&rig, |one| one.interactive.waiting == 1).await;
    assert!(wait(&alone.deployments[0]) <= 120_000_000);
    // Another one is heard, which has no calls.
    let mut other = alone.clone();
    other.process = "other".to_owned();
    other.deployments[0].interactive = LaneStatus::default();
    let beating = async {
        loop {
            let record = Record {
                key: Bytes::from(other.process.clone()),
                headers: Vec::new(),
                value: rig.codec.encode(&other).unwrap(),
            };
            rig.append(topic::STATUS, record).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    // Twice as long, less what had come in before.
    tokio::select! {
        () = beating => {}
        _ = heartbeat(&rig, |one| wait(one) > 150_000_000) => {}
    }
}
