use std::time::{Duration, Instant};

use schemas::event::Event;

use crate::harness::{Door, question, soon, started, terminal, token};

/// From the hang-up to the order on the log, with room for a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_client_that_hangs_up_while_queued_cancels_its_request() {
    for stream in [false, true] {
        let mut door = Door::open().await;
        let sent = door.sent(stream);
        let request = door.accepted().await;
        let hung_up = Instant::now();
        sent.abort();
        let order = door.cancelled().await;
        assert!(hung_up.elapsed() < AT_ONCE, "{:?}", hung_up.elapsed());
        assert_eq!((order.id, order.deadline), (request.id, request.deadline));
        door.close().await;
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_mid_stream_cancels_its_request() {
    let mut door = Door::open().await;
    let sent = door.sent(true);
    let request = door.accepted().await;
    door.append(&request, vec![started(), token(0, "a")]).await;
    let mut response = soon(sent).await.unwrap();
    soon(response.chunk()).await.unwrap().unwrap();
    let hung_up = Instant::now();
    drop(response);
    assert_eq!(door.cancelled().await.id, request.id);
    assert!(hung_up.elapsed() < AT_ONCE, "{:?}", hung_up.elapsed());
    door.close().await;
}

#[tokio::test]
async fn a_client_that_has_its_answer_cancels_nothing() {
    let mut door = Door::open().await;
    let sent = door.sent(true);
    let request = door.accepted().await;
    let end = Event::Completed(terminal(1, None));
    door.append(&request, vec![started(), token(0, "a"), end])
        .await;
    let text = soon(soon(sent).await.unwrap().text()).await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"));
    // The door is fully closed, so that no order can be on its way any more.
    door.stop.cancel();
    door.ended().await.unwrap();
    assert!(door.nothing_cancelled().await);
    door.close().await;
}

#[tokio::test]
async fn a_body_that_never_ends_makes_no_request() {
    let mut door = Door::with(|settings| settings.body_timeout = Duration::from_millis(100)).await;
    let endless = futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    let sending = door.chat(reqwest::Body::wrap_stream(endless)).send();
    let response = soon(sending).await.unwrap();
    assert_eq!(response.status(), 408);
    // The next one is the first that is accepted.
    let sent = door.sent(false);
    let request = door.accepted().await;
    assert_eq!(request.model, "demo");
    assert_eq!(
        request.body,
        schemas::request::Body::Inline(question(false).into())
    );
    sent.abort();
    door.close().await;
}
