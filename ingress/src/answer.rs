//! What comes back for one request: records decoded and folded in log order.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use runtime::codec::{Codec, CodecError};
use schemas::event::{ErrorBody, Event, EventRecord, Terminal};
use schemas::fold::{End, Fold, Step};
use schemas::id::RequestId;

use crate::error;
use crate::forecast::Queued;
use crate::metrics::Metrics;
use crate::reply::Facts;
use crate::waiters::{Arrived, Closed, Inflow};

/// Between two questions to a registry that does not answer.
const REGISTRY_RETRY: Duration = Duration::from_millis(250);

type Decoding = Pin<Box<dyn Future<Output = Result<EventRecord, CodecError>> + Send>>;

/// The events of one request as they come.
pub(crate) struct Answer {
    id: RequestId,
    inflow: Inflow,
    codec: Codec,
    /// A record whose schema has to be asked for, and its offset.
    decoding: Option<(i64, Decoding)>,
    fold: Fold,
    facts: Facts,
    accepted: Instant,
    /// Until the request begins.
    queued: Option<Queued>,
    metrics: Metrics,
}

/// Why an answer will not be had here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The wait was ended.
    Closed(Closed),
    /// A record could not be decoded.
    Unreadable,
}

impl Answer {
    pub(crate) fn new(id: RequestId, inflow: Inflow, codec: Codec, metrics: Metrics) -> Self {
        Self {
            id,
            inflow,
            codec,
            decoding: None,
            fold: Fold::default(),
            facts: Facts::default(),
            accepted: Instant::now(),
            queued: None,
            metrics,
        }
    }

    /// Keeps the request in line until it begins.
    pub(crate) fn keep_in_line(&mut self, queued: Queued) {
        self.queued = Some(queued);
    }

    pub(crate) fn id(&self) -> RequestId {
        self.id
    }

    /// Who answered, as far as is known.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The fold so far.
    pub(crate) fn fold(&self) -> &Fold {
        &self.fold
    }

    /// What a client is told when the answer is lost.
    pub(crate) fn lost(&self, lost: Lost) -> ErrorBody {
        match lost {
            Lost::Closed(why) => error::closed(why, self.id),
            Lost::Unreadable => ErrorBody::internal(),
        }
    }

    /// Resolves when the wait is ended from outside.
    pub(crate) async fn closed(&mut self) -> Closed {
        self.inflow.closed().await
    }

    /// Whether the wait was ended because the client does not read.
    pub(crate) fn is_too_slow(&self) -> bool {
        self.inflow.is_too_slow()
    }

    /// The next record with its offset, in log order.
    pub(crate) fn poll_record(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(i64, EventRecord), Lost>> {
        let (offset, decoded) = if let Some((offset, decoding)) = &mut self.decoding {
            let decoded = std::task::ready!(decoding.as_mut().poll(cx));
            let offset = *offset;
            self.decoding = None;
            (offset, decoded)
        } else {
            let arrived = std::task::ready!(self.inflow.poll_recv(cx)).map_err(Lost::Closed)?;
            match self.codec.decode_cached(&arrived.value) {
                Some(decoded) => (arrived.offset, decoded),
                None => {
                    self.decoding = Some((arrived.offset, decode(self.codec.clone(), arrived)));
                    return self.poll_record(cx);
                }
            }
        };
        Poll::Ready(match decoded {
            Ok(record) => Ok((offset, record)),
            Err(cause) => {
                tracing::error!(request.id = %self.id, offset, error = %cause, "unreadable reply");
                Err(Lost::Unreadable)
            }
        })
    }

    /// Takes in one event and says what it meant.
    pub(crate) fn take<'a>(&mut self, event: &'a Event) -> Step<'a> {
        let waiting = self.fold.run.number == 0;
        let step = self.fold.apply(event);
        if !matches!(step, Step::Ignored) {
            self.facts.take(event);
        }
        if waiting && matches!(step, Step::Started { .. }) {
            let waited = self.accepted.elapsed();
            self.metrics.started(waited);
            if let Some(queued) = self.queued.take() {
                queued.started(waited);
            }
        }
        step
    }

    /// Waits for the end, whatever comes before it.
    ///
    /// # Cancel safety
    /// Nothing is lost but what the dropped future had taken in.
    pub(crate) async fn end(&mut self) -> Result<(End, Terminal), Lost> {
        loop {
            let (_, record) = std::future::poll_fn(|cx| self.poll_record(cx)).await?;
            for event in record.events {
                let end = match self.take(&event) {
                    Step::Ended { end, .. } => end,
                    Step::Started { .. }
                    | Step::Delta { .. }
                    | Step::Sign
                    | Step::Deferred(_)
                    | Step::GivenUp
                    | Step::Ignored => continue,
                };
                if let Event::Completed(terminal)
                | Event::Failed(terminal)
                | Event::Cancelled(terminal)
                | Event::Expired(terminal) = event
                {
                    return Ok((end, terminal));
                }
            }
        }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("id", &self.id)
            .field("fold", &self.fold)
            .finish_non_exhaustive()
    }
}

/// Decodes with the help of the registry, for as long as that does not answer; the request's
/// deadline bounds the wait.
fn decode(codec: Codec, arrived: Arrived) -> Decoding {
    Box::pin(async move {
        loop {
            match codec.decode(&arrived.value).await {
                Err(cause) if error::is_passing(&cause) => {
                    tokio::time::sleep(REGISTRY_RETRY).await;
                }
                decoded => return decoded,
            }
        }
    })
}
