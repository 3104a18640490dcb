use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use runtime::config::Strategy;

use super::*;

/// Deployments that a test sets up; all are open at first.
struct Ships {
    views: Vec<View>,
    first_token_micros: Vec<u64>,
    readiness: Vec<Readiness>,
}

impl Fleet for Ships {
    fn view(&self, deployment: usize) -> View {
        self.views[deployment]
    }

    fn first_token_micros(&self, deployment: usize) -> u64 {
        self.first_token_micros[deployment]
    }

    fn take(&self, deployment: usize, _: bool) -> Readiness {
        self.readiness[deployment]
    }
}

const OPEN: View = View {
    standing: Standing::Open(1_000),
    full: false,
    in_flight: 0,
};

fn out(seconds: u64, trial: bool) -> Standing {
    Standing::Out {
        rest: Duration::from_secs(seconds),
        trial,
    }
}

fn ships(count: usize) -> Ships {
    Ships {
        views: vec![OPEN; count],
        first_token_micros: vec![0; count],
        readiness: vec![Readiness::Ready; count],
    }
}

fn seat(place: usize) -> Seat {
    Seat {
        name: format!("p{place}/m"),
        weight: 1,
        tier: 1,
        context_tokens: None,
        price: None,
        tags: Vec::new(),
        version: None,
    }
}

fn seats(count: usize) -> Vec<Seat> {
    (0..count).map(seat).collect()
}

fn weighted(weights: &[u32]) -> Vec<Seat> {
    let places = weights.iter().enumerate();
    places
        .map(|(place, weight)| Seat {
            weight: *weight,
            ..seat(place)
        })
        .collect()
}

fn router(strategy: Strategy, seats: Vec<Seat>) -> Router {
    Router::new(strategy, seats, 0.5)
}

fn plan(router: &Router) -> Plan {
    router.plan(&Wish::default()).unwrap()
}

fn first(router: &Router, ships: &Ships, random: u64) -> Option<usize> {
    plan(router).next(router, ships, random)
}

fn any_strategy() -> impl proptest::strategy::Strategy<Value = Strategy> {
    let all = runtime::config::STRATEGIES.map(|(_, strategy)| strategy);
    proptest::sample::select(all.to_vec())
}

fn any_view() -> impl proptest::strategy::Strategy<Value = View> {
    let standing = prop_oneof![
        3 => (0_u16..=1_000).prop_map(Standing::Open),
        1 => Just(Standing::Trial),
        1 => any::<bool>().prop_map(|trial| out(3, trial)),
    ];
    (standing, any::<bool>(), 0_u32..50).prop_map(|(standing, full, in_flight)| View {
        standing,
        full,
        in_flight,
    })
}

fn any_readiness() -> impl proptest::strategy::Strategy<Value = Readiness> {
    prop_oneof![
        3 => Just(Readiness::Ready),
        1 => Just(Readiness::LockedOut),
        1 => Just(Readiness::Rests(Duration::from_secs(9))),
    ]
}

