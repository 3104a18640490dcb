//! Tests of the parts together, over a real store.

mod results;
mod runner;
mod samples;
mod sweeper;
