//! The official SDKs for Python, unchanged but for their base URL and key.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};
use tests::harness::{Builder, Client, Gateway, LogKind, Stack, chat};
use tests::mock::Mock;

crate::on_both_logs!(
    the_openai_sdk_chats_streams_and_gets_the_right_exceptions,
    the_openai_sdk_reaches_every_kind_of_provider,
    the_anthropic_sdk_reaches_every_kind_of_provider,
    the_sdks_never_take_a_cut_stream_for_a_whole_one,
);

/// The key that providers want, and the variable that it is in.
const KEY: (&str, &str) = ("MOCK_KEY", "sk-mock-0123456789");
/// A key that they do not.
const WRONG_KEY: (&str, &str) = ("MOCK_WRONG_KEY", "sk-mock-9876543210");

/// A kind of provider, a model of it, and where that is called: whole and as a stream.
struct Kind {
    name: &'static str,
    model: &'static str,
    paths: &'static [&'static str],
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "openai",
        model: "gpt-4o",
        paths: &["/v1/chat/completions"],
    },
    Kind {
        name: "azure",
        model: "my-gpt",
        paths: &["/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"],
    },
    Kind {
        name: "deepseek",
        model: "deepseek-chat",
        paths: &["/v1/chat/completions"],
    },
    Kind {
        name: "anthropic",
        model: "claude-sonnet-4-5",
        paths: &["/v1/messages"],
    },
    Kind {
        name: "gemini",
        model: "gemini-2.5-pro",
        paths: &[
            "/v1/models/gemini-2.5-pro:generateContent",
            "/v1/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
        ],
    },
];

async fn the_openai_sdk_chats_streams_and_gets_the_right_exceptions(
    log: LogKind,
) -> anyhow::Result<()> {
    let Some(python) = Stack::python() else {
        return Ok(());
    };
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    let limited = mock.base_url_with("status=429,retry_after=1");
    let provider = json!({ "name": "limited", "kind": "openai", "base_url": limited, "keys": [] });
    let gateway = gateway
        .push("providers", provider)
        .push("models", model("limited", "limited", "gpt-4o"))
        .set("server.requests_max", json!(1))
        .start()
        .await?;
    let client = gateway.client("acme").await?;
    let sdk = Sdk::new(python, &gateway, &client, &mock);
    sdk.run("openai_chat.py", &["answers"])?;
    let held = hold(&client).await?;
    sdk.run("openai_chat.py", &["overloaded"])?;
    mock.release();
    assert!(held.whole().await?.done);
    Ok(())
}

async fn the_openai_sdk_reaches_every_kind_of_provider(log: LogKind) -> anyhow::Result<()> {
    let Some(python) = Stack::python() else {
        return Ok(());
    };
    let mock = Mock::start()?;
    let Some(gateway) = with_every_kind(log, &mock)? else {
        return Ok(());
    };
    let gateway = gateway.start().await?;
    let client = gateway.client("acme").await?;
    let sdk = Sdk::new(python, &gateway, &client, &mock);
    let common = "chat,stream,tools,reasoning,completions";
    sdk.run(
        "openai_models.py",
        &[
            &format!("openai={common},embeddings,token_embeddings,errors"),
            &format!("azure={common},embeddings"),
            &format!("deepseek={common},deepseek_cache,no_embeddings,errors"),
            &format!("anthropic={common},no_embeddings,errors"),
            &format!("gemini={common},embeddings,errors"),
            "demo=scripted",
            "limited-openai=limited",
            "limited-anthropic=limited",
            "limited-gemini=limited",
            "locked-openai=wrong_key",
            "locked-anthropic=wrong_key",
            "locked-gemini=wrong_key",
        ],
    )?;
    assert_kinds_were_called(
        &mock,
        &["openai", "azure", "deepseek", "anthropic", "gemini"],
    );
    Ok(())
}

