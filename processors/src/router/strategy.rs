//! Which of several deployments that are ready, by each strategy.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use runtime::config::Strategy;

use super::plan::Plan;
use super::set::Set;
use super::{Fleet, Router, Seat, hash};

/// An average time to the first token below this says nothing more.
const FIRST_TOKEN_MIN_MICROS: u64 = 1_000;

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct Wheel {
    weights: Vec<i64>,
    /// Smooth weighted round robin: what each is owed, in total zero.
    owed: Mutex<Vec<i64>>,
    /// Where round robin and ties go on.
    place: AtomicUsize,
    /// Of each name, for the choice by hash.
    seeds: Vec<u64>,
}

impl Wheel {
    pub(super) fn new(seats: &[Seat]) -> Self {
        Self {
            weights: seats.iter().map(|seat| i64::from(seat.weight)).collect(),
            owed: Mutex::new(vec![0; seats.len()]),
            place: AtomicUsize::new(0),
            seeds: seats
                .iter()
                .map(|seat| hash::bytes(seat.name.as_bytes()))
                .collect(),
        }
    }

    /// Gives a turn to one of `among`: each gets exactly its weight over a cycle, spread out
    /// within it (nginx's smooth weighted round robin).
    fn spin(&self, among: Set) -> Option<usize> {
        let mut owed = self.owed.lock();
        let mut total = 0;
        let mut best: Option<usize> = None;
        for place in among.iter() {
            let weight = self.weights[place];
            owed[place] += weight;
            total += weight;
            if best.is_none_or(|best| {
                // One without weight has its turn only among its like.
                (weight > 0, owed[place]) > (self.weights[best] > 0, owed[best])
            }) {
                best = Some(place);
            }
        }
        if let Some(best) = best {
            owed[best] -= total;
        }
        best
    }

    /// Takes a turn back that `place` could not use.
    fn unspin(&self, among: Set, place: usize) {
        let mut owed = self.owed.lock();
        for other in among.iter() {
            owed[other] -= self.weights[other];
            owed[place] += self.weights[other];
        }
    }

    fn next(&self, among: Set) -> Option<usize> {
        let chosen = among.from(self.place.load(Ordering::Relaxed))?;
        self.place.store(chosen + 1, Ordering::Relaxed);
        Some(chosen)
    }
}

impl Router {
    /// One of `among`; none when it is empty.
    pub(super) fn pick(
        &self,
        plan: &Plan,
        among: Set,
        fleet: &impl Fleet,
        random: u64,
    ) -> Option<usize> {
        if let Some(key) = plan.sticky {
            return self.by_hash(among, key);
        }
        match plan.strategy {
            Strategy::Priority => among.iter().next(),
            Strategy::RoundRobin => self.wheel.next(among),
            Strategy::Weighted => self.wheel.spin(among),
            Strategy::LeastInFlight => self.least_in_flight(among, fleet),
            Strategy::Latency => quicker_of_two(among, fleet, random),
            Strategy::Cost => among.iter().min_by_key(|place| {
                self.seats[*place].cost(plan.prompt_tokens, plan.answer_tokens)
            }),
        }
    }

    /// `place`, which was picked among `among`, cannot be called after all.
    pub(super) fn unpick(&self, plan: &Plan, among: Set, place: usize) {
        if plan.sticky.is_none() && plan.strategy == Strategy::Weighted {
            self.wheel.unspin(among, place);
        }
    }

    /// Weighted rendezvous hashing: the loss of one moves its own keys only.
    fn by_hash(&self, among: Set, key: u64) -> Option<usize> {
        let score = |place: usize| {
            let drawn = hash::fraction(hash::mix(key, self.wheel.seeds[place]));
            self.wheel.weights[place].max(1) as f64 / -drawn.ln()
        };
        let scored = among.iter().map(|place| (place, score(place)));
        let best = scored.max_by(|(_, left), (_, right)| left.total_cmp(right));
        best.map(|(place, _)| place)
    }

    fn least_in_flight(&self, among: Set, fleet: &impl Fleet) -> Option<usize> {
        let start = self.wheel.place.load(Ordering::Relaxed);
        let mut best: Option<(usize, u64)> = None;
        for place in among.iter() {
            let calls = u64::from(fleet.view(place).in_flight) + 1;
            let is_better = best.is_none_or(|(other, others)| {
                let mine = calls.saturating_mul(self.weight(other));
                let theirs = others.saturating_mul(self.weight(place));
                // Ties go around, or an idle fleet would have one busy member.
                mine < theirs || (mine == theirs && other < start && place >= start)
            });
            if is_better {
                best = Some((place, calls));
            }
        }
        let (place, _) = best?;
        self.wheel.place.store(place + 1, Ordering::Relaxed);
        Some(place)
    }

    fn weight(&self, place: usize) -> u64 {
        u64::from(self.seats[place].weight.max(1))
    }
}

impl Seat {
    /// Cost of a request in nano-dollars times a million; one without a price is the dearest.
    fn cost(&self, prompt_tokens: i64, answer_tokens: i64) -> i128 {
        self.price.map_or(i128::MAX, |price| {
            i128::from(price.input) * i128::from(prompt_tokens)
                + i128::from(price.output) * i128::from(answer_tokens)
        })
    }
}

/// The power of two choices (Mitzenmacher 2001, <https://doi.org/10.1109/71.963420>) on the
/// expected wait: the average time to the first token times the calls that are ahead.
fn quicker_of_two(among: Set, fleet: &impl Fleet, random: u64) -> Option<usize> {
    let count = among.len();
    if count < 2 {
        return among.iter().next();
    }
    let (high, low) = ((random >> 32) as usize, (random & 0xffff_ffff) as usize);
    let first = high % count;
    let second = (first + 1 + low % (count - 1)) % count;
    let (first, second) = (among.nth(first)?, among.nth(second)?);
    let (one, other) = (
        fleet.first_token_micros(first),
        fleet.first_token_micros(second),
    );
    let wait = |place: usize, micros: u64, others: u64| {
        // One that is not known yet is taken to be like the other.
        let micros = if micros == 0 { others } else { micros };
        let ahead = u64::from(fleet.view(place).in_flight) + 1;
        micros.max(FIRST_TOKEN_MIN_MICROS).saturating_mul(ahead)
    };
    Some(if wait(first, one, other) <= wait(second, other, one) {
        first
    } else {
        second
    })
}
