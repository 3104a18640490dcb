//! The promise: `kill -9` any process under load, and nothing that was accepted is lost.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use schemas::id::RequestId;
use tests::harness::{Builder, Client, Gateway, LogKind, Records, RoleName, chat, program};
use tests::mock::Mock;

/// Requests of each kind that are in flight at the kill: whole and streamed.
const HELD: usize = 200;
/// Requests that complete before the kill.
const QUICK: usize = 500;

/// What was sent, by request id as the mock saw it.
struct Load {
    held: HashSet<String>,
    quick: HashSet<String>,
}

/// Sends 200 + 200 requests that the mock holds and behind them 500 that complete.
async fn load(client: &Client, mock: &Mock) -> anyhow::Result<Load> {
    for _ in 0..HELD {
        for stream in [false, true] {
            let client = client.clone();
            // Answers are lost with the process; what counts is what is on the log.
            tokio::spawn(async move {
                let body = chat("mock", "mock:tokens=4,hold=1");
                if stream {
                    if let Ok(stream) = client.stream(&body).await {
                        stream.whole().await.ok();
                    }
                } else {
                    client.chat(&body).await.ok();
                }
            });
        }
    }
    mock.wait_until(Duration::from_secs(60), |calls| {
        calls.in_flight >= 2 * HELD as u64
    })
    .await?;
    let held = mock.calls().iter().map(|call| call.id.clone()).collect();
    let mut quick = HashSet::new();
    for _ in 0..QUICK / 20 {
        let answers = futures::future::try_join_all(
            (0..20).map(|_| async { client.chat(&chat("mock", "mock:tokens=2")).await }),
        )
        .await?;
        for answer in answers {
            assert_eq!(answer.status, 200, "{:?}", answer.body);
            quick.insert(answer.request_id().to_owned());
        }
    }
    assert_eq!(quick.len(), QUICK);
    Ok(Load { held, quick })
}

/// Accepted requests without exactly one end or without a row, and calls too many.
#[derive(Debug, Default)]
struct Faults {
    lost: Vec<String>,
    called_too_often: Vec<String>,
}

/// Without any request ending for so long, the others never will.
const PATIENCE: Duration = Duration::from_secs(15);

