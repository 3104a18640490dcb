//! The work: requests are consumed from the log, called at a provider, and answered on the
//! log. Failover, time-outs, cancel, adoption after a crash, and the drain at the stop.

mod adapters;
mod adopter;
mod adoption;
mod attempt;
mod cancel;
mod catch_up;
mod clock;
mod config;
mod course;
mod decode;
mod emitter;
mod error;
mod failover;
mod follow;
mod gate;
mod health;
mod heartbeat;
mod held;
mod lag;
mod metrics;
mod pace;
mod price;
mod request;
mod router;
mod routing;
mod runs;
#[cfg(test)]
mod samples;
mod service;
mod shadow;
mod shares;
mod signal;
mod trace;
mod wish;
mod work;
mod worker;

pub use config::Settings;
pub use error::Error;
pub use service::{Parts, run};

/// The consumer group of all processors.
pub const GROUP: &str = "processors";

/// Name of the condition for readiness: requests are consumed.
pub const READY: &str = "processors";