async fn the_anthropic_sdk_reaches_every_kind_of_provider(log: LogKind) -> anyhow::Result<()> {
    let Some(python) = Stack::python() else {
        return Ok(());
    };
    let mock = Mock::start()?;
    let Some(gateway) = with_every_kind(log, &mock)? else {
        return Ok(());
    };
    let gateway = gateway.set("server.requests_max", json!(1)).start().await?;
    let client = gateway.client("acme").await?;
    let sdk = Sdk::new(python, &gateway, &client, &mock);
    let common = "messages,stream,tools,thinking";
    sdk.run(
        "anthropic_models.py",
        &[
            &format!("anthropic={common},count,strangers,errors"),
            &format!("openai={common},estimate,errors"),
            &format!("gemini={common},estimate,errors"),
            &format!("deepseek={common},estimate"),
            "limited-anthropic=limited",
            "limited-openai=limited",
            "limited-gemini=limited",
        ],
    )?;
    let held = hold(&client).await?;
    sdk.run("anthropic_models.py", &["anthropic=overloaded"])?;
    mock.release();
    assert!(held.whole().await?.done);
    assert_kinds_were_called(&mock, &["openai", "deepseek", "anthropic", "gemini"]);
    Ok(())
}

async fn the_sdks_never_take_a_cut_stream_for_a_whole_one(log: LogKind) -> anyhow::Result<()> {
    let Some(python) = Stack::python() else {
        return Ok(());
    };
    let mock = Mock::start()?;
    let Some(mut gateway) = Builder::new(log, &mock)? else {
        return Ok(());
    };
    for kind in ["openai", "deepseek", "anthropic"] {
        let base_url = mock.base_url_with("continue");
        let mut provider = json!({ "name": kind, "kind": kind, "base_url": base_url, "keys": [] });
        if kind == "openai" {
            provider["continues"] = json!(true);
        }
        gateway = gateway.push("providers", provider);
    }
    let mut parts = Vec::new();
    for first in ["openai", "anthropic"] {
        for second in ["openai", "deepseek", "anthropic"] {
            let name = format!("continue-{first}-{second}");
            parts.push(format!("{name}=joined"));
            gateway = with_cuts(gateway, &mock, &name, first, second);
        }
        let name = format!("error-{first}-openai");
        parts.push(format!("{name}=cut,guarded"));
        gateway = with_cuts(gateway, &mock, &name, first, "openai");
    }
    let gateway = gateway.start().await?;
    let client = gateway.client("acme").await?;
    let sdk = Sdk::new(python, &gateway, &client, &mock);
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    for script in ["openai_cuts.py", "anthropic_cuts.py"] {
        sdk.run(script, &parts)?;
    }
    let calls = mock.calls();
    let cut = calls.iter().filter(|call| call.model == "first").count();
    assert_eq!(cut, 2 * (6 * 2 + 2 * 3), "every stream was cut at first");
    Ok(())
}

/// Adds a model whose first deployment, a provider of kind `first`, cuts every stream; the name begins with what becomes of
/// it.
fn with_cuts(gateway: Builder, mock: &Mock, name: &str, first: &str, second: &str) -> Builder {
    let provider = json!({
        "name": format!("cut-{name}"), "kind": first, "keys": [],
        "base_url": mock.base_url_with("cut,after=3,delay=50ms"),
        // It stays in service.
        "health": { "failures_in_a_row": 1000 },
    });
    let model = json!({
        "name": name, "strategy": "priority", "on_cut": name.split('-').next(),
        "deployments": [ { "provider": provider["name"], "model": "first" }, { "provider": second, "model": "second" } ],
    });
    gateway.push("providers", provider).push("models", model)
}

