//! Faults of our own parts: broker, registry, store, disk, records nobody can read.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;
use tests::harness::{Builder, LogKind, Proxy, RoleName, Stack, chat, eventually};
use tests::mock::Mock;

use crate::chat::wait_for_status;

/// A Lockgate whose broker does not answer says so, stays unready, and becomes ready by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_down_at_start_is_waited_for() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Kafka, &mock)? else {
        return Ok(());
    };
    let nowhere = format!("127.0.0.1:{}", tests::harness::free_port()?);
    let mut gateway = gateway.set("log.brokers", json!([nowhere])).build()?;
    gateway.launch(RoleName::Sinks, "sinks")?;
    eventually(
        "the process says what it waits for",
        Duration::from_secs(20),
        || async {
            gateway
                .readiness("sinks")
                .await
                .is_some_and(|(status, text)| status == 503 && text.contains("log"))
        },
    )
    .await?;
    assert!(gateway.process("sinks")?.is_running()?);
    let output = gateway.folder.path().join("sinks.log");
    eventually(
        "it names the broker it waits for",
        Duration::from_secs(20),
        || async { std::fs::read_to_string(&output).is_ok_and(|text| text.contains(&nowhere)) },
    )
    .await?;
    // SIGTERM works while it waits.
    gateway.terminate("sinks").await?;
    Ok(())
}

/// What the store holds is not needed for a chat; what needs the store answers 503, never 401.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_goes_on_while_the_store_is_down() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Kafka, &mock)? else {
        return Ok(());
    };
    let Some(stack) = Stack::find() else {
        return Ok(());
    };
    let proxy = Proxy::to(&stack.postgres_address()?).await?;
    let url = gateway
        .store_url()
        .replace(&stack.postgres_address()?, &proxy.address());
    let gateway = gateway.set("store.url", json!(url)).start().await?;
    let client = gateway.client("acme").await?;
    assert_eq!(
        client.chat(&chat("mock", "mock:tokens=1")).await?.status,
        200
    );

    proxy.cut();
    let answer = client.chat(&chat("mock", "mock:tokens=1")).await?;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let path = format!("/v1/requests/{}", answer.request_id());
    let (status, body) = client.get(&path).await?;
    assert_eq!(status, 503, "{body}");

    proxy.mend();
    wait_for_status(&client, &path, "completed").await?;
    Ok(())
}

/// A start while the store is down: keys that were known before are known, and sinks catch up when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_the_store_serves_known_keys() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Kafka, &mock)? else {
        return Ok(());
    };
    let Some(stack) = Stack::find() else {
        return Ok(());
    };
    let proxy = Proxy::to(&stack.postgres_address()?).await?;
    let url = gateway
        .store_url()
        .replace(&stack.postgres_address()?, &proxy.address());
    let mut gateway = gateway.set("store.url", json!(url)).start().await?;
    let client = gateway.client("acme").await?;
    let before = client.chat(&chat("mock", "mock:tokens=1")).await?;
    assert_eq!(before.status, 200);
    let path_before = format!("/v1/requests/{}", before.request_id());
    wait_for_status(&client, &path_before, "completed").await?;
    gateway.terminate_all().await?;

    proxy.cut();
    gateway.launch(RoleName::Sinks, "sinks")?;
    gateway.start(RoleName::Processors, "processors-2").await?;
    gateway.start(RoleName::Ingress, "ingress").await?;
    // What is older than the start of its partition may have run before, which only the store can tell.
    let output = gateway.folder.path().join("processors-2.log");
    eventually(
        "partitions are started",
        Duration::from_secs(40),
        || async {
            std::fs::read_to_string(&output)
                .is_ok_and(|text| text.contains("partitions started lane=Interactive"))
        },
    )
    .await?;
    let answer = client.chat(&chat("mock", "mock:tokens=2")).await?;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let stream = client.stream(&chat("mock", "mock:tokens=2")).await?;
    assert!(stream.whole().await?.done);
    let path = format!("/v1/requests/{}", answer.request_id());
    for path in [path_before.as_str(), &path, "/v1/requests"] {
        let (status, body) = client.get(path).await?;
        assert_eq!(status, 503, "{path}: {body}");
    }
    // Of a key that is not known nobody can say that it is wrong.
    let stranger = tests::harness::Client::new(&gateway.url(), "lg_0123456789abcdef_stranger");
    let refused = stranger.chat(&chat("mock", "mock:tokens=1")).await?;
    assert_eq!(refused.status, 503, "{:?}", refused.body);
    assert!(refused.header("retry-after").is_some());

    proxy.mend();
    gateway.ready("sinks").await?;
    wait_for_status(&client, &path, "completed").await?;
    wait_for_status(&client, &path_before, "completed").await?;
    Ok(())
}

