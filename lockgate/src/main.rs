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
    #[cfg(target_os = "linux")]
    use_small_pages();
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

/// The allocator asks for huge pages, and with them each corner of its heap that is touched takes 2 MiB: of an idle process
/// that is more than half. Linux alone has the switch.
#[cfg(target_os = "linux")]
fn use_small_pages() {
    if rustix::thread::disable_transparent_huge_pages(true).is_err() {
        // Where this is forbidden or unknown, it costs memory and nothing else.
    }
}
