//! How many calls come, and what they need. Pure: the clock is passed in.

use tokio::time::Instant;

/// What came longer ago than this, in seconds, says little.
const MEMORY: f64 = 3.0;

/// Calls and their tokens in a minute, of late.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Since the last look.
    calls: f64,
    tokens: f64,
    looked: Instant,
    calls_per_minute: f64,
    tokens_per_minute: f64,
}

impl Pace {
    /// Nothing has come.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            calls: 0.0,
            tokens: 0.0,
            looked: now,
            calls_per_minute: 0.0,
            tokens_per_minute: 0.0,
        }
    }

    /// A call comes that needs so many tokens.
    pub(crate) fn count(&mut self, tokens: f64) {
        self.calls += 1.0;
        self.tokens += tokens;
    }

    /// Calls and tokens in a minute: a mean in which what is older than [`MEMORY`] counts little.
    pub(crate) fn per_minute(&mut self, now: Instant) -> (f64, f64) {
        let elapsed = now.saturating_duration_since(self.looked).as_secs_f64();
        if elapsed > 0.0 {
            let weight = 1.0 - (-elapsed / MEMORY).exp();
            let blend = |mean: &mut f64, count: &mut f64| {
                let rate = std::mem::take(count) * 60.0 / elapsed;
                *mean += (rate - *mean) * weight;
            };
            blend(&mut self.calls_per_minute, &mut self.calls);
            blend(&mut self.tokens_per_minute, &mut self.tokens);
            self.looked = now;
        }
        (self.calls_per_minute, self.tokens_per_minute)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_steady_pace_is_found_whenever_it_is_looked_at_and_forgotten_when_it_ends() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for step in 0..300 {
            now += Duration::from_millis(if step % 3 == 0 { 50 } else { 100 });
            pace.count(200.0);
            if step % 7 == 0 {
                pace.per_minute(now);
            }
        }
        // Three calls in a quarter of a second.
        let (calls, tokens) = pace.per_minute(now);
        assert!((calls - 720.0).abs() < 40.0, "{calls}");
        assert!((tokens - 144_000.0).abs() < 8_000.0, "{tokens}");
        let (calls, _) = pace.per_minute(now + Duration::from_secs(30));
        assert!(calls < 1.0, "{calls}");
    }
}
