//! The official OpenAI SDK for Python, unchanged but for its base URL and key.

use std::process::Command;

use serde_json::json;
use tests::harness::{Builder, LogKind, Stack, chat};
use tests::mock::Mock;

crate::on_both_logs!(the_openai_sdk_chats_streams_and_gets_the_right_exceptions);

async fn the_openai_sdk_chats_streams_and_gets_the_right_exceptions(
    log: LogKind,
) -> anyhow::Result<()> {
    let Some(python) = Stack::python() else {
        return Ok(());
    };
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    let limited = mock.base_url_with("status=429,retry_after=1");
    let provider = json!({ "name": "limited", "kind": "openai", "base_url": limited, "keys": [] });
    let deployment = json!({ "provider": "limited", "model": "gpt-4o" });
    let gateway = gateway
        .push("providers", provider)
        .push(
            "models",
            json!({ "name": "limited", "deployments": [deployment] }),
        )
        .set("server.requests_max", json!(1))
        .start()
        .await?;
    let client = gateway.client("acme").await?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/end_to_end/sdk/openai_chat.py");
    let run = |part: &str| -> anyhow::Result<()> {
        let done = Command::new(&python)
            .args([script, part])
            .env("OPENAI_BASE_URL", format!("{}/v1", gateway.url()))
            .env("OPENAI_API_KEY", &client.key)
            .output()?;
        anyhow::ensure!(
            done.status.success(),
            "{part}: {}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    };
    tokio::task::block_in_place(|| run("answers"))?;

    // One request is held, and no more than one is admitted.
    let mut held = client.stream(&chat("mock", "mock:tokens=3,hold=1")).await?;
    held.first_token().await?;
    tokio::task::block_in_place(|| run("overloaded"))?;
    mock.release();
    assert!(held.whole().await?.done);
    Ok(())
}
