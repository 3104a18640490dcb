//! The consumer of one lane: takes deliveries in, starts their work, commits what is done.
//! It never waits for the work.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use runtime::log::{Consumer, Delivery, Ledger, Log, LogError, Polled, StartAt};
use runtime::telemetry::Chain;
use schemas::request::{Lane, Request};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::adopter::{Adopter, Found, traceparent};
use crate::decode::Decoded;
use crate::error::Error;
use crate::gate::Slack;
use crate::held::{Held, Share};
use crate::request;
use crate::runs::{Completion, Source};
use crate::work::{Reason, Task, Work};

/// How often completed deliveries are committed.
const COMMIT_EVERY: Duration = Duration::from_millis(200);
/// Before the ends of newly assigned partitions are asked for again.
const RETRY: Duration = Duration::from_millis(300);
/// Longest that leaving the group may take.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// The consumer of one lane with everything it needs.
pub(crate) struct Worker {
    pub(crate) lane: Lane,
    pub(crate) consumer: Consumer,
    /// What of its deliveries is done.
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) work: Arc<Work>,
    pub(crate) adopter: Arc<Adopter>,
    pub(crate) held: Held,
    pub(crate) slack: Arc<Slack>,
    pub(crate) tasks: TaskTracker,
}

/// The state of the loop.
struct Loop {
    worker: Worker,
    ledger: Arc<Mutex<Ledger>>,
    /// Assigned partitions; offsets below the one noted were there at the assignment.
    assigned: HashMap<i32, i64>,
    /// Positions whose commit failed.
    uncommitted: BTreeMap<i32, i64>,
    paused: bool,
}

/// The ends of newly assigned partitions.
struct Ends {
    epoch: u64,
    partitions: Vec<(i32, i64)>,
}

type Asking = FuturesUnordered<BoxFuture<'static, Ends>>;

impl Worker {
    /// Consumes until `stop`; on a log of many processes leaves the group then, so that others
    /// take the partitions, else commits until `drained`.
    ///
    /// # Errors
    /// [`Error::Consume`] when the log failed for good, or a position is not there any more.
    pub(crate) async fn run(
        self,
        stop: CancellationToken,
        drained: CancellationToken,
    ) -> Result<(), Error> {
        let lane = self.lane;
        let single = self.work.log.is_single_process();
        let mut state = Loop {
            ledger: Arc::clone(&self.ledger),
            worker: self,
            assigned: HashMap::new(),
            uncommitted: BTreeMap::new(),
            paused: false,
        };
        let consumed = state.consume(&stop).await;
        if consumed.is_ok() && single {
            drained.cancelled().await;
        }
        state.commit().await;
        state.worker.consumer.close(CLOSE_MAX).await;
        consumed.map_err(|source| Error::Consume {
            topic: lane.topic(),
            source,
        })
    }
}

