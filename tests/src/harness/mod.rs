//! Starts Lockgate as its users do: the binary, a configuration file, real processes, a real
//! broker and database. A test reads as the story of what happens to them.
//!
//! Tests on Kafka need the stack of `deploy/local/stack` (`make test` starts it). Without it they
//! say so and pass, unless `LOCKGATE_TEST_REQUIRE_STACK` is set, as `make test` does.

mod client;
mod disk;
mod gateway;
mod process;
mod proxy;
mod records;
mod stack;

pub use client::{Answer, Client, SseEvent, Stream, Whole, chat};
pub use disk::SmallDisk;
pub use gateway::{Builder, Gateway, LogKind, RoleName};
pub use process::{Process, eventually, free_port, program};
pub use proxy::Proxy;
pub use records::Records;
pub use stack::Stack;
