//! The processors in process: an embedded log, a provider over real HTTP.

mod adopt;
mod calls;
mod rig;
mod streams;
mod upstream;
