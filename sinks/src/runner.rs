//! The runner: reads topics for one sink and makes it write the effect of each record exactly once.
//!
//! Positions are the sink's own, stored in one transaction with the effect; what the group is told later only lets the
//! log forget what lies behind. Trouble that passes (store, registry or broker down) is waited out, never skipped. A
//! partition whose next record is gone is given up with an error, and the process is not ready from then on.

use std::collections::VecDeque;
use std::time::Duration;

use runtime::codec::{Codec, CodecError};
use runtime::log::{ConsumeOptions, Delivery, Log, LogError, Polled};
use runtime::store::results::Advance;
use runtime::telemetry::Chain;
use schemas::topic;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::dead_letter;
use crate::error::Error;
use crate::position::Positions;
use crate::retry::BackOff;
use crate::sink::{Input, Refused, Sink};
use crate::source::{Entry, Source, recv};
use crate::status::Status;

/// Writes are at least so far apart: the first record after a quiet time is written at once, and under load what
/// arrives meanwhile goes together, since a transaction costs more than a row.
const PACE: Duration = Duration::from_millis(20);
/// Records may wait so long before they are read, so that a busy log is asked once per pace and not once per record: on Kafka a
/// sink that is handed each record at once costs the broker as much as the request itself does.
const LINGER: Duration = Duration::from_millis(50);
/// Most records of one write.
const BATCH_RECORDS_MAX: usize = 2_000;
/// Bytes of one write past which no further records are taken.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How often the group is told the positions; only retention waits for it.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// After the stop, a log that yields nothing for so long has nothing more that has arrived.
const QUIET: Duration = Duration::from_millis(20);
/// Longest that the last writes, and then leaving a group, may take.
const LAST_MAX: Duration = Duration::from_secs(1);

/// Runs one sink.
pub(crate) struct Runner<S> {
    sink: S,
    log: Log,
    codec: Codec,
    status: Status,
    sources: Vec<Source>,
    /// The source that is asked first, so that a busy topic does not starve the others.
    first: usize,
    /// Received and not in the batch yet: only what could not be read at once.
    held: VecDeque<(usize, Delivery)>,
    batch: Batch,
    /// Something is down. The consumers are paused, and asked all the same so that they stay in their groups.
    is_down: bool,
    back_off: BackOff,
}

/// What was taken and is not written yet.
#[derive(Default)]
struct Batch {
    inputs: Vec<Input>,
    /// With those that were set aside.
    records: usize,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.records >= BATCH_RECORDS_MAX || self.bytes >= BATCH_BYTES_MAX
    }
}

impl<S: Sink> Runner<S> {
    /// Joins the groups of the sink.
    ///
    /// # Errors
    /// [`Error::Log`] when the log refuses for good.
    pub(crate) async fn join(
        sink: S,
        log: Log,
        codec: Codec,
        status: Status,
    ) -> Result<Self, Error> {
        let mut sources = Vec::with_capacity(S::TOPICS.len());
        let options = ConsumeOptions {
            linger: LINGER,
            ..ConsumeOptions::default()
        };
        for &topic in S::TOPICS {
            let consumer = log
                .consume(&group::<S>(), topic, options.clone())
                .await
                .map_err(|source| Error::of::<S>(topic, source))?;
            sources.push(Source::new(topic, consumer));
        }
        status.flows();
        Ok(Self {
            sink,
            log,
            codec,
            status,
            sources,
            first: 0,
            held: VecDeque::new(),
            batch: Batch::default(),
            is_down: false,
            back_off: BackOff::default(),
        })
    }

