//! The requests that somebody waits for here, by id, and what has come for each of them.
//!
//! The tail pushes records as they are, undecoded, so that one request never waits for
//! the decoding of another's; whoever waits decodes its own. What a waiter may hold is
//! bounded: a client that does not read is cut off, and nobody else notices.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use schemas::id::RequestId;
use tokio_util::sync::CancellationToken;

/// Locks that the map is spread over; several times the cores of a large machine.
const SHARDS: usize = 64;

/// Why nothing more will come for a waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// It held more than it may: its client does not read.
    TooSlow,
    /// The grace period is over.
    Draining,
    /// Replies cannot be read any more.
    TailFailed,
}

/// A record of events as it came, with its offset on the reply partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) offset: i64,
    pub(crate) value: Bytes,
}

type Shard = Mutex<HashMap<RequestId, Arc<Waiter>>>;

/// All waiters of this process.
#[derive(Debug)]
pub(crate) struct Waiters {
    shards: Box<[Shard]>,
    hasher: RandomState,
    /// Bytes that a waiter may hold before a record is refused; it holds at most one record more.
    buffer_bytes_max: usize,
    /// Set once, before the waiters present are closed: later ones are closed from birth.
    closed: Mutex<Option<Closed>>,
}

#[derive(Debug)]
struct Waiter {
    inbox: Mutex<Inbox>,
    /// Closes the client's connection: a client that does not read is never asked for its next frame.
    connection: CancellationToken,
}

#[derive(Debug, Default)]
struct Inbox {
    records: VecDeque<Arrived>,
    bytes: usize,
    closed: Option<Closed>,
    waker: Option<Waker>,
}

/// The receiving end of one waiter; not waited for any more when dropped.
#[derive(Debug)]
pub(crate) struct Inflow {
    waiters: Arc<Waiters>,
    waiter: Arc<Waiter>,
    id: RequestId,
}

impl Waiters {
    pub(crate) fn new(buffer_bytes_max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            buffer_bytes_max,
            closed: Mutex::new(None),
        }
    }

    /// Waits for `id` from now on; `connection` is cancelled when its client turns out too slow.
    pub(crate) fn register(
        self: &Arc<Self>,
        id: RequestId,
        connection: CancellationToken,
    ) -> Inflow {
        let waiter = Arc::new(Waiter {
            inbox: Mutex::default(),
            connection,
        });
        self.shard(id).lock().insert(id, Arc::clone(&waiter));
        // After the insertion: either this sees the flag, or `close_all` sees the waiter.
        if let Some(why) = *self.closed.lock() {
            waiter.close(why);
        }
        Inflow {
            waiters: Arc::clone(self),
            waiter,
            id,
        }
    }

    /// Hands a record to whoever waits for `id`; false when nobody does.
    pub(crate) fn deliver(&self, id: RequestId, arrived: Arrived) -> bool {
        let Some(waiter) = self.shard(id).lock().get(&id).cloned() else {
            return false;
        };
        waiter.push(arrived, self.buffer_bytes_max);
        true
    }

    /// Ends the wait of everybody, now and later.
    pub(crate) fn close_all(&self, why: Closed) {
        self.closed.lock().get_or_insert(why);
        for shard in &self.shards {
            let waiters: Vec<_> = shard.lock().values().cloned().collect();
            for waiter in waiters {
                waiter.close(why);
            }
        }
    }

    fn shard(&self, id: RequestId) -> &Shard {
        let hash = self.hasher.hash_one(id);
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        &self.shards[index]
    }
}

