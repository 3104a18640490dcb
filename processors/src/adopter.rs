//! Finds out what became of the requests that were open at an assignment.
//!
//! State is the store's row plus one scan of the response partitions from the results sink's
//! position on. What arrives while one lot is looked up forms the next lot.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use parking_lot::Mutex;
use runtime::log::{Delivery, LogError};
use runtime::store::{Store, StoreError};
use runtime::telemetry::Chain;
use schemas::event::{ErrorBody, EventRecord};
use schemas::fold::Fold;
use schemas::header;
use schemas::id::RequestId;
use schemas::request::Request;
use schemas::topic::ReplyPlace;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::adoption::{self, Decision, Fate, Prior};
use crate::catch_up;
use crate::decode::Decoded;
use crate::follow;
use crate::held::Share;
use crate::request;
use crate::runs::{Completion, Hold, Source};
use crate::work::{Reason, Task, Work};

/// The sink whose positions and rows tell what is known.
const RESULTS: &str = "results";
/// Rows asked for at once.
const ROWS_MAX: usize = 500;
/// Partitions scanned at once.
const SCANS_MAX: usize = 8;
/// Deliveries of one assignment arrive within this time of each other.
const GATHER: Duration = Duration::from_millis(10);
/// Pauses between two tries while the store or the log does not answer.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(3);

/// Where open deliveries are handed in; bounded by what the process holds.
#[derive(Debug)]
pub(crate) struct Adopter {
    work: Arc<Work>,
    store: Store,
    tasks: TaskTracker,
    inbox: Mutex<Vec<Found>>,
    arrived: Notify,
}

/// A delivery that was open at an assignment.
#[derive(Debug)]
pub(crate) struct Found {
    /// As consumed.
    pub(crate) delivery: Delivery,
    /// How to complete it.
    pub(crate) completion: Completion,
    /// Where it came from.
    pub(crate) source: Source,
    /// Its share of the bound.
    pub(crate) share: Share,
}

/// An open request in hand.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) delivery: Delivery,
    pub(crate) request: Request,
    pub(crate) hold: Hold,
    pub(crate) share: Share,
    pub(crate) fold: Fold,
}

/// The requests of one reply place.
pub(crate) type Lot = HashMap<RequestId, Open>;

