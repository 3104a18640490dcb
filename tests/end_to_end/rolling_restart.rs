//! Rolling restart of the processors on Kafka: no stream breaks, no request is called twice.

use tests::harness::{Builder, LogKind, RoleName, chat};
use tests::mock::Mock;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_breaks_no_stream_and_calls_nothing_twice() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Kafka, &mock)? else {
        return Ok(());
    };
    let mut gateway = gateway.start().await?;
    gateway.start(RoleName::Processors, "processors-2").await?;
    let client = gateway.client("acme").await?;

    let mut streams = Vec::new();
    for name in ["processors", "processors-2"] {
        for _ in 0..20 {
            let mut stream = client
                .stream(&chat("mock", "mock:tokens=40,delay=100ms"))
                .await?;
            stream.first_token().await?;
            streams.push((stream.request_id.clone(), tokio::spawn(stream.whole())));
        }
        // The streams of this process end within its grace, those of the other go on.
        gateway.terminate(name).await?;
        gateway
            .start(RoleName::Processors, &format!("{name}-new"))
            .await?;
    }
    for (id, stream) in streams {
        let whole = stream.await??;
        assert!(whole.done && whole.error.is_none(), "{id}: {whole:?}");
        assert_eq!(whole.text.split_whitespace().count(), 39, "{id}");
        assert_eq!(mock.calls_of(&id).len(), 1, "{id}");
    }
    Ok(())
}
