//! The door: it takes requests over HTTP, writes them on the log, and answers with what
//! comes back over the log.
//!
//! Nothing is answered before the request is durable. What a process holds here can be lost
//! with it: the request goes on, and its answer is readable by id.

mod admission;
mod answer;
mod api;
mod auth;
mod body;
mod call;
mod canceller;
mod config;
mod connections;
mod directives;
mod error;
mod forecast;
mod metrics;
mod models;
mod operation;
mod publisher;
mod reply;
pub mod resume;
mod routes;
mod server;
mod shape;
mod socket;
mod sse;
mod tail;
mod waiters;

pub use config::Settings;
pub use error::Error;
pub use server::{CONDITION, Parts, run};
