//! What waits for the committer: bounded, one lock per append.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::frame::{Commit, Slot};
use crate::log::{AppendError, Durability, Position, Record};

/// Most bytes that wait.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most bytes that one write takes; more waits for the next.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What a waiting work costs beside its frame.
const WORK_BYTES: usize = 256;

/// Something for the journal.
#[derive(Debug)]
pub(super) enum Work {
    /// A record.
    Append {
        slot: Slot,
        record: Record,
        durability: Durability,
        reply: oneshot::Sender<Result<Position, AppendError>>,
    },
    /// Positions of a group.
    Commit {
        commit: Commit,
        reply: oneshot::Sender<Result<(), Arc<str>>>,
    },
}

impl Work {
    /// Answers that it is not on the log and never will be.
    pub(super) fn refuse(self, reason: &Arc<str>) {
        // Who does not wait any more does not want to know.
        match self {
            Self::Append { reply, .. } => drop(reply.send(Err(AppendError::Unavailable {
                reason: reason.clone(),
            }))),
            Self::Commit { reply, .. } => drop(reply.send(Err(reason.clone()))),
        }
    }
}

/// What the committer does next.
#[derive(Debug)]
pub(super) enum Next {
    /// Write these.
    Batch(Vec<Work>),
    /// The time given has come and nothing was queued.
    Idle,
    /// Nothing is queued and nothing will be.
    Closed,
}

#[derive(Debug, Default)]
struct State {
    works: VecDeque<(Work, usize)>,
    bytes: usize,
    /// Why nothing is taken; none while it is.
    refusal: Option<Arc<str>>,
    closed: bool,
    /// Whether the committer sleeps and must be woken.
    asleep: bool,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
}

impl Queue {
    /// Queues `work`, whose frame has `bytes` bytes.
    pub(super) fn push(&self, work: Work, bytes: usize) -> Result<(), Arc<str>> {
        let bytes = bytes + WORK_BYTES;
        let mut state = self.state.lock();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        if state.bytes + bytes > BYTES_MAX {
            return Err("too much is waiting to be written".into());
        }
        state.bytes += bytes;
        state.works.push_back((work, bytes));
        if std::mem::take(&mut state.asleep) {
            drop(state);
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Waits for work, until `until` when given.
    pub(super) fn next(&self, until: Option<Instant>) -> Next {
        let mut state = self.state.lock();
        while state.works.is_empty() {
            if state.closed {
                return Next::Closed;
            }
            state.asleep = true;
            match until {
                Some(until) => {
                    if self.ready.wait_until(&mut state, until).timed_out() {
                        state.asleep = false;
                        if state.works.is_empty() && !state.closed {
                            return Next::Idle;
                        }
                    }
                }
                None => self.ready.wait(&mut state),
            }
        }
        state.asleep = false;
        // Whoever shares the core with this thread may be about to append: one sync for two records costs
        // less than two. On an idle core it returns at once.
        parking_lot::MutexGuard::unlocked(&mut state, std::thread::yield_now);
        let mut taken = 0;
        let mut batch = Vec::with_capacity(state.works.len().min(1024));
        while let Some((work, bytes)) = state.works.pop_front() {
            taken += bytes;
            batch.push(work);
            if taken >= BATCH_BYTES_MAX {
                break;
            }
        }
        state.bytes -= taken;
        Next::Batch(batch)
    }

    /// Refuses what is queued and what comes, until [`Queue::accept`].
    pub(super) fn refuse(&self, reason: &Arc<str>) {
        let works = {
            let mut state = self.state.lock();
            state.refusal = Some(reason.clone());
            state.bytes = 0;
            std::mem::take(&mut state.works)
        };
        for (work, _) in works {
            work.refuse(reason);
        }
    }

    /// Takes works again, unless it is closed.
    pub(super) fn accept(&self) {
        let mut state = self.state.lock();
        if !state.closed {
            state.refusal = None;
        }
    }

    /// Takes nothing more; what is queued is still written.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.refusal = Some("the log is closed".into());
        state.asleep = false;
        drop(state);
        self.ready.notify_one();
    }

    /// Whether works are refused.
    pub(super) fn is_refusing(&self) -> bool {
        self.state.lock().refusal.is_some()
    }

    /// Waits until `until` or the close; true when closed.
    pub(super) fn closed_before(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.closed {
            if self.ready.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.closed
    }
}
