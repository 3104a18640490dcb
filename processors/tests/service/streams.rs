//! Streamed calls, whole and cut.

use std::time::Duration;

use schemas::event::Event;
use schemas::fold::End;
use schemas::request::Request;

use crate::rig::{Answer, Rig, request, settings};
use crate::upstream::{
    Act, Upstream, answer, done, event, finish, response, stream_head, token, usage,
};

async fn stream(script: impl Fn() -> Vec<Act> + Send + Sync + 'static) -> Answer {
    let upstream = Upstream::start(move |_| script()).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&upstream.url]));
    rig.answer(rig.submit(&request(true)).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_as_they_are_written_and_the_terminal_has_the_whole() {
    let pause = || Act::Pause(Duration::from_millis(30));
    let answer = stream(move || {
        vec![
            stream_head(),
            event(r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#),
            token("Hel"),
            pause(),
            token("lo"),
            pause(),
            finish(),
            usage(),
            done(),
            Act::Close,
        ]
    })
    .await;
    assert_eq!(answer.text(), "Hello");
    assert_eq!(
        answer.frames.len(),
        4,
        "usage was not asked for: {:?}",
        answer.frames
    );
    assert!(answer.records.len() >= 3, "{:?}", answer.kinds());
    let terminal = answer.terminal();
    assert_eq!(terminal.chunks, 4);
    assert_eq!(terminal.usage.unwrap().completion_tokens, 2);
    assert!(!terminal.usage.unwrap().estimated);
    assert!(terminal.attempts[0].first_token_micros.is_some());
    let body = answer.body();
    assert_eq!(body["choices"][0]["message"]["content"], "Hello");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert!(!answer.frames.iter().any(|frame| frame.contains("usage")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finish_without_done_is_a_clean_end() {
    let answer = stream(|| vec![stream_head(), token("a"), finish(), Act::Close]).await;
    assert_eq!(answer.fold.end, Some(End::Completed));
    assert!(answer.terminal().usage.unwrap().estimated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_stream_fails_and_keeps_what_came() {
    let answer = stream(|| vec![stream_head(), token("half"), Act::Close]).await;
    assert_eq!(answer.fold.end, Some(End::Failed));
    assert_eq!(answer.code(), "upstream_cut");
    assert_eq!(answer.text(), "half");
    let terminal = answer.terminal();
    assert!(terminal.partial);
    assert!(terminal.usage.unwrap().estimated);
    assert_eq!(answer.body()["choices"][0]["message"]["content"], "half");
    assert_eq!(
        answer.body()["choices"][0]["finish_reason"],
        serde_json::Value::Null
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_falls_silent_is_cut() {
    let answer = stream(|| vec![stream_head(), token("half"), Act::Hang]).await;
    assert_eq!(answer.fold.end, Some(End::Failed));
    assert_eq!(answer.code(), "upstream_timeout");
    assert!(answer.terminal().partial);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broken_event_is_skipped_and_three_in_a_row_are_a_cut() {
    let broken = || event("{\"choi");
    let answer = stream(move || {
        vec![
            stream_head(),
            token("a"),
            broken(),
            token("b"),
            finish(),
            done(),
            Act::Close,
        ]
    })
    .await;
    assert_eq!(answer.text(), "ab");
    assert_eq!(answer.fold.end, Some(End::Completed));
    let answer = stream(move || {
        vec![
            stream_head(),
            token("a"),
            broken(),
            broken(),
            broken(),
            finish(),
            done(),
            Act::Close,
        ]
    })
    .await;
    assert_eq!(answer.code(), "upstream_cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_event_after_text_is_passed_on() {
    let error = r#"{"error":{"message":"overloaded","type":"server_error","code":529}}"#;
    let answer = stream(move || vec![stream_head(), token("a"), event(error), Act::Close]).await;
    assert_eq!(answer.fold.end, Some(End::Failed));
    assert!(
        answer
            .terminal()
            .error
            .as_ref()
            .unwrap()
            .message
            .contains("overloaded")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_token_another_deployment_takes_over() {
    let bad: [fn() -> Vec<Act>; 6] = [
        || vec![stream_head(), Act::Close],
        || {
            vec![
                stream_head(),
                event(r#"{"error":{"message":"no","code":500}}"#),
                Act::Close,
            ]
        },
        || {
            vec![
                stream_head(),
                event(r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#),
                Act::Close,
            ]
        },
        || vec![stream_head(), done(), Act::Close],
        || vec![response(200, "application/json", "", "{}")],
        || vec![stream_head(), Act::Hang],
    ];
    let count = bad.len();
    let first = Upstream::start(move |call| bad[call.number - 1]()).await;
    let second =
        Upstream::start(|_| vec![stream_head(), token("ok"), finish(), done(), Act::Close]).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&first.url, &second.url]));
    for round in 0..count {
        let answer = rig.answer(rig.submit(&request(true)).await).await;
        assert_eq!(answer.fold.end, Some(End::Completed), "failure {round}");
        assert_eq!(answer.text(), "ok", "failure {round}");
        assert_eq!(answer.terminal().attempts.len(), 2, "failure {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_in_the_middle_keeps_the_part_and_its_usage() {
    let mut upstream = Upstream::start(|_| vec![stream_head(), token("part"), Act::Hang]).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&upstream.url]));
    let request: Request = request(true);
    rig.submit(&request).await;
    rig.until(request.id, |event| matches!(event, Event::Delta(_)))
        .await;
    rig.cancel(&request).await;
    let answer = rig.answer(request.id).await;
    assert_eq!(answer.fold.end, Some(End::Cancelled));
    assert_eq!(answer.body()["choices"][0]["message"]["content"], "part");
    assert!(answer.terminal().usage.unwrap().completion_tokens > 0);
    upstream.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_goes_to_object_storage() {
    let text = "x".repeat(400 * 1024);
    let upstream = Upstream::start(move |_| answer(&text)).await;
    let rig = Rig::new().await;
    let _processors = rig.start(settings(&[&upstream.url]));
    let answer = rig.answer(rig.submit(&request(false)).await).await;
    let body = answer.terminal().body.as_ref().unwrap();
    assert!(matches!(body, schemas::request::Body::Claim(_)));
    let bytes = rig.objects.load(body).await.unwrap();
    assert!(bytes.len() > 400 * 1024);
}
