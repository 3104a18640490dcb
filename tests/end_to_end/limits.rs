//! Limits of a deployment hold over all processors together: in Redis by demand, without it in equal parts, or not at all.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::harness::{
    Answer, Builder, Client, Gateway, LogKind, Proxy, RoleName, Stack, chat, eventually,
};
use tests::mock::Mock;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

const CONCURRENCY: usize = 5;
const LIMIT: Duration = Duration::from_secs(30);

/// Most calls that the mock had at once.
fn most_at_once(mock: &Mock) -> usize {
    let mut changes: Vec<(Instant, i32)> = Vec::new();
    for call in mock.calls() {
        changes.push((call.started, 1));
        changes.extend(call.ended.map(|(_, at)| (at, -1)));
    }
    // Ends first: one that begins where another ends is not at once with it.
    changes.sort_unstable();
    let mut at_once = 0;
    let most = changes.into_iter().map(|(_, change)| {
        at_once += change;
        at_once
    });
    most.max()
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(0)
}

/// Asks so many times at once and has all answers.
async fn flood(client: &Client, requests: usize) -> anyhow::Result<()> {
    let asking = (0..requests).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.chat(&chat("mock", "mock:tokens=1,first=50ms")).await })
    });
    for answer in futures::future::join_all(asking).await {
        let answer = answer??;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
    }
    Ok(())
}

/// What the processors say of a deployment: calls in progress and calls that may be, by process.
async fn shown(admin: &Client, deployment: &str) -> anyhow::Result<Vec<(u64, u64)>> {
    let (status, view) = admin.get("/admin/v1/health").await?;
    anyhow::ensure!(status == 200, "{view}");
    let processes = view["processors"].as_array().into_iter().flatten();
    let deployments = processes.flat_map(|one| one["deployments"].as_array().into_iter().flatten());
    Ok(deployments
        .filter(|one| one["deployment"] == deployment)
        .map(|one| {
            let number = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
            (number(&one["in_flight"]), number(&one["capacity"]))
        })
        .collect())
}

/// A gateway whose deployment `mock/gpt-4o` is limited over Redis, which is behind a door.
async fn gateway(
    stack: &Stack,
    log: LogKind,
    mock: &Mock,
    when_down: &str,
) -> anyhow::Result<Option<(Builder, Proxy)>> {
    let redis = Proxy::to(&stack.redis_address()?).await?;
    let Some(builder) = Builder::new(log, mock)? else {
        return Ok(None);
    };
    let deployment =
        json!({ "provider": "mock", "model": "gpt-4o", "limits": { "concurrency": CONCURRENCY } });
    let builder = builder
        .set(
            "redis",
            json!({
                "url": format!("redis://{}", redis.address()),
                "key_prefix": format!("{}:", uuid::Uuid::new_v4()),
                "limits_when_down": when_down,
            }),
        )
        .set(
            "models",
            json!([
                { "name": "mock", "deployments": [deployment] },
                { "name": "demo", "deployments": [ { "provider": "demo", "model": "echo" } ] },
            ]),
        );
    Ok(Some((builder, redis)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processors_keep_to_one_limit_with_redis_and_without() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(stack) = Stack::find() else {
        return Ok(());
    };
    let Some((builder, redis)) = gateway(&stack, LogKind::Kafka, &mock, "share").await? else {
        return Ok(());
    };
    let mut gateway = builder.start().await?;
    gateway.start(RoleName::Processors, "processors-2").await?;
    let client = gateway.client("acme").await?;
    let admin = gateway.client_with_role("acme", "admin").await?;
    let parts = |wanted: fn(&[u64]) -> bool| {
        let admin = &admin;
        move || async move {
            let shown = shown(admin, "mock/gpt-4o").await.unwrap_or_default();
            let mut parts: Vec<u64> = shown.iter().map(|(_, part)| *part).collect();
            parts.sort_unstable();
            wanted(&parts)
        }
    };
    let both = |parts: &[u64]| parts == [2, 3];
    eventually("the limit is divided", LIMIT, parts(both)).await?;
    flood(&client, 100).await?;
    assert!(both_called(&mut gateway).await?, "only one process called");

    eventually("both lease from Redis", LIMIT, || async {
        leases(&stack, &gateway)
            .await
            .is_ok_and(|count| count == ":3")
    })
    .await?;

    // Without Redis each has its equal part.
    redis.cut();
    eventually("both know that it is gone", LIMIT, || async {
        failures(&gateway)
            .await
            .is_ok_and(|failures| failures.iter().all(|count| *count > 0))
    })
    .await?;
    flood(&client, 100).await?;
    eventually("the parts are equal", LIMIT, parts(both)).await?;

    // It is back, one process leaves: the other has the whole limit.
    redis.mend();
    gateway.terminate("processors-2").await?;
    eventually(
        "one has all",
        LIMIT,
        parts(|parts| parts.contains(&(CONCURRENCY as u64))),
    )
    .await?;
    flood(&client, 50).await?;
    assert_eq!(most_at_once(&mock), CONCURRENCY);
    assert_eq!(mock.snapshot().total, 250);
    Ok(())
}

/// How many fields Redis has for the deployment, as it says it: one for each process, and one for when it began.
async fn leases(stack: &Stack, gateway: &Gateway) -> anyhow::Result<String> {
    let mut redis = TcpStream::connect(stack.redis_address()?).await?;
    let prefix = gateway.config()["redis"]["key_prefix"]
        .as_str()
        .unwrap_or_default();
    let ask = format!("HLEN {prefix}limits:mock/gpt-4o\r\n");
    redis.write_all(ask.as_bytes()).await?;
    let line = BufReader::new(redis).lines().next_line().await?;
    Ok(line.unwrap_or_default())
}

/// Whether each of the processors has called.
async fn both_called(gateway: &mut Gateway) -> anyhow::Result<bool> {
    let mut both = true;
    for name in ["processors", "processors-2"] {
        both &= metric(gateway, name, "lockgate_attempts_total").await? > 0.0;
    }
    Ok(both)
}

/// How often each of the processors had no part from Redis.
async fn failures(gateway: &Gateway) -> anyhow::Result<[u64; 2]> {
    let name = "lockgate_lease_failures_total";
    let of = |process| metric(gateway, process, name);
    Ok([
        of("processors").await? as u64,
        of("processors-2").await? as u64,
    ])
}

/// The sum of a metric over its labels.
async fn metric(gateway: &Gateway, process: &str, name: &str) -> anyhow::Result<f64> {
    let metrics = gateway.metrics(process).await?;
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    Ok(lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_limited_deployments_are_not_called_where_that_is_wished()
-> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(stack) = Stack::find() else {
        return Ok(());
    };
    let Some((builder, redis)) = gateway(&stack, LogKind::Embedded, &mock, "refuse").await? else {
        return Ok(());
    };
    let two = json!({
        "name": "two", "strategy": "priority",
        "deployments": [
            { "provider": "mock", "model": "gpt-4o", "tier": 1, "limits": { "concurrency": CONCURRENCY } },
            { "provider": "demo", "model": "echo", "tier": 2 },
        ],
    });
    redis.cut();
    let gateway = builder.push("models", two).start().await?;
    let client = gateway.client("acme").await?;
    let refused: Answer = client.chat(&chat("mock", "mock:tokens=1")).await?;
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    let elsewhere = client.chat(&chat("two", "hello")).await?;
    assert_eq!(elsewhere.text(), "You said: hello");
    assert_eq!(mock.snapshot().total, 0);
    redis.mend();
    eventually("it is called again", LIMIT, || async {
        let answer = client.chat(&chat("mock", "mock:tokens=1")).await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await
}
