//! How many calls may be repeated, so that an outage is not amplified.

use std::time::Duration;

/// Seconds that are looked back on.
const WINDOW: usize = 10;
/// So many out of a hundred calls of the window may be repeated …
const PERCENT: u64 = 20;
/// … and so many more, whatever the number of calls.
const BURST: u64 = 100;

/// The calls and repeats of the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    seconds: [Second; WINDOW],
}

#[derive(Debug, Clone, Copy, Default)]
struct Second {
    /// Which one.
    number: u64,
    calls: u64,
    retries: u64,
}

impl Budget {
    /// A request is called for the first time; that is always allowed.
    pub(crate) fn call(&mut self, now: Duration) {
        self.second(now).calls += 1;
    }

    /// Whether a call may be repeated now; if so, it is taken to be.
    pub(crate) fn retry(&mut self, now: Duration) -> bool {
        let oldest = (now.as_secs() + 1).saturating_sub(WINDOW as u64);
        let recent = self.seconds.iter().filter(|second| second.number >= oldest);
        let (mut calls, mut retries) = (0, 0);
        for second in recent {
            calls += second.calls;
            retries += second.retries;
        }
        let is_allowed = retries < calls * PERCENT / 100 + BURST;
        if is_allowed {
            self.second(now).retries += 1;
        }
        is_allowed
    }

    fn second(&mut self, now: Duration) -> &mut Second {
        let number = now.as_secs();
        let second = &mut self.seconds[(number % WINDOW as u64) as usize];
        if second.number != number {
            *second = Second {
                number,
                ..Second::default()
            };
        }
        second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(budget: &mut Budget, now: Duration) -> u64 {
        (0..100_000).take_while(|_| budget.retry(now)).count() as u64
    }

    #[test]
    fn a_fifth_of_the_calls_of_the_last_ten_seconds_and_a_burst_are_repeated() {
        let mut budget = Budget::default();
        let at = Duration::from_secs;
        assert_eq!(retries(&mut budget, at(100)), BURST);
        for second in 100..110 {
            for _ in 0..200 {
                budget.call(at(second));
            }
        }
        assert_eq!(
            retries(&mut budget, at(109)),
            400,
            "2,000 calls; the burst is spent"
        );
        assert!(!budget.retry(at(109)));
        assert_eq!(
            retries(&mut budget, at(110)),
            60,
            "the second that held the burst is gone, and 200 calls with it"
        );
        assert_eq!(retries(&mut budget, at(130)), BURST, "all is forgotten");
    }
}
