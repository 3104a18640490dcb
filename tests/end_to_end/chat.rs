//! A chat request enters over HTTP and comes back over the log, whole and as a stream.

use serde_json::json;
use tests::harness::{Builder, LogKind, chat};
use tests::mock::Mock;

crate::on_both_logs!(
    a_chat_is_answered_whole_and_streamed,
    every_request_is_readable_by_id,
    another_tenant_sees_nothing,
);

async fn a_chat_is_answered_whole_and_streamed(log: LogKind) -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    let gateway = gateway.start().await?;
    let client = gateway.client("acme").await?;

    let answer = client.chat(&chat("mock", "mock:tokens=3")).await?;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(answer.text(), "tok0 tok1 tok2 ");
    assert!(answer.request_id().starts_with("req_"));
    assert!(answer.header("openai-processing-ms").is_some());
    assert_eq!(answer.body["usage"]["completion_tokens"], 3);

    let stream = client
        .stream(&chat("mock", "mock:tokens=5,delay=5ms"))
        .await?;
    assert_eq!(stream.status, 200);
    let whole = stream.whole().await?;
    assert_eq!(whole.text, "tok0 tok1 tok2 tok3 tok4 ");
    assert_eq!(whole.finish.as_deref(), Some("stop"));
    assert!(whole.done);
    assert_eq!(whole.error, None);
    Ok(())
}

async fn every_request_is_readable_by_id(log: LogKind) -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    let gateway = gateway.start().await?;
    let client = gateway.client("acme").await?;

    let answer = client.chat(&chat("mock", "mock:tokens=2")).await?;
    let failed = client.chat(&chat("mock", "mock:status=400")).await?;
    assert_eq!(failed.status, 400);
    let path = format!("/v1/requests/{}", answer.request_id());
    let row = wait_for_status(&client, &path, "completed").await?;
    assert_eq!(row["model"], "mock");
    assert_eq!(row["usage"]["completion_tokens"], 2);
    let path = format!("/v1/requests/{}", failed.request_id());
    let row = wait_for_status(&client, &path, "failed").await?;
    assert_eq!(row["error"]["type"], "invalid_request_error");

    let (status, list) = client.get("/v1/requests?limit=1").await?;
    assert_eq!(status, 200);
    assert_eq!(list["object"], "list");
    assert_eq!(list["has_more"], true);
    assert_eq!(list["data"][0]["id"], failed.request_id());
    let (_, list) = client
        .get(&format!("/v1/requests?after={}", failed.request_id()))
        .await?;
    assert_eq!(list["data"][0]["id"], answer.request_id());
    let (_, list) = client.get("/v1/requests?status=failed&model=mock").await?;
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1));
    Ok(())
}

async fn another_tenant_sees_nothing(log: LogKind) -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    let gateway = gateway.start().await?;
    let acme = gateway.client("acme").await?;
    let other = gateway.client("other").await?;

    let answer = acme.chat(&chat("mock", "mock:tokens=1")).await?;
    let path = format!("/v1/requests/{}", answer.request_id());
    wait_for_status(&acme, &path, "completed").await?;
    let (status, body) = other.get(&path).await?;
    assert_eq!(status, 404);
    assert_eq!(body["error"]["param"], json!(null));
    let (_, list) = other.get("/v1/requests").await?;
    assert_eq!(list["data"], json!([]));
    Ok(())
}

/// Reads a request until it has `status`.
pub(crate) async fn wait_for_status(
    client: &tests::harness::Client,
    path: &str,
    status: &str,
) -> anyhow::Result<serde_json::Value> {
    let start = std::time::Instant::now();
    loop {
        let (code, row) = client.get(path).await?;
        if code == 200 && row["status"] == status {
            return Ok(row);
        }
        anyhow::ensure!(
            start.elapsed() < std::time::Duration::from_secs(20),
            "{path} is not {status}: {code} {row}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
