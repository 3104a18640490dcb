//! What upstreams do wrong, seen by the client: with a second deployment nothing, alone the right status and code.

use serde_json::{Value, json};
use tests::fault::{Refusing, Unanswering};
use tests::harness::{Builder, Client, LogKind, chat};
use tests::mock::Mock;

use crate::chat::wait_for_status;

const WHOLE: &str = "tok0 tok1 tok2 tok3 tok4 tok5 tok6 tok7 ";

/// How a call with a fault is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Whole,
    Stream,
}
use Ask::{Stream, Whole};

/// What the client of a deployment with a fault gets when there is no other.
#[derive(Debug, Clone, Copy)]
struct Fault {
    /// Directive of the mock; or `refuses`, `unanswering`, `unknown_host` and `no_tls`, where no call is ever made.
    name: &'static str,
    asks: &'static [Ask],
    status: u16,
    code: &'static str,
    /// The request itself is refused: a twin is not asked.
    is_final: bool,
}

const fn passing(
    name: &'static str,
    asks: &'static [Ask],
    status: u16,
    code: &'static str,
) -> Fault {
    Fault {
        name,
        asks,
        status,
        code,
        is_final: false,
    }
}

const BOTH: &[Ask] = &[Whole, Stream];

/// Before the first token: failures.md §1.
const FIRST: [Fault; 32] = [
    passing("refuses", BOTH, 502, "upstream_failed"),
    passing("unanswering", BOTH, 504, "upstream_timeout"),
    passing("unknown_host", BOTH, 502, "upstream_failed"),
    // Its handshake never ends.
    passing("no_tls", BOTH, 504, "upstream_timeout"),
    passing("reset", BOTH, 502, "upstream_failed"),
    passing("close", BOTH, 502, "upstream_failed"),
    passing("silent", BOTH, 504, "upstream_timeout"),
    passing("no_first_token", &[Stream], 504, "upstream_timeout"),
    passing("status=500", BOTH, 502, "upstream_failed"),
    passing("status=502", BOTH, 502, "upstream_failed"),
    passing("status=503", BOTH, 502, "upstream_failed"),
    // It says that something behind it did not answer in time.
    passing("status=504", BOTH, 504, "upstream_timeout"),
    passing("status=529", BOTH, 502, "upstream_failed"),
    passing("status=429,retry_after=7", BOTH, 429, "rate_limit_exceeded"),
    passing("status=401", BOTH, 502, "upstream_credentials"),
    passing("status=403", BOTH, 502, "upstream_credentials"),
    passing("html", BOTH, 502, "upstream_failed"),
    passing("empty", BOTH, 502, "upstream_malformed"),
    passing("broken_json", BOTH, 502, "upstream_malformed"),
    passing("wrong_content_type", BOTH, 502, "upstream_failed"),
    passing("missing_choices", BOTH, 502, "upstream_malformed"),
    passing("error_first", &[Stream], 502, "upstream_failed"),
    passing("huge_body", BOTH, 502, "upstream_failed"),
    passing("endless_headers", BOTH, 502, "upstream_failed"),
    passing("gzip_bomb", BOTH, 502, "upstream_failed"),
    passing("redirect", BOTH, 502, "upstream_failed"),
    // A whole answer that breaks off has shown nothing yet.
    passing("cut", &[Whole], 502, "upstream_failed"),
    passing("reset_later", &[Whole], 502, "upstream_failed"),
    passing("idle", &[Whole], 504, "upstream_timeout"),
    Fault {
        is_final: true,
        ..passing("context_length", BOTH, 400, "context_length_exceeded")
    },
    Fault {
        is_final: true,
        ..passing("content_policy", BOTH, 400, "content_policy_violation")
    },
    Fault {
        is_final: true,
        ..passing("model_not_found", BOTH, 404, "model_not_found")
    },
];

