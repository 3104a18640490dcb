//! What every role needs: the log, the schema registry client, the store, object
//! storage, configuration, sealing of secrets, telemetry, shutdown. Peers share it and never share each other.

pub mod codec;
pub mod config;
pub mod fleet;
pub mod leases;
pub mod log;
pub mod objects;
pub mod secrets;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod upstream;