proptest! {
    #[test]
    fn each_deployment_gets_exactly_its_weight_over_a_cycle(
        weights in proptest::collection::vec(0_u32..20, 1..6),
        cycles in 1_u32..4,
    ) {
        let expected = if weights.iter().all(|weight| *weight == 0) {
            vec![1; weights.len()]
        } else {
            weights.clone()
        };
        let router = router(Strategy::Weighted, weighted(&weights));
        let ships = ships(weights.len());
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..expected.iter().sum::<u32>() * cycles {
            counts[first(&router, &ships, 0).unwrap()] += 1;
        }
        let expected: Vec<u32> = expected.iter().map(|weight| weight * cycles).collect();
        prop_assert_eq!(counts, expected);
    }

    #[test]
    fn weights_are_exact_again_after_one_was_not_ready(
        weights in proptest::collection::vec(1_u32..9, 2..6),
        spins in 0_usize..30,
        gone in 0_usize..6,
    ) {
        let router = router(Strategy::Weighted, weighted(&weights));
        let mut ships = ships(weights.len());
        let gone = gone % weights.len();
        ships.readiness[gone] = Readiness::LockedOut;
        for _ in 0..spins {
            prop_assert_ne!(first(&router, &ships, 0), Some(gone));
        }
        ships.readiness[gone] = Readiness::Ready;
        let cycle: u32 = weights.iter().sum();
        let mut counts = vec![0_i64; weights.len()];
        for _ in 0..cycle * 100 {
            counts[first(&router, &ships, 0).unwrap()] += 1;
        }
        for (count, weight) in counts.iter().zip(&weights) {
            // What one was owed when the other left is made up for, once.
            prop_assert!((count - i64::from(*weight) * 100).abs() <= i64::from(cycle));
        }
    }

    #[test]
    fn nobody_is_called_twice_and_nobody_unready_while_another_is_ready(
        strategy in any_strategy(),
        sticky in proptest::option::of(any::<u64>()),
        fleet in proptest::collection::vec((any_view(), any_readiness(), 1_u32..4, 1_u32..9), 1..12),
        random in any::<u64>(),
    ) {
        let seats = fleet.iter().enumerate().map(|(place, (_, _, tier, weight))| Seat {
            tier: *tier,
            weight: *weight,
            ..seat(place)
        });
        let router = router(strategy, seats.collect());
        let ships = Ships {
            views: fleet.iter().map(|one| one.0).collect(),
            first_token_micros: (0..fleet.len() as u64).map(|place| place % 3 * 100_000).collect(),
            readiness: fleet.iter().map(|one| one.1).collect(),
        };
        let mut plan = router.plan(&Wish { sticky, ..Wish::default() }).unwrap();
        let can = |place: usize| {
            ships.readiness[place] == Readiness::Ready
                && !matches!(ships.views[place].standing, Standing::Out { .. })
        };
        let mut called = Vec::new();
        while let Some(place) = plan.next(&router, &ships, random) {
            prop_assert!(!called.contains(&place), "{place} twice");
            prop_assert_eq!(ships.readiness[place], Readiness::Ready);
            if let Standing::Out { trial, .. } = ships.views[place].standing {
                let free = |other: usize| {
                    can(other) && !called.contains(&other) && !ships.views[other].full
                };
                prop_assert!(!(0..fleet.len()).any(free), "{place} is out, others are not");
                let shares = !ships.views[place].full && (0..fleet.len()).any(|other| {
                    !matches!(ships.views[other].standing, Standing::Out { .. })
                });
                prop_assert!(trial || shares);
            }
            called.push(place);
            plan.failed(place, Class::Silent);
        }
        for place in 0..fleet.len() {
            prop_assert!(!can(place) || called.contains(&place), "{place} was forgotten");
        }
    }

    #[test]
    fn a_tier_is_left_only_when_nobody_of_it_is_ready(
        strategy in any_strategy(),
        tiers in proptest::collection::vec(1_u32..4, 1..10),
        ready in proptest::collection::vec(any::<bool>(), 10),
        random in any::<u64>(),
    ) {
        let seats = tiers.iter().enumerate().map(|(place, tier)| Seat { tier: *tier, ..seat(place) });
        let router = router(strategy, seats.collect());
        let mut ships = ships(tiers.len());
        for (place, readiness) in ships.readiness.iter_mut().enumerate() {
            if !ready[place] {
                *readiness = Readiness::LockedOut;
            }
        }
        let best = (0..tiers.len()).filter(|place| ready[*place]).map(|place| tiers[place]).min();
        let chosen = first(&router, &ships, random).map(|place| tiers[place]);
        prop_assert_eq!(chosen, best);
    }

    #[test]
    fn what_sticks_stays_when_another_is_lost(
        count in 2_usize..40,
        weights in proptest::collection::vec(1_u32..5, 40),
        key in any::<u64>(),
        lost in 0_usize..40,
    ) {
        let router = router(Strategy::Weighted, weighted(&weights[..count]));
        let mut ships = ships(count);
        let wish = Wish { sticky: Some(key), ..Wish::default() };
        let choose = |ships: &Ships, random| {
            router.plan(&wish).unwrap().next(&router, ships, random).unwrap()
        };
        let before = choose(&ships, 1);
        let lost = lost % count;
        ships.views[lost].standing = out(5, false);
        let after = choose(&ships, 2);
        prop_assert!(after != lost);
        if before != lost {
            prop_assert_eq!(after, before);
        }
    }
}

#[test]
fn sticky_keys_spread_by_weight() {
    let router = router(Strategy::Weighted, weighted(&[3, 1]));
    let ships = ships(2);
    let mut counts = [0; 2];
    for key in 0..4_000_u64 {
        let wish = Wish {
            sticky: Some(hash::mix(key, 7)),
            ..Wish::default()
        };
        let chosen = router.plan(&wish).unwrap().next(&router, &ships, 0);
        counts[chosen.unwrap()] += 1;
    }
    assert!((2_850..3_150).contains(&counts[0]), "{counts:?}");
}

