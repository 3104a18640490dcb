use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::client::Failure;

/// Longest time told apart, in nanoseconds (10 minutes); a longer one counts as this.
const NANOS_MAX: u64 = 600_000_000_000;

/// A distribution of times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Number of samples.
    pub count: u64,
    /// Median, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
    /// Largest, in microseconds.
    pub max_us: f64,
}

/// What failed: by status (`"503"`), or what happened to the connection (`"transport"`) or to a
/// stream (`"broken stream"`).
pub type Errors = BTreeMap<String, u64>;

/// What a run of whole answers measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Answers with a 2xx per second.
    pub per_second: f64,
    /// Their latency.
    pub latency: Quantiles,
    /// Everything that was not a 2xx.
    pub errors: Errors,
    /// Length of the measurement, in seconds.
    pub seconds: f64,
}

/// What a run of streams measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StreamReport {
    /// Streams that came whole.
    pub streams: u64,
    /// Tokens of all streams.
    pub tokens: u64,
    /// From sending the request to the first token.
    pub first_token: Quantiles,
    /// Between two reads that brought tokens.
    pub gap: Quantiles,
    /// From the mock's write of a token to the client's read of it; needs the directive `stamp`.
    pub transit: Quantiles,
    /// From sending a request to the end of an answer that is not a 2xx.
    pub refused: Quantiles,
    /// Everything that did not come whole.
    pub errors: Errors,
    /// Length of the measurement, in seconds.
    pub seconds: f64,
}

/// Collects times into a histogram with three digits.
#[derive(Debug)]
pub struct Times(Option<Histogram<u64>>);

impl Times {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        // The bounds are valid, so this is always there.
        Self(Histogram::new_with_bounds(1, NANOS_MAX, 3).ok())
    }

    /// Adds one time.
    pub fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(NANOS_MAX);
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(nanos.clamp(1, NANOS_MAX));
        }
    }

    /// Adds all times of `other`.
    pub fn merge(&mut self, other: &Self) {
        if let (Some(histogram), Some(other)) = (&mut self.0, &other.0)
            && histogram.add(other).is_err()
        {
            // Both have the same bounds, so every value fits.
        }
    }

    /// The distribution so far; zeros when there is none.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        let Some(histogram) = &self.0 else {
            return Quantiles::default();
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "three digits are kept of 53 bits"
        )]
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        Quantiles {
            count: histogram.len(),
            p50_us: micros(histogram.value_at_quantile(0.5)),
            p99_us: micros(histogram.value_at_quantile(0.99)),
            max_us: micros(histogram.max()),
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) fn count_error(errors: &mut Errors, failure: &Failure) {
    let name = match failure {
        Failure::Status(status) => status.as_u16().to_string(),
        Failure::Transport => "transport".into(),
        Failure::BrokenStream => "broken stream".into(),
    };
    *errors.entry(name).or_default() += 1;
}

/// Collects the outcomes of one worker.
#[derive(Debug)]
pub(super) struct Samples {
    latency: Times,
    errors: Errors,
}

impl Samples {
    pub(super) fn new() -> Self {
        Self {
            latency: Times::new(),
            errors: Errors::new(),
        }
    }

    pub(super) fn record(&mut self, outcome: &Result<(), Failure>, latency: Duration) {
        match outcome {
            Ok(()) => self.latency.record(latency),
            Err(failure) => count_error(&mut self.errors, failure),
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        for (name, count) in other.errors {
            *self.errors.entry(name).or_default() += count;
        }
    }

    pub(super) fn report(self, measured: Duration) -> Report {
        let latency = self.latency.quantiles();
        let seconds = measured.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 53 bits")]
        let per_second = latency.count as f64 / seconds;
        Report {
            per_second,
            latency,
            errors: self.errors,
            seconds,
        }
    }
}
