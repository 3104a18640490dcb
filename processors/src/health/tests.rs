//! Health in simulated time: alone, and with a router before a fleet of deployments.

use std::cell::Cell;

use proptest::prelude::*;
use runtime::config::{Health as Rules, Strategy};

use super::*;
use crate::router::load::Load;
use crate::router::{Fleet, Readiness, Router, Seat, View, Wish, hash};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn fail(health: &Health, at: Duration, times: u32) {
    for _ in 0..times {
        health.failed(at, at);
    }
}

fn ejected(at: Duration) -> Health {
    let health = Health::new(Rules::default());
    fail(&health, at, 5);
    assert_eq!(health.state(at), State::Ejected);
    health
}

#[test]
fn failures_in_a_row_take_a_deployment_out_and_a_success_between_them_does_not() {
    let health = Health::new(Rules::default());
    fail(&health, seconds(1), 4);
    health.answered(seconds(1), seconds(1));
    fail(&health, seconds(1), 4);
    assert_ne!(health.state(seconds(1)), State::Ejected);
    fail(&health, seconds(1), 1);
    assert_eq!(health.state(seconds(1)), State::Ejected);
    let standing = health.standing(seconds(1));
    assert_eq!(
        standing,
        Standing::Out {
            rest: seconds(5),
            trial: false
        }
    );
}

#[test]
fn a_share_of_failures_degrades_and_then_takes_out() {
    let health = Health::new(Rules {
        failures_in_a_row: 1_000,
        ..Rules::default()
    });
    let at = seconds(1);
    for _ in 0..7 {
        health.answered(at, at);
    }
    fail(&health, at, 2);
    assert_eq!(health.state(at), State::Healthy, "too few calls to say");
    fail(&health, at, 1);
    assert_eq!(health.state(at), State::Degraded);
    assert_eq!(health.standing(at), Standing::Open(500));
    fail(&health, at, 4);
    assert_eq!(health.state(at), State::Ejected);
}

#[test]
fn after_its_rest_single_calls_try_it_and_a_success_brings_it_back_slowly() {
    let health = ejected(seconds(10));
    let back = seconds(15);
    assert_eq!(health.state(back), State::Probing);
    assert_eq!(health.standing(back), Standing::Trial);
    assert!(health.take_trial(back));
    assert!(!health.take_trial(back), "one at a time");
    assert!(matches!(health.standing(back), Standing::Out { .. }));
    health.answered(back, seconds(16));
    assert_eq!(health.state(seconds(16)), State::Recovering);
    let mut last = 0;
    for moment in 0..=100 {
        let Standing::Open(share) = health.standing(seconds(16) + millis(moment * 100)) else {
            panic!("it is back");
        };
        assert!(share >= last, "the return is steady");
        last = share;
    }
    assert_eq!(health.standing(seconds(16)), Standing::Open(100));
    assert_eq!(health.standing(seconds(21)), Standing::Open(550));
    assert_eq!(last, 1_000);
    assert_eq!(health.state(seconds(26)), State::Healthy);
}

#[test]
fn one_that_has_just_come_back_goes_sooner_and_rests_longer_up_to_a_bound() {
    let health = Health::new(Rules::default());
    let mut now = seconds(100);
    fail(&health, now, 5);
    let mut rests = Vec::new();
    for _ in 0..5 {
        let Standing::Out { rest, .. } = health.standing(now) else {
            panic!("it is out");
        };
        rests.push(rest.as_secs());
        now += rest;
        health.answered(now, now);
        fail(&health, now, 2);
    }
    assert_eq!(rests, [5, 10, 15, 15, 15]);
    // Health for long enough makes up for it.
    now += seconds(15);
    health.answered(now, now);
    for second in 0..60 {
        let at = now + seconds(second);
        health.answered(at, at);
    }
    now += seconds(60);
    fail(&health, now, 5);
    let standing = health.standing(now);
    assert!(matches!(standing, Standing::Out { rest, .. } if rest == seconds(5)));
}

