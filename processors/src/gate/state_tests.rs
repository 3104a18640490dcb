use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    concurrency: Some(2),
    adaptive: false,
    requests_per_minute: None,
    tokens_per_minute: None,
};

fn answered(total_tokens: u64, answer_tokens: u64) -> Option<Verdict> {
    Some(Verdict::Answered {
        total_tokens,
        answer_tokens,
    })
}

fn pass<W>(state: &mut State<W>, now: Instant) -> Pass {
    state.enter(0, now).expect("let through at once")
}

#[test]
fn a_wait_is_the_queue_times_the_service_time_over_the_capacity() {
    let start = Instant::now();
    let mut state: State<u32> = State::new(LIMITS, start);
    let one = pass(&mut state, start);
    state.leave(one, answered(1, 1), start + Duration::from_secs(2));
    let now = start + Duration::from_secs(2);
    let free = state.lane(Lane::Interactive, &[0, 0, 0], now);
    assert_eq!((free.wait_micros, free.turn_micros), (0, 0));
    pass(&mut state, now);
    pass(&mut state, now);
    for call in 0..4 {
        let tenant = if call < 3 { "a" } else { "b" };
        state.wait(Lane::Interactive, tenant, call, 0, |_| true);
    }
    let waiting = [4, 1, 0];
    let interactive = state.lane(Lane::Interactive, &waiting, now);
    assert_eq!(interactive.waiting, 4);
    assert_eq!(
        interactive.wait_micros, 5_000_000,
        "five calls, two at once, two seconds each"
    );
    assert_eq!(
        interactive.turn_micros, 3_000_000,
        "one turn of two tenants, and its own"
    );
    let background = state.lane(Lane::Background, &waiting, now);
    assert_eq!(background.wait_micros, 6_000_000, "behind both lanes");
}

