//! The disk of the embedded log is full: requests are refused and told when to come back, nothing is torn, and with
//! space everything goes on by itself.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use tests::harness::{Answer, Builder, Client, Gateway, LogKind, SmallDisk, chat, eventually};
use tests::mock::Mock;
use tokio::task::JoinHandle;

use crate::chat::wait_for_status;

/// Only the log is on the full disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_below_the_log_is_outlived() -> anyhow::Result<()> {
    a_full_disk_is_outlived("log").await
}

/// The store, the keys and the schemas are on it too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_below_all_data_is_outlived() -> anyhow::Result<()> {
    a_full_disk_is_outlived("").await
}

/// What a client with a full log gets: 503 at once, with a time to come back.
fn assert_refused(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.error_code()),
        (503, "log_unavailable"),
        "{:?}",
        answer.body
    );
    assert!(answer.header("retry-after").is_some());
}

async fn is_answered(client: &Client) -> bool {
    client
        .chat(&chat("mock", "mock:tokens=1"))
        .await
        .is_ok_and(|answer| answer.status == 200)
}

/// Fills the disk and asks until the log has noticed: a page that is begun still takes some records. Returns what was
/// accepted by then and has no answer, because that cannot be written.
async fn fill(
    disk: &SmallDisk,
    gateway: &Gateway,
    client: &Client,
) -> anyhow::Result<Vec<JoinHandle<anyhow::Result<Answer>>>> {
    disk.fill()?;
    let mut asked = Vec::new();
    let begun = Instant::now();
    loop {
        let readiness = gateway.readiness("serve").await;
        if readiness.is_some_and(|(status, text)| status == 503 && text.contains("log")) {
            return Ok(asked);
        }
        anyhow::ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "the full disk is not noticed"
        );
        let client = client.clone();
        asked.push(tokio::spawn(async move {
            client.chat(&chat("mock", "mock:tokens=1")).await
        }));
    }
}

async fn a_full_disk_is_outlived(folder: &str) -> anyhow::Result<()> {
    let Some(disk) = SmallDisk::mount(32)? else {
        return Ok(());
    };
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Embedded, &mock)? else {
        return Ok(());
    };
    let mut gateway = gateway.build()?;
    put_on(&disk, &gateway.folder.path().join("data").join(folder))?;
    gateway.start_all().await?;
    let client = gateway.client("acme").await?;
    let before = client.chat(&chat("mock", "mock:tokens=3")).await?;
    assert_eq!(before.status, 200, "{:?}", before.body);
    let mut running = client.stream(&chat("mock", "mock:tokens=6,hold=3")).await?;
    running.first_token().await?;
    let running_id = running.request_id.clone();

    let asked = fill(&disk, &gateway, &client).await?;
    let called = mock.snapshot().total;
    for _ in 0..20 {
        assert_refused(&client.chat(&chat("mock", "mock:tokens=1")).await?);
    }
    assert_eq!(
        mock.snapshot().total,
        called,
        "what was refused is not called"
    );
    // The rest of the running answer comes while nothing can be written.
    mock.release();
    mock.wait_until(Duration::from_secs(5), |calls| calls.in_flight == 0)
        .await?;

    disk.free()?;
    eventually("requests are taken again", Duration::from_secs(10), || {
        is_answered(&client)
    })
    .await?;
    for asked in asked {
        let answer = asked.await??;
        if answer.status != 200 {
            assert_refused(&answer);
        }
    }
    let whole = running.whole().await?;
    assert!(whole.done && whole.error.is_none(), "{whole:?}");
    assert_eq!(whole.text, "tok1 tok2 tok3 tok4 tok5 ");
    for id in [before.request_id(), &running_id] {
        wait_for_status(&client, &format!("/v1/requests/{id}"), "completed").await?;
    }

    // Full again, and killed while it is: what was answered is there, and nothing else is torn.
    let asked = fill(&disk, &gateway, &client).await?;
    gateway.kill_9("serve")?;
    disk.free()?;
    gateway.start_all().await?;
    for asked in asked {
        // Answered before the kill, refused, or cut off by it.
        if let Ok(answer) = asked.await?
            && answer.status != 200
        {
            assert_refused(&answer);
        }
    }
    assert!(is_answered(&client).await);
    let row = format!("/v1/requests/{}", before.request_id());
    wait_for_status(&client, &row, "completed").await?;
    everything_accepted_ended_once(&mut gateway, &client, &mock).await
}

/// Makes `folder` a link to the disk.
fn put_on(disk: &SmallDisk, folder: &Path) -> anyhow::Result<()> {
    if let Some(parent) = folder.components().as_path().parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::os::unix::fs::symlink(disk.path(), folder.components().as_path())?;
    Ok(())
}

/// The log can be read to its end, and each request on it has exactly one end; the model saw none that is not there.
async fn everything_accepted_ended_once(
    gateway: &mut Gateway,
    client: &Client,
    mock: &Mock,
) -> anyhow::Result<()> {
    gateway.terminate_all().await?;
    // What a process had adopted and not begun when it was stopped is left to the next one, which gets the time for it.
    let open = gateway.records().await?;
    gateway.start_all().await?;
    for request in &open.requests {
        let path = format!("/v1/requests/{}", request.id);
        let ended = || async {
            let (_, row) = client.get(&path).await.unwrap_or_default();
            row["finished_at"].is_string()
        };
        eventually(&path, Duration::from_secs(20), ended).await?;
    }
    gateway.terminate_all().await?;
    let records = gateway.records().await?;
    assert!(records.dead_letters.is_empty(), "{records:?}");
    let mut accepted = HashSet::new();
    for request in &records.requests {
        assert!(accepted.insert(request.id.to_string()), "{}", request.id);
        assert_eq!(records.end(request.id).1, 1, "{}", request.id);
    }
    for call in mock.calls() {
        assert!(accepted.contains(&call.id), "{} was called", call.id);
    }
    Ok(())
}