impl Loop {
    async fn consume(&mut self, stop: &CancellationToken) -> Result<(), LogError> {
        let mut asking = Asking::new();
        let mut commit = tokio::time::interval(COMMIT_EVERY);
        commit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (held, slack) = (self.worker.held.clone(), Arc::clone(&self.worker.slack));
        loop {
            // Made before the look, so that no relief in between is missed.
            let (relieved, slackened) = (held.relieved(), slack.relieved());
            self.press();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = commit.tick() => self.commit().await,
                Some(ends) = asking.next(), if !asking.is_empty() => {
                    self.start(ends, &mut asking).await?;
                }
                () = relieved, if self.paused => {}
                () = slackened, if self.paused => {}
                polled = self.worker.consumer.recv() => match polled? {
                    Polled::Assigned { epoch, partitions } => {
                        self.assign(epoch, partitions, &mut asking);
                    }
                    Polled::Revoked { partitions, .. } => self.revoke(&partitions),
                    Polled::Deliveries(deliveries) => {
                        for delivery in deliveries {
                            self.take(delivery);
                        }
                        if cfg!(feature = "commit-before-work") {
                            self.commit().await;
                        }
                    }
                },
            }
        }
    }

    /// Pauses at a bound, resumes at half of it.
    fn press(&mut self) {
        let Worker {
            held, slack, lane, ..
        } = &self.worker;
        if self.paused {
            if held.is_relieved(Instant::now()) && slack.is_relieved(*lane) {
                self.paused = false;
                self.worker.consumer.resume();
            }
        } else if held.is_full() || !slack.has_slack(*lane) {
            self.paused = true;
            self.worker.consumer.pause();
            debug!(lane = ?self.worker.lane, "consumer paused: enough is held");
        }
    }

    fn assign(&mut self, epoch: u64, partitions: Vec<i32>, asking: &mut Asking) {
        info!(lane = ?self.worker.lane, epoch, ?partitions, "partitions assigned");
        {
            let mut ledger = self.ledger.lock();
            for partition in &partitions {
                ledger.assign(epoch, *partition);
            }
        }
        let log = self.worker.work.log.clone();
        asking.push(Box::pin(ends(
            log,
            self.worker.lane.topic(),
            epoch,
            partitions,
        )));
    }

    /// The ends are known: what is below them is adopted, what is above is new.
    async fn start(&mut self, ends: Ends, asking: &mut Asking) -> Result<(), LogError> {
        let starts: Vec<(i32, StartAt)> = ends
            .partitions
            .iter()
            .map(|(partition, _)| (*partition, StartAt::Committed))
            .collect();
        self.assigned.extend(ends.partitions.iter().copied());
        match self.worker.consumer.start(ends.epoch, &starts).await {
            Ok(()) => {
                let lane = self.worker.lane;
                info!(?lane, epoch = ends.epoch, ends = ?ends.partitions, "partitions started");
                Ok(())
            }
            Err(error) if error.is_retryable() => {
                warn!(%error, "assigned partitions wait for the log");
                let log = self.worker.work.log.clone();
                let topic = self.worker.lane.topic();
                let partitions = ends.partitions.into_iter().map(|(partition, _)| partition);
                let partitions = partitions.collect();
                asking.push(Box::pin(async move {
                    tokio::time::sleep(RETRY).await;
                    self::ends(log, topic, ends.epoch, partitions).await
                }));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn revoke(&mut self, partitions: &[i32]) {
        info!(lane = ?self.worker.lane, ?partitions, "partitions revoked");
        let mut ledger = self.ledger.lock();
        for partition in partitions {
            ledger.revoke(*partition);
            self.assigned.remove(partition);
            self.uncommitted.remove(partition);
            self.worker.work.runs.fence(Source {
                lane: self.worker.lane,
                partition: *partition,
            });
        }
    }

    /// Takes a delivery in and starts its work.
    fn take(&mut self, delivery: Delivery) {
        let position = delivery.position;
        let ticket = self
            .ledger
            .lock()
            .begin(position.partition, position.offset);
        let Some(ticket) = ticket else {
            return;
        };
        let completion = Completion {
            ledger: Arc::clone(&self.ledger),
            ticket,
        };
        if cfg!(feature = "commit-before-work") {
            completion.complete();
        }
        let share = self.worker.held.take(delivery.record.value.len());
        let source = Source {
            lane: self.worker.lane,
            partition: position.partition,
        };
        let end = self.assigned.get(&position.partition).copied();
        if end.is_none_or(|end| position.offset < end) {
            self.worker.adopter.hand_in(Found {
                delivery,
                completion,
                source,
                share,
            });
        } else {
            let work = Arc::clone(&self.worker.work);
            self.worker
                .tasks
                .spawn(Box::pin(begin(work, delivery, completion, source, share)));
        }
    }

    /// Commits the completed prefix of every partition.
    async fn commit(&mut self) {
        for (partition, next) in self.ledger.lock().committable() {
            self.uncommitted.insert(partition, next);
        }
        if self.uncommitted.is_empty() {
            return;
        }
        let next: Vec<(i32, i64)> = self
            .uncommitted
            .iter()
            .map(|(partition, next)| (*partition, *next))
            .collect();
        match self.worker.consumer.commit(&next).await {
            Ok(()) => self.uncommitted.clear(),
            Err(error) => warn!(%error, "positions could not be committed and are kept"),
        }
    }
}

/// Works on a delivery that is new.
async fn begin(
    work: Arc<Work>,
    delivery: Delivery,
    completion: Completion,
    source: Source,
    mut share: Share,
) {
    let request: Request = match work.decoder.decode(&delivery.record.value).await {
        Decoded::Record(request) => request,
        Decoded::Undecodable { schema_id, source } => {
            let text = Chain(&source).to_string();
            work.set_aside(&delivery, None, schema_id, Reason::Undecodable, text)
                .await;
            completion.complete();
            return;
        }
    };
    if let Some(hold) = work.runs.enter(request.id, source, completion) {
        // A patient lane's consumer pauses before anybody has too much of it.
        let over = share
            .claim(&request.tenant, &request.model, Instant::now())
            .filter(|_| request.lane == Lane::Interactive);
        let refusal = over.map(|over| work.refusal(over, &request.model));
        let mut task = Task::new(request, traceparent(&delivery), hold, share, None);
        task.refusal = refusal;
        // Its bytes live on in the request.
        drop(delivery);
        request::run(work, task).await;
    }
}

/// The ends of the partitions, asked for until the log answers.
async fn ends(log: Log, topic: &'static str, epoch: u64, partitions: Vec<i32>) -> Ends {
    let mut known = Vec::with_capacity(partitions.len());
    let since = Instant::now();
    for partition in partitions {
        loop {
            match log.watermarks(topic, partition).await {
                Ok(ends) => {
                    known.push((partition, ends.high));
                    break;
                }
                Err(error) => {
                    warn!(%error, waited = ?since.elapsed(), "the ends of a partition are not known yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
    Ends {
        epoch,
        partitions: known,
    }
}
