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

#[cfg(test)]
mod tests {
    use runtime::config::{Health, Origin, Provider, ProviderKind};
    use runtime::upstream::{Exception, Policy};

    use super::*;
    use crate::samples;

    fn document(version: &str, origin: Origin) -> RoutingDocument {
        RoutingDocument {
            providers: vec![Provider {
                name: "p".into(),
                kind: ProviderKind::Http(samples::http("http://127.0.0.1:1/v1")),
                health: Health::default(),
                continues: false,
            }],
            models: Vec::new(),
            version: version.into(),
            origin,
        }
    }

    /// The version in force after `next` has come.
    async fn in_force_after(next: RoutingDocument) -> String {
        let first = document("first", Origin::File);
        let (secrets, slack, metrics) = (SecretSnapshot::none(), Slack::new(1), Metrics::new());
        let (models, watches) = config::models(&first, None, &secrets, &slack, &metrics).unwrap();
        let models = Arc::new(ArcSwap::from_pointee(models));
        let routing = Routing {
            models: Arc::clone(&models),
            secrets,
            slack,
            metrics,
            tasks: TaskTracker::new(),
        };
        let (documents, following) = watch::channel(Arc::new(first));
        documents.send_replace(Arc::new(next));
        // It ends when it has seen the last one.
        drop(documents);
        let stop = CancellationToken::new();
        routing.follow(following, watches, stop).await;
        models.load().version.clone()
    }

    #[tokio::test]
    async fn a_base_url_may_lead_inside_from_the_file_or_by_an_exception_only() {
        let after = |origin| in_force_after(document("next", origin));
        let elsewhere = |exceptions: &[Exception]| Origin::Elsewhere(Policy::new(exceptions));
        assert_eq!(after(Origin::File).await, "next");
        assert_eq!(after(elsewhere(&[])).await, "first");
        let exception = "127.0.0.1".parse().unwrap();
        assert_eq!(after(elsewhere(&[exception])).await, "next");
    }
}