impl Adopter {
    /// An adopter that looks into `store`.
    pub(crate) fn new(work: Arc<Work>, store: Store, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            work,
            store,
            tasks,
            inbox: Mutex::default(),
            arrived: Notify::new(),
        })
    }

    /// Hands deliveries in; never waits.
    pub(crate) fn hand_in(&self, found: Found) {
        self.inbox.lock().push(found);
        self.arrived.notify_one();
    }

    /// Looks into what is handed in, lot by lot, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.arrived.notified() => {}
            }
            tokio::time::sleep(GATHER).await;
            let found = std::mem::take(&mut *self.inbox.lock());
            if found.is_empty() {
                continue;
            }
            tokio::select! {
                biased;
                // What was not decided stays open and is adopted by the next owner.
                () = stop.cancelled() => return,
                () = self.adopt(found, &stop) => {}
            }
        }
    }

    async fn adopt(&self, found: Vec<Found>, stop: &CancellationToken) {
        let count = found.len();
        let mut lots = self.take_in_hand(found).await;
        // Positions before rows: a row may then know more than its position says, never less.
        let positions = self.positions(&lots).await;
        self.look_up(&mut lots).await;
        let scans = lots.into_iter().map(|(place, lot)| {
            let from = positions.get(&place).copied();
            async move { (place, self.scan(place, from, lot).await) }
        });
        let mut scans = stream::iter(scans).buffer_unordered(SCANS_MAX);
        while let Some((place, (lot, read_to))) = scans.next().await {
            self.settle(place, lot, read_to, stop);
        }
        info!(requests = count, "open requests adopted");
    }

    /// Decodes the deliveries and takes in hand what is not in hand already.
    async fn take_in_hand(&self, found: Vec<Found>) -> HashMap<ReplyPlace, Lot> {
        let mut lots: HashMap<ReplyPlace, Lot> = HashMap::new();
        for one in found {
            let Found {
                delivery,
                completion,
                source,
                mut share,
            } = one;
            let request = match self.work.decoder.decode(&delivery.record.value).await {
                Decoded::Record(request) => request,
                Decoded::Undecodable { schema_id, source } => {
                    let work = Arc::clone(&self.work);
                    self.tasks.spawn(async move {
                        let text = Chain(&source).to_string();
                        work.set_aside(&delivery, None, schema_id, Reason::Undecodable, text)
                            .await;
                        completion.complete();
                        drop(share);
                    });
                    continue;
                }
            };
            let request: Request = request;
            let Some(hold) = self.work.runs.enter(request.id, source, completion) else {
                self.work.metrics.adopted("kept");
                continue;
            };
            // It may have begun elsewhere: it is counted and never refused.
            share.claim(&request.tenant, &request.model, Instant::now());
            let open = Open {
                fold: Fold::default(),
                delivery,
                hold,
                share,
                request,
            };
            lots.entry(open.request.id.reply())
                .or_default()
                .insert(open.request.id, open);
        }
        lots
    }

    /// Where the results sink stands on the partitions of these lots.
    async fn positions(&self, lots: &HashMap<ReplyPlace, Lot>) -> HashMap<ReplyPlace, i64> {
        let mut topics: Vec<_> = lots.keys().map(|place| place.topic).collect();
        topics.sort_unstable();
        topics.dedup();
        let mut positions = HashMap::new();
        for topic in topics {
            let found = insist(|| self.store.positions(RESULTS, topic.topic())).await;
            for (partition, next) in found {
                positions.insert(ReplyPlace { topic, partition }, next);
            }
        }
        positions
    }

    /// Starts the folds with what is stored.
    async fn look_up(&self, lots: &mut HashMap<ReplyPlace, Lot>) {
        let ids: Vec<RequestId> = lots.values().flat_map(|lot| lot.keys().copied()).collect();
        for ids in ids.chunks(ROWS_MAX) {
            for row in insist(|| self.store.results(ids)).await {
                let lot = lots.get_mut(&row.id.reply());
                if let Some(open) = lot.and_then(|lot| lot.get_mut(&row.id)) {
                    open.fold = adoption::fold_of(&row);
                }
            }
        }
    }

    /// Folds what the sink has not seen yet; returns the offset read up to.
    async fn scan(&self, place: ReplyPlace, from: Option<i64>, mut lot: Lot) -> (Lot, i64) {
        let mut pause = RETRY;
        let mut next = from.unwrap_or(0);
        loop {
            match self.scan_from(place, &mut next, &mut lot).await {
                Ok(()) => return (lot, next),
                Err(error) if error.is_retryable() => {
                    warn!(%error, "open requests wait for the log");
                }
                // Retention moved on between two calls, or the log is another one.
                Err(error) => warn!(%error, "a position is not on the log any more"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn scan_from(
        &self,
        place: ReplyPlace,
        next: &mut i64,
        lot: &mut Lot,
    ) -> Result<(), LogError> {
        let log = &self.work.log;
        let ends = log.watermarks(place.topic.topic(), place.partition).await?;
        *next = (*next).clamp(ends.low, ends.high);
        if *next >= ends.high || lot.values().all(|open| open.fold.end.is_some()) {
            *next = ends.high;
            return Ok(());
        }
        let mut tail = log
            .tail(place.topic.topic(), place.partition, *next)
            .await?;
        while let Some(deliveries) = catch_up::next(&mut tail, ends.high).await? {
            for delivery in &deliveries {
                if let Some((open, record)) = self.event_of(lot, delivery).await {
                    for event in &record.events {
                        open.fold.apply(event);
                    }
                }
            }
            *next = tail.position();
        }
        *next = tail.position();
        Ok(())
    }

    /// The events in a delivery, when they are of a request in the lot; others are not decoded.
    async fn event_of<'l>(
        &self,
        lot: &'l mut Lot,
        delivery: &Delivery,
    ) -> Option<(&'l mut Open, EventRecord)> {
        event_of(&self.work, lot, delivery).await
    }

    /// Decides and acts.
    fn settle(&self, place: ReplyPlace, lot: Lot, read_to: i64, stop: &CancellationToken) {
        let single = self.work.log.is_single_process();
        let mut followed = Lot::new();
        for (id, open) in lot {
            match adoption::decide(&open.fold, single) {
                Decision::Complete => {
                    self.work.metrics.adopted("complete");
                    open.hold.finish();
                }
                Decision::Run => {
                    self.work.metrics.adopted("run");
                    spawn(&self.work, &self.tasks, open, None);
                }
                Decision::TakeOver => take_over(&self.work, &self.tasks, open),
                Decision::Follow => {
                    self.work.metrics.adopted("followed");
                    followed.insert(id, open);
                }
            }
        }
        if !followed.is_empty() {
            let (work, tasks) = (Arc::clone(&self.work), self.tasks.clone());
            let follow = follow::follow(work, tasks, place, read_to, followed, follow::SILENT_MAX);
            let stop = stop.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = follow => {}
                }
            });
        }
    }
}

