//! Follows the routing part of the configuration while the process runs: the file is looked at once a second, and read at once
//! on SIGHUP. What is read is checked as a whole, as at the start; with any fault all of it is refused and the old stays.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use runtime::config::{Config, Faults, Role, RoutingDocument};
use runtime::telemetry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::configuration::Source;

/// Between two looks at the file. A look reads it: a mounted folder may swap it without a change of its own dates.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a process runs by, and where it comes from.
pub(crate) struct Reload {
    source: Source,
    role: Role,
    is_demo: bool,
    /// In force.
    config: Config,
    routing: watch::Sender<Arc<RoutingDocument>>,
    /// The text that was judged last.
    judged: Option<String>,
    /// A text that differs from it and may be half written: it is judged when the next look finds the same.
    fresh: Option<String>,
    hang_ups: Signal,
    reloads: Counter<u64>,
}

/// What became of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Applied,
    Unchanged,
    Refused,
}

impl Reload {
    /// Begins with `config`, as read from `source` at the start. From here on SIGHUP does not end the process.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub(crate) fn new(
        source: Source,
        role: Role,
        is_demo: bool,
        config: Config,
    ) -> io::Result<Self> {
        let (routing, _) = watch::channel(Arc::new(config.routing()));
        Ok(Self {
            judged: source.text(),
            source,
            role,
            is_demo,
            config,
            routing,
            fresh: None,
            hang_ups: signal(SignalKind::hangup())?,
            reloads: telemetry::meter()
                .u64_counter("lockgate.config_reloads")
                .with_description("readings of the configuration after the start, by outcome")
                .build(),
        })
    }

    /// The routing document in force, and every one after it.
    pub(crate) fn routing(&self) -> watch::Receiver<Arc<RoutingDocument>> {
        self.routing.subscribe()
    }

    /// Follows the file until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! { biased;
                () = stop.cancelled() => return,
                Some(()) = self.hang_ups.recv() => {
                    self.judged = self.source.text();
                    self.fresh = None;
                    self.read();
                }
                _ = look.tick() => self.look(),
            }
        }
    }

    /// Reads the configuration if its file has changed, and has come to rest.
    fn look(&mut self) {
        let text = self.source.text();
        // A file that is not there for a moment is being replaced.
        if text.is_none() || text == self.judged {
            self.fresh = None;
        } else if text == self.fresh {
            self.judged = self.fresh.take();
            self.read();
        } else {
            self.fresh = text;
        }
    }

    fn read(&mut self) {
        let outcome = match self.source.load_for(self.role, self.is_demo) {
            Ok(config) => self.apply(config),
            Err(Faults(faults)) => {
                for fault in &faults {
                    error!(
                        key = fault.key,
                        problem = fault.problem,
                        remedy = fault.remedy,
                        "the configuration has a fault"
                    );
                }
                error!(
                    faults = faults.len(),
                    config_version = self.config.version(),
                    "the changed configuration is refused, the version in force stays"
                );
                Outcome::Refused
            }
        };
        let label = match outcome {
            Outcome::Applied => "applied",
            Outcome::Unchanged => "unchanged",
            Outcome::Refused => "refused",
        };
        self.reloads.add(1, &[KeyValue::new("outcome", label)]);
    }

    fn apply(&mut self, config: Config) -> Outcome {
        let others = self.config.differs_in(&config);
        if !others.is_empty() {
            warn!(
                sections = others.join(", "),
                "only providers and models are taken on while running; the rest applies at the next start"
            );
        }
        let routing = config.routing();
        self.config.providers = config.providers;
        self.config.models = config.models;
        let changed = routing.version != self.routing.borrow().version;
        info!(
            config_version = routing.version,
            changed, "the configuration was read again"
        );
        // Also when it is the same: keys in files are read anew.
        self.routing.send_replace(Arc::new(routing));
        if changed {
            Outcome::Applied
        } else {
            Outcome::Unchanged
        }
    }
}