#[test]
fn a_failed_trial_means_another_rest_and_late_news_means_nothing() {
    let health = ejected(seconds(10));
    health.answered(seconds(9), seconds(16));
    health.failed(seconds(9), seconds(16));
    assert_eq!(
        health.state(seconds(16)),
        State::Probing,
        "calls from before"
    );
    assert!(health.take_trial(seconds(16)));
    health.failed(seconds(16), seconds(17));
    assert_eq!(health.state(seconds(26)), State::Ejected);
    assert_eq!(health.state(seconds(27)), State::Probing);
}

#[test]
fn probes_find_a_lost_provider_and_bring_it_back_but_not_one_whose_calls_fail() {
    let health = Health::new(Rules::default());
    for at in 1..=5 {
        assert_eq!(health.state(seconds(at)), State::Healthy);
        health.probed(false, seconds(at));
    }
    assert_eq!(health.state(seconds(5)), State::Ejected);
    health.probed(true, seconds(6));
    assert_eq!(health.state(seconds(6)), State::Recovering);
    let failing = ejected(seconds(10));
    failing.probed(true, seconds(11));
    assert_eq!(failing.state(seconds(11)), State::Ejected);
}

proptest! {
    #[test]
    fn a_snapshot_survives_its_packing(micros in 0..(1_u64 << 61), kind in 0..4) {
        let at = Duration::from_micros(micros);
        let snapshot = match kind {
            0 => Snapshot::Healthy,
            1 => Snapshot::Degraded,
            2 => Snapshot::Out { until: at },
            _ => Snapshot::Returning { since: at },
        };
        prop_assert_eq!(Snapshot::unpack(snapshot.pack()), snapshot);
    }
}

/// A router before deployments whose behaviour a test sets: time passes by steps.
struct World {
    router: Router,
    members: Vec<Member>,
    now: Cell<Duration>,
    /// Calls that have not ended: when they will, whose they are, when they began.
    calls: Vec<(Duration, usize, Duration)>,
    served: Vec<u64>,
    /// Requests that no attempt answered.
    errors: u64,
    /// Calls that failed.
    failures: u64,
}

struct Member {
    health: Health,
    load: Load,
    in_flight: Cell<u32>,
    /// From the call to its first token, which is also its end.
    takes: Duration,
    fails: bool,
}

impl Fleet for World {
    fn view(&self, deployment: usize) -> View {
        let member = &self.members[deployment];
        let now = self.now.get();
        View {
            standing: member.health.standing(now),
            full: false,
            in_flight: member.in_flight.get(),
        }
    }

    fn first_token_micros(&self, deployment: usize) -> u64 {
        let load = &self.members[deployment].load;
        load.first_token_micros(self.now.get())
    }

    fn take(&self, deployment: usize, trial: bool) -> Readiness {
        if trial && !self.members[deployment].health.take_trial(self.now.get()) {
            return Readiness::LockedOut;
        }
        Readiness::Ready
    }
}

impl World {
    fn new(strategy: Strategy, count: usize) -> Self {
        let seat = |place| Seat {
            name: format!("p{place}/m"),
            weight: 1,
            tier: 1,
            context_tokens: None,
            price: None,
            tags: Vec::new(),
            version: None,
        };
        let member = |_| Member {
            health: Health::new(Rules::default()),
            load: Load::default(),
            in_flight: Cell::new(0),
            takes: millis(100),
            fails: false,
        };
        Self {
            router: Router::new(strategy, (0..count).map(seat).collect(), 0.5),
            members: (0..count).map(member).collect(),
            now: Cell::new(seconds(1_000)),
            calls: Vec::new(),
            served: vec![0; count],
            errors: 0,
            failures: 0,
        }
    }

    /// 200 requests a second for so long; a failed call is followed by others at once.
    fn run(&mut self, time: Duration) {
        let end = self.now.get() + time;
        let mut number = 0_u64;
        while self.now.get() < end {
            self.now.set(self.now.get() + millis(5));
            number += 1;
            self.settle();
            self.request(hash::mix(number, self.now.get().as_micros() as u64));
        }
    }