/// After the first token: failures.md §2; the code of the error event, none where the stream ends well.
const LATER: [(&str, Option<&str>); 10] = [
    ("cut", Some("upstream_cut")),
    ("cut_cleanly", Some("upstream_cut")),
    ("reset_later", Some("upstream_cut")),
    ("idle", Some("upstream_timeout")),
    ("tokens=100000,delay=50ms", Some("upstream_timeout")),
    ("error_event", Some("upstream_failed")),
    ("broken_events", Some("upstream_cut")),
    ("no_done", None),
    ("broken_event", None),
    ("drip", None),
];

/// Those that are seen by waiting; others keep the defaults, so that a slow machine takes no part in them.
const TIMED: [&str; 5] = [
    "unanswering",
    "silent",
    "no_first_token",
    "idle",
    "tokens=100000,delay=50ms",
];

/// A gateway with the models `alone/FAULT`, whose only deployment has the fault, and `twin/FAULT`, which has a good one behind.
async fn gateway(
    mock: &Mock,
    faults: &[(&str, String)],
) -> anyhow::Result<Option<tests::harness::Gateway>> {
    let Some(mut gateway) = Builder::new(LogKind::Embedded, mock)? else {
        return Ok(None);
    };
    for (index, (fault, base_url)) in faults.iter().enumerate() {
        let mut provider = json!({ "name": format!("p{index}"), "kind": "openai", "base_url": base_url, "keys": [] });
        if TIMED.contains(fault) {
            provider["timeouts"] = json!({ "connect": "300ms", "first_token": "500ms", "idle": "500ms", "total": "1s" });
        }
        // By its weight the first.
        let bad =
            json!({ "provider": format!("p{index}"), "model": "gpt-4o", "weight": 1_000_000 });
        let good = json!({ "provider": "mock", "model": "gpt-4o" });
        gateway = gateway
            .push("providers", provider)
            .push(
                "models",
                json!({ "name": format!("alone/{fault}"), "deployments": [bad] }),
            )
            .push(
                "models",
                json!({ "name": format!("twin/{fault}"), "deployments": [bad, good] }),
            );
    }
    gateway.start().await.map(Some)
}

