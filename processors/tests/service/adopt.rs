//! What becomes of requests when their process dies or is stopped.

use std::time::Duration;

use schemas::event::Event;
use schemas::fold::End;
use schemas::request::OnTakeover;

use crate::rig::{self, Rig, request, settings};
use crate::upstream::{Act, Upstream, answer, done, finish, stream_head, token};

/// Hangs in the first call, answers the others.
async fn hangs_once() -> Upstream {
    Upstream::start(|call| {
        if call.number == 1 {
            vec![stream_head(), token("lost"), Act::Hang]
        } else {
            vec![stream_head(), token("found"), finish(), done(), Act::Close]
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_is_taken_over_by_the_next_process_and_only_that() {
    let rig = Rig::new().await;
    let quick = Upstream::start(|_| answer("quick")).await;
    let mut held = hangs_once().await;
    let mut both = settings(&[&held.url, &quick.url]);
    both.routing.models[0].deployments.truncate(1);
    rig::timeouts(&mut both).idle = Duration::from_secs(30);
    let mut other = both.routing.models[0].clone();
    other.name = "quick".into();
    other.deployments[0].provider = "p1".into();
    both.routing.models.push(other);

    let processors = rig.start(both.clone());
    let lost = request(true);
    rig.submit(&lost).await;
    held.call().await;
    rig.until(lost.id, |event| matches!(event, Event::Delta(_)))
        .await;
    let mut done = Vec::new();
    for _ in 0..50 {
        let mut request = request(false);
        request.model = "quick".into();
        rig.submit(&request).await;
        rig.answer(request.id).await;
        done.push(request.id);
    }
    processors.kill();

    let _processors = rig.start(both);
    let answer = rig.answer(lost.id).await;
    assert_eq!(answer.fold.end, Some(End::Completed));
    assert_eq!(answer.terminal().run.number, 2);
    let abandoned = answer
        .records
        .iter()
        .flatten()
        .find_map(|event| match event {
            Event::Abandoned(abandoned) => Some(abandoned),
            _ => None,
        });
    assert!(abandoned.unwrap().usage.estimated);
    assert_eq!(answer.body()["choices"][0]["message"]["content"], "found");
    assert_eq!(held.calls(), 2);
    assert_eq!(quick.calls(), 50, "what was answered is not called again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_be_called_once_only_ends_with_an_error() {
    let rig = Rig::new().await;
    let mut held = hangs_once().await;
    let processors = rig.start(settings(&[&held.url]));
    let mut once = request(false);
    once.on_takeover = OnTakeover::Fail;
    rig.submit(&once).await;
    held.call().await;
    let started = rig
        .until(once.id, |event| matches!(event, Event::Started(_)))
        .await;
    assert_eq!(started.kinds(), ["started"]);
    processors.kill();
    let _processors = rig.start(settings(&[&held.url]));
    let answer = rig.answer(once.id).await;
    assert_eq!(answer.fold.end, Some(End::Failed));
    assert_eq!(answer.code(), "run_lost");
    assert_eq!(held.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_holds_over_a_restart() {
    let rig = Rig::new().await;
    let mut held = hangs_once().await;
    let processors = rig.start(settings(&[&held.url]));
    let request = request(true);
    rig.submit(&request).await;
    held.call().await;
    rig.until(request.id, |event| matches!(event, Event::Started(_)))
        .await;
    processors.kill();
    rig.cancel(&request).await;
    let _processors = rig.start(settings(&[&held.url]));
    let answer = rig.answer(request.id).await;
    assert_eq!(answer.fold.end, Some(End::Cancelled));
    assert_eq!(held.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_fits_and_gives_back_the_rest() {
    let rig = Rig::new().await;
    let mut upstream = Upstream::start(|call| match call.number {
        1 => vec![stream_head(), token("lost"), Act::Hang],
        2 => vec![
            stream_head(),
            token("in "),
            Act::Pause(Duration::from_millis(300)),
            token("time"),
            finish(),
            done(),
            Act::Close,
        ],
        _ => vec![stream_head(), token("again"), finish(), done(), Act::Close],
    })
    .await;
    let mut settings = settings(&[&upstream.url]);
    settings.grace = Duration::from_millis(800);
    rig::timeouts(&mut settings).idle = Duration::from_secs(30);
    let processors = rig.start(settings.clone());
    let slow = rig.submit(&request(true)).await;
    upstream.call().await;
    let quick = rig.submit(&request(true)).await;
    upstream.call().await;
    rig.until(quick, |event| matches!(event, Event::Delta(_)))
        .await;
    processors.stop().await;
    assert_eq!(rig.answer(quick).await.text(), "in time");
    rig.until(slow, |event| matches!(event, Event::Released(_)))
        .await;
    upstream.closed().await;

    let _processors = rig.start(settings);
    let answer = rig.answer(slow).await;
    assert_eq!(answer.fold.end, Some(End::Completed));
    assert_eq!(answer.terminal().run.number, 2);
    assert!(!answer.kinds().contains(&"abandoned"), "it was released");
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_began_elsewhere_leaves_only_what_is_left_of_its_grace_period() {
    let rig = Rig::new().await;
    let mut upstream = Upstream::start(|_| vec![stream_head(), token("lost"), Act::Hang]).await;
    let mut settings = settings(&[&upstream.url]);
    settings.grace = Duration::from_secs(60);
    rig::timeouts(&mut settings).idle = Duration::from_secs(30);
    let deadline = settings.deadline.clone();
    let processors = rig.start(settings);
    let slow = rig.submit(&request(true)).await;
    upstream.call().await;
    deadline.set(tokio::time::Instant::now()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), processors.stop())
        .await
        .unwrap();
    rig.until(slow, |event| matches!(event, Event::Released(_)))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_knows_as_ended_is_not_called_and_the_rest_is_found_on_the_log() {
    let rig = Rig::new().await;
    let upstream = Upstream::start(|_| answer("hi")).await;
    let (ended, fresh) = (request(false), request(false));
    rig.submit(&ended).await;
    rig.submit(&fresh).await;
    // The results sink has seen the end of the one, and stands at the end of its partition.
    rig.store_end(&ended).await;
    let processors = rig.start(settings(&[&upstream.url]));
    assert_eq!(rig.answer(fresh.id).await.fold.end, Some(End::Completed));
    assert_eq!(upstream.calls(), 1);
    processors.kill();
    // The sink has not seen the end of the other: the log tells it.
    let processors = rig.start(settings(&[&upstream.url]));
    let last = rig.submit(&request(false)).await;
    assert_eq!(rig.answer(last).await.fold.end, Some(End::Completed));
    assert_eq!(upstream.calls(), 2);
    processors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_took_down_too_many_processes_is_set_aside() {
    let rig = Rig::new().await;
    let upstream = Upstream::start(|_| answer("no")).await;
    let poison = request(false);
    rig.submit(&poison).await;
    rig.start_elsewhere(&poison, 6).await;
    let _processors = rig.start(settings(&[&upstream.url]));
    let answer = rig.answer(poison.id).await;
    assert_eq!(answer.fold.end, Some(End::Failed));
    assert_eq!(answer.code(), "run_lost");
    let letter = rig.dead_letter().await;
    assert_eq!(letter.id, Some(poison.id));
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_took_down_some_processes_runs_alone() {
    let rig = Rig::new().await;
    let mut upstream = Upstream::start(|call| {
        if call.number == 1 {
            vec![Act::Pause(Duration::from_millis(300)), Act::Close]
        } else {
            answer("hi")
        }
    })
    .await;
    let suspects = [request(false), request(false)];
    for suspect in &suspects {
        rig.submit(suspect).await;
        rig.start_elsewhere(suspect, 2).await;
    }
    let mut settings = settings(&[&upstream.url]);
    settings.routing.models[0].attempts_max = 1;
    let _processors = rig.start(settings);
    upstream.call().await;
    // While the one is alone, others than suspects go on.
    let other = rig.submit(&request(false)).await;
    assert_eq!(rig.answer(other).await.fold.end, Some(End::Completed));
    assert_eq!(upstream.calls(), 2, "the other suspect waits");
    for suspect in &suspects {
        let answer = rig.answer(suspect.id).await;
        assert_eq!(answer.terminal().run.number, 3);
    }
    assert_eq!(upstream.calls(), 3);
}
