//! Orders to stop work that nobody waits for any more.
//!
//! A hang-up is noticed by a value being dropped, where nothing can be awaited: the order
//! goes through a bounded channel to one task, which appends it durably at once and keeps
//! trying until the log has it or the request's deadline has passed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use runtime::codec::Codec;
use runtime::log::{Durability, Log, Place, Record};
use schemas::control::Cancel;
use schemas::id::RequestId;
use schemas::request::OnDisconnect;
use schemas::time::Timestamp;
use schemas::topic;
use tokio::sync::mpsc;
use tracing::{debug, error, warn};

use crate::metrics::Metrics;
use crate::publisher::headers;

/// Orders that may wait for the task; it takes them up in microseconds.
const QUEUED_MAX: usize = 4096;
/// Orders being appended or waiting for the log at once.
const APPENDING_MAX: usize = 16_384;
/// Between two tries while the log is down.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// Where orders are handed in; clones share one task.
#[derive(Debug, Clone)]
pub(crate) struct Canceller {
    orders: mpsc::Sender<Cancel>,
    /// Connections are closed by us from now on: that is no hang-up.
    leaving: Arc<AtomicBool>,
}

/// The task's end of the channel.
#[derive(Debug)]
pub(crate) struct Orders {
    orders: mpsc::Receiver<Cancel>,
}

/// The wish to cancel a request when its client hangs up: dropping it means that it did.
#[derive(Debug)]
pub(crate) struct HangUp {
    armed: Option<(Canceller, RequestId, Timestamp)>,
}

pub(crate) fn channel() -> (Canceller, Orders) {
    let (sender, receiver) = mpsc::channel(QUEUED_MAX);
    let canceller = Canceller {
        orders: sender,
        leaving: Arc::default(),
    };
    (canceller, Orders { orders: receiver })
}

impl Canceller {
    /// Asks for `id` to be stopped; never waits.
    pub(crate) fn cancel(&self, id: RequestId, deadline: Timestamp, reason: &str) {
        let order = Cancel {
            id,
            reason: reason.to_owned(),
            at: Timestamp::now(),
            deadline,
        };
        if self.orders.try_send(order).is_err() {
            // The work goes on to its end or its deadline: it costs, but nothing is lost.
            warn!(request.id = %id, "too many cancels at once, one was dropped");
        }
    }

    /// The switch for the end of this process.
    pub(crate) fn leaving(&self) -> Leaving {
        Leaving {
            leaving: Arc::clone(&self.leaving),
        }
    }

    /// A guard that cancels when dropped, if the key's policy is to cancel.
    pub(crate) fn on_hang_up(
        &self,
        policy: OnDisconnect,
        id: RequestId,
        deadline: Timestamp,
    ) -> HangUp {
        let armed = match policy {
            OnDisconnect::Cancel => Some((self.clone(), id, deadline)),
            OnDisconnect::Drain | OnDisconnect::Detach => None,
        };
        HangUp { armed }
    }
}

/// Tells that this process closes its connections by itself; the requests go on elsewhere.
#[derive(Debug)]
pub(crate) struct Leaving {
    leaving: Arc<AtomicBool>,
}

impl Leaving {
    /// From now on a closed connection cancels nothing.
    pub(crate) fn begin(&self) {
        self.leaving.store(true, Ordering::Release);
    }
}

impl HangUp {
    /// The client is served, or was told otherwise: a later drop means nothing.
    pub(crate) fn disarm(&mut self) {
        self.armed = None;
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if let Some((canceller, id, deadline)) = self.armed.take()
            && !canceller.leaving.load(Ordering::Acquire)
        {
            canceller.cancel(id, deadline, "client disconnected");
        }
    }
}

/// Appends orders until every [`Canceller`] is gone and every order is settled.
pub(crate) async fn run(mut orders: Orders, log: Log, codec: Codec, metrics: Metrics) {
    let mut appending = FuturesUnordered::new();
    let mut open = true;
    loop {
        tokio::select! {
            order = orders.orders.recv(), if open && appending.len() < APPENDING_MAX => match order {
                Some(order) => appending.push(append(&log, &codec, &metrics, order)),
                None => open = false,
            },
            Some(()) = appending.next(), if !appending.is_empty() => {}
            else => return,
        }
    }
}

/// Appends one order, again and again until the log has it or it is too late.
async fn append(log: &Log, codec: &Codec, metrics: &Metrics, order: Cancel) {
    let id = order.id;
    let value = match codec.encode(&order) {
        Ok(value) => value,
        Err(error) => {
            error!(request.id = %id, %error, "could not encode a cancel");
            return;
        }
    };
    let name = id.to_string();
    let record = Record {
        key: name.clone().into(),
        headers: headers(&name, None),
        value,
    };
    let mut log_is_up = log.health();
    loop {
        let place = Place::Partition(0);
        match log
            .append(topic::CONTROL, place, record.clone(), Durability::Durable)
            .await
        {
            Ok(_) => {
                metrics.cancelled();
                debug!(request.id = %id, reason = %order.reason, "cancel appended");
                return;
            }
            Err(_) if Timestamp::now() >= order.deadline => return,
            Err(error) => debug!(request.id = %id, %error, "cancel not appended yet"),
        }
        // Whichever comes first; after a change of health there is no reason to wait longer.
        tokio::select! {
            () = tokio::time::sleep(RETRY_EVERY) => {}
            Ok(()) = log_is_up.changed() => {}
        }
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

    #[test]
    fn a_dropped_guard_orders_a_cancel_and_a_disarmed_one_does_not() {
        let (canceller, mut orders) = channel();
        let deadline = Timestamp::now();
        let (first, second) = (id(), id());
        drop(canceller.on_hang_up(OnDisconnect::Cancel, first, deadline));
        let mut guard = canceller.on_hang_up(OnDisconnect::Cancel, second, deadline);
        guard.disarm();
        drop(guard);
        assert_eq!(orders.orders.try_recv().unwrap().id, first);
        assert!(orders.orders.try_recv().is_err());
    }

    #[test]
    fn a_process_that_leaves_cancels_nothing() {
        let (canceller, mut orders) = channel();
        let guard = canceller.on_hang_up(OnDisconnect::Cancel, id(), Timestamp::now());
        canceller.leaving().begin();
        drop(guard);
        assert!(orders.orders.try_recv().is_err());
    }

    #[test]
    fn a_key_that_drains_or_detaches_never_cancels() {
        let (canceller, mut orders) = channel();
        for policy in [OnDisconnect::Drain, OnDisconnect::Detach] {
            drop(canceller.on_hang_up(policy, id(), Timestamp::now()));
        }
        assert!(orders.orders.try_recv().is_err());
    }
}
