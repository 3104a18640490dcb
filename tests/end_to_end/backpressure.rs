//! One end is faster than the other. Clients that stop reading a stream are cut off, nobody else notices, and memory
//! stays bounded; an upstream that is faster than the log waits for it, and no longer.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::harness::{Builder, Gateway, LogKind, SseEvent, chat, eventually};
use tests::mock::{Mock, Outcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::chat::wait_for_status;

/// Clients that do not read.
const SLOW: u64 = 8;
/// Much more than the buffers of a client take, in Lockgate (1 MiB) and in the kernel (a few MiB).
const ANSWER: &str = "mock:tokens=4000,bytes=16384,delay=20ms";
const ANSWER_BYTES: u64 = 4_000 * 16_384;
/// Longest that an answer to somebody else may take meanwhile: far above what a busy machine takes, and far below the time-outs
/// (30 s) that somebody would wait for who stands behind a client that does not read.
const OTHERS_WITHIN: Duration = Duration::from_secs(10);
/// Within which the slow clients must be cut off.
const CUT_OFF_WITHIN: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stop_reading_are_cut_off_and_slow_nobody() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Embedded, &mock)? else {
        return Ok(());
    };
    let mut gateway = gateway.start().await?;
    let client = gateway.client("acme").await?;
    // What as many clients cost that do read, up to where the others will be cut off.
    let warm = (0..SLOW).map(|_| async {
        let ask = chat("mock", "mock:tokens=250,bytes=16384,delay=20ms");
        client.stream(&ask).await?.whole().await
    });
    for whole in futures::future::try_join_all(warm).await? {
        assert!(whole.done, "{:?}", whole.error);
    }
    let mut steady = client
        .stream(&chat("mock", "mock:tokens=100000,delay=20ms"))
        .await?;
    steady.first_token().await?;
    let process = gateway.process("serve")?.id();
    let before = peak_memory(process)?;

    let mut slow = Vec::new();
    for _ in 0..SLOW {
        slow.push(ask_and_not_read(&gateway, &client.key).await?);
    }
    let cut_off = || async { mock.snapshot().closed_by_peer == SLOW };
    let others = async {
        let mut longest = Duration::ZERO;
        let begun = Instant::now();
        while !cut_off().await {
            anyhow::ensure!(
                begun.elapsed() < CUT_OFF_WITHIN,
                "not cut off: {}",
                mock.snapshot()
            );
            let asked = Instant::now();
            let answer = client.chat(&chat("mock", "mock:tokens=2")).await?;
            assert_eq!(answer.status, 200, "{:?}", answer.body);
            longest = longest.max(asked.elapsed());
            let token = Instant::now();
            steady.first_token().await?;
            longest = longest.max(token.elapsed());
        }
        Ok(longest)
    };
    let longest = others.await?;
    assert!(longest < OTHERS_WITHIN, "somebody else waited {longest:?}");
    let grown = peak_memory(process)?.saturating_sub(before);
    assert!(
        grown < SLOW * ANSWER_BYTES / 4,
        "{} MiB for {SLOW} clients that do not read",
        grown >> 20
    );

    // None of them takes what came for a whole answer, and nothing goes on behind their backs.
    for mut connection in slow {
        let mut rest = Vec::new();
        let ended = connection.read_to_end(&mut rest).await;
        assert!(rest.starts_with(b"HTTP/1.1 200"), "{ended:?}");
        assert!((rest.len() as u64) < ANSWER_BYTES / 2, "{}", rest.len());
        let text = String::from_utf8_lossy(&rest);
        assert!(!text.contains("[DONE]") && !text.ends_with("\r\n0\r\n\r\n"));
    }
    let (_, list) = client.get("/v1/requests?limit=100").await?;
    let calls = mock.calls();
    let cut = calls
        .iter()
        .filter(|call| matches!(call.ended, Some((Outcome::ClosedByPeer, _))));
    for call in cut {
        let row = wait_for_status(&client, &format!("/v1/requests/{}", call.id), "cancelled")
            .await
            .map_err(|error| error.context(list.to_string()))?;
        assert!(
            row["usage"]["completion_tokens"].as_i64() >= Some(1),
            "{row}"
        );
    }
    let counted = || async {
        gateway.metrics("serve").await.is_ok_and(|metrics| {
            metrics.lines().any(|line| {
                line.starts_with("lockgate_ingress_streams_ended_total")
                    && line.contains("\"slow_client\"")
                    && line.ends_with(&format!(" {SLOW}"))
            })
        })
    };
    eventually("they are counted", Duration::from_secs(5), counted).await?;
    Ok(())
}

/// More text than may wait for the log comes at once: the upstream is not read for a moment, not until its next time-out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_faster_than_the_log_arrives_whole_and_without_a_pause() -> anyhow::Result<()> {
    const TOKENS: usize = 2_000;
    const PAUSE_MAX: Duration = Duration::from_secs(5);
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Embedded, &mock)? else {
        return Ok(());
    };
    let gateway = gateway.start().await?;
    let client = gateway.client("acme").await?;
    let ask = chat("mock", &format!("mock:tokens={TOKENS},bytes=4096"));
    let mut stream = client.stream(&ask).await?;
    let (mut tokens, mut done) = (0, false);
    while let Some(event) = tokio::time::timeout(PAUSE_MAX, stream.next()).await?? {
        match event {
            SseEvent::Chunk(chunk) => {
                let text = chunk["choices"][0]["delta"]["content"].as_str();
                tokens += usize::from(text.is_some_and(|text| text.len() == 4096));
            }
            SseEvent::Error(error) => anyhow::bail!("{error}"),
            SseEvent::Done => done = true,
        }
    }
    assert!(done);
    assert_eq!(tokens, TOKENS);
    Ok(())
}

/// Sends a request for a long stream; the answer stays where it is.
async fn ask_and_not_read(gateway: &Gateway, key: &str) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let address = gateway.url().trim_start_matches("http://").parse()?;
    let mut connection = socket.connect(address).await?;
    let mut body = chat("mock", ANSWER);
    body["stream"] = json!(true);
    let body = body.to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: lockgate\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await?;
    Ok(connection)
}

/// The most memory that a process ever held, in bytes.
fn peak_memory(process: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let kibibytes: Option<u64> = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
    Ok(kibibytes.expect("the kernel tells it") * 1024)
}
