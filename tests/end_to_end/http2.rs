//! Providers behind TLS: HTTP/2 where they offer it, and no answer from one whose certificate nobody vouches for.

use http::Version;
use serde_json::{Value, json};
use tests::harness::{Builder, Gateway, LogKind, chat};
use tests::mock::Mock;
use tests::secure::{Authority, Secure, TEXT, TOGETHER};

/// Calls at once.
const CALLS: usize = 8;

/// A gateway that trusts `authority` alone, with the models `alone` and `together` of `secure`, and `twin` of `secure` and then
/// of `mock`.
async fn gateway(
    mock: &Mock,
    authority: &Authority,
    secure: &Secure,
) -> anyhow::Result<Option<(Gateway, tempfile::TempDir)>> {
    let Some(gateway) = Builder::new(LogKind::Embedded, mock)? else {
        return Ok(None);
    };
    let folder = tempfile::tempdir()?;
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, authority.pem())?;
    let model =
        |name: &str, deployments: &[Value]| json!({ "name": name, "deployments": deployments });
    let alone = json!({ "provider": "secure", "model": "alone" });
    let together = json!({ "provider": "secure", "model": TOGETHER });
    let first = json!({ "provider": "secure", "model": "alone", "weight": 1_000_000 });
    let second = json!({ "provider": "mock", "model": "gpt-4o" });
    let gateway = gateway
        .environment("SSL_CERT_FILE", &roots.to_string_lossy())
        .push(
            "providers",
            json!({ "name": "secure", "kind": "openai", "base_url": secure.base_url(), "keys": [] }),
        )
        .push("models", model("alone", &[alone]))
        .push("models", model("together", &[together]))
        .push("models", model("twin", &[first, second]))
        .start()
        .await?;
    Ok(Some((gateway, folder)))
}

/// One whole answer, and then streams that end when all of them are open.
async fn call(gateway: &Gateway) -> anyhow::Result<()> {
    let client = gateway.client("acme").await?;
    let answer = client.chat(&chat("alone", "hi")).await?;
    assert_eq!(
        (answer.status, answer.text()),
        (200, TEXT),
        "{:?}",
        answer.body
    );
    let streams = (0..CALLS).map(|_| async {
        let stream = client.stream(&chat("together", "hi")).await?;
        assert_eq!(stream.status, 200);
        let whole = stream.whole().await?;
        assert!(whole.done && whole.error.is_none(), "{whole:?}");
        assert_eq!(whole.text, TEXT);
        anyhow::Ok(())
    });
    futures::future::try_join_all(streams).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_at_once_share_one_connection_where_http_2_is_offered() -> anyhow::Result<()> {
    let (mock, authority) = (Mock::start()?, Authority::new()?);
    let secure = Secure::start(&authority, &["h2", "http/1.1"], CALLS).await?;
    let Some((gateway, _folder)) = gateway(&mock, &authority, &secure).await? else {
        return Ok(());
    };
    call(&gateway).await?;
    let calls = secure.calls();
    assert_eq!(calls.len(), 1 + CALLS);
    for call in calls {
        assert_eq!((call.version, call.connection), (Version::HTTP_2, 0));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_offers_http_1_1_alone_is_called_by_it() -> anyhow::Result<()> {
    let (mock, authority) = (Mock::start()?, Authority::new()?);
    let secure = Secure::start(&authority, &["http/1.1"], CALLS).await?;
    let Some((gateway, _folder)) = gateway(&mock, &authority, &secure).await? else {
        return Ok(());
    };
    call(&gateway).await?;
    let calls = secure.calls();
    assert_eq!(calls.len(), 1 + CALLS);
    let versions = calls.iter().map(|call| call.version);
    assert!(
        versions
            .into_iter()
            .all(|version| version == Version::HTTP_11)
    );
    let mut connections: Vec<usize> = calls[1..].iter().map(|call| call.connection).collect();
    connections.sort_unstable();
    connections.dedup();
    assert_eq!(connections.len(), CALLS, "one call at a time on each");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_nobody_vouches_for_is_a_provider_that_cannot_be_reached()
-> anyhow::Result<()> {
    let (mock, trusted, other) = (Mock::start()?, Authority::new()?, Authority::new()?);
    let secure = Secure::start(&other, &["h2", "http/1.1"], CALLS).await?;
    let Some((gateway, _folder)) = gateway(&mock, &trusted, &secure).await? else {
        return Ok(());
    };
    let client = gateway.client("acme").await?;
    let answer = client.chat(&chat("alone", "hi")).await?;
    assert_eq!(
        (answer.status, answer.error_code()),
        (502, "upstream_failed")
    );
    assert_eq!(
        answer.body["error"]["message"],
        "the provider could not be reached"
    );
    let told = format!("{:?}{}", answer.headers, answer.body).to_lowercase();
    for secret in [
        "localhost",
        &secure.addr().port().to_string(),
        "certificate",
    ] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
    let answer = client.chat(&chat("twin", "hi")).await?;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(mock.calls_of(answer.request_id()).len(), 1);
    assert_eq!(secure.calls(), [], "no request went to it");
    Ok(())
}
