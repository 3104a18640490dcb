//! The small HTTP server: `/metrics`, `/healthz`, `/readyz`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use prometheus::TextEncoder;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Telemetry;

/// Longest that answers may take after the stop; a client that does not read holds up nothing.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What must hold for the process to take traffic, by name; clones share it.
#[derive(Debug, Clone)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

impl Readiness {
    /// Nothing of `conditions` holds yet.
    #[must_use]
    pub fn new(conditions: impl IntoIterator<Item = &'static str>) -> Self {
        let conditions = conditions.into_iter().map(|name| (name, false)).collect();
        Self {
            conditions: Arc::new(Mutex::new(conditions)),
        }
    }

    /// Says whether a condition holds; one not named before is added.
    pub fn set(&self, condition: &'static str, holds: bool) {
        let before = self.conditions.lock().insert(condition, holds);
        if before != Some(holds) {
            tracing::info!(condition, holds, "readiness changed");
        }
    }

    /// The conditions that do not hold, by name; empty when the process is ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let conditions = self.conditions.lock();
        let missing = conditions.iter().filter(|(_, holds)| !**holds);
        missing.map(|(name, _)| *name).collect()
    }

    /// Whether all conditions hold.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions.lock().values().all(|holds| *holds)
    }
}

/// Answers on `listener` until `stop`: `/metrics` for Prometheus, `/healthz` with 200 as long as the process lives,
/// `/readyz` with 200, or 503 and what is missing, one name a line.
///
/// # Errors
/// When the listener fails.
///
/// # Cancel safety
/// Dropping the future closes the listener and cuts answers short.
pub async fn serve(
    listener: TcpListener,
    telemetry: Telemetry,
    readiness: Readiness,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .with_state(telemetry)
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready).with_state(readiness));
    let stopped = stop.clone();
    let serving = axum::serve(listener, routes)
        .with_graceful_shutdown(async move { stopped.cancelled().await })
        .into_future();
    let cut = async {
        stop.cancelled().await;
        tokio::time::sleep(ANSWER_MAX).await;
    };
    tokio::select! {
        served = serving => served,
        () = cut => Ok(()),
    }
}

async fn metrics(State(telemetry): State<Telemetry>) -> Response {
    let families = telemetry.shared.registry.gather();
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "metrics cannot be written as text");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let missing = readiness.missing();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    let text = format!("not ready:\n{}\n", missing.join("\n"));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}
