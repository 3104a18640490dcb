use std::time::Duration;

use super::{Span, Streams, Target, closed_loop, constant_rate, streams, streams_in_turn};
use crate::fault::{Fault, Refusing};
use crate::mock::{Behaviour, Mock};

const SPAN: Span = Span {
    warm_up: Duration::from_millis(50),
    measured: Duration::from_millis(300),
};

#[tokio::test]
async fn a_closed_loop_measures_answers_and_keeps_its_connections() {
    let mock = Mock::start().unwrap();
    let target = Target::chat(mock.addr(), "mock", "mock:first=5ms", false).with_key("lg_k");
    let report = closed_loop(&target, 4, SPAN).await.unwrap();
    assert!(report.errors.is_empty(), "{report:?}");
    assert!(report.latency.p50_us >= 5_000.0, "{report:?}");
    assert!(report.latency.p99_us <= report.latency.max_us);
    assert!(report.per_second > 20.0, "{report:?}");
    assert_eq!(mock.snapshot().connections, 4);
    let calls = mock.calls();
    assert_eq!(calls[0].header("authorization"), Some("Bearer lg_k"));
    assert_ne!(calls[0].body, calls[1].body);
}

#[tokio::test]
async fn errors_are_counted_by_status_and_are_no_latency() {
    let mock = Mock::start().unwrap();
    mock.set_behaviour(Behaviour::fault(Fault::Status(503)));
    let target = Target::chat(mock.addr(), "mock", "hello", false);
    let report = closed_loop(&target, 2, SPAN).await.unwrap();
    assert!(report.errors["503"] > 0);
    assert_eq!(report.latency.count, 0);
    mock.set_behaviour(Behaviour::fault(Fault::Close));
    let report = closed_loop(&target, 2, SPAN).await.unwrap();
    assert!(report.errors["transport"] > 0);
    let refusing = Refusing::bind().unwrap();
    let target = Target::chat(refusing.addr(), "mock", "hello", false);
    closed_loop(&target, 1, SPAN).await.unwrap_err();
}

#[tokio::test]
async fn a_constant_rate_counts_latency_from_when_it_was_due() {
    let mock = Mock::start().unwrap();
    // One connection that takes 20 ms can do 50 a second; 100 are due, so they queue up.
    let target = Target::chat(mock.addr(), "mock", "mock:first=20ms", false);
    let late = constant_rate(&target, 100.0, 1, SPAN).await.unwrap();
    assert!(late.latency.max_us > 100_000.0, "{late:?}");
    let target = Target::chat(mock.addr(), "mock", "hello", false);
    let good = constant_rate(&target, 100.0, 4, SPAN).await.unwrap();
    assert!((25..=35).contains(&good.latency.count), "{good:?}");
    assert!(good.latency.p50_us < late.latency.p50_us, "{good:?}");
}

#[tokio::test]
async fn streams_measure_first_token_gaps_and_transit() {
    let mock = Mock::start().unwrap();
    let prompt = "mock:tokens=5,stamp,first=10ms,delay=10ms";
    let target = Target::chat(mock.addr(), "mock", prompt, true);
    let settings = Streams {
        concurrency: 3,
        tokens: 5,
        spread: Duration::from_millis(20),
    };
    let report = streams(&target, settings, SPAN).await.unwrap();
    assert!(report.errors.is_empty(), "{report:?}");
    assert!(report.streams >= 3, "{report:?}");
    assert_eq!(report.tokens, 5 * report.streams);
    assert_eq!(report.transit.count, report.tokens);
    assert!(report.first_token.p50_us >= 10_000.0, "{report:?}");
    assert!(report.gap.max_us >= 5_000.0, "{report:?}");
    assert!(report.transit.p50_us < 1_000_000.0, "{report:?}");
}

#[tokio::test]
async fn streams_in_turn_are_told_apart_and_a_refusal_has_its_time() {
    let mock = Mock::start().unwrap();
    let target = |prompt| Target::chat(mock.addr(), "mock", prompt, true);
    let turns = [
        (target("mock:tokens=2"), 3),
        (target("mock:status=503,first=5ms"), 1),
    ];
    let reports = streams_in_turn(&turns, 2, SPAN.measured).await.unwrap();
    let [good, refused] = &reports[..] else {
        panic!("{reports:?}");
    };
    assert!(good.errors.is_empty(), "{good:?}");
    assert_eq!((refused.streams, good.refused.count), (0, 0));
    assert_eq!(good.streams, 3 * refused.errors["503"]);
    assert_eq!(refused.refused.count, refused.errors["503"]);
    assert!(refused.refused.p50_us >= 5_000.0, "{refused:?}");
    assert_eq!(mock.snapshot().connections, 2, "a refusal keeps its own");
    let prompts: Vec<_> = mock.calls().into_iter().map(|call| call.prompt).collect();
    let in_turn = ["tokens", "tokens", "tokens", "status", "tokens"];
    assert!(
        prompts
            .iter()
            .zip(in_turn)
            .all(|(p, part)| p.contains(part))
    );
}

#[tokio::test]
async fn a_cut_stream_is_broken_however_it_ends() {
    let mock = Mock::start().unwrap();
    for fault in [
        Fault::Cut,
        Fault::CutCleanly,
        Fault::ErrorEvent,
        Fault::NoDone,
    ] {
        mock.set_behaviour(Behaviour::fault(fault));
        let target = Target::chat(mock.addr(), "mock", "hello", true);
        let settings = Streams {
            concurrency: 1,
            tokens: 8,
            spread: Duration::ZERO,
        };
        let report = streams(&target, settings, SPAN).await.unwrap();
        assert_eq!(report.streams, 0);
        assert!(report.errors["broken stream"] > 0);
    }
}