    fn settle(&mut self) {
        let now = self.now.get();
        let (over, going): (Vec<_>, Vec<_>) =
            self.calls.drain(..).partition(|(due, ..)| *due <= now);
        self.calls = going;
        for (due, place, began) in over {
            let member = &self.members[place];
            member.health.answered(began, due);
            member.load.first_token(due - began, due);
            member.in_flight.set(member.in_flight.get() - 1);
            self.served[place] += 1;
        }
    }

    fn request(&mut self, random: u64) {
        let now = self.now.get();
        let mut plan = self.router.plan(&Wish::default()).unwrap();
        for attempt in 0..3 {
            let random = hash::mix(random, attempt);
            let Some(place) = plan.next(&self.router, self, random) else {
                break;
            };
            let member = &self.members[place];
            if !member.fails {
                member.in_flight.set(member.in_flight.get() + 1);
                self.calls.push((now + member.takes, place, now));
                return;
            }
            member.health.failed(now, now);
            self.failures += 1;
            plan.failed(place, crate::router::Class::Passing);
        }
        self.errors += 1;
    }

    /// Calls that `place` served out of 1,000 while `time` passed.
    fn permille(&mut self, place: usize, time: Duration) -> u64 {
        self.served.fill(0);
        self.run(time);
        self.served[place] * 1_000 / self.served.iter().sum::<u64>().max(1)
    }
}

#[test]
fn a_failing_deployment_is_left_at_once_unseen_and_has_its_traffic_back_in_time() {
    let mut world = World::new(Strategy::Weighted, 3);
    world.run(seconds(10));
    world.members[0].fails = true;
    world.run(seconds(60));
    assert_eq!(world.errors, 0);
    // Some to find out, while answers of before still come in, then one trial after each rest.
    assert!(world.failures < 20, "{}", world.failures);
    world.members[0].fails = false;
    world.run(seconds(30));
    let share = world.permille(0, seconds(10));
    assert!((320..347).contains(&share), "{share}");
}

#[test]
fn a_slow_deployment_is_left_within_5_seconds_and_back_within_30_of_its_recovery() {
    for strategy in [Strategy::Latency, Strategy::LeastInFlight] {
        let mut world = World::new(strategy, 3);
        world.run(seconds(10));
        let share = world.permille(0, seconds(10));
        assert!((250..420).contains(&share), "{strategy:?} {share}");
        world.members[0].takes = seconds(3);
        world.run(seconds(5));
        let share = world.permille(0, seconds(10));
        assert!(share < 60, "{strategy:?} {share}");
        world.members[0].takes = millis(100);
        world.run(seconds(30));
        let share = world.permille(0, seconds(10));
        assert!((250..420).contains(&share), "{strategy:?} {share}");
    }
}

#[test]
fn flapping_does_not_swing_traffic() {
    let mut world = World::new(Strategy::Weighted, 3);
    for round in 0..60 {
        world.members[0].fails = round % 2 == 0;
        world.run(seconds(5));
    }
    assert_eq!(world.errors, 0);
    // It fails for 150 s: at its full share those were 10,000 calls.
    assert!(world.failures < 200, "{}", world.failures);
}

#[test]
fn an_outage_is_tried_by_a_trickle_and_over_as_soon_as_the_upstream_is() {
    let mut world = World::new(Strategy::Weighted, 2);
    world.run(seconds(10));
    for member in &mut world.members {
        member.fails = true;
    }
    world.run(seconds(30));
    // Two trials a second and deployment, and what it took to find out: of 6,000 requests.
    assert!(world.failures < 200, "{}", world.failures);
    for member in &mut world.members {
        member.fails = false;
    }
    world.run(seconds(2));
    let errors = world.errors;
    world.run(seconds(3));
    assert_eq!(world.errors, errors, "nobody is refused any more");
}
