use proptest::prelude::*;

use super::*;

fn ready(_: usize) -> Readiness {
    Readiness::Ready
}

fn first(plan: &mut Plan) -> Option<usize> {
    match plan.next(ready) {
        Next::Call { deployment, .. } => Some(deployment),
        Next::GiveUp => None,
    }
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
        let router = Router::new(&weights, 3);
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..expected.iter().sum::<u32>() * cycles {
            counts[first(&mut router.route()).unwrap()] += 1;
        }
        let expected: Vec<u32> = expected.iter().map(|weight| weight * cycles).collect();
        prop_assert_eq!(counts, expected);
    }

    #[test]
    fn a_plan_ends_and_never_returns_to_a_silent_deployment(
        deployments in 1_usize..5,
        attempts_max in 1_u32..6,
        classes in proptest::collection::vec(0_u8..3, 8),
    ) {
        let router = Router::new(&vec![1; deployments], attempts_max);
        let mut plan = router.route();
        let mut silent = Vec::new();
        let mut calls: Vec<usize> = Vec::new();
        for class in classes {
            let Next::Call { deployment, pause } = plan.next(ready) else { break };
            prop_assert!(!silent.contains(&deployment));
            let again = calls.contains(&deployment);
            let untried = (0..deployments).any(|other| !calls.contains(&other));
            calls.push(deployment);
            let class = match class {
                0 => Class::Passing,
                1 => Class::Silent,
                _ => Class::Refused,
            };
            // A second call of the same deployment comes last and after a pause.
            prop_assert_eq!(again, !pause.is_zero());
            prop_assert!(!(again && untried));
            if class == Class::Silent {
                silent.push(deployment);
            }
            plan.failed(deployment, class);
            if class == Class::Refused {
                prop_assert_eq!(plan.next(ready), Next::GiveUp);
                break;
            }
        }
        prop_assert!(calls.len() <= attempts_max as usize);
    }
}

#[test]
fn failover_goes_through_the_others_in_order_then_pauses_before_the_last_again() {
    let router = Router::new(&[1, 5, 1], 5);
    let mut plan = router.route();
    let mut seen = Vec::new();
    while let Next::Call { deployment, pause } = plan.next(ready) {
        seen.push((deployment, pause));
        plan.failed(deployment, Class::Passing);
    }
    assert_eq!(
        seen,
        [
            (1, Duration::ZERO),
            (0, Duration::ZERO),
            (2, Duration::ZERO),
            (2, BACK_OFF),
            (2, BACK_OFF * 2)
        ]
    );
}

#[test]
fn a_refused_key_is_followed_by_the_next_key_and_then_the_next_deployment() {
    let router = Router::new(&[2, 1], 5);
    let mut plan = router.route();
    assert_eq!(first(&mut plan), Some(0));
    plan.failed(0, Class::Key);
    assert_eq!(first(&mut plan), Some(0), "another key is left");
    plan.failed(0, Class::Key);
    let rests = |index| {
        if index == 0 {
            Readiness::Rests(Duration::from_secs(7))
        } else {
            Readiness::Ready
        }
    };
    assert_eq!(
        plan.next(rests),
        Next::Call {
            deployment: 1,
            pause: Duration::ZERO
        }
    );
    plan.failed(1, Class::Key);
    assert_eq!(
        plan.next(|_| Readiness::Rests(Duration::from_secs(9))),
        Next::GiveUp
    );
    assert_eq!(plan.shortest_rest(), Some(Duration::from_secs(7)));
}

#[test]
fn nothing_is_called_while_all_deployments_rest_or_are_locked_out() {
    let router = Router::new(&[1, 1], 3);
    let mut plan = router.route();
    assert_eq!(
        plan.next(|index| if index == 0 {
            Readiness::LockedOut
        } else {
            Readiness::Rests(Duration::from_secs(3))
        }),
        Next::GiveUp
    );
    assert_eq!(plan.shortest_rest(), Some(Duration::from_secs(3)));
}