/// A gateway with a model for each kind of provider, named after it, whose provider wants its key; and for some kinds the
/// models `limited-KIND`, whose provider has enough of us, and `locked-KIND`, for whose provider we have a wrong key.
fn with_every_kind(log: LogKind, mock: &Mock) -> anyhow::Result<Option<Builder>> {
    let Some(mut gateway) = Builder::new(log, mock)? else {
        return Ok(None);
    };
    let key = format!("key={}", KEY.1);
    for kind in &KINDS {
        // Azure's older API has no version in its path.
        let version = if kind.name == "azure" { "" } else { "/v1" };
        let url = |directives: &str| format!("http://{}/mock:{directives}{version}", mock.addr());
        let provider = |name: &str, base_url: String, key: &str| json!({ "name": name, "kind": kind.name, "base_url": base_url, "keys": [ { "env": key } ] });
        gateway = gateway
            .push("providers", provider(kind.name, url(&key), KEY.0))
            .push("models", model(kind.name, kind.name, kind.model));
        if !["openai", "anthropic", "gemini"].contains(&kind.name) {
            continue;
        }
        let limited = format!("limited-{}", kind.name);
        let locked = format!("locked-{}", kind.name);
        let full = url("status=429,retry_after=1");
        gateway = gateway
            .push("providers", provider(&limited, full, KEY.0))
            .push("models", model(&limited, &limited, kind.model))
            .push("providers", provider(&locked, url(&key), WRONG_KEY.0))
            .push("models", model(&locked, &locked, kind.model));
    }
    let gateway = gateway
        .environment(KEY.0, KEY.1)
        .environment(WRONG_KEY.0, WRONG_KEY.1);
    Ok(Some(gateway))
}

/// A model with one deployment.
fn model(name: &str, provider: &str, model: &str) -> Value {
    json!({ "name": name, "deployments": [ { "provider": provider, "model": model } ] })
}

/// Each kind was asked for its model, in its own dialect, under the id of the request.
fn assert_kinds_were_called(mock: &Mock, names: &[&str]) {
    let calls = mock.calls();
    assert!(calls.iter().all(|call| call.id.starts_with("req_")));
    let called: BTreeSet<(&str, &str)> = calls
        .iter()
        .map(|call| {
            let path = match call.path.strip_prefix("/mock:") {
                Some(rest) => rest.find('/').map_or("", |slash| &rest[slash..]),
                None => call.path.as_str(),
            };
            (call.model.as_str(), path)
        })
        .collect();
    for kind in KINDS.iter().filter(|kind| names.contains(&kind.name)) {
        for path in kind.paths {
            assert!(called.contains(&(kind.model, path)), "{path}: {called:?}");
        }
    }
}

/// A request that is held: where no more than one is admitted, no other is.
async fn hold(client: &Client) -> anyhow::Result<tests::harness::Stream> {
    let mut held = client.stream(&chat("mock", "mock:tokens=3,hold=1")).await?;
    held.first_token().await?;
    Ok(held)
}

/// How scripts reach the gateway.
struct Sdk {
    python: String,
    url: String,
    key: String,
    mock_url: String,
}

impl Sdk {
    fn new(python: String, gateway: &Gateway, client: &Client, mock: &Mock) -> Self {
        Self {
            python,
            url: gateway.url(),
            mock_url: format!("http://{}", mock.addr()),
            key: client.key.clone(),
        }
    }

    /// Runs a script to its end.
    fn run(&self, script: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/end_to_end/sdk");
        let mut command = Command::new(&self.python);
        command
            .arg("-B")
            .arg(format!("{folder}/{script}"))
            .args(arguments)
            .env("OPENAI_BASE_URL", format!("{}/v1", self.url))
            .env("OPENAI_API_KEY", &self.key)
            .env("ANTHROPIC_BASE_URL", &self.url)
            .env("MOCK_URL", &self.mock_url)
            .env("ANTHROPIC_API_KEY", &self.key);
        let done = tokio::task::block_in_place(|| command.output())?;
        anyhow::ensure!(
            done.status.success(),
            "{script} {arguments:?}: {}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }
}
