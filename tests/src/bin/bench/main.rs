//! `bench`: measures Lockgate as `docs/benchmarks.md` reports it, and the parts it does so with.

mod echo;
mod failover;
mod log;
mod process;
mod run;
mod scenarios;
mod soak;
mod table;

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use tests::load::{self, Span, Streams, Target};
use tests::mock::{Mock, Options};

/// Measures Lockgate.
#[derive(Debug, Parser)]
#[command(about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the mock upstream; prints its address and answers until killed
    Mock {
        /// Address to listen on; port 0 picks a free one
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Remember this many calls one by one (`GET /_mock/calls`)
        #[arg(long, default_value_t = 100_000)]
        calls_max: usize,
    },
    /// Put load on a server and print what was measured, as JSON
    Load(LoadArguments),
    /// Produce to one topic, echo to a second, and measure both hops against Kafka alone
    Echo(echo::Arguments),
    /// Measure the embedded log alone
    Log(log::Arguments),
    /// Measure everything and write the table
    Run(Box<run::Arguments>),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// Each connection sends its next request when it has its answer
    Closed,
    /// Requests are due by the clock, latency counts from then
    Rate,
    /// Streams
    Streams,
}

#[derive(Debug, clap::Args)]
struct LoadArguments {
    /// Server to call
    #[arg(long)]
    addr: SocketAddr,
    /// How requests follow each other
    #[arg(long, value_enum, default_value = "closed")]
    mode: Mode,
    /// Connections, or streams at a time
    #[arg(long, short, default_value_t = 10)]
    concurrency: usize,
    /// Requests per second, in mode `rate`
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Seconds measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds of load before that
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Model to ask for
    #[arg(long, default_value = "mock")]
    model: String,
    /// API key
    #[arg(long, env = "BENCH_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Prompt; may hold directives of the mock
    #[arg(long, default_value = "Say hello")]
    prompt: String,
    /// Tokens that make a stream whole
    #[arg(long, default_value_t = 64)]
    tokens: u64,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Mock { listen, calls_max } => {
            let mock = Mock::start_with(Options {
                listen,
                calls_max,
                ..Options::default()
            })
            .with_context(|| format!("cannot listen on {listen}"))?;
            let mut out = std::io::stdout();
            writeln!(out, "{}", mock.addr())?;
            out.flush()?;
            loop {
                std::thread::park();
            }
        }
        Command::Load(arguments) => on_one_thread(load(arguments)),
        Command::Echo(arguments) => on_one_thread(echo::run(arguments)),
        Command::Log(arguments) => log::run(arguments),
        Command::Run(arguments) => on_one_thread(run::run(*arguments)),
    }
}

/// Everything that measures runs on one thread, as it has one core.
fn on_one_thread(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

async fn load(arguments: LoadArguments) -> anyhow::Result<()> {
    let stream = matches!(arguments.mode, Mode::Streams);
    let mut target = Target::chat(arguments.addr, &arguments.model, &arguments.prompt, stream);
    target.api_key = arguments.key;
    let span = Span {
        warm_up: Duration::from_secs_f64(arguments.warm_up),
        measured: Duration::from_secs_f64(arguments.seconds),
    };
    match arguments.mode {
        Mode::Closed => print(&load::closed_loop(&target, arguments.concurrency, span).await?),
        Mode::Rate => {
            print(&load::constant_rate(&target, arguments.rate, arguments.concurrency, span).await?)
        }
        Mode::Streams => {
            let streams = Streams {
                concurrency: arguments.concurrency,
                tokens: arguments.tokens,
                spread: Duration::from_secs(1),
            };
            print(&load::streams(&target, streams, span).await?)
        }
    }
}

/// Prints a result for another process to read.
fn print(result: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    serde_json::to_writer(&mut out, result)?;
    writeln!(out)?;
    Ok(())
}
