//! Upstreams that fail under load: one of several, whom nobody notices, and all of them, which is told honestly and not made
//! worse by repeats.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::fault::Fault;
use tests::harness::{Builder, Gateway, LogKind, chat, eventually};
use tests::load::{Report, Span, Target, constant_rate};
use tests::mock::{Behaviour, Mock};

/// Requests a second.
const RATE: f64 = 200.0;
/// Connections of the load; each has one request at a time.
const CONNECTIONS: usize = 100;
/// How long everything is down.
const OUTAGE: Duration = Duration::from_secs(30);
/// Within so long all is well again.
const RECOVERY: Duration = Duration::from_secs(5);
/// What an outage may add to the memory of the process.
const MEMORY_MAX_KIB: u64 = 64 * 1024;

/// A gateway whose model `fleet` has a deployment behind each of `base_urls`.
async fn gateway(mock: &Mock, base_urls: &[String]) -> anyhow::Result<Option<Gateway>> {
    let Some(mut gateway) = Builder::new(LogKind::Embedded, mock)? else {
        return Ok(None);
    };
    let mut deployments = Vec::new();
    for (index, base_url) in base_urls.iter().enumerate() {
        let name = format!("p{index}");
        deployments.push(json!({ "provider": name, "model": "gpt-4o" }));
        gateway = gateway.push(
            "providers",
            json!({ "name": name, "kind": "openai", "base_url": base_url, "keys": [] }),
        );
    }
    let model = json!({ "name": "fleet", "strategy": "round_robin", "deployments": deployments });
    gateway.push("models", model).start().await.map(Some)
}

async fn load(addr: SocketAddr, key: &str, measured: Duration) -> anyhow::Result<Report> {
    let target = Target::chat(addr, "fleet", "mock:tokens=2", false).with_key(key);
    let span = Span {
        warm_up: Duration::ZERO,
        measured,
    };
    Ok(constant_rate(&target, RATE, CONNECTIONS, span).await?)
}

/// Resident memory of a process.
fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap_or_default().trim().trim_end_matches("kB");
    Ok(kib.trim().parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_that_always_fails_costs_its_clients_nothing() -> anyhow::Result<()> {
    let (good, bad) = (Mock::start()?, Mock::start()?);
    let urls = [
        good.base_url(),
        bad.base_url_with("status=500"),
        good.base_url(),
    ];
    let Some(gateway) = gateway(&good, &urls).await? else {
        return Ok(());
    };
    let client = gateway.client("acme").await?;
    let report = load(gateway.addr(), &client.key, Duration::from_secs(15)).await?;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    let offered = report.latency.count;
    // It was put out of service: a third of the calls would have been its own.
    let failed = bad.snapshot().total;
    assert!(
        failed < offered / 10,
        "{failed} of {offered} calls went there"
    );
    assert_eq!(good.snapshot().answered, offered);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_all_is_honest_bounded_and_over_when_it_is_over() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let urls = [mock.base_url(), mock.base_url()];
    let Some(mut gateway) = gateway(&mock, &urls).await? else {
        return Ok(());
    };
    let client = gateway.client("acme").await?;
    let addr = gateway.addr();
    let before = load(addr, &client.key, Duration::from_secs(2)).await?;
    assert!(before.errors.is_empty(), "{:?}", before.errors);
    let calm = resident_kib(gateway.process("serve")?.id())?;
    let calls_before = mock.snapshot().total;

    mock.set_behaviour(Behaviour::fault(Fault::Status(503)));
    let outage = load(addr, &client.key, OUTAGE).await?;
    assert_eq!(outage.latency.count, 0, "nobody can have answered");
    for status in outage.errors.keys() {
        assert!(
            ["429", "502", "503"].contains(&status.as_str()),
            "{:?}",
            outage.errors
        );
    }
    let offered: u64 = outage.errors.values().sum();
    let calls = mock.snapshot().total - calls_before;
    assert!(
        calls as f64 <= 1.2 * offered as f64,
        "{offered} requests became {calls} calls"
    );
    let grown = resident_kib(gateway.process("serve")?.id())?.saturating_sub(calm);
    assert!(grown < MEMORY_MAX_KIB, "the outage took {grown} KiB");
    let answer = client.chat(&chat("fleet", "hi")).await?;
    assert!(matches!(answer.status, 502 | 503), "{:?}", answer.body);
    if answer.status == 503 {
        assert!(answer.header("retry-after").is_some(), "{:?}", answer.body);
    }

    mock.set_behaviour(Behaviour::default());
    let over = Instant::now();
    // Clients that come back find it well again, in time …
    eventually("an answer", RECOVERY, || async {
        client
            .chat(&chat("fleet", "hi"))
            .await
            .is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    tokio::time::sleep_until((over + RECOVERY).into()).await;
    // … and under the whole load.
    let after = load(addr, &client.key, Duration::from_secs(3)).await?;
    assert!(after.errors.is_empty(), "{:?}", after.errors);
    Ok(())
}
