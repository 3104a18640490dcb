//! The one binary: every role of Lockgate and the commands to set it up.

mod cli;
mod configuration;
mod connect;
mod demo;
mod keys;
mod reload;
mod roles;
mod secrets;
mod serve;
mod store_command;
mod watchdog;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

/// Leaner and quicker than the system's under many small allocations by several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever started the process may be gone; there is nobody else to tell.
            drop(writeln!(
                std::io::stderr(),
                "lockgate: {}",
                cli::in_words(&error)
            ));
            cli::exit_code(&error)
        }
    }
}
