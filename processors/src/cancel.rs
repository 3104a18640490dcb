//! Orders to stop, followed on the control topic from its start for ever.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use runtime::log::{Log, LogError, Tail};
use schemas::control::Cancel;
use schemas::id::RequestId;
use schemas::time::Timestamp;
use schemas::topic;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::catch_up;
use crate::decode::{self, Decoded};
use crate::runs::Runs;

/// Orders kept; past it those whose deadline is nearest are forgotten.
const ORDERS_MAX: usize = 200_000;

/// Requests that are not to be worked on, until their deadline; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Cancels {
    orders: Arc<Mutex<Orders>>,
    runs: Runs,
}

#[derive(Debug, Default)]
struct Orders {
    by_id: HashMap<RequestId, Order>,
    by_deadline: BTreeSet<(Timestamp, RequestId)>,
}

#[derive(Debug, Clone)]
struct Order {
    deadline: Timestamp,
    reason: Arc<str>,
}

impl Cancels {
    /// Orders that reach the requests in `runs`.
    pub(crate) fn new(runs: Runs) -> Self {
        Self {
            orders: Arc::default(),
            runs,
        }
    }

    /// Why `id` was cancelled, when it was.
    pub(crate) fn reason(&self, id: RequestId) -> Option<Arc<str>> {
        let orders = self.orders.lock();
        orders.by_id.get(&id).map(|order| Arc::clone(&order.reason))
    }

    /// Takes an order in: ends the call when it runs here, and remembers it for a delivery that is still to come.
    pub(crate) fn order(&self, cancel: &Cancel, now: Timestamp) {
        if cancel.deadline > now {
            self.orders.lock().insert(cancel, now, ORDERS_MAX);
        }
        self.runs.cancel(cancel.id);
    }
}

impl Orders {
    fn insert(&mut self, cancel: &Cancel, now: Timestamp, orders_max: usize) {
        let order = Order {
            deadline: cancel.deadline,
            reason: cancel.reason.as_str().into(),
        };
        if let Some(old) = self.by_id.insert(cancel.id, order) {
            self.by_deadline.remove(&(old.deadline, cancel.id));
        }
        self.by_deadline.insert((cancel.deadline, cancel.id));
        while let Some((deadline, id)) = self.by_deadline.first().copied() {
            if deadline > now && self.by_id.len() <= orders_max {
                break;
            }
            self.by_deadline.pop_first();
            self.by_id.remove(&id);
        }
    }
}

/// Reads the control topic up to its end as of now; the tail goes on from there with [`follow`].
pub(crate) async fn read(
    log: &Log,
    decoder: &decode::Decoder,
    cancels: &Cancels,
) -> Result<Tail, LogError> {
    let ends = log.watermarks(topic::CONTROL, 0).await?;
    let mut tail = log.tail(topic::CONTROL, 0, ends.low).await?;
    while let Some(deliveries) = catch_up::next(&mut tail, ends.high).await? {
        for delivery in deliveries {
            apply(decoder, cancels, &delivery).await;
        }
    }
    Ok(tail)
}

/// Follows the control topic until `stop`.
pub(crate) async fn follow(
    mut tail: Tail,
    decoder: decode::Decoder,
    cancels: Cancels,
    stop: CancellationToken,
) -> Result<(), LogError> {
    loop {
        let deliveries = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            deliveries = tail.recv() => deliveries?,
        };
        for delivery in deliveries {
            apply(&decoder, &cancels, &delivery).await;
        }
    }
}

async fn apply(decoder: &decode::Decoder, cancels: &Cancels, delivery: &runtime::log::Delivery) {
    // Compaction keeps a last record without value; there is nothing to order then.
    if delivery.record.value.is_empty() {
        return;
    }
    match decoder.decode::<Cancel>(&delivery.record.value).await {
        Decoded::Record(cancel) => cancels.order(&cancel, Timestamp::now()),
        Decoded::Undecodable { source, .. } => warn!(
            topic = topic::CONTROL,
            offset = delivery.position.offset,
            error = %source,
            "an order could not be read and is skipped"
        ),
    }
}

#[cfg(test)]
mod tests {
    use schemas::topic::{ReplyPlace, ReplyTopic};

    use super::*;

    fn cancel(deadline: i64) -> Cancel {
        Cancel {
            id: RequestId::new(ReplyPlace {
                topic: ReplyTopic::Responses,
                partition: 0,
            }),
            reason: "client disconnected".into(),
            at: Timestamp(0),
            deadline: Timestamp(deadline),
        }
    }

    #[test]
    fn orders_are_kept_until_their_deadline_and_within_the_bound() {
        let mut orders = Orders::default();
        let short = cancel(10);
        let long = cancel(30);
        orders.insert(&short, Timestamp(0), 2);
        orders.insert(&long, Timestamp(0), 2);
        orders.insert(&long, Timestamp(0), 2);
        assert_eq!(orders.by_id.len(), 2);
        let third = cancel(20);
        orders.insert(&third, Timestamp(0), 2);
        assert!(
            !orders.by_id.contains_key(&short.id),
            "the nearest deadline goes first"
        );
        orders.insert(&cancel(40), Timestamp(25), 10);
        assert!(!orders.by_id.contains_key(&third.id), "past its deadline");
        assert!(orders.by_id.contains_key(&long.id));
        assert_eq!(orders.by_id.len(), orders.by_deadline.len());
    }

    #[test]
    fn an_order_reaches_a_request_in_hand_and_one_that_comes_later() {
        let cancels = Cancels::new(Runs::default());
        let order = cancel(i64::MAX);
        cancels.order(&order, Timestamp(0));
        assert_eq!(
            cancels.reason(order.id).as_deref(),
            Some("client disconnected")
        );
        assert!(cancels.reason(cancel(1).id).is_none());
    }
}
