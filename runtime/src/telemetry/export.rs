//! Sending traces and metrics to an OTLP/HTTP collector.

use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::metrics::PeriodicReader;
use tokio::runtime::Handle;
use url::Url;

use super::TelemetryError;

/// One export, connection included.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Between two exports of metrics.
const METRICS_EVERY: Duration = Duration::from_secs(15);

/// A thread that does the exporters' network work. The SDK's own threads have no reactor for it, and the program's
/// runtime may be blocked by the very flush that waits for an export.
#[derive(Debug)]
pub(super) struct Runtime {
    /// Taken when dropped.
    runtime: Option<tokio::runtime::Runtime>,
    client: reqwest::Client,
}

impl Runtime {
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("telemetry-export")
            .enable_all()
            .build()?;
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Self {
            runtime: Some(runtime),
            client,
        })
    }

    fn sender(&self) -> Result<Sender, TelemetryError> {
        let runtime = self
            .runtime
            .as_ref()
            .ok_or_else(|| TelemetryError::Export {
                reason: "the export has ended".to_owned(),
            })?;
        Ok(Sender {
            runtime: runtime.handle().clone(),
            client: self.client.clone(),
        })
    }

    pub(super) fn spans(&self, endpoint: &Url) -> Result<SpanExporter, TelemetryError> {
        SpanExporter::builder()
            .with_http()
            .with_http_client(self.sender()?)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(TIMEOUT)
            .with_endpoint(signal(endpoint, "v1/traces"))
            .build()
            .map_err(refused)
    }

    pub(super) fn metrics(
        &self,
        endpoint: &Url,
    ) -> Result<PeriodicReader<MetricExporter>, TelemetryError> {
        let exporter = MetricExporter::builder()
            .with_http()
            .with_http_client(self.sender()?)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(TIMEOUT)
            .with_endpoint(signal(endpoint, "v1/metrics"))
            .build()
            .map_err(refused)?;
        Ok(PeriodicReader::builder(exporter)
            .with_interval(METRICS_EVERY)
            .build())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting is forbidden on another runtime's threads.
            runtime.shutdown_background();
        }
    }
}

/// Without the cause's text, which could repeat the URL and a password in it.
fn refused(_: opentelemetry_otlp::ExporterBuildError) -> TelemetryError {
    TelemetryError::Export {
        reason: "telemetry.otlp_endpoint cannot be used".to_owned(),
    }
}

/// The URL of a signal below the collector's base URL.
fn signal(endpoint: &Url, path: &str) -> String {
    format!("{}/{path}", endpoint.as_str().trim_end_matches('/'))
}

/// Sends on the runtime above, whoever asks.
#[derive(Debug)]
struct Sender {
    runtime: Handle,
    client: reqwest::Client,
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        // Waited for right here: nothing is left behind.
        let sent = self
            .runtime
            .spawn(async move { client.send_bytes(request).await });
        sent.await?
    }
}