impl Waiter {
    fn push(&self, arrived: Arrived, bytes_max: usize) {
        let mut inbox = self.inbox.lock();
        if inbox.closed.is_some() {
            return;
        }
        if inbox.bytes > bytes_max {
            drop(inbox);
            self.close(Closed::TooSlow);
            self.connection.cancel();
            return;
        }
        inbox.bytes += arrived.value.len();
        inbox.records.push_back(arrived);
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn close(&self, why: Closed) {
        let mut inbox = self.inbox.lock();
        inbox.closed.get_or_insert(why);
        if why == Closed::TooSlow {
            inbox.records = VecDeque::new();
            inbox.bytes = 0;
        }
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Inflow {
    /// The next record; after the last one, why there are no more.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Result<Arrived, Closed>> {
        let mut inbox = self.waiter.inbox.lock();
        if let Some(arrived) = inbox.records.pop_front() {
            inbox.bytes -= arrived.value.len();
            return Poll::Ready(Ok(arrived));
        }
        if let Some(why) = inbox.closed {
            return Poll::Ready(Err(why));
        }
        match &mut inbox.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => inbox.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Whether it was closed because its client does not read.
    pub(crate) fn is_too_slow(&self) -> bool {
        self.waiter.inbox.lock().closed == Some(Closed::TooSlow)
    }

    /// Resolves when nothing more will come, whatever is still held.
    pub(crate) async fn closed(&self) -> Closed {
        std::future::poll_fn(|cx| {
            let mut inbox = self.waiter.inbox.lock();
            match inbox.closed {
                Some(why) => Poll::Ready(why),
                None => {
                    inbox.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Drop for Inflow {
    fn drop(&mut self) {
        self.waiters.shard(self.id).lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::topic::{ReplyPlace, ReplyTopic};

    fn id() -> RequestId {
        RequestId::new(ReplyPlace {
            topic: ReplyTopic::Responses,
            partition: 0,
        })
    }

    fn arrived(offset: i64, bytes: usize) -> Arrived {
        Arrived {
            offset,
            value: Bytes::from(vec![0; bytes]),
        }
    }

    async fn recv(inflow: &Inflow) -> Result<Arrived, Closed> {
        std::future::poll_fn(|cx| inflow.poll_recv(cx)).await
    }

    #[tokio::test]
    async fn a_record_wakes_the_one_who_waits_for_its_id() {
        let waiters = Arc::new(Waiters::new(10));
        let (mine, other) = (id(), id());
        let inflow = waiters.register(mine, CancellationToken::new());
        let mut next = std::pin::pin!(recv(&inflow));
        assert!(futures::poll!(next.as_mut()).is_pending());
        assert!(!waiters.deliver(other, arrived(1, 1)));
        assert!(waiters.deliver(mine, arrived(2, 1)));
        assert_eq!(next.await.unwrap().offset, 2);
    }

    #[tokio::test]
    async fn nobody_waits_for_an_id_whose_inflow_is_gone() {
        let waiters = Arc::new(Waiters::new(10));
        let mine = id();
        drop(waiters.register(mine, CancellationToken::new()));
        assert!(!waiters.deliver(mine, arrived(1, 1)));
    }

    #[tokio::test]
    async fn one_record_of_any_size_is_held_and_the_one_past_the_bound_cuts_the_client_off() {
        let waiters = Arc::new(Waiters::new(10));
        let (mine, connection) = (id(), CancellationToken::new());
        let inflow = waiters.register(mine, connection.clone());
        waiters.deliver(mine, arrived(1, 1000));
        assert!(!connection.is_cancelled());
        waiters.deliver(mine, arrived(2, 1));
        assert!(connection.is_cancelled());
        assert_eq!(recv(&inflow).await, Err(Closed::TooSlow));
    }

    #[tokio::test]
    async fn what_came_before_the_drain_is_still_read_and_later_waiters_are_closed_from_birth() {
        let waiters = Arc::new(Waiters::new(10));
        let mine = id();
        let inflow = waiters.register(mine, CancellationToken::new());
        waiters.deliver(mine, arrived(1, 1));
        waiters.close_all(Closed::Draining);
        assert_eq!(recv(&inflow).await.unwrap().offset, 1);
        assert_eq!(recv(&inflow).await, Err(Closed::Draining));
        let late = waiters.register(id(), CancellationToken::new());
        assert_eq!(late.closed().await, Closed::Draining);
        assert_eq!(recv(&late).await, Err(Closed::Draining));
    }
}
