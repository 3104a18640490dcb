use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Options;
use super::answer::{Answer, push_chunk, push_last_chunk, push_response, push_stream_head};
use super::behaviour::{Behaviour, UnknownDirective};
use super::connection::{Connection, PeerClosed, RawRequest};
use super::record::{Outcome, Record, Ticket};
use super::request::ChatRequest;
use crate::fault::{self, Fault};

const JSON: &str = "application/json";

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Answered whole: the next request may come.
    Kept,
    /// Broken off by an orderly close.
    Closed,
    /// Broken off by a reset.
    Reset,
}

/// Holds back calls until they are released.
#[derive(Debug)]
pub(crate) struct Gate(watch::Sender<Released>);

#[derive(Debug, Default)]
struct Released {
    all: bool,
    ids: HashSet<String>,
}

impl Gate {
    pub(crate) fn open(&self) {
        self.0.send_modify(|released| released.all = true);
    }

    pub(crate) fn open_for(&self, id: &str) {
        self.0.send_modify(|released| {
            released.ids.insert(id.into());
        });
    }

    pub(crate) fn close(&self) {
        self.0
            .send_modify(|released| *released = Released::default());
    }

    /// Waits until the gate is open for `id`.
    async fn passed(&self, id: &str) {
        let mut receiver = self.0.subscribe();
        let passed = receiver.wait_for(|released| released.all || released.ids.contains(id));
        if passed.await.is_err() {
            // The sender is a field of `self`, so it is there; nothing to wait for otherwise.
        }
    }
}

/// The mock behind its handle.
#[derive(Debug)]
pub(crate) struct Server {
    behaviour: Mutex<Behaviour>,
    queued: Mutex<VecDeque<Behaviour>>,
    gate: Gate,
    record: Record,
    serial: AtomicU64,
}

