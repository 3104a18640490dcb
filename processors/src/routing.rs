//! Takes on new routing documents while the process works.

use std::sync::Arc;

use arc_swap::ArcSwap;
use runtime::config::RoutingDocument;
use runtime::store::secrets::SecretSnapshot;
use runtime::telemetry::Chain;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::config::{self, Models};
use crate::gate::Slack;
use crate::health::active::{self, Watch};
use crate::metrics::Metrics;

/// What it takes to make models of a document.
pub(crate) struct Routing {
    /// In force.
    pub(crate) models: Arc<ArcSwap<Models>>,
    pub(crate) secrets: SecretSnapshot,
    pub(crate) slack: Arc<Slack>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: TaskTracker,
}

impl Routing {
    /// Puts every document that comes into force, until `stop`; first lets `watches` ask the providers of the one that is. A
    /// document of which no models can be made is refused, and the one in force stays.
    pub(crate) async fn follow(
        self,
        mut documents: watch::Receiver<Arc<RoutingDocument>>,
        watches: Vec<Watch>,
        stop: CancellationToken,
    ) {
        let clock = self.models.load().clock;
        let mut watching = stop.child_token();
        active::watch(watches, clock, &self.tasks, &watching);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = documents.changed() => if changed.is_err() {
                    // Nobody has any more of them.
                    return;
                },
            }
            let document = Arc::clone(&documents.borrow_and_update());
            let before = self.models.load_full();
            match config::models(
                &document,
                Some(&before),
                &self.secrets,
                &self.slack,
                &self.metrics,
            ) {
                Ok((models, watches)) => {
                    self.models.store(Arc::new(models));
                    watching.cancel();
                    watching = stop.child_token();
                    active::watch(watches, clock, &self.tasks, &watching);
                    self.metrics.routed("applied");
                    info!(
                        config_version = document.version,
                        "a new routing document is in force"
                    );
                }
                Err(fault) => {
                    self.metrics.routed("refused");
                    error!(
                        error = %Chain(&fault),
                        refused = document.version,
                        config_version = before.version,
                        "the new routing document is refused, the one in force stays"
                    );
                }
            }
        }
    }
}
