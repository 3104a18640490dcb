//! One request is one trace, across the processes.

use std::time::Duration;

use serde_json::json;
use tests::harness::{Builder, LogKind, chat};
use tests::mock::Mock;
use tests::otlp::{Receiver, Span};

crate::on_both_logs!(a_request_is_one_trace_from_ingress_to_the_upstream_call);

async fn a_request_is_one_trace_from_ingress_to_the_upstream_call(
    log: LogKind,
) -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let receiver = Receiver::start().await?;
    let Some(gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    let gateway = gateway
        .set("telemetry.otlp_endpoint", json!(receiver.endpoint()))
        .start()
        .await?;
    let client = gateway.client("acme").await?;
    let answer = client.chat(&chat("mock", "mock:tokens=2")).await?;
    assert_eq!(answer.status, 200);

    // The provider is told of the trace, too: that is the one we look for.
    let calls = mock.calls_of(answer.request_id());
    let sent = calls[0].header("traceparent").unwrap_or_default();
    let trace = sent.split('-').nth(1).unwrap_or_default().to_owned();
    assert_eq!(trace.len(), 32, "{sent:?}");
    let parent_of = |spans: &[Span], child: &Span| {
        spans
            .iter()
            .find(|span| span.span_id == child.parent_span_id)
            .cloned()
    };
    let whole = |spans: &[Span]| {
        let ours: Vec<Span> = spans
            .iter()
            .filter(|span| span.trace_id == trace)
            .cloned()
            .collect();
        // upstream call → work of the processor → request at ingress
        ours.iter()
            .find(|span| span.name == "call")
            .is_some_and(|call| {
                parent_of(&ours, call)
                    .filter(|work| work.name == "request")
                    .and_then(|work| parent_of(&ours, &work))
                    .is_some_and(|request| request.name == "request")
            })
    };
    let spans = receiver.wait_until(Duration::from_secs(30), whole).await;
    let spans = spans.map_err(|spans| anyhow::anyhow!("no whole trace {trace}: {spans:#?}"))?;
    let mut services: Vec<&str> = spans
        .iter()
        .filter(|span| span.trace_id == trace)
        .map(|span| span.service.as_str())
        .collect();
    services.sort_unstable();
    services.dedup();
    match log {
        LogKind::Embedded => assert_eq!(services.len(), 1, "{services:?}"),
        LogKind::Kafka => assert!(services.len() >= 2, "{services:?}"),
    }
    Ok(())
}
