//! What clients get wrong: bodies and keys.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};
use tests::harness::{Builder, Client, Gateway, LogKind, chat, eventually};
use tests::mock::Mock;

crate::on_both_logs!(a_key_that_expires_or_is_disabled_is_refused_at_once);

const BODY_BYTES_MAX: usize = 64 * 1024;

/// Status and body of a POST of these bytes.
async fn post(gateway: &Gateway, key: &str, body: reqwest::Body) -> anyhow::Result<(u16, Value)> {
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/chat/completions", gateway.url()))
        .bearer_auth(key)
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await?;
    assert!(answer.headers().contains_key("x-request-id"));
    Ok((answer.status().as_u16(), answer.json().await?))
}

/// A chat request of exactly so many bytes.
fn of_size(bytes: usize) -> String {
    let empty = chat("mock", "").to_string().len();
    chat("mock", &"x".repeat(bytes - empty)).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_body_is_refused_and_names_what_is_wrong() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Embedded, &mock)? else {
        return Ok(());
    };
    let gateway = gateway.start().await?;
    let client = gateway.client("acme").await?;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let bodies: [(&[u8], u16, Value, Value); 11] = [
        (b"", 400, json!(null), json!(null)),
        (b"hello", 400, json!(null), json!(null)),
        (b"{\"model\":\"mock\"", 400, json!(null), json!(null)),
        (b"{\"model\":\"\xff\"}", 400, json!(null), json!(null)),
        (b"[]", 400, json!(null), json!(null)),
        (deep.as_bytes(), 400, json!(null), json!(null)),
        (
            br#"{"messages":[{"role":"user","content":"hi"}]}"#,
            400,
            json!("model"),
            json!(null),
        ),
        (
            br#"{"model":7,"messages":[]}"#,
            400,
            json!("model"),
            json!(null),
        ),
        (br#"{"model":"mock"}"#, 400, json!("messages"), json!(null)),
        (
            br#"{"model":"mock","messages":"hi"}"#,
            400,
            json!("messages"),
            json!(null),
        ),
        (
            br#"{"model":"nobody","messages":[{"role":"user","content":"hi"}]}"#,
            404,
            json!(null),
            json!("model_not_found"),
        ),
    ];
    for (body, status, param, code) in bodies {
        let text = String::from_utf8_lossy(&body[..body.len().min(60)]);
        let (got, answer) = post(&gateway, &client.key, body.to_vec().into()).await?;
        let error = &answer["error"];
        assert_eq!(got, status, "{text}: {answer}");
        assert_eq!(error["type"], "invalid_request_error", "{text}: {answer}");
        assert_eq!(error["param"], param, "{text}: {answer}");
        assert_eq!(error["code"], code, "{text}: {answer}");
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
    }
    assert_eq!(mock.snapshot().total, 0);
    assert_eq!(client.chat(&chat("mock", "hi")).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_413_and_one_at_the_limit_is_not() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Embedded, &mock)? else {
        return Ok(());
    };
    let gateway = gateway
        .set("server.body_bytes_max", json!("64KiB"))
        .start()
        .await?;
    let client = gateway.client("acme").await?;
    // The last is far more than fits into the buffers between the two.
    for (bytes, status) in [
        (BODY_BYTES_MAX, 200),
        (BODY_BYTES_MAX + 1, 413),
        (16 * 1024 * 1024, 413),
    ] {
        let body = of_size(bytes);
        assert_eq!(body.len(), bytes);
        for announced in [true, false] {
            let (got, answer) = post(&gateway, &client.key, with_length(&body, announced)).await?;
            assert_eq!(
                got, status,
                "{bytes} bytes, announced {announced}: {answer}"
            );
            if status == 413 {
                assert_eq!(answer["error"]["type"], "invalid_request_error");
                assert_eq!(answer["error"]["code"], "request_too_large");
            }
        }
    }
    assert_eq!(mock.snapshot().total, 2);
    Ok(())
}

/// The body with its length announced, or in chunks.
fn with_length(body: &str, announced: bool) -> reqwest::Body {
    if announced {
        return body.to_owned().into();
    }
    let pieces: Vec<_> = body
        .as_bytes()
        .chunks(10_000)
        .map(|piece| std::io::Result::Ok(piece.to_vec()))
        .collect();
    reqwest::Body::wrap_stream(futures::stream::iter(pieces).boxed())
}

async fn a_key_that_expires_or_is_disabled_is_refused_at_once(log: LogKind) -> anyhow::Result<()> {
    const VALID: Duration = Duration::from_secs(3);
    const KNOWN_WITHIN: Duration = Duration::from_secs(1);
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    let gateway = gateway.start().await?;
    let client = gateway.client("acme").await?;
    let body = chat("mock", "hi");
    let refused = |key: String| {
        let (client, body) = (Client::new(&gateway.url(), &key), &body);
        async move {
            let answer = client.chat(body).await?;
            if answer.status == 200 {
                return Ok(false);
            }
            assert_eq!(
                (answer.status, answer.error_code()),
                (401, "invalid_api_key"),
                "{key}: {:?}",
                answer.body
            );
            assert_eq!(answer.body["error"]["type"], "invalid_request_error");
            anyhow::Ok(true)
        }
    };

    let (id, secret) = parts(&client.key);
    for wrong in [
        String::new(),
        "sk-nobody".to_owned(),
        format!("lg_{id}_{}", secret.chars().rev().collect::<String>()),
        format!("lg_{}_{secret}", id.chars().rev().collect::<String>()),
        format!("{}x", client.key),
        client.key[..client.key.len() - 1].to_owned(),
        client.key.to_uppercase(),
    ] {
        assert!(refused(wrong.clone()).await?, "{wrong:?}");
    }

    let made = Instant::now();
    let key = gateway.run(&[
        "keys",
        "create",
        "--name",
        "short",
        "--tenant",
        "acme",
        "--expires",
        "3s",
    ])?;
    let short = key.trim().to_owned();
    let valid_until = Instant::now() + VALID;
    eventually("the new key is known", Duration::from_secs(2), || async {
        !refused(short.clone()).await.unwrap_or(true)
    })
    .await?;
    assert!(made.elapsed() < VALID, "too slow a machine for this test");
    eventually("it expires", VALID + KNOWN_WITHIN, || async {
        refused(short.clone()).await.unwrap_or(false)
    })
    .await?;
    assert!(made.elapsed() >= VALID, "too early");
    assert!(Instant::now() < valid_until + KNOWN_WITHIN, "too late");

    assert!(!refused(client.key.clone()).await?);
    gateway.run(&["keys", "disable", id])?;
    eventually("it is disabled", KNOWN_WITHIN, || async {
        refused(client.key.clone()).await.unwrap_or(false)
    })
    .await?;
    Ok(())
}

/// Id and secret of a key.
fn parts(key: &str) -> (&str, &str) {
    key.trim_start_matches("lg_")
        .split_once('_')
        .expect("lg_<id>_<secret>")
}