/// One row, alone and with a twin.
async fn strikes_first(client: &Client, mock: &Mock, fault: Fault) -> anyhow::Result<()> {
    for ask in fault.asks {
        let what = format!("{} {ask:?}", fault.name);
        let mut body = chat(&format!("alone/{}", fault.name), "hi");
        body["stream"] = json!(*ask == Stream);
        let answer = client.chat(&body).await?;
        // In place of a stream even good JSON is wrong.
        let code = match (fault.code, *ask) {
            ("upstream_malformed", Stream) => "upstream_failed",
            (code, _) => code,
        };
        assert_eq!(
            (answer.status, answer.error_code()),
            (fault.status, code),
            "{what}: {:?}",
            answer.body
        );
        assert_all_keys(&answer.body["error"], &what);
        let text = answer.body.to_string();
        assert!(
            !text.contains(&mock.addr().to_string()) && !text.contains("<h1>"),
            "{text}"
        );
        let should_retry = answer.header("x-should-retry");
        match fault.status {
            429 => assert!(answer.header("retry-after").is_some(), "{what}"),
            500.. => assert_eq!(should_retry, Some("false"), "{what}"),
            _ => {}
        }
        let row = wait_for_status(client, &path(answer.request_id()), "failed").await?;
        assert_eq!(row["error"]["code"], code, "{what}: {row}");

        let twin = chat(&format!("twin/{}", fault.name), "hi");
        let id = match (fault.is_final, *ask) {
            (true, _) => {
                let answer = client.chat(&twin).await?;
                assert_eq!(answer.status, fault.status, "{what}: {:?}", answer.body);
                assert_eq!(mock.calls_of(answer.request_id()).len(), 1, "{what}");
                continue;
            }
            (false, Whole) => {
                let answer = client.chat(&twin).await?;
                assert_eq!(
                    (answer.status, answer.text()),
                    (200, WHOLE),
                    "{what}: {:?}",
                    answer.body
                );
                answer.request_id().to_owned()
            }
            (false, Stream) => {
                let stream = client.stream(&twin).await?;
                assert_eq!(stream.status, 200, "{what}");
                let id = stream.request_id.clone();
                let whole = stream.whole().await?;
                assert!(whole.done && whole.error.is_none(), "{what}: {whole:?}");
                assert_eq!(whole.text, WHOLE, "{what}");
                id
            }
        };
        let row = wait_for_status(client, &path(&id), "completed").await?;
        let attempts = row["attempts"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let last = attempts.last().expect("an attempt");
        assert_eq!(last["deployment"], "mock/gpt-4o", "{what}: {row}");
        assert!(attempts.len() <= 2, "{what}: {row}");
    }
    Ok(())
}

/// Text that was shown is not taken back: an error event, whether there is another deployment or not.
async fn strikes_later(
    client: &Client,
    mock: &Mock,
    fault: &str,
    code: Option<&str>,
) -> anyhow::Result<()> {
    for deployments in ["alone", "twin"] {
        let what = format!("{deployments}/{fault}");
        let mut stream = client.stream(&chat(&what, "hi")).await?;
        assert_eq!(stream.status, 200, "{what}");
        let id = stream.request_id.clone();
        let first = stream.first_token().await?;
        assert_eq!(first, "tok0 ", "{what}");
        // Only now that the client has text: before, the same fault has the status of one before the first token.
        mock.release_id(&id);
        let whole = stream.whole().await?;
        let Some(code) = code else {
            assert!(whole.done && whole.error.is_none(), "{what}: {whole:?}");
            assert_eq!(first + &whole.text, WHOLE, "{what}");
            wait_for_status(client, &path(&id), "completed").await?;
            continue;
        };
        assert!(!whole.done, "{what}: a cut text is no whole one: {whole:?}");
        let error = whole.error.unwrap_or_default();
        assert_eq!(error["code"], code, "{what}: {error}");
        assert_all_keys(&error, &what);
        let row = wait_for_status(client, &path(&id), "failed").await?;
        assert_eq!(row["error"]["code"], code, "{what}: {row}");
        // The text that was shown is kept, and paid for.
        assert!(
            row["usage"]["completion_tokens"].as_i64() >= Some(1),
            "{what}: {row}"
        );
    }
    Ok(())
}

fn path(id: &str) -> String {
    format!("/v1/requests/{id}")
}

fn assert_all_keys(error: &Value, what: &str) {
    for key in ["message", "type", "param", "code"] {
        assert!(error.get(key).is_some(), "{what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_before_the_first_token_is_invisible_where_there_is_a_twin() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let refusing = Refusing::bind()?;
    let unanswering = Unanswering::bind().await?;
    let urls: Vec<(&str, String)> = FIRST
        .iter()
        .map(|fault| {
            let url = match fault.name {
                "refuses" => format!("http://{}/v1", refusing.addr()),
                "unanswering" => format!("http://{}/v1", unanswering.addr()),
                // Never a name: RFC 6761.
                "unknown_host" => "http://no-such-host.invalid/v1".to_owned(),
                "no_tls" => format!("https://{}/v1", mock.addr()),
                directives => mock.base_url_with(directives),
            };
            (fault.name, url)
        })
        .collect();
    let Some(gateway) = gateway(&mock, &urls).await? else {
        return Ok(());
    };
    let client = gateway.client("acme").await?;
    let rows = FIRST.map(|fault| strikes_first(&client, &mock, fault));
    futures::future::try_join_all(rows).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_after_the_first_token_is_told_and_never_a_clean_end() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let urls = LATER.map(|(fault, _)| {
        let directives = format!("{fault},hold=1,after=2");
        (fault, mock.base_url_with(&directives))
    });
    let Some(gateway) = gateway(&mock, &urls).await? else {
        return Ok(());
    };
    let client = gateway.client("acme").await?;
    let rows = LATER.map(|(fault, code)| strikes_later(&client, &mock, fault, code));
    futures::future::try_join_all(rows).await?;
    Ok(())
}
