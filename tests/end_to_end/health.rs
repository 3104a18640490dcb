//! What admins see of deployments.

use std::time::Duration;

use serde_json::{Value, json};
use tests::harness::{Builder, LogKind, chat, eventually};
use tests::mock::Mock;

crate::on_both_logs!(an_ejected_deployment_is_shown_as_such);

async fn an_ejected_deployment_is_shown_as_such(log: LogKind) -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    let base_url = mock.base_url_with("status=500");
    let health = json!({ "failures_in_a_row": 2, "rest": "10m" });
    let failing = json!({ "name": "failing", "kind": "openai", "base_url": base_url, "keys": [], "health": health });
    let model = json!({
        "name": "half", "strategy": "priority",
        "deployments": [ { "provider": "failing", "model": "a" }, { "provider": "mock", "model": "b" } ],
    });
    let gateway = gateway
        .push("providers", failing)
        .push("models", model)
        .start()
        .await?;
    let client = gateway.client("acme").await?;
    let admin = gateway.client_with_role("acme", "admin").await?;
    let shown = || async {
        let (status, view) = admin.get("/admin/v1/health").await?;
        anyhow::ensure!(status == 200, "{view}");
        anyhow::Ok((states(&view, "failing/a"), states(&view, "mock/b")))
    };
    let limit = Duration::from_secs(20);
    let is_shown = |wanted: &'static str| {
        let shown = &shown;
        move || async move {
            let Ok((failing, other)) = shown().await else {
                return false;
            };
            failing.iter().any(|state| state == wanted)
                && !other.is_empty()
                && other.iter().all(|state| state == "healthy")
        }
    };
    eventually("all are healthy", limit, is_shown("healthy")).await?;
    // Each process judges by itself: as many as reach the failing one in any of them.
    for _ in 0..6 {
        let answer = client.chat(&chat("half", "mock:tokens=1")).await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
    }
    eventually("it is ejected", limit, is_shown("ejected")).await
}

/// The states of a deployment, in each process that tells of it.
fn states(view: &Value, deployment: &str) -> Vec<String> {
    let processors = view["processors"].as_array().into_iter().flatten();
    let deployments =
        processors.flat_map(|processor| processor["deployments"].as_array().into_iter().flatten());
    deployments
        .filter(|one| one["deployment"] == deployment)
        .filter_map(|one| one["health"].as_str().map(str::to_owned))
        .collect()
}
