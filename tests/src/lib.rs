//! The harness of the end-to-end tests and of the benchmarks: a mock upstream that can be told to
//! behave or to fail ([`mock`], [`fault`]), another behind TLS ([`secure`]), a load generator ([`load`]) and a receiver of
//! telemetry ([`otlp`]), none of which knows Lockgate: they speak to it as a client and answer it as
//! a provider. [`harness`] starts it.

pub mod fault;
pub mod harness;
pub mod load;
pub mod mock;
pub mod otlp;
pub mod secure;

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch by the system's clock.
///
/// The mock writes it into the tokens it sends and the load generator subtracts it on arrival, so
/// both have to run on one machine. 19 decimal digits until the year 2286.
#[must_use]
pub fn unix_nanos() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}
