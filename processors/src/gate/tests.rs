use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;

use super::*;

fn limits(concurrency: usize) -> Limits {
    Limits {
        concurrency: Some(concurrency),
        ..Limits::default()
    }
}

fn gate(concurrency_max: usize) -> (Gate, Arc<Slack>) {
    let slack = Slack::new(2);
    let gate = Gate::new("p/m".into(), limits(concurrency_max), Arc::clone(&slack));
    (gate, slack)
}

fn come(gate: &Gate, lane: Lane, tenant: &'static str) -> BoxFuture<'static, Permit> {
    let gate = gate.clone();
    async move { gate.enter(lane, tenant, 1).await }.boxed()
}

fn at_once(gate: &Gate, lane: Lane) -> Permit {
    let permit = come(gate, lane, "t").now_or_never();
    permit.expect("a free place")
}

fn wait(gate: &Gate, lane: Lane, tenant: &'static str) -> BoxFuture<'static, Permit> {
    let mut entering = come(gate, lane, tenant);
    assert!((&mut entering).now_or_never().is_none(), "has to wait");
    entering
}

#[test]
fn lanes_go_strictly_before_each_other_and_first_come_within_a_lane() {
    let (gate, _) = gate(1);
    let held = at_once(&gate, Lane::Batch);
    let mut batch = wait(&gate, Lane::Batch, "t");
    let mut first = wait(&gate, Lane::Interactive, "t");
    let mut second = wait(&gate, Lane::Interactive, "t");
    drop(held);
    assert!((&mut batch).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    drop((&mut first).now_or_never().unwrap());
    drop((&mut second).now_or_never().unwrap());
    drop((&mut batch).now_or_never().unwrap());
    assert_eq!(gate.snapshot().in_flight, 0);
}

#[test]
fn a_tenant_that_floods_has_every_other_turn_and_no_more() {
    let (gate, _) = gate(1);
    let held = at_once(&gate, Lane::Interactive);
    let mut flood: Vec<_> = (0..100)
        .map(|_| wait(&gate, Lane::Interactive, "flood"))
        .collect();
    let mut quiet = wait(&gate, Lane::Interactive, "quiet");
    let snapshot = gate.snapshot();
    assert_eq!((snapshot.capacity, snapshot.in_flight), (1, 1));
    assert_eq!(snapshot.lanes[0].waiting, 101);
    drop(held);
    drop((&mut flood[0]).now_or_never().unwrap());
    drop((&mut quiet).now_or_never().expect("the second turn"));
}

#[test]
fn a_place_is_not_lost_when_those_who_waited_for_it_have_left() {
    let (gate, slack) = gate(1);
    let held = at_once(&gate, Lane::Interactive);
    drop(wait(&gate, Lane::Interactive, "t"));
    let granted = wait(&gate, Lane::Background, "t");
    drop(held);
    // The permit is on its way to a waiter who leaves without having looked.
    drop(granted);
    assert_eq!(gate.snapshot().in_flight, 0);
    assert_eq!(gate.snapshot().lanes.map(|lane| lane.waiting), [0, 0, 0]);
    assert!(slack.is_relieved(Lane::Batch));
}

#[test]
fn patient_lanes_are_held_up_while_calls_wait() {
    let (gate, slack) = gate(1);
    let held = at_once(&gate, Lane::Interactive);
    let _one = wait(&gate, Lane::Interactive, "t");
    assert!(slack.has_slack(Lane::Background));
    let _two = wait(&gate, Lane::Background, "t");
    assert!(!slack.has_slack(Lane::Background));
    assert!(!slack.has_slack(Lane::Batch));
    assert!(slack.has_slack(Lane::Interactive));
    drop(held);
}

#[test]
fn what_a_call_came_to_moves_an_adaptive_gate() {
    let limits = Limits {
        adaptive: true,
        ..limits(10)
    };
    let gate = Gate::new("p/m".into(), limits, Slack::new(2));
    at_once(&gate, Lane::Interactive).end(Verdict::Failed);
    assert_eq!(gate.snapshot().capacity, 10);
    at_once(&gate, Lane::Interactive).end(Verdict::PushedBack);
    assert_eq!(gate.snapshot().capacity, 7);
    let late = at_once(&gate, Lane::Interactive);
    late.first_token(Duration::from_millis(1));
    for _ in 0..100 {
        late.first_token(Duration::from_secs(3));
    }
    assert_eq!(gate.snapshot().capacity, 4, "once for one call");
}

#[tokio::test]
async fn a_rate_lets_everybody_through_in_time_also_when_who_watches_the_clock_leaves() {
    let limits = Limits {
        requests_per_minute: Some(1_200),
        ..limits(10)
    };
    let gate = Gate::new("p/m".into(), limits, Slack::new(1_000));
    // All queue up behind a burst of twenty, and then the first of those who wait is gone.
    let calls = (0..40).map(|_| come(&gate, Lane::Batch, "t"));
    let mut waiting: Vec<_> = calls
        .filter_map(|mut call| match (&mut call).now_or_never() {
            Some(_) => None,
            None => Some(call),
        })
        .collect();
    waiting.truncate(20);
    drop(waiting.drain(..1));
    for call in waiting {
        drop(call.await);
    }
    assert_eq!(gate.snapshot().in_flight, 0);
}

#[test]
fn a_gate_keeps_to_its_part_as_it_changes() {
    let (gate, _) = gate(4);
    assert!(gate.is_short(), "it was never told its part");
    let of = |calls| {
        Some(Part {
            calls: Some(calls),
            ..Part::default()
        })
    };
    gate.keep_to(of(1));
    let held = at_once(&gate, Lane::Interactive);
    let mut second = wait(&gate, Lane::Interactive, "t");
    let mut third = wait(&gate, Lane::Batch, "t");
    assert_eq!(gate.capacity(), 1);
    let demand = gate.demand();
    assert_eq!((demand.calls_used, demand.calls_wanted), (1, 3));
    assert!(gate.is_short());
    gate.keep_to(of(2));
    let second = (&mut second).now_or_never().expect("a place more");
    gate.keep_to(None);
    assert!(gate.is_shut());
    drop((held, second));
    assert!((&mut third).now_or_never().is_none(), "no part, no call");
    gate.keep_to(of(1));
    drop((&mut third).now_or_never().expect("a place again"));
    assert!(!gate.is_shut() && !gate.is_short());
}

#[test]
fn a_gate_without_a_part_lets_nobody_through_also_where_rates_alone_are_limited() {
    let limits = Limits {
        requests_per_minute: Some(60),
        ..Limits::default()
    };
    let gate = Gate::new("p/m".into(), limits, Slack::new(2));
    gate.keep_to(None);
    let mut call = wait(&gate, Lane::Interactive, "t");
    gate.keep_to(Some(Part::whole(&limits)));
    drop((&mut call).now_or_never().expect("the rate allows one"));
}

proptest! {
    /// As the same test of the state, with futures that are polled and dropped at any time.
    #[test]
    fn no_schedule_of_futures_loses_a_permit(
        concurrency_max in 1..4_usize,
        steps in prop::collection::vec((0..4_u8, 0..3_usize, any::<usize>()), 1..200),
    ) {
        let (gate, slack) = gate(concurrency_max);
        let mut entering: Vec<BoxFuture<'static, Permit>> = Vec::new();
        let mut permits: Vec<Permit> = Vec::new();
        for (what, lane, which) in steps {
            match what {
                0 => {
                    let mut call = come(&gate, Lane::ALL[lane], ["a", "b", "c"][which % 3]);
                    match (&mut call).now_or_never() {
                        Some(permit) => permits.push(permit),
                        None => entering.push(call),
                    }
                }
                1 if !permits.is_empty() => {
                    drop(permits.swap_remove(which % permits.len()));
                }
                2 if !entering.is_empty() => {
                    drop(entering.swap_remove(which % entering.len()));
                }
                3 if !entering.is_empty() => {
                    let place = which % entering.len();
                    if let Some(permit) = (&mut entering[place]).now_or_never() {
                        permits.push(permit);
                        drop(entering.swap_remove(place));
                    }
                }
                _ => {}
            }
            prop_assert!(permits.len() <= concurrency_max);
            prop_assert!(gate.snapshot().in_flight <= concurrency_max);
        }
        // All that is left gets through, however little is let go at a time.
        while !entering.is_empty() {
            permits.clear();
            let before = entering.len();
            entering.retain_mut(|call| match call.now_or_never() {
                Some(permit) => {
                    permits.push(permit);
                    false
                }
                None => true,
            });
            prop_assert!(entering.len() < before, "a permit was lost");
        }
        permits.clear();
        let snapshot = gate.snapshot();
        prop_assert_eq!(snapshot.in_flight, 0);
        prop_assert_eq!(snapshot.lanes.map(|lane| lane.waiting), [0, 0, 0]);
        prop_assert!(slack.is_relieved(Lane::Batch));
    }
}
