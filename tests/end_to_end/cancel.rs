//! A client that hangs up cancels its plain chat, wherever the request is by then.

use std::time::Duration;

use tests::harness::{Builder, LogKind, RoleName, chat, eventually};
use tests::mock::{Mock, Outcome};

use crate::chat::wait_for_status;

/// How soon the upstream connection must be closed.
const CLOSED_WITHIN: Duration = Duration::from_millis(100);

crate::on_both_logs!(
    a_hang_up_in_mid_stream_closes_the_upstream_connection,
    a_hang_up_while_queued_means_the_model_is_never_called,
);

async fn a_hang_up_in_mid_stream_closes_the_upstream_connection(
    log: LogKind,
) -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    let gateway = gateway.start().await?;
    let client = gateway.client("acme").await?;

    let mut stream = client
        .stream(&chat("mock", "mock:tokens=100,hold=3"))
        .await?;
    stream.first_token().await?;
    let id = stream.request_id.clone();
    let hung_up = std::time::Instant::now();
    drop(stream);
    eventually(
        "the upstream connection is closed",
        Duration::from_secs(5),
        || async { mock.calls_of(&id).iter().any(|call| call.ended.is_some()) },
    )
    .await?;
    let (outcome, closed_at) = mock.calls_of(&id)[0].ended.expect("just seen");
    assert_eq!(outcome, Outcome::ClosedByPeer);
    let took = closed_at.saturating_duration_since(hung_up);
    assert!(took < CLOSED_WITHIN, "took {took:?}");

    let row = wait_for_status(&client, &format!("/v1/requests/{id}"), "cancelled").await?;
    assert!(
        row["usage"]["completion_tokens"].as_i64() >= Some(1),
        "{row}"
    );
    Ok(())
}

async fn a_hang_up_while_queued_means_the_model_is_never_called(
    log: LogKind,
) -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    let one_call_at_once = serde_json::json!([ { "name": "mock", "deployments": [
        { "provider": "mock", "model": "gpt-4o", "limits": { "concurrency": 1 } } ] } ]);
    let gateway = gateway.set("models", one_call_at_once).start().await?;
    let client = gateway.client("acme").await?;

    let mut running = client
        .stream(&chat("mock", "mock:tokens=10,hold=2"))
        .await?;
    running.first_token().await?;
    let queued = tokio::spawn({
        let client = client.clone();
        async move { client.chat(&chat("mock", "queued")).await }
    });
    wait_for_status(
        &client,
        &format!("/v1/requests/{}", running.request_id),
        "running",
    )
    .await?;
    let listed = || async {
        let (_, list) = client
            .get("/v1/requests?status=accepted")
            .await
            .unwrap_or_default();
        list["data"][0]["id"].as_str().map(str::to_owned)
    };
    eventually("the second is queued", Duration::from_secs(10), || async {
        listed().await.is_some()
    })
    .await?;
    let id = listed().await.expect("just seen");
    queued.abort();
    wait_for_status(&client, &format!("/v1/requests/{id}"), "cancelled").await?;

    mock.release();
    assert!(running.whole().await?.done);
    assert_eq!(
        mock.calls_of(&id).len(),
        0,
        "the queued request was never called"
    );
    Ok(())
}

/// On Kafka, where ingress takes the hang-up while no processor runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_up_while_the_processors_restart_still_counts() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Kafka, &mock)? else {
        return Ok(());
    };
    let mut gateway = gateway.start().await?;
    let client = gateway.client("acme").await?;
    gateway.terminate("processors").await?;
    let queued = tokio::spawn({
        let client = client.clone();
        async move { client.chat(&chat("mock", "queued")).await }
    });
    let listed = || async {
        let (_, list) = client
            .get("/v1/requests?status=accepted")
            .await
            .unwrap_or_default();
        list["data"][0]["id"].as_str().map(str::to_owned)
    };
    eventually(
        "the request is accepted",
        Duration::from_secs(10),
        || async { listed().await.is_some() },
    )
    .await?;
    let id = listed().await.expect("just seen");
    queued.abort();
    // The order is on the log before the processors come back.
    let metrics = || async { gateway.metrics("ingress").await.unwrap_or_default() };
    eventually("the cancel is appended", Duration::from_secs(5), || async {
        metrics()
            .await
            .lines()
            .any(|line| line.starts_with("lockgate_cancels_total") && !line.ends_with(" 0"))
    })
    .await?;
    gateway.start(RoleName::Processors, "processors").await?;
    wait_for_status(&client, &format!("/v1/requests/{id}"), "cancelled").await?;
    assert_eq!(mock.calls_of(&id).len(), 0);
    Ok(())
}