#[test]
fn round_robin_goes_around_whatever_the_weights() {
    let router = router(Strategy::RoundRobin, weighted(&[9, 1, 5]));
    let ships = ships(3);
    let chosen: Vec<_> = (0..6).filter_map(|_| first(&router, &ships, 0)).collect();
    assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn least_in_flight_counts_calls_for_their_weight_and_ties_go_around() {
    let router = router(Strategy::LeastInFlight, weighted(&[1, 1, 4]));
    let mut ships = ships(3);
    ships.views[0].in_flight = 2;
    ships.views[1].in_flight = 1;
    ships.views[2].in_flight = 6;
    assert_eq!(first(&router, &ships, 0), Some(2), "7 of weight 4");
    ships.views[2].in_flight = 7;
    let ties: Vec<_> = (0..4).filter_map(|_| first(&router, &ships, 0)).collect();
    assert_eq!(ties, [1, 2, 1, 2], "2 of weight 1 and 8 of weight 4");
}

#[test]
fn latency_takes_the_quicker_of_two_by_the_calls_ahead_of_it() {
    let router = router(Strategy::Latency, seats(2));
    let mut ships = ships(2);
    ships.first_token_micros[0] = 100_000;
    ships.first_token_micros[1] = 300_000;
    for random in 0..50 {
        assert_eq!(first(&router, &ships, hash::mix(random, 3)), Some(0));
    }
    ships.views[0].in_flight = 5;
    assert_eq!(first(&router, &ships, 0), Some(1));
    // One that is not known is taken to be like the other.
    ships.first_token_micros[1] = 0;
    ships.views[1].in_flight = 6;
    assert_eq!(first(&router, &ships, 0), Some(0));
}

#[test]
fn cost_takes_the_cheapest_for_this_request_that_is_ready_and_fits() {
    let price = |input, output| {
        Some(Price {
            input,
            cached_input: input,
            output,
        })
    };
    let mut seats = seats(4);
    seats[1].price = price(10, 10);
    seats[2].price = price(1, 40);
    seats[3].price = price(0, 0);
    seats[3].context_tokens = Some(100);
    let router = router(Strategy::Cost, seats);
    let mut ships = ships(4);
    let choose = |ships: &Ships, prompt_tokens, answer_tokens| {
        let wish = Wish {
            prompt_tokens,
            answer_tokens: Some(answer_tokens),
            ..Wish::default()
        };
        router.plan(&wish).unwrap().next(&router, ships, 0)
    };
    assert_eq!(choose(&ships, 50, 50), Some(3));
    assert_eq!(choose(&ships, 1_000, 100), Some(2));
    assert_eq!(choose(&ships, 1_000, 1_000), Some(1));
    ships.views[1].full = true;
    assert_eq!(choose(&ships, 1_000, 1_000), Some(2), "it has no room");
    ships.readiness[2] = Readiness::LockedOut;
    ships.readiness[1] = Readiness::LockedOut;
    assert_eq!(
        choose(&ships, 1_000, 1_000),
        Some(0),
        "its price is not known"
    );
}

#[test]
fn a_full_deployment_is_waited_for_only_when_all_are_full() {
    let router = router(Strategy::Priority, seats(2));
    let mut ships = ships(2);
    ships.views[0].full = true;
    assert_eq!(first(&router, &ships, 0), Some(1));
    ships.views[1].full = true;
    assert_eq!(first(&router, &ships, 0), Some(0));
}

#[test]
fn one_that_is_out_is_called_only_when_too_many_are_and_the_rest_is_full() {
    let router = router(Strategy::Priority, seats(3));
    let mut ships = ships(3);
    ships.views[0].standing = out(5, true);
    ships.views[2].full = true;
    ships.views[1].full = true;
    assert_eq!(
        first(&router, &ships, 0),
        Some(1),
        "one of three is not too many"
    );
    ships.views[1].standing = out(5, false);
    assert_eq!(first(&router, &ships, 0), Some(0), "two of three are");
    ships.views[2].full = false;
    ships.views[2].standing = Standing::Open(0);
    assert_eq!(
        first(&router, &ships, 0),
        Some(2),
        "its share is small, but it is well"
    );
}

#[test]
fn while_all_are_out_only_trials_are_called() {
    let router = router(Strategy::Weighted, seats(2));
    let mut ships = ships(2);
    ships.views[0].standing = out(5, false);
    ships.views[1].standing = out(3, true);
    let mut plan = plan(&router);
    assert_eq!(plan.next(&router, &ships, 0), Some(1));
    plan.failed(1, Class::Passing);
    assert_eq!(plan.next(&router, &ships, 0), None);
    assert_eq!(plan.again(&ships), None, "it is out");
    assert_eq!(plan.shortest_out(), Some(Duration::from_secs(3)));
}

#[test]
fn a_share_is_kept_over_many_requests() {
    let router = router(Strategy::Weighted, seats(2));
    let mut ships = ships(2);
    ships.views[0].standing = Standing::Open(100);
    let luck = (0..10_000).map(|random| hash::mix(random, 11));
    let chosen = luck.filter(|random| first(&router, &ships, *random) == Some(0));
    let count = chosen.count();
    // A tenth of the requests may go there, and half of these do.
    assert!((400..600).contains(&count), "{count}");
    ships.views[1].standing = out(5, false);
    assert_eq!(first(&router, &ships, 0), Some(0), "there is nobody else");
}

#[test]
fn a_wish_restricts_the_deployments() {
    let mut seats = seats(3);
    seats[0].tags = vec!["eu".into(), "fast".into()];
    seats[1].tags = vec!["eu".into()];
    seats[1].version = Some("2".into());
    seats[2].context_tokens = Some(10);
    let router = router(Strategy::Priority, seats);
    let ships = ships(3);
    let choose = |wish: Wish| {
        let mut plan = router.plan(&wish)?;
        Ok(plan.next(&router, &ships, 0))
    };
    let tagged = |tags: &[&str]| Wish {
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..Wish::default()
    };
    assert_eq!(choose(tagged(&["eu", "fast"])), Ok(Some(0)));
    assert_eq!(choose(tagged(&["us"])), Err(Misfit::Unknown));
    let version = Wish {
        version: Some("2".into()),
        ..Wish::default()
    };
    assert_eq!(choose(version), Ok(Some(1)));
    let third = Wish {
        deployment: Some("p2/m".into()),
        prompt_tokens: 8,
        answer_tokens: Some(2),
        ..Wish::default()
    };
    assert_eq!(choose(third.clone()), Ok(Some(2)));
    let long = Wish {
        prompt_tokens: 9,
        ..third
    };
    assert_eq!(choose(long.clone()), Err(Misfit::TooLong));
    let mut regardless = router.plan_regardless(&long).unwrap();
    assert_eq!(regardless.next(&router, &ships, 0), Some(2));
}

#[test]
fn failover_goes_through_the_others_then_pauses_before_the_last_again() {
    let router = router(Strategy::Weighted, weighted(&[0, 5, 0]));
    let ships = ships(3);
    let mut plan = plan(&router);
    let mut seen = Vec::new();
    while let Some(place) = plan.next(&router, &ships, 0) {
        seen.push(place);
        plan.failed(place, Class::Passing);
    }
    assert_eq!(seen, [1, 0, 2]);
    let again = plan::BACK_OFF;
    assert_eq!(plan.again(&ships), Some((2, again)));
    assert_eq!(plan.again(&ships), Some((2, again * 2)));
    plan.failed(2, Class::Silent);
    assert_eq!(plan.again(&ships), None, "it was silent");
}

#[test]
fn a_refused_key_is_followed_by_the_next_key_and_then_the_next_deployment() {
    let router = router(Strategy::Priority, seats(2));
    let mut ships = ships(2);
    let mut plan = plan(&router);
    assert_eq!(plan.next(&router, &ships, 0), Some(0));
    plan.failed(0, Class::Key);
    assert_eq!(
        plan.next(&router, &ships, 0),
        Some(0),
        "another key is left"
    );
    plan.failed(0, Class::Key);
    ships.readiness[0] = Readiness::Rests(Duration::from_secs(7));
    assert_eq!(plan.next(&router, &ships, 0), Some(1));
    plan.failed(1, Class::Key);
    ships.readiness[1] = Readiness::Rests(Duration::from_secs(9));
    assert_eq!(plan.next(&router, &ships, 0), None);
    assert_eq!(plan.again(&ships), None);
    assert_eq!(plan.shortest_rest(), Some(Duration::from_secs(7)));
}

#[test]
fn a_model_with_as_many_deployments_as_it_can_have_is_routed() {
    let router = router(Strategy::RoundRobin, seats(Set::SIZE));
    let ships = ships(Set::SIZE);
    let mut seen: Vec<_> = (0..Set::SIZE)
        .filter_map(|_| first(&router, &ships, 0))
        .collect();
    seen.dedup();
    assert_eq!(seen.len(), Set::SIZE);
    assert_eq!(Set::SIZE, runtime::config::DEPLOYMENTS_MAX);
}
