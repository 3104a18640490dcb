//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use runtime::config::{Faults, Role};
use runtime::secrets::SecretName;

use crate::{configuration, keys, secrets, serve};

/// What `sysexits.h` calls a configuration error.
const EXIT_CONFIG: u8 = 78;

const EXAMPLES: &str = "\
Examples:
  lockgate serve --demo                    everything in one process, with a key and a curl line to try it
  lockgate check-config --config my.yaml   name every fault of a configuration
  lockgate keys create --name laptop --tenant research
  lockgate processors --config my.yaml     one role, meeting the others on Kafka

Exit codes: 0 stopped in order, 1 failed, 2 wrong command line, 78 wrong configuration.";

const SECRETS_EXAMPLES: &str = "\
Examples:
  export LOCKGATE_MASTER_KEY=$(lockgate secrets generate-master-key)
  lockgate secrets set openai-2                      asks for the value, without showing it
  vault read openai | lockgate secrets set openai-2  takes it from standard input

To change the master key:
  1. Put a new one before the old in every process: LOCKGATE_MASTER_KEY=NEW,OLD
  2. lockgate secrets rotate
  3. Remove the old one.";

/// One door to every large language model, on a durable log.
///
/// Applications speak OpenAI's API to Lockgate. Each request is a record on a log before anything else happens, and
/// each token of the answer comes back over the log, so that nothing accepted is lost.
#[derive(Debug, Parser)]
#[command(name = "lockgate", version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Configuration file, YAML [default: ./lockgate.yaml if it is there, else every default]
    ///
    /// `LOCKGATE__SECTION__KEY` variables lie over it, for example LOCKGATE__SERVER__LISTEN=0.0.0.0:8080.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every role in one process
    ///
    /// Needs no other server: the log, the store and large bodies are under `data_dir` unless the configuration says
    /// otherwise. Without any configured provider it serves the scripted model `demo`.
    Serve {
        /// Make a key once, keep it in `data_dir`/demo.key, and print a curl line that works as pasted; a model
        /// `demo` is served, a scripted one if none is configured
        #[arg(long)]
        demo: bool,
    },
    /// Run the door: HTTP in, answers out (needs Kafka and PostgreSQL)
    Ingress,
    /// Run the work: calls to the providers (needs Kafka and PostgreSQL)
    Processors,
    /// Run the effects: results into the store (needs Kafka and PostgreSQL)
    Sinks,
    /// Check a configuration and name every fault by its key
    ///
    /// Nothing is opened or connected. Exit code 0 when there is no fault, else 78.
    CheckConfig {
        /// Check also what this role demands, for example the variables with provider keys
        #[arg(long, value_enum)]
        role: Option<RoleName>,
    },
    /// Print the configuration as it takes effect, secrets hidden
    PrintConfig,
    /// Make, list and disable API keys
    ///
    /// Works on the store itself, also while servers run; they know of a change within a second.
    #[command(subcommand)]
    Keys(Keys),
    /// Keep provider keys in the store, sealed under a master key
    ///
    /// A provider uses one by `keys: [ { secret: NAME } ]`. Works on the store itself, also while servers run; they use a
    /// new value within a second. The master key is LOCKGATE_MASTER_KEY, or in the file `secrets.master_key_file`:
    /// 32 bytes in base64; several, separated by commas: the first seals, all open.
    #[command(subcommand, after_help = SECRETS_EXAMPLES)]
    Secrets(Secrets),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleName {
    Serve,
    Ingress,
    Processors,
    Sinks,
}

#[derive(Debug, Subcommand)]
enum Keys {
    /// Make a key; it alone is printed on standard output, and cannot be shown again
    #[command(
        after_help = "Example:\n  KEY=$(lockgate keys create --name ci --tenant research --expires 90d)"
    )]
    Create(NewKey),
    /// List all keys, without their secrets
    List,
    /// End the validity of a key now
    Disable {
        /// Id of the key, as `lockgate keys list` shows it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum Secrets {
    /// Store a secret, in place of the one of that name
    ///
    /// The value is asked for without being shown, or is all of standard input where that is no terminal; white space
    /// around it is cut. It is never taken from the command line, which others can see.
    Set {
        /// What providers call it: 1 to 64 characters of a-z, A-Z, 0-9, _ . and -
        name: SecretName,
    },
    /// List all secrets: names, master keys, dates; never values
    List,
    /// Remove a secret for good
    Delete {
        /// Its name, as `lockgate secrets list` shows it
        name: SecretName,
    },
    /// Seal every secret under the first master key
    ///
    /// Each is done on its own and at once, so it can be interrupted and run again. Needs the keys that the secrets are
    /// sealed under now, too.
    Rotate,
    /// Print a new master key; it is stored nowhere
    GenerateMasterKey,
}

#[derive(Debug, Args)]
pub(crate) struct NewKey {
    /// For people; unique among the tenant's enabled keys
    #[arg(long)]
    pub(crate) name: String,
    /// Whose requests and bills it makes
    #[arg(long)]
    pub(crate) tenant: String,
    /// What it may do
    #[arg(long, value_enum, default_value_t = KeyRole::Member)]
    pub(crate) role: KeyRole,
    /// How long it is valid, for example 12h or 90d [default: until it is disabled]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) expires: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyRole {
    /// Calls models and sees its tenant's requests
    Member,
    /// That, and administers keys
    Admin,
}

impl Cli {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// [`Faults`] of the configuration, or what went wrong at run time.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let source = configuration::Source::find(self.config);
        match self.command {
            Command::Serve { demo } => serve::run(Role::Serve, source, demo),
            Command::Ingress => serve::run(Role::Ingress, source, false),
            Command::Processors => serve::run(Role::Processors, source, false),
            Command::Sinks => serve::run(Role::Sinks, source, false),
            Command::CheckConfig { role } => configuration::check(&source, role.map(Role::from)),
            Command::PrintConfig => configuration::print(&source),
            Command::Keys(Keys::Create(key)) => keys::create(&source, &key),
            Command::Keys(Keys::List) => keys::list(&source),
            Command::Keys(Keys::Disable { id }) => keys::disable(&source, &id),
            Command::Secrets(Secrets::Set { name }) => secrets::set(&source, &name),
            Command::Secrets(Secrets::List) => secrets::list(&source),
            Command::Secrets(Secrets::Delete { name }) => secrets::delete(&source, &name),
            Command::Secrets(Secrets::Rotate) => secrets::rotate(&source),
            Command::Secrets(Secrets::GenerateMasterKey) => secrets::generate_master_key(),
        }
    }
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Serve => Self::Serve,
            RoleName::Ingress => Self::Ingress,
            RoleName::Processors => Self::Processors,
            RoleName::Sinks => Self::Sinks,
        }
    }
}

/// The error with its causes; faults of the configuration one a line.
pub(crate) fn in_words(error: &anyhow::Error) -> String {
    match error.downcast_ref::<Faults>() {
        Some(faults) => format!(
            "the configuration has {} fault(s)\n{faults}",
            faults.0.len()
        ),
        None => format!("{error:#}"),
    }
}

/// What the process ends with.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<Faults>() {
        ExitCode::from(EXIT_CONFIG)
    } else {
        ExitCode::FAILURE
    }
}
