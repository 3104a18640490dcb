//! What crosses a process boundary, pure and without I/O: records and their Avro
//! schemas, topics, headers, framing, the fold of events into an answer, and the
//! dialects that clients and providers speak.

pub mod attribute;
pub mod control;
pub mod dead_letter;
pub mod dialect;
pub mod error;
pub mod event;
pub mod fold;
pub mod framing;
pub mod header;
pub mod id;
pub mod model;
pub mod request;
pub mod status;
pub mod time;
pub mod topic;
