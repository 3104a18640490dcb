//! The roles of a process: how each is started, watched and stopped.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::future::select_all;
use runtime::config::{Config, Faults, Role, RoutingDocument};
use runtime::store::keys::KeySnapshot;
use runtime::store::secrets::SecretSnapshot;
use runtime::telemetry::Readiness;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::connect::Shared;

const INGRESS: &str = "ingress";
const PROCESSORS: &str = processors::READY;
const SINKS: &str = "sinks";

/// Past the deadline of the stop, a role has so long for its last words.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A role at work.
pub(crate) struct Running {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The conditions that the roles of a process must meet for it to be ready.
pub(crate) fn conditions(role: Role) -> &'static [&'static str] {
    match role {
        Role::Serve => &[INGRESS, PROCESSORS, SINKS],
        Role::Ingress => &[INGRESS],
        Role::Processors => &[PROCESSORS],
        Role::Sinks => &[SINKS],
    }
}

/// What all roles are given.
pub(crate) struct Start<'a> {
    pub(crate) config: &'a Config,
    /// The routing document in force, and every one after it.
    pub(crate) routing: watch::Receiver<Arc<RoutingDocument>>,
    pub(crate) shared: &'a Shared,
    pub(crate) readiness: &'a Readiness,
    pub(crate) tasks: &'a TaskTracker,
    /// Ends what follows the roles.
    pub(crate) end: &'a CancellationToken,
    /// Set when the stop begins: when its one grace period is over, whichever role is stopped when.
    pub(crate) deadline: &'a Arc<OnceLock<Instant>>,
}

impl Start<'_> {
    /// Starts the roles of `role`; the outermost first, the order in which they are stopped.
    ///
    /// # Errors
    /// When the master keys cannot be read any more.
    pub(crate) async fn roles(
        &self,
        role: Role,
        door: Option<TcpListener>,
    ) -> anyhow::Result<Vec<Running>> {
        // Before any role runs, since it may fail.
        let secrets = match role {
            Role::Serve | Role::Processors => self.secrets().await?,
            Role::Ingress | Role::Sinks => SecretSnapshot::none(),
        };
        let mut running = Vec::new();
        if let Some(door) = door {
            running.push(self.ingress(door).await);
        }
        if matches!(role, Role::Serve | Role::Processors) {
            running.push(self.processors(secrets));
        }
        if matches!(role, Role::Serve | Role::Sinks) {
            running.push(self.sinks());
        }
        Ok(running)
    }

    async fn ingress(&self, door: TcpListener) -> Running {
        let keys = KeySnapshot::follow(
            &self.shared.store,
            &self.config.data_dir,
            self.tasks,
            self.end.clone(),
        )
        .await;
        let mut routing = self.routing.clone();
        let models = routing.borrow_and_update().models.clone();
        let parts = ingress::Parts {
            log: self.shared.log.clone(),
            codec: self.shared.codec.clone(),
            objects: self.shared.objects.clone(),
            store: self.shared.store.clone(),
            keys,
            routing,
            readiness: self.readiness.clone(),
        };
        let settings = ingress::Settings {
            models,
            ..ingress::Settings::from(self.config)
        };
        self.run(INGRESS, |stop| ingress::run(settings, door, parts, stop))
    }

    fn processors(&self, secrets: SecretSnapshot) -> Running {
        let mut routing = self.routing.clone();
        let document = RoutingDocument::clone(&routing.borrow_and_update());
        let parts = processors::Parts {
            log: self.shared.log.clone(),
            codec: self.shared.codec.clone(),
            objects: self.shared.objects.clone(),
            store: self.shared.store.clone(),
            secrets,
            routing,
            readiness: self.readiness.clone(),
        };
        let settings = processors::Settings {
            processors: self.config.processors,
            routing: document,
            redis: self.config.redis.clone(),
            grace: self.config.shutdown.grace,
            deadline: Arc::clone(self.deadline),
        };
        self.run(PROCESSORS, |stop| processors::run(settings, parts, stop))
    }

    /// Followed even while no provider names one: routing may change.
    async fn secrets(&self) -> anyhow::Result<SecretSnapshot> {
        let keys = self.config.secrets.master_keys();
        let keys = keys.map_err(|fault| Faults(vec![fault]))?;
        let Some(keys) = keys else {
            return Ok(SecretSnapshot::none());
        };
        Ok(SecretSnapshot::follow(
            &self.shared.store,
            keys,
            &self.config.data_dir,
            self.tasks,
            self.end.clone(),
        )
        .await)
    }

    fn sinks(&self) -> Running {
        let parts = sinks::Parts {
            log: self.shared.log.clone(),
            codec: self.shared.codec.clone(),
            store: self.shared.store.clone(),
            objects: self.shared.objects.clone(),
            readiness: self.readiness.clone(),
        };
        let settings = self.config.results;
        self.run(SINKS, |stop| async move {
            sinks::run(&settings, parts, stop).await
        })
    }

    fn run<F, E>(&self, name: &'static str, role: impl FnOnce(CancellationToken) -> F) -> Running
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        let stop = CancellationToken::new();
        let work = Box::pin(role(stop.clone()));
        let task = self
            .tasks
            .spawn(async move { work.await.with_context(|| format!("{name} failed")) });
        Running { name, stop, task }
    }
}

/// Waits until a role ends, which none may do before its stop, and says why.
pub(crate) async fn first_end(running: &mut [Running]) -> anyhow::Error {
    let names: Vec<&str> = running.iter().map(|role| role.name).collect();
    let (ended, index, _) = select_all(running.iter_mut().map(|role| &mut role.task)).await;
    let name = names.get(index).copied().unwrap_or_default();
    match ended {
        Ok(Ok(())) => anyhow!("{name} ended without being stopped"),
        Ok(Err(failure)) => failure,
        Err(panic) => anyhow::Error::new(panic).context(format!("{name} failed")),
    }
}

impl Running {
    /// Stops the role and waits for its end, not much longer than until `deadline`.
    ///
    /// # Errors
    /// What made the role fail.
    pub(crate) async fn stop(mut self, deadline: Instant) -> anyhow::Result<()> {
        if self.task.is_finished() {
            // It is what made the process stop.
            return Ok(());
        }
        self.stop.cancel();
        let name = self.name;
        let latest = deadline.max(Instant::now()) + LAST_WORDS;
        match timeout_at(latest, &mut self.task).await {
            Ok(Ok(outcome)) => {
                info!(role = name, "stopped");
                outcome
            }
            Ok(Err(panic)) => Err(anyhow::Error::new(panic).context(format!("{name} failed"))),
            Err(_) => {
                warn!(
                    role = name,
                    "did not end within the grace period, left behind"
                );
                self.task.abort();
                Ok(())
            }
        }
    }
}
