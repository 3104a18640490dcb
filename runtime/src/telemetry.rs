//! Logs, traces, metrics, and the small HTTP server for `/metrics`, `/healthz`, `/readyz`.
