//! SIGTERM under load: what fits into the grace period arrives whole, the rest goes on after the restart.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::harness::{Builder, LogKind, chat};
use tests::mock::Mock;

use crate::chat::wait_for_status;

crate::on_both_logs!(sigterm_under_load_loses_nothing);

const GRACE: Duration = Duration::from_secs(4);

async fn sigterm_under_load_loses_nothing(log: LogKind) -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    let mut gateway = gateway.set("shutdown.grace", json!("4s")).start().await?;
    let client = gateway.client("acme").await?;

    // Twenty streams that end within the grace period, twenty requests that do not.
    let mut short = Vec::new();
    let mut long = Vec::new();
    for _ in 0..20 {
        let mut stream = client
            .stream(&chat("mock", "mock:tokens=20,delay=50ms"))
            .await?;
        stream.first_token().await?;
        short.push(tokio::spawn(stream.whole()));
        let client = client.clone();
        long.push(tokio::spawn(async move {
            client.chat(&chat("mock", "mock:tokens=4,hold=0")).await
        }));
    }
    mock.wait_until(Duration::from_secs(10), |calls| calls.in_flight >= 20)
        .await?;

    let begun = Instant::now();
    for role in gateway.roles() {
        let name = format!("{role:?}").to_lowercase();
        gateway.process(&name)?.signal("TERM")?;
    }
    for role in gateway.roles() {
        let name = format!("{role:?}").to_lowercase();
        let status = gateway
            .process(&name)?
            .ended(GRACE + Duration::from_secs(2))
            .await?;
        assert!(status.success(), "{name}: {status}");
    }
    assert!(
        begun.elapsed() <= GRACE + Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );

    for stream in short {
        let whole = stream.await??;
        assert!(whole.done, "{whole:?}");
        assert_eq!(whole.text.split_whitespace().count(), 19);
    }
    let mut ids = Vec::new();
    for answer in long {
        let answer = answer.await??;
        assert_eq!(
            (answer.status, answer.error_code()),
            (503, "draining"),
            "{:?}",
            answer.body
        );
        ids.push(answer.request_id().to_owned());
    }

    mock.release();
    gateway.start_all().await?;
    for id in &ids {
        let row = wait_for_status(&client, &format!("/v1/requests/{id}"), "completed").await?;
        assert_eq!(
            row["answer"]["choices"][0]["message"]["content"],
            "tok0 tok1 tok2 tok3 "
        );
    }
    Ok(())
}
