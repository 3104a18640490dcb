use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Options;
use super::answer::Answer;
use super::asked::Asked;
use super::behaviour::{Behaviour, UnknownDirective};
use super::call::{Call, Ending, refuse};
use super::connection::{Connection, PeerClosed, RawRequest};
use super::dialect::{self, Dialect, Problem};
use super::gate::Gate;
use super::record::Record;
use super::wire::{JSON, push_response};

const NO_SUCH_ROUTE: &[u8] = br#"{"error":{"message":"no such route","type":"invalid_request_error","param":null,"code":"not_found"}}"#;

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
            gate: Gate::new(),
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
        let (method, _) = request.line();
        let (path, query) = request.path_and_query();
        if let ("POST", Some(dialect)) = (method, dialect::of(path)) {
            return self.call(connection, request, dialect).await;
        }
        match (method, path) {
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
                push_response(&mut connection.outbox, 404, JSON, "", NO_SUCH_ROUTE);
            }
        }
        connection.flush().await?;
        Ok(Ending::Kept)
    }

    async fn call(
        &self,
        connection: &mut Connection,
        request: &RawRequest,
        dialect: &'static dyn Dialect,
    ) -> Result<Ending, PeerClosed> {
        let asked = match dialect.read(request) {
            Ok(asked) => asked,
            Err(why) => return refuse(connection, dialect, &Problem::Refused(why)).await,
        };
        let behaviour = match self.behaviour_of(&asked, request) {
            Ok(behaviour) => behaviour,
            Err(unknown) => {
                let why = unknown.to_string();
                return refuse(connection, dialect, &Problem::Refused(&why)).await;
            }
        };
        let id = request.request_id.clone();
        let id = id.or_else(|| asked.metadata_id()).unwrap_or_default();
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let call = Call {
            dialect,
            answer: Answer::new(serial, &asked, &behaviour),
            id: &id,
            record: &self.record,
            gate: &self.gate,
        };
        call.play(connection, request).await
    }

    fn behaviour_of(
        &self,
        asked: &Asked<'_>,
        request: &RawRequest,
    ) -> Result<Behaviour, UnknownDirective> {
        if let Some(queued) = self.queued.lock().pop_front() {
            return Ok(queued);
        }
        let mut behaviour = self.behaviour.lock().clone();
        if asked.model_json.contains("mock:") {
            behaviour.apply_found_in(asked.model_json.trim_matches('"'))?;
        }
        if asked.last_user_json.contains("mock:") {
            behaviour.apply_found_in(&asked.last_user_text())?;
        }
        let (path, _) = request.path_and_query();
        if let Some(directives) = path.strip_prefix("/mock:") {
            behaviour.apply(directives.split('/').next().unwrap_or_default())?;
        }
        Ok(behaviour)
    }
}