    /// Writes until `stop`, then what has arrived by then; tells the groups and leaves them.
    ///
    /// # Errors
    /// [`Error::Log`] when the log cannot be read any more.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next start goes on where the last write ended.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_MAX).await;
        };
        let outcome = tokio::select! { biased;
            outcome = self.work(&stop) => outcome,
            () = too_late => Ok(()),
        };
        if !matches!(timeout(LAST_MAX, self.finish()).await, Ok(true)) {
            warn!(
                sink = S::NAME,
                "stopped with records unwritten, they are read again at the next start"
            );
        }
        for source in self.sources {
            source.consumer.close(LAST_MAX).await;
        }
        outcome
    }

    /// Dropped anywhere, it leaves the fields true: what is in the batch is what the positions say was taken.
    async fn work(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let mut write_at = Instant::now();
        let mut begin_at = write_at;
        let mut commit_at = write_at + COMMIT_EVERY;
        let mut is_told = true;
        loop {
            let waits = self.is_waiting();
            let receives = self.is_down || !self.batch.is_full();
            let has_records = self.batch.records > 0 || !self.held.is_empty();
            tokio::select! { biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep_until(begin_at), if waits => {
                    self.begin().await?;
                    begin_at = Instant::now() + self.back_off.current();
                }
                (index, polled) = recv(&mut self.sources, self.first), if receives => {
                    self.first = index + 1;
                    self.turn(index, polled).await?;
                }
                () = sleep_until(write_at), if has_records => {
                    self.read().await;
                    let is_written = self.write().await;
                    write_at = Instant::now() + if is_written { PACE } else { self.back_off.next() };
                    is_told = false;
                }
                () = sleep_until(commit_at), if !is_told => {
                    is_told = self.commit().await;
                    commit_at = Instant::now() + COMMIT_EVERY;
                }
            }
            // A backlog keeps the other arms busy.
            if !is_told && commit_at <= Instant::now() {
                is_told = self.commit().await;
                commit_at = Instant::now() + COMMIT_EVERY;
            }
        }
    }

    /// Writes what was taken and what has arrived; whether all of it was written.
    async fn finish(&mut self) -> bool {
        while !self.is_down {
            let next = timeout(QUIET, recv(&mut self.sources, self.first)).await;
            let Ok((index, Ok(Polled::Deliveries(deliveries)))) = next else {
                break;
            };
            self.first = index + 1;
            self.take(index, deliveries).await;
            if self.batch.is_full() && !self.write().await {
                break;
            }
        }
        let is_written = self.write().await && self.held.is_empty();
        self.commit().await && is_written
    }

    async fn turn(&mut self, index: usize, polled: Result<Polled, LogError>) -> Result<(), Error> {
        match polled {
            Ok(Polled::Deliveries(deliveries)) => self.take(index, deliveries).await,
            Ok(Polled::Assigned { epoch, partitions }) => {
                let entries = partitions
                    .into_iter()
                    .map(|place| (place, Entry::Start(epoch)));
                self.sources[index].waiting.extend(entries);
            }
            Ok(Polled::Revoked { partitions, .. }) => {
                // What was taken from them is written now, or by whoever reads them next.
                if !self.write().await {
                    self.rewind();
                }
                for partition in partitions {
                    self.end(index, partition);
                }
                self.sink.forget();
            }
            Err(fault) => {
                self.cope(index, fault).await?;
                // A log that reports the same again and again is not asked in a hot loop.
                tokio::time::sleep(self.back_off.next()).await;
            }
        }
        Ok(())
    }

    /// Adds records to the batch, as far as they can be read now.
    async fn take(&mut self, index: usize, deliveries: Vec<Delivery>) {
        let arrived = deliveries.into_iter().map(|delivery| (index, delivery));
        self.held.extend(arrived);
        if !self.is_down {
            self.read().await;
        }
    }

    /// Moves what is held into the batch, until that is full or a record cannot be read now.
    async fn read(&mut self) {
        while !self.batch.is_full() {
            let Some((index, delivery)) = self.held.front() else {
                return;
            };
            let (index, place) = (*index, delivery.position);
            let source = &self.sources[index];
            if source.positions.expects(place.partition, place.offset) {
                let input = match self.content(source.topic, delivery).await {
                    Ok(input) => input,
                    Err(reason) => return self.waits(&reason),
                };
                self.batch.records += 1;
                self.batch.bytes += delivery.record.value.len();
                self.batch.inputs.extend(input);
                let positions = &mut self.sources[index].positions;
                positions.take(place.partition, place.offset);
            }
            self.held.pop_front();
        }
    }

    /// The content of a record; none when nobody can ever read it and it was set aside.
    ///
    /// # Errors
    /// Why that cannot be told now, in words.
    async fn content(&self, topic: &str, delivery: &Delivery) -> Result<Option<Input>, String> {
        let value = &delivery.record.value;
        let decoded = if topic == topic::RESPONSES || topic == topic::RESPONSES_BACKGROUND {
            self.codec.decode(value).await.map(Input::Events)
        } else {
            self.codec.decode(value).await.map(Input::Request)
        };
        match decoded {
            Ok(input) => Ok(Some(input)),
            Err(fault @ CodecError::Undecodable { .. }) => {
                let letter = dead_letter::of(group::<S>(), delivery, &fault);
                dead_letter::append(&self.log, &self.codec, letter).await?;
                self.status.set_aside();
                Ok(None)
            }
            Err(fault) => Err(Chain(&fault).to_string()),
        }
    }

    /// Writes the batch; false when something is down and there is more to do.
    async fn write(&mut self) -> bool {
        let positions = self.sources.iter().map(|source| &source.positions);
        let advances: Vec<Advance> = positions.flat_map(Positions::advances).collect();
        if !advances.is_empty() {
            let begun = Instant::now();
            match self.sink.write(&self.batch.inputs, &advances).await {
                Ok(()) => {
                    for source in &mut self.sources {
                        source.positions.settle();
                    }
                    self.status.wrote(self.batch.records, begun.elapsed());
                }
                Err(Refused::Fenced) => {
                    warn!(
                        sink = S::NAME,
                        "somebody else reads the same partitions, going back to what is stored"
                    );
                    self.rewind();
                }
                Err(Refused::Down(reason)) => {
                    self.waits(&reason);
                    return false;
                }
            }
        }
        self.batch = Batch::default();
        if self.held.is_empty() {
            self.flows();
        }
        self.held.is_empty()
    }

    /// Begins the partitions that wait for it where the sink stands; those that cannot be begun go on waiting.
    async fn begin(&mut self) -> Result<(), Error> {
        for index in 0..self.sources.len() {
            let source = &mut self.sources[index];
            let Some((entry, partitions)) = source.next_to_begin() else {
                continue;
            };
            self.sink.forget();
            let stored = match self.sink.positions(source.topic).await {
                Ok(stored) => stored,
                Err(refused) => {
                    self.status.waits(&refused.to_string());
                    self.back_off.next();
                    return Ok(());
                }
            };
            let topic = source.topic;
            match source.begin(&self.log, &partitions, entry, &stored).await {
                Ok(()) => info!(sink = S::NAME, topic, ?partitions, "reading"),
                // Retention moved the start meanwhile; without a position any start will do.
                Err(LogError::BelowStart { partition, .. })
                    if stored.iter().all(|(place, _)| *place != partition) => {}
                Err(fault) => {
                    self.back_off.next();
                    self.cope(index, fault).await?;
                }
            }
        }
        if !self.is_down {
            self.flows();
        }
        Ok(())
    }

    fn is_waiting(&self) -> bool {
        self.sources.iter().any(|source| !source.waiting.is_empty())
    }

    /// Deals with a fault of the log; a partition whose next record is gone is given up.
    async fn cope(&mut self, index: usize, fault: LogError) -> Result<(), Error> {
        let topic = self.sources[index].topic;
        match fault {
            LogError::BelowStart { partition, .. } | LogError::BeyondEnd { partition, .. } => {
                // What came before is whole.
                if !self.write().await {
                    self.rewind();
                }
                self.end(index, partition);
                self.status.lost(topic, partition, &fault);
            }
            LogError::Unavailable { .. } => self.status.waits(&Chain(&fault).to_string()),
            LogError::TopicDoesNotFit { .. } | LogError::Fatal { .. } => {
                return Err(Error::of::<S>(topic, fault));
            }
        }
        Ok(())
    }

    /// Drops what was taken and not written, and begins its partitions anew.
    fn rewind(&mut self) {
        self.batch = Batch::default();
        self.sink.forget();
        for index in 0..self.sources.len() {
            let advances = self.sources[index].positions.advances();
            let taken: Vec<i32> = advances.map(|step| step.partition).collect();
            for partition in taken {
                self.end(index, partition);
                self.sources[index].waiting.push((partition, Entry::Seek));
            }
        }
    }

    /// Ends a partition: nothing of it is taken from now on.
    fn end(&mut self, index: usize, partition: i32) {
        let source = &mut self.sources[index];
        source.positions.end(partition);
        source.waiting.retain(|(place, _)| *place != partition);
        self.held.retain(|(other, delivery)| {
            (*other, delivery.position.partition) != (index, partition)
        });
    }

    /// Something is down: nothing more is delivered until it flows again.
    fn waits(&mut self, reason: &str) {
        self.status.waits(reason);
        if !self.is_down {
            self.is_down = true;
            for source in &mut self.sources {
                source.consumer.pause();
            }
        }
    }

    /// Nothing is in the way any more.
    fn flows(&mut self) {
        if !self.is_waiting() {
            self.back_off = BackOff::default();
            self.status.flows();
        }
        if self.is_down {
            self.is_down = false;
            for source in &mut self.sources {
                source.consumer.resume();
            }
        }
    }

    /// Tells the groups what is stored; false when that must be tried again.
    async fn commit(&mut self) -> bool {
        let mut is_told = true;
        for source in &mut self.sources {
            let next = source.positions.uncommitted();
            if next.is_empty() {
                continue;
            }
            match source.consumer.commit(&next).await {
                Ok(()) => source.positions.committed(&next),
                Err(fault) => {
                    is_told = false;
                    warn!(sink = S::NAME, topic = source.topic, error = %fault, "positions not committed");
                }
            }
        }
        is_told
    }
}

fn group<S: Sink>() -> String {
    format!("sink.{}", S::NAME)
}
