//! The processors in process: an embedded log, a provider over real HTTP.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper of a test fails as a test does"
)]

mod adopt;
mod calls;
mod continues;
mod load;
mod origin;
mod providers;
mod reload;
mod rig;
mod routing;
mod secrets;
mod streams;
mod upstream;