impl Server {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            behaviour: Mutex::default(),
            queued: Mutex::default(),
            gate: Gate(watch::Sender::new(Released::default())),
            record: Record::new(options.calls_max, options.body_bytes_kept_max),
            serial: AtomicU64::new(1),
        }
    }

    pub(crate) fn set_behaviour(&self, behaviour: Behaviour) {
        *self.behaviour.lock() = behaviour;
    }

    pub(crate) fn enqueue(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.queued.lock().extend(behaviours);
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Accepts until `stop`; then every connection is closed where it stands.
    pub(crate) async fn run(
        self: Arc<Self>,
        listener: std::net::TcpListener,
        stop: CancellationToken,
    ) {
        // Registering a listener fails only without a reactor; this runtime has one.
        let Ok(listener) = TcpListener::from_std(listener) else {
            return;
        };
        let tasks = TaskTracker::new();
        loop {
            let stream = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    // The caller gave up while it was queued, or file handles ran out: go on.
                    Err(_) => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                },
            };
            if stream.set_nodelay(true).is_err() {
                continue;
            }
            self.record.connected();
            let (server, stop) = (Arc::clone(&self), stop.clone());
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = server.serve(Connection::new(stream)) => {}
                }
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn serve(&self, mut connection: Connection) {
        while let Ok(Some(request)) = connection.read_request().await {
            match self.answer(&mut connection, &request).await {
                Ok(Ending::Kept) => {}
                Ok(Ending::Reset) => {
                    if connection.reset_on_close().is_err() {
                        // The caller was faster: closed is closed.
                    }
                    return;
                }
                Ok(Ending::Closed) | Err(PeerClosed) => return,
            }
        }
    }

    async fn answer(
        &self,
        connection: &mut Connection,
        request: &RawRequest,
    ) -> Result<Ending, PeerClosed> {
        let (method, target) = request.line();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match (method, path) {
            ("POST", path) if path.ends_with("/chat/completions") => {
                return self.chat(connection, request, path).await;
            }
            ("GET", path) if path.ends_with("/models") => push_response(
                &mut connection.outbox,
                200,
                JSON,
                "",
                br#"{"object":"list","data":[{"id":"mock","object":"model","created":1700000000,"owned_by":"mock"},{"id":"gpt-4o","object":"model","created":1700000000,"owned_by":"mock"}]}"#,
            ),
            ("GET", "/_mock/calls") => {
                let body = serde_json::to_vec(&self.record.snapshot()).unwrap_or_default();
                push_response(&mut connection.outbox, 200, JSON, "", &body);
            }
            ("POST", "/_mock/release") => {
                match query.strip_prefix("id=") {
                    Some(id) => self.gate.open_for(id),
                    None => self.gate.open(),
                }
                push_response(&mut connection.outbox, 200, JSON, "", b"{}");
            }
            ("POST", "/_mock/hold") => {
                self.gate.close();
                push_response(&mut connection.outbox, 200, JSON, "", b"{}");
            }
            _ => {
                let body = fault::error_body("no such route", "invalid_request_error", "not_found");
                push_response(&mut connection.outbox, 404, JSON, "", &body);
            }
        }
        connection.flush().await?;
        Ok(Ending::Kept)
    }

    async fn chat(
        &self,
        connection: &mut Connection,
        request: &RawRequest,
        path: &str,
    ) -> Result<Ending, PeerClosed> {
        let Ok(chat) = serde_json::from_slice::<ChatRequest<'_>>(&request.body) else {
            return refuse(connection, "the body is not a chat request").await;
        };
        let behaviour = match self.behaviour_of(&chat, path) {
            Ok(behaviour) => behaviour,
            Err(unknown) => return refuse(connection, &unknown.to_string()).await,
        };
        let id = request
            .request_id
            .clone()
            .or_else(|| chat.metadata_id())
            .unwrap_or_default();
        let words = if behaviour.echo {
            let text = chat.last_user_text();
            text.split_whitespace().map(Into::into).collect()
        } else {
            Vec::new()
        };
        let answer = Answer {
            serial: self.serial.fetch_add(1, Ordering::Relaxed),
            created: crate::unix_nanos() / 1_000_000_000,
            model_json: chat.model_json(),
            include_usage: chat.include_usage(),
            behaviour: &behaviour,
            words,
        };
        let call = InFlight {
            record: &self.record,
            ticket: Some(self.record.begin(&id, &request.head, &request.body)),
        };
        let played = if behaviour.fault.as_ref().is_some_and(Fault::strikes_first) {
            match self.wait(connection, behaviour.first).await {
                Ok(()) => fault::play_first(connection, &behaviour).await,
                Err(closed) => Err(closed),
            }
        } else if chat.stream == Some(true) {
            self.stream(connection, &answer, &id).await
        } else {
            self.whole(connection, &answer, &id).await
        };
        call.end(match &played {
            Ok(Ending::Kept) => Outcome::Answered,
            Ok(Ending::Closed | Ending::Reset) => Outcome::BrokenOff,
            Err(PeerClosed) => Outcome::ClosedByPeer,
        });
        played
    }

    fn behaviour_of(
        &self,
        chat: &ChatRequest<'_>,
        path: &str,
    ) -> Result<Behaviour, UnknownDirective> {
        if let Some(queued) = self.queued.lock().pop_front() {
            return Ok(queued);
        }
        let mut behaviour = self.behaviour.lock().clone();
        if chat.model_json().contains("mock:") {
            behaviour.apply_found_in(chat.model_json().trim_matches('"'))?;
        }
        if chat.last_user_json().contains("mock:") {
            behaviour.apply_found_in(&chat.last_user_text())?;
        }
        if let Some(directives) = path.strip_prefix("/mock:") {
            behaviour.apply(directives.split('/').next().unwrap_or_default())?;
        }
        Ok(behaviour)
    }

    async fn wait(
        &self,
        connection: &mut Connection,
        pause: std::time::Duration,
    ) -> Result<(), PeerClosed> {
        if pause.is_zero() {
            return Ok(());
        }
        connection.unless_closed(tokio::time::sleep(pause)).await
    }

    async fn wait_for_release(
        &self,
        connection: &mut Connection,
        id: &str,
    ) -> Result<(), PeerClosed> {
        let _held = Held::new(&self.record);
        connection.unless_closed(self.gate.passed(id)).await
    }

    async fn whole(
        &self,
        connection: &mut Connection,
        answer: &Answer<'_>,
        id: &str,
    ) -> Result<Ending, PeerClosed> {
        let behaviour = answer.behaviour;
        if behaviour.hold.is_some() {
            self.wait_for_release(connection, id).await?;
        }
        let pause = behaviour.first + behaviour.delay * (answer.tokens() - 1);
        self.wait(connection, pause).await?;
        push_response(&mut connection.outbox, 200, JSON, "", &answer.json());
        match &behaviour.fault {
            Some(fault) => fault::play_whole(connection, fault, behaviour).await,
            None => {
                connection.flush().await?;
                Ok(Ending::Kept)
            }
        }
    }

    async fn stream(
        &self,
        connection: &mut Connection,
        answer: &Answer<'_>,
        id: &str,
    ) -> Result<Ending, PeerClosed> {
        let behaviour = answer.behaviour;
        if behaviour.hold == Some(0) {
            self.wait_for_release(connection, id).await?;
        }
        push_stream_head(&mut connection.outbox);
        answer.push_role(&mut connection.outbox);
        if behaviour.early_head {
            connection.flush().await?;
        }
        let begun = tokio::time::Instant::now() + behaviour.first;
        let strikes_at = behaviour.after.min(answer.tokens());
        for index in 0..answer.tokens() {
            if index == strikes_at
                && let Some(ending) = strike(connection, behaviour).await?
            {
                return Ok(ending);
            }
            if index > 0 && behaviour.hold == Some(index) {
                flush(connection, behaviour).await?;
                self.wait_for_release(connection, id).await?;
            }
            let due = begun + behaviour.delay * index;
            if due > tokio::time::Instant::now() {
                // The head waits for the first token, so that both go out in one write.
                if index > 0 {
                    flush(connection, behaviour).await?;
                }
                connection
                    .unless_closed(tokio::time::sleep_until(due))
                    .await?;
            }
            answer.push_delta(&mut connection.outbox, index);
        }
        if strikes_at == answer.tokens()
            && let Some(ending) = strike(connection, behaviour).await?
        {
            return Ok(ending);
        }
        answer.push_finish(&mut connection.outbox);
        if behaviour.fault != Some(Fault::NoDone) {
            push_chunk(&mut connection.outbox, |event| {
                event.extend_from_slice(b"data: [DONE]\n\n");
            });
        }
        push_last_chunk(&mut connection.outbox);
        flush(connection, behaviour).await?;
        Ok(Ending::Kept)
    }
}