/// The status of each request, once all have ended or nothing moves any more: what was lost never ends.
async fn settled_rows(
    client: &Client,
    sent: &[&String],
) -> anyhow::Result<HashMap<String, String>> {
    let mut rows: HashMap<String, String> = HashMap::new();
    let mut moved = Instant::now();
    loop {
        let before = rows.values().filter(|status| has_ended(status)).count();
        for id in sent {
            if rows.get(*id).is_some_and(|status| has_ended(status)) {
                continue;
            }
            let (status, row) = client.get(&format!("/v1/requests/{id}")).await?;
            if status == 200 {
                let status = row["status"].as_str().unwrap_or_default();
                rows.insert((*id).clone(), status.to_owned());
            }
        }
        let ended = rows.values().filter(|status| has_ended(status)).count();
        if ended > before {
            moved = Instant::now();
        }
        if ended == sent.len() || moved.elapsed() > PATIENCE {
            return Ok(rows);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn has_ended(status: &str) -> bool {
    matches!(status, "completed" | "failed" | "cancelled" | "expired")
}

/// Waits until all that can be done is done, then holds the log, the rows and the mock's calls against each other.
async fn examine(
    gateway: &mut Gateway,
    client: &Client,
    mock: &Mock,
    load: &Load,
) -> anyhow::Result<Faults> {
    let sent: Vec<&String> = load.held.iter().chain(&load.quick).collect();
    let rows = settled_rows(client, &sent).await?;
    gateway.terminate_all().await?;
    let records: Records = gateway.records().await?;
    let accepted: Vec<RequestId> = records.requests.iter().map(|request| request.id).collect();
    for (kind, ids) in [("held", &load.held), ("quick", &load.quick)] {
        let on_the_log = accepted
            .iter()
            .filter(|id| ids.contains(&id.to_string()))
            .count();
        assert!(
            on_the_log >= 200,
            "only {on_the_log} {kind} requests on the log"
        );
    }
    let mut faults = Faults::default();
    for id in accepted {
        let text = id.to_string();
        let row = rows.get(&text).map(String::as_str);
        let ended =
            records.end(id).1 == 1 && matches!(row, Some("completed" | "failed" | "cancelled"));
        if !ended {
            faults
                .lost
                .push(format!("{text}: {:?}, row {row:?}", records.end(id)));
        }
        let calls = mock.calls_of(&text).len();
        let calls_max = if load.quick.contains(&text) { 1 } else { 2 };
        if calls > calls_max {
            faults.called_too_often.push(format!("{text}: {calls}"));
        }
    }
    Ok(faults)
}

/// Keeps the results sink from writing until it is dropped, as a slow database would.
struct PausedResults(#[expect(dead_code, reason = "held for its lock")] Lock);

enum Lock {
    Sqlite(#[expect(dead_code, reason = "held for its lock")] sqlx::SqliteConnection),
    Postgres(#[expect(dead_code, reason = "held for its lock")] sqlx::PgConnection),
}

impl PausedResults {
    async fn pause(gateway: &Gateway) -> anyhow::Result<Self> {
        use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
        Ok(Self(match gateway.log_kind() {
            LogKind::Embedded => {
                let file = gateway.folder.path().join("data/store.sqlite");
                let mut connection = sqlx::sqlite::SqliteConnectOptions::new()
                    .filename(file)
                    .connect()
                    .await?;
                connection.execute("BEGIN IMMEDIATE").await?;
                Lock::Sqlite(connection)
            }
            LogKind::Kafka => {
                let url = gateway.config()["store"]["url"]
                    .as_str()
                    .unwrap_or_default();
                let mut connection = sqlx::PgConnection::connect(url).await?;
                // Readers go on, writers wait.
                connection
                    .execute("BEGIN; LOCK TABLE results IN EXCLUSIVE MODE")
                    .await?;
                Lock::Postgres(connection)
            }
        }))
    }
}

/// The kill test for the process `victim`, run by `gateway`.
async fn kill_under_load(
    gateway: Builder,
    mock: &Mock,
    victim: RoleName,
) -> anyhow::Result<Faults> {
    let mut gateway = gateway.start().await?;
    let client = gateway.client("acme").await?;
    let paused = PausedResults::pause(&gateway).await?;
    let load = load(&client, mock).await?;
    let name = format!("{victim:?}").to_lowercase();
    gateway.kill_9(&name)?;
    drop(paused);
    gateway.start(victim, &name).await?;
    mock.release();
    examine(&mut gateway, &client, mock, &load).await
}

async fn nothing_accepted_is_lost(log: LogKind, victim: RoleName) -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    let faults = kill_under_load(gateway, &mock, victim).await?;
    assert!(
        faults.lost.is_empty(),
        "{} lost: {:#?}",
        faults.lost.len(),
        faults.lost.first()
    );
    assert!(
        faults.called_too_often.is_empty(),
        "{:#?}",
        faults.called_too_often
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_one_process_loses_nothing() -> anyhow::Result<()> {
    nothing_accepted_is_lost(LogKind::Embedded, RoleName::Serve).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_processors_loses_nothing() -> anyhow::Result<()> {
    nothing_accepted_is_lost(LogKind::Kafka, RoleName::Processors).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_ingress_loses_nothing() -> anyhow::Result<()> {
    nothing_accepted_is_lost(LogKind::Kafka, RoleName::Ingress).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_sinks_loses_nothing() -> anyhow::Result<()> {
    nothing_accepted_is_lost(LogKind::Kafka, RoleName::Sinks).await
}

/// The counter-proof: the kill test catches a program that commits before the work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kill_test_catches_a_commit_before_the_work() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Embedded, &mock)? else {
        return Ok(());
    };
    let gateway = gateway.program(program(Some("commit-before-work"))?);
    let faults = kill_under_load(gateway, &mock, RoleName::Serve).await?;
    assert!(
        !faults.lost.is_empty(),
        "a commit before the work went unnoticed"
    );
    Ok(())
}
