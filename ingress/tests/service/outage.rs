use std::time::{Duration, Instant};

use runtime::store::Store;
use schemas::event::Event;
use serde_json::json;

use crate::harness::{Door, error_of, header_of, question, soon, started, terminal};

#[tokio::test]
async fn a_log_that_takes_nothing_is_503_at_once() {
    let door = Door::open().await;
    door.log.close(Duration::from_secs(5)).await;
    for stream in [false, true] {
        let began = Instant::now();
        let response = soon(door.chat(question(stream)).send()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(1));
        assert!(header_of(&response, "retry-after").is_some());
        let (status, kind, code, _) = error_of(response).await;
        assert_eq!((status, kind.as_str()), (503, "server_error"));
        assert_eq!(code.as_deref(), Some("log_unavailable"));
    }
    // What needs no log goes on.
    let models = soon(door.get("/v1/models", &door.member).send()).await;
    assert_eq!(models.unwrap().status(), 200);
    door.close().await;
}

#[tokio::test]
async fn with_the_store_down_chat_goes_on_and_what_needs_it_is_503() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = runtime::config::Store {
        url: Some("postgres://nobody@127.0.0.1:1/none".into()),
    };
    let store = Store::lazy(&nowhere, folder.path()).unwrap();
    let mut door = Door::with_store(store).await;
    for (method, path, key) in [
        ("GET", "/v1/requests", &door.member),
        ("GET", "/admin/v1/keys", &door.admin),
    ] {
        let response = soon(door.request(method, path, key).send()).await.unwrap();
        assert!(header_of(&response, "retry-after").is_some());
        let (status, _, code, _) = error_of(response).await;
        assert_eq!((status, code.as_deref()), (503, Some("store_unavailable")));
    }
    let sent = door.sent(false);
    let request = door.accepted().await;
    let path = format!("/v1/requests/{}", request.id);
    let response = soon(door.get(&path, &door.member).send()).await.unwrap();
    assert_eq!(error_of(response).await.0, 503);
    let end = Event::Completed(terminal(0, Some(&json!({}))));
    door.append(&request, vec![started(), end]).await;
    assert_eq!(soon(sent).await.unwrap().status(), 200);
    door.close().await;
}
