use proptest::prelude::*;

use super::*;

/// A provider that takes `bears` calls at once and pushes more back, under a load that always
/// fills the capacity. Returns the lowest and highest capacity of the last rounds.
fn rounds(capacity: &mut Capacity, bears: usize, count: usize) -> (usize, usize) {
    let (mut lowest, mut highest) = (usize::MAX, 0);
    for round in 0..count {
        let (calls, epoch) = (capacity.get(), capacity.epoch());
        for call in 0..calls {
            if call < bears {
                capacity.succeeded(calls);
            } else {
                capacity.pushed_back(epoch);
            }
        }
        assert!((1..=capacity.ceiling).contains(&capacity.get()));
        if round >= count / 2 {
            lowest = lowest.min(capacity.get());
            highest = highest.max(capacity.get());
        }
    }
    (lowest, highest)
}

#[test]
fn a_fixed_capacity_stays_whatever_happens() {
    let mut capacity = Capacity::new(8, false);
    for _ in 0..100 {
        capacity.pushed_back(capacity.epoch());
        capacity.succeeded(8);
    }
    assert_eq!(capacity.get(), 8);
}

#[test]
fn all_push_backs_of_one_round_count_once() {
    let mut capacity = Capacity::new(100, true);
    let epoch = capacity.epoch();
    for _ in 0..100 {
        capacity.pushed_back(epoch);
    }
    assert_eq!(capacity.get(), 70);
    capacity.pushed_back(capacity.epoch());
    assert_eq!(capacity.get(), 49);
}

#[test]
fn it_grows_by_one_a_round_and_only_while_it_is_used() {
    let mut capacity = Capacity::new(100, true);
    capacity.pushed_back(0);
    for _ in 0..1_000 {
        capacity.succeeded(69);
    }
    assert_eq!(capacity.get(), 70, "never full");
    for _ in 0..69 {
        capacity.succeeded(70);
    }
    assert_eq!(capacity.get(), 70);
    capacity.succeeded(70);
    assert_eq!(capacity.get(), 71);
}

#[test]
fn it_falls_to_one_and_never_below() {
    let mut capacity = Capacity::new(64, true);
    for _ in 0..100 {
        capacity.pushed_back(capacity.epoch());
    }
    assert_eq!(capacity.get(), 1);
    capacity.succeeded(1);
    assert_eq!(capacity.get(), 2);
}

#[test]
fn first_tokens_far_above_their_least_are_a_push_back_and_usual_ones_are_not() {
    let mut capacity = Capacity::new(100, true);
    let mut now = Instant::now();
    let mut tokens = |capacity: &mut Capacity, millis: u64, count: usize| {
        for _ in 0..count {
            now += Duration::from_millis(100);
            let epoch = capacity.epoch();
            capacity.first_token(Duration::from_millis(millis), epoch, now);
        }
    };
    tokens(&mut capacity, 200, 200);
    tokens(&mut capacity, 500, 100);
    assert_eq!(capacity.get(), 100, "slower, but not far above");
    tokens(&mut capacity, 3_000, 1);
    assert_eq!(capacity.get(), 100, "a single late one says nothing");
    tokens(&mut capacity, 3_000, 50);
    assert!(capacity.get() < 50);
}

#[test]
fn a_provider_that_became_slower_for_good_is_not_taken_for_overloaded_for_ever() {
    let mut capacity = Capacity::new(100, true);
    let mut now = Instant::now();
    capacity.first_token(Duration::from_millis(200), 0, now);
    for _ in 0..2_000 {
        now += Duration::from_secs(1);
        let epoch = capacity.epoch();
        capacity.first_token(Duration::from_secs(2), epoch, now);
    }
    let epoch = capacity.epoch();
    capacity.first_token(Duration::from_secs(2), epoch, now);
    assert_eq!(capacity.epoch(), epoch);
}

proptest! {
    /// Wherever the provider's bound lies, the capacity comes to lie around it and stays there.
    #[test]
    fn it_converges_to_what_the_provider_bears(bears in 1..200_usize, ceiling in 1..200_usize) {
        let mut capacity = Capacity::new(ceiling, true);
        let (lowest, highest) = rounds(&mut capacity, bears, 1_000);
        let bound = bears.min(ceiling);
        // One more than it bears is what shows that it is too many.
        prop_assert!(highest <= bound + 1);
        prop_assert!(lowest as f64 >= (bound as f64 * KEPT - 1.0).floor().max(1.0));
    }

    /// A bound that falls is followed within some rounds, and one that rises as well.
    #[test]
    fn it_follows_a_provider_that_changes(before in 1..100_usize, after in 1..100_usize) {
        let mut capacity = Capacity::new(100, true);
        rounds(&mut capacity, before, 500);
        let (lowest, highest) = rounds(&mut capacity, after, 500);
        prop_assert!(highest <= after + 1);
        prop_assert!(lowest as f64 >= (after as f64 * KEPT - 1.0).floor().max(1.0));
    }
}

#[test]
fn a_ceiling_that_moves_takes_a_free_capacity_along_and_leaves_what_the_provider_bears() {
    let mut fixed = Capacity::new(5, false);
    fixed.set_ceiling(0);
    assert_eq!(fixed.get(), 0);
    fixed.set_ceiling(9);
    assert_eq!((fixed.get(), fixed.bears(20)), (9, 20));

    let mut adaptive = Capacity::new(10, true);
    adaptive.set_ceiling(0);
    assert_eq!(adaptive.get(), 0);
    adaptive.set_ceiling(20);
    assert_eq!(adaptive.get(), 20);
    adaptive.pushed_back(adaptive.epoch());
    assert_eq!((adaptive.get(), adaptive.bears(20)), (14, 14));
    adaptive.set_ceiling(40);
    assert_eq!(adaptive.get(), 14);
    adaptive.set_ceiling(3);
    assert_eq!(adaptive.get(), 3);
    adaptive.succeeded(3);
    assert_eq!(adaptive.get(), 3, "never above the ceiling");
}
