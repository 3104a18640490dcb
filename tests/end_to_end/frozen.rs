//! A processors process that freezes for longer than the broker waits, and thaws: others took its work over, and what it
//! still says counts for nothing.

use std::collections::HashMap;
use std::time::Duration;

use schemas::event::Event;
use schemas::fold::End;
use schemas::request::Request;
use tests::harness::{Builder, Client, LogKind, Records, RoleName, chat, eventually};
use tests::mock::Mock;

/// Requests of each kind.
const REQUESTS: u64 = 20;
const WHOLE: &str = "tok0 tok1 tok2 tok3 tok4 tok5 ";

/// What a client was told.
#[derive(Debug)]
enum Told {
    Whole,
    Error(String),
}

async fn ask(client: Client, stream: bool, hold: u32) -> anyhow::Result<(String, Told)> {
    let body = chat("mock", &format!("mock:tokens=6,hold={hold}"));
    if !stream {
        let answer = client.chat(&body).await?;
        let told = if answer.status == 200 {
            assert_eq!(answer.text(), WHOLE);
            Told::Whole
        } else {
            Told::Error(format!("{} {}", answer.status, answer.error_code()))
        };
        return Ok((answer.request_id().to_owned(), told));
    }
    let stream = client.stream(&body).await?;
    let id = stream.request_id.clone();
    let status = stream.status;
    if status != 200 {
        return Ok((id, Told::Error(format!("status {status}"))));
    }
    let whole = stream.whole().await?;
    let told = match &whole.error {
        Some(error) => {
            assert!(!whole.done, "{whole:?}");
            Told::Error(error["code"].to_string())
        }
        None => {
            assert!(whole.done, "cut and not told: {whole:?}");
            assert_eq!(whole.text, WHOLE);
            Told::Whole
        }
    };
    Ok((id, told))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_process_is_replaced_and_thawed_it_disturbs_nothing() -> anyhow::Result<()> {
    let mock = Mock::start()?;
    let Some(gateway) = Builder::new(LogKind::Kafka, &mock)? else {
        return Ok(());
    };
    let mut gateway = gateway.start().await?;
    gateway.start(RoleName::Processors, "processors-2").await?;
    let client = gateway.client("acme").await?;

    let mut asked = Vec::new();
    for _ in 0..REQUESTS {
        for (stream, hold) in [(false, 0), (true, 0), (true, 3)] {
            asked.push(tokio::spawn(ask(client.clone(), stream, hold)));
        }
    }
    mock.wait_until(Duration::from_secs(20), |calls| calls.held == 3 * REQUESTS)
        .await?;
    // A run that has not shown itself on the log is not taken over but begun, with the number 1 again.
    eventually(
        "every run is on the log",
        Duration::from_secs(10),
        || async {
            gateway.records().await.is_ok_and(|records| {
                let begun = |request: &Request| !runs(&records, request.id).is_empty();
                records
                    .requests
                    .iter()
                    .filter(|request| begun(request))
                    .count() as u64
                    == 3 * REQUESTS
            })
        },
    )
    .await?;

    gateway.process("processors")?.signal("STOP")?;
    // The answers to the frozen process now lie in its sockets.
    mock.release();
    let mut told = HashMap::new();
    for asked in asked {
        let (id, answer) = tokio::time::timeout(Duration::from_secs(20), asked).await???;
        told.insert(id, answer);
    }
    let taken_over: Vec<&String> = told
        .keys()
        .filter(|id| mock.calls_of(id).len() == 2)
        .collect();
    assert!(!taken_over.is_empty(), "the frozen process had no work");

    gateway.process("processors")?.signal("CONT")?;
    // Both work again: the thawed process is in the group, which it leaves only when it is stopped well.
    for _ in 0..20 {
        let answer = client.chat(&chat("mock", "mock:tokens=1")).await?;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
    }
    gateway.terminate_all().await?;
    let records = gateway.records().await?;
    assert_eq!(records.requests.len() as u64, 3 * REQUESTS + 20);
    for request in &records.requests {
        let id = request.id.to_string();
        let (end, ends) = records.end(request.id);
        assert_eq!(ends, 1, "{id}: {:?}", records.events.get(&request.id));
        let calls = mock.calls_of(&id).len();
        assert!(calls <= 2, "{id} was called {calls} times");
        match told.get(&id) {
            Some(Told::Whole) | None => assert_eq!(end, Some(End::Completed), "{id}"),
            // Text that was shown and replaced is an error for who saw it, and an answer by id.
            Some(Told::Error(error)) => {
                assert!(
                    end.is_some() && error.contains("run_replaced"),
                    "{id}: {error}"
                );
            }
        }
        if taken_over.contains(&&id) {
            assert_eq!(runs(&records, request.id), [1, 2], "{id}");
        }
    }
    Ok(())
}

/// The runs of a request, in the order in which they first show.
fn runs(records: &Records, id: schemas::id::RequestId) -> Vec<i32> {
    let mut runs = Vec::new();
    for event in records.events.get(&id).into_iter().flatten() {
        if let Event::Started(started) = event
            && !runs.contains(&started.run.number)
        {
            runs.push(started.run.number);
        }
    }
    runs
}