#[test]
fn requests_per_minute_hold_up_who_comes_too_soon_and_let_through_in_time() {
    let start = Instant::now();
    let limits = Limits {
        concurrency: Some(100),
        requests_per_minute: Some(60),
        ..LIMITS
    };
    let mut state = State::new(limits, start);
    pass(&mut state, start);
    assert!(state.enter(0, start).is_none());
    state.wait(Lane::Batch, "t", 7, 0, |_| true);
    match state.next(start, |_| true) {
        Next::After(due) => assert_eq!(due.as_millis(), 1_000),
        other => panic!("{other:?}"),
    }
    let wait = state.lane(Lane::Batch, &[0, 0, 1], start).wait_micros;
    assert_eq!(wait, 2_000_000, "the second after one that waits");
    let due = start + Duration::from_secs(1);
    assert!(matches!(state.next(due, |_| true), Next::Pass(7, _)));
    state.keep_to(Some(Part::equal(&limits, 1, 2)), due);
    state.wait(Lane::Batch, "t", 8, 0, |_| true);
    match state.next(due, |_| true) {
        Next::After(due) => assert_eq!(due.as_millis(), 2_000, "half of the limit is another's"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn tokens_are_reserved_by_estimate_and_corrected_by_usage() {
    let start = Instant::now();
    let limits = Limits {
        concurrency: Some(100),
        tokens_per_minute: Some(60_000),
        ..LIMITS
    };
    let mut state: State<u32> = State::new(limits, start);
    let call = state.enter(544, start).expect("800 of 1,000 reserved");
    assert!(state.enter(544, start).is_none());
    state.leave(call, answered(300, 0), start);
    assert!(state.enter(300, start).is_some(), "500 of them come back");
    let failed = state.enter(0, start + Duration::from_secs(1)).unwrap();
    let level = state
        .tokens
        .as_mut()
        .unwrap()
        .seconds_for(1_000.0, start + Duration::from_secs(1));
    state.leave(
        failed,
        Some(Verdict::Failed),
        start + Duration::from_secs(1),
    );
    let after = state
        .tokens
        .as_mut()
        .unwrap()
        .seconds_for(1_000.0, start + Duration::from_secs(1));
    assert!(after < level, "a call that failed costs nothing");
}

#[test]
fn an_answer_that_cost_more_than_was_reserved_is_paid_back() {
    let start = Instant::now();
    let limits = Limits {
        concurrency: Some(100),
        tokens_per_minute: Some(60_000),
        ..LIMITS
    };
    let mut state: State<u32> = State::new(limits, start);
    let call = state.enter(0, start).unwrap();
    state.leave(call, answered(3_000, 256), start);
    match state.due(256.0, start) {
        Some(due) => assert_eq!(due.as_millis(), 2_256),
        None => panic!("2,000 tokens are owed"),
    }
}

#[test]
fn push_backs_lower_an_adaptive_gate_below_what_is_in_flight() {
    let now = Instant::now();
    let limits = Limits {
        concurrency: Some(10),
        adaptive: true,
        ..LIMITS
    };
    let mut state: State<u32> = State::new(limits, now);
    let calls: Vec<Pass> = (0..10).map(|_| pass(&mut state, now)).collect();
    for call in &calls[..3] {
        state.leave(*call, Some(Verdict::PushedBack), now);
    }
    assert_eq!((state.capacity.get(), state.in_flight()), (7, 7));
    assert!(state.enter(0, now).is_none());
    state.leave(calls[3], answered(1, 1), now);
    assert!(state.enter(0, now).is_some());
}

/// What happens next, after so many milliseconds.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A call comes, in this lane, of this tenant.
    Come(usize, u8),
    /// One of those in progress ends, so or so.
    End(usize, u8),
    /// One of those who wait leaves.
    Leave(usize),
}

fn step() -> impl Strategy<Value = (u64, Step)> {
    let step = prop_oneof![
        4 => (0..3_usize, 0..3_u8).prop_map(|(lane, tenant)| Step::Come(lane, tenant)),
        3 => (any::<usize>(), 0..4_u8).prop_map(|(which, how)| Step::End(which, how)),
        1 => any::<usize>().prop_map(Step::Leave),
    ];
    (0..50_u64, step)
}

proptest! {
    /// Under any schedule of arrivals, ends and hang-ups: never over capacity, no place lost, nobody who waits forgotten.
    #[test]
    fn no_schedule_loses_a_place_or_exceeds_the_capacity(
        concurrency_max in 1..6_usize,
        adaptive in any::<bool>(),
        rate in prop::option::of(600..6_000_u64),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut now = Instant::now();
        let limits = Limits { concurrency: Some(concurrency_max), adaptive, requests_per_minute: rate, tokens_per_minute: None };
        let mut state: State<usize> = State::new(limits, now);
        let mut calling: Vec<Pass> = Vec::new();
        let mut waiting: Vec<usize> = Vec::new();
        let mut left: HashSet<usize> = HashSet::new();
        let mut number = 0;
        for (pause, step) in steps {
            now += Duration::from_millis(pause);
            match step {
                Step::Come(lane, tenant) => match state.enter(1, now) {
                    Some(pass) => {
                        prop_assert!(waiting.is_empty(), "nobody is overtaken");
                        calling.push(pass);
                    }
                    None => {
                        number += 1;
                        let tenant = tenant.to_string();
                        state.wait(Lane::ALL[lane], &tenant, number, 1, |who| !left.contains(who));
                        waiting.push(number);
                    }
                },
                Step::End(which, how) if !calling.is_empty() => {
                    let pass = calling.swap_remove(which % calling.len());
                    match how {
                        0 => state.leave(pass, Some(Verdict::PushedBack), now),
                        1 => state.leave(pass, None, now),
                        2 => state.withdraw(pass, now),
                        _ => state.leave(pass, answered(5, 4), now),
                    }
                }
                Step::Leave(which) if !waiting.is_empty() => {
                    left.insert(waiting.swap_remove(which % waiting.len()));
                }
                Step::End(..) | Step::Leave(_) => {}
            }
            let in_flight = calling.len();
            while let Next::Pass(who, pass) = state.next(now, |who| !left.contains(who)) {
                let place = waiting.iter().position(|other| *other == who);
                waiting.swap_remove(place.expect("one who waits, and only once"));
                calling.push(pass);
            }
            prop_assert_eq!(state.in_flight(), calling.len());
            prop_assert!(calling.len() <= state.capacity.get().max(in_flight));
            prop_assert!(state.capacity.get() <= concurrency_max);
        }
        // Everything ends: everybody gets through.
        while !calling.is_empty() || !waiting.is_empty() {
            calling.drain(..).for_each(|pass| state.leave(pass, answered(5, 4), now));
            prop_assert_eq!(state.in_flight(), 0);
            now += Duration::from_secs(60);
            while let Next::Pass(who, pass) = state.next(now, |who| !left.contains(who)) {
                waiting.retain(|other| *other != who);
                calling.push(pass);
            }
            prop_assert!(waiting.is_empty() || !calling.is_empty(), "nobody is forgotten");
        }
    }
}
