//! Calls that are not streamed: answers, failures, failover, orders to stop.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use runtime::log::Record;
use schemas::event::Run;
use schemas::fold::End;
use schemas::time::Timestamp;
use schemas::topic;

use crate::rig::{self, KEY, Rig, TRACE, request, settings};
use crate::upstream::{Act, Upstream, answer, response};

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_answer_is_one_record() {
    let mut upstream = Upstream::start(|_| answer("hi")).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&upstream.url]));
    let id = rig.submit(&request(false)).await;
    let answer = rig.answer(id).await;
    assert_eq!(answer.kinds(), ["started", "completed"]);
    assert_eq!(answer.records.len(), 1);
    let body = answer.body();
    assert_eq!(body["id"], format!("chatcmpl-{}", id.suffix()));
    assert_eq!(body["model"], "served-1");
    assert_eq!(body["choices"][0]["message"]["content"], "hi");
    let terminal = answer.terminal();
    assert_eq!(terminal.status, 200);
    assert_eq!(terminal.deployment.as_deref(), Some("p0/m0"));
    assert_eq!(terminal.usage.unwrap().completion_tokens, 3);
    assert_eq!(terminal.attempts[0].key_name.as_deref(), Some("KEY_0"));
    let call = upstream.call().await;
    let head = call.head.to_lowercase();
    assert!(head.contains(&format!("x-request-id: {id}")));
    assert!(head.contains(&format!("authorization: bearer {KEY}")));
    assert!(head.contains(&format!("traceparent: {TRACE}")));
    assert!(!head.contains("accept-encoding"));
    assert_eq!(call.body["model"], "m0");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_pass_go_to_the_next_deployment_unseen() {
    let bad: [fn() -> Vec<Act>; 8] = [
        || vec![response(500, "application/json", "", "{}")],
        || vec![response(200, "text/html", "", "<html>")],
        || vec![response(200, "application/json", "", "{\"choices\":")],
        || vec![response(200, "application/json", "", "{\"id\":\"x\"}")],
        || vec![response(200, "application/json", "", "")],
        || {
            vec![response(
                302,
                "text/plain",
                "location: http://127.0.0.1:1/\r\n",
                "",
            )]
        },
        || {
            vec![response(
                200,
                "application/json",
                "content-encoding: gzip\r\n",
                "x",
            )]
        },
        || vec![Act::Close],
    ];
    let count = bad.len();
    let first = Upstream::start(move |call| bad[(call.number - 1) % bad.len()]()).await;
    let second = Upstream::start(|_| answer("from the second")).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&first.url, &second.url]));
    for round in 1..=count {
        let id = rig.submit(&request(false)).await;
        let answer = rig.answer(id).await;
        assert_eq!(
            answer.kinds(),
            ["started", "attempt_failed", "started", "completed"],
            "failure {round}"
        );
        assert_eq!(answer.fold.attempt, 2);
        let attempts = &answer.terminal().attempts;
        assert_eq!(attempts[0].error.as_ref().unwrap().status, 502);
        assert_eq!(attempts[1].deployment, "p1/m1");
        assert_eq!(first.calls(), round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_deployment_is_called_again_and_then_the_client_is_told() {
    let upstream = Upstream::start(|_| vec![response(503, "text/plain", "", "")]).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&upstream.url]));
    let id = rig.submit(&request(false)).await;
    let answer = rig.answer(id).await;
    assert_eq!(answer.code(), "upstream_failed");
    assert_eq!(answer.terminal().status, 502);
    assert_eq!(upstream.calls(), 3);
    assert_eq!(answer.terminal().attempts.len(), 3);
    assert!(answer.terminal().deployment.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_deployment_gets_no_second_try() {
    let silent = Upstream::start(|_| vec![Act::Hang]).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&silent.url]);
    rig::timeouts(&mut settings).total = Duration::from_millis(200);
    let _processors = rig.start(settings);
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(answer.code(), "upstream_timeout");
    assert_eq!(silent.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_request_goes_to_the_client_as_it_is() {
    let text = r#"{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded","param":"messages"}}"#;
    let upstream =
        Upstream::start(move |_| vec![response(400, "application/json", "", text)]).await;
    let second = Upstream::start(|_| answer("no")).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&upstream.url, &second.url]));
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(answer.code(), "context_length_exceeded");
    assert_eq!(answer.terminal().status, 400);
    assert_eq!(second.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_is_our_fault_and_is_never_shown() {
    let text = format!(r#"{{"error":{{"message":"wrong key {KEY}"}}}}"#);
    let upstream =
        Upstream::start(move |_| vec![response(401, "application/json", "", &text)]).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&upstream.url]));
    for _ in 0..2 {
        let answer = rig.answer(rig.submit(&request(false)).await).await;
        assert_eq!(answer.code(), "upstream_credentials");
        assert!(!format!("{answer:?}").contains(KEY));
    }
    assert_eq!(upstream.calls(), 1, "the key is out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_rests_the_deployment_and_is_told_when_all_rest() {
    let limited = || vec![response(429, "text/plain", "retry-after: 7\r\n", "")];
    let first = Upstream::start(move |_| limited()).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&first.url]));
    for _ in 0..2 {
        let answer = rig.answer(rig.submit(&request(false)).await).await;
        assert_eq!(answer.terminal().status, 429);
        let wait = answer.terminal().error.as_ref().unwrap().retry_after_millis;
        assert!((6_000..=7_000).contains(&wait.unwrap()), "{wait:?}");
    }
    assert_eq!(first.calls(), 1, "it rests");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_models_and_late_requests_are_never_sent() {
    let upstream = Upstream::start(|_| answer("no")).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&upstream.url]));
    let mut unknown = request(false);
    unknown.model = "none".into();
    let answer = rig.answer(rig.submit(&unknown).await).await;
    assert_eq!(answer.code(), "model_not_found");
    let mut late = request(false);
    late.deadline = Timestamp::now();
    let answer = rig.answer(rig.submit(&late).await).await;
    assert_eq!(answer.kinds(), ["expired"]);
    assert_eq!(answer.terminal().run, Run::NONE);
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_call() {
    let mut upstream = Upstream::start(|_| vec![Act::Hang]).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&upstream.url]));
    let mut short = request(false);
    short.deadline = Timestamp::now().plus(Duration::from_millis(300));
    let answer = rig.answer(rig.submit(&short).await).await;
    assert_eq!(answer.fold.end, Some(End::Expired));
    assert_eq!(answer.terminal().attempts.len(), 1);
    upstream.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_closes_the_call_at_once() {
    let mut upstream = Upstream::start(|_| vec![Act::Hang]).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&upstream.url]));
    let request = request(false);
    rig.submit(&request).await;
    upstream.call().await;
    let asked = Instant::now();
    rig.cancel(&request).await;
    let closed = upstream.closed().await;
    let took = closed.saturating_duration_since(asked);
    assert!(took < Duration::from_millis(100), "{took:?}");
    let answer = rig.answer(request.id).await;
    assert_eq!(answer.fold.end, Some(End::Cancelled));
    assert!(answer.terminal().usage.unwrap().estimated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_came_first_counts() {
    let upstream = Upstream::start(|_| answer("no")).await;
    let rig = Rig::new().await;
    let request = request(false);
    rig.cancel(&request).await;
    let _processors = rig.start(settings(&[&upstream.url]));
    rig.submit(&request).await;
    let answer = rig.answer(request.id).await;
    assert_eq!(answer.kinds(), ["cancelled"]);
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_what_waits_before_a_gate_and_lets_the_next_through() {
    let calls = AtomicUsize::new(0);
    let mut upstream = Upstream::start(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => vec![Act::Hang],
        _ => answer("through"),
    })
    .await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&upstream.url]);
    settings.routing.models[0].deployments[0].limits.concurrency = Some(1);
    let _processors = rig.start(settings);
    let (first, queued, last) = (request(false), request(false), request(false));
    rig.submit(&first).await;
    upstream.call().await;
    rig.submit(&queued).await;
    rig.submit(&last).await;
    rig.cancel(&queued).await;
    let answer = rig.answer(queued.id).await;
    assert_eq!(answer.kinds(), ["cancelled"], "at once, and never started");
    rig.cancel(&first).await;
    let answer = rig.answer(last.id).await;
    assert_eq!(answer.fold.end, Some(End::Completed));
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_read_is_set_aside_and_the_rest_flows() {
    let upstream = Upstream::start(|_| answer("hi")).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&upstream.url]));
    let record = Record {
        key: Bytes::from_static(b"key"),
        headers: Vec::new(),
        value: Bytes::from_static(b"\0\0\0\0\x01nonsense"),
    };
    rig.append(topic::REQUESTS_INTERACTIVE, record.clone())
        .await;
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    assert_eq!(answer.fold.end, Some(End::Completed));
    let letter = rig.dead_letter().await;
    assert_eq!(letter.value, record.value);
    assert_eq!(letter.topic, topic::REQUESTS_INTERACTIVE);
    assert_eq!(letter.group, processors::GROUP);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_are_held_at_once_are_all_answered() {
    let upstream = Upstream::start(|_| answer("hi")).await;
    let rig = Rig::new().await;
    let mut settings = settings(&[&upstream.url]);
    settings.processors.held_max = 16;
    settings.routing.models[0].deployments[0].limits.concurrency = Some(4);
    let _processors = rig.start(settings);
    let mut ids = Vec::new();
    for number in 0..200 {
        let mut request = rig::request(false);
        request.lane = schemas::request::Lane::ALL[number % 3];
        ids.push(rig.submit(&request).await);
    }
    for id in ids {
        assert_eq!(rig.answer(id).await.fold.end, Some(End::Completed));
    }
    assert_eq!(upstream.calls(), 200);
}