/// Plays the fault of a running stream, if there is one; `None` when the stream goes on.
async fn strike(
    connection: &mut Connection,
    behaviour: &Behaviour,
) -> Result<Option<Ending>, PeerClosed> {
    match &behaviour.fault {
        Some(fault) => fault::play_in_stream(connection, fault).await,
        None => Ok(None),
    }
}

async fn flush(connection: &mut Connection, behaviour: &Behaviour) -> Result<(), PeerClosed> {
    if behaviour.fault == Some(Fault::Drip) {
        let pause = behaviour.delay.max(std::time::Duration::from_millis(1));
        connection.drip(pause).await
    } else {
        connection.flush().await
    }
}

async fn refuse(connection: &mut Connection, why: &str) -> Result<Ending, PeerClosed> {
    let body = fault::error_body(why, "invalid_request_error", "mock_directive");
    push_response(&mut connection.outbox, 400, JSON, "", &body);
    connection.flush().await?;
    Ok(Ending::Kept)
}

/// A call in flight. Dropped without [`end`](Self::end) it was cut short by the caller, or by the
/// stop of the mock.
struct InFlight<'a> {
    record: &'a Record,
    ticket: Option<Ticket>,
}

impl InFlight<'_> {
    fn end(mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.record.end(ticket, outcome);
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.record.end(ticket, Outcome::BrokenOff);
        }
    }
}

/// Counts a call as held for as long as it lives.
struct Held<'a>(&'a Record);

impl<'a> Held<'a> {
    fn new(record: &'a Record) -> Self {
        record.held(true);
        Self(record)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held(false);
    }
}