/// The events in a delivery, when they are of a request in the lot; others are not decoded.
pub(crate) async fn event_of<'l>(
    work: &Work,
    lot: &'l mut Lot,
    delivery: &Delivery,
) -> Option<(&'l mut Open, EventRecord)> {
    let id = std::str::from_utf8(delivery.header(header::REQUEST_ID)?).ok()?;
    let open = lot.get_mut(&id.parse::<RequestId>().ok()?)?;
    match work.decoder.decode(&delivery.record.value).await {
        Decoded::Record(record) => Some((open, record)),
        Decoded::Undecodable { source, .. } => {
            warn!(
                topic = &*delivery.topic,
                partition = delivery.position.partition,
                offset = delivery.position.offset,
                error = %source,
                "events that cannot be read are skipped"
            );
            None
        }
    }
}

/// Takes over a request whose run is over or whose process is gone.
pub(crate) fn take_over(work: &Arc<Work>, tasks: &TaskTracker, open: Open) {
    let prior = Prior::new(&open.fold, &open.request);
    match adoption::fate(prior.run, open.request.on_takeover) {
        Fate::Again => {
            work.metrics.adopted("taken_over");
            spawn(work, tasks, open, Some(prior));
        }
        Fate::Lost => {
            work.metrics.adopted("lost");
            end(work, tasks, open, prior, None);
        }
        Fate::Poison => {
            work.metrics.adopted("poison");
            let text = format!("run {} of it was lost with its process", prior.run.number);
            end(work, tasks, open, prior, Some(text));
        }
    }
}

fn spawn(work: &Arc<Work>, tasks: &TaskTracker, open: Open, prior: Option<Prior>) {
    let task = task(open, prior);
    tasks.spawn(request::run(Arc::clone(work), task));
}

fn task(open: Open, prior: Option<Prior>) -> Task {
    let traceparent = traceparent(&open.delivery);
    Task::new(open.request, traceparent, open.hold, open.share, prior)
}

/// Ends a request without another run; with a dead letter when `poison` says why.
fn end(work: &Arc<Work>, tasks: &TaskTracker, open: Open, prior: Prior, poison: Option<String>) {
    let work = Arc::clone(work);
    tasks.spawn(async move {
        if let Some(text) = poison {
            let id = Some(open.request.id);
            work.set_aside(&open.delivery, id, None, Reason::Poison, text)
                .await;
        }
        let task = task(open, Some(prior));
        request::refuse_takeover(&work, &task, &prior, ErrorBody::run_lost()).await;
        task.hold.finish();
    });
}

/// Trace context of a record.
pub(crate) fn traceparent(delivery: &Delivery) -> Option<Bytes> {
    delivery.header(header::TRACEPARENT).cloned()
}

/// Asks the store until it answers.
async fn insist<T, F: Future<Output = Result<T, StoreError>>>(mut ask: impl FnMut() -> F) -> T {
    let mut pause = RETRY;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                warn!(
                    error = %Chain(&error),
                    "open requests wait for the store"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}