/// Schemas once seen serve while the registry is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_goes_on_while_the_registry_is_down() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Kafka, &mock)? else {
        return Ok(());
    };
    let Some(stack) = Stack::find() else {
        return Ok(());
    };
    let proxy = Proxy::to(&stack.registry_address()?).await?;
    let url = stack
        .registry
        .replace(&stack.registry_address()?, &proxy.address());
    let gateway = gateway
        .set("schema_registry.url", json!(url))
        .start()
        .await?;
    let client = gateway.client("acme").await?;
    assert_eq!(
        client.chat(&chat("mock", "mock:tokens=1")).await?.status,
        200
    );
    proxy.cut();
    for _ in 0..5 {
        assert_eq!(
            client.chat(&chat("mock", "mock:tokens=1")).await?.status,
            200
        );
    }
    Ok(())
}

/// A record that nobody can read becomes a dead letter, and what is behind it flows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undecodable_record_becomes_a_dead_letter() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Kafka, &mock)? else {
        return Ok(());
    };
    let mut gateway = gateway.start().await?;
    let client = gateway.client("acme").await?;
    let prefix = gateway.config()["log"]["topic_prefix"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let topic = format!("{prefix}requests.interactive");
    let stack = Stack::find().expect("the gateway stands on it");
    let producer: FutureProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", &stack.brokers)
        .create()?;
    for partition in 0..2 {
        let garbage: &[u8] = b"\x00not a request";
        let record = FutureRecord::<[u8], [u8]>::to(&topic)
            .partition(partition)
            .payload(garbage);
        producer
            .send(record, Duration::from_secs(10))
            .await
            .map_err(|(error, _)| error)?;
    }
    for _ in 0..4 {
        assert_eq!(
            client.chat(&chat("mock", "mock:tokens=1")).await?.status,
            200
        );
    }
    gateway.terminate_all().await?;
    let dead = gateway.records().await?.dead_letters;
    assert!(dead.len() >= 2, "{dead:?}");
    for letter in dead {
        assert_eq!(letter.value, Bytes::from_static(b"\x00not a request"));
        assert_eq!(letter.topic, "requests.interactive");
        assert!(!letter.reason.is_empty());
    }
    Ok(())
}

/// With the broker down new requests get 503 at once; with it back, traffic flows again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_away_means_503_until_it_is_back() -> anyhow::Result<()> {
    if Stack::find().is_none() {
        return Ok(());
    }
    let mock = Mock::start()?;
    let folder = tempfile::tempdir()?;
    let stack = tokio::task::block_in_place(|| Stack::up(folder.path()))?;
    let outcome = broker_goes_away(&stack, &mock).await;
    stack.purge()?;
    outcome
}

async fn broker_goes_away(stack: &Stack, mock: &Mock) -> anyhow::Result<()> {
    let gateway = Builder::with(Some(stack.clone()), mock)?.start().await?;
    let client = gateway.client("acme").await?;
    assert_eq!(
        client.chat(&chat("mock", "mock:tokens=1")).await?.status,
        200
    );

    stack.act("kill", &["kafka"])?;
    let down = || async {
        let asked = Instant::now();
        let answer = client.chat(&chat("mock", "mock:tokens=1")).await;
        answer.is_ok_and(|answer| {
            answer.status == 503
                && answer.error_code() == "log_unavailable"
                && answer.header("retry-after").is_some()
                && asked.elapsed() < Duration::from_secs(1)
        })
    };
    eventually("503 at once", Duration::from_secs(40), down).await?;

    stack.act("start", &["kafka"])?;
    eventually("traffic flows again", Duration::from_secs(60), || async {
        client
            .chat(&chat("mock", "mock:tokens=1"))
            .await
            .is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    Ok(())
}
