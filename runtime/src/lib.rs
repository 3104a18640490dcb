//! What every role needs: the log, the schema registry client, the store, object
//! storage, configuration, telemetry, shutdown. Peers share it and never share each other.

pub mod codec;
pub mod config;
pub mod log;
pub mod objects;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod upstream;
