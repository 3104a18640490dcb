use schemas::event::Event;
use serde_json::json;

use crate::harness::{Door, error_of, question, soon, started, terminal};

#[tokio::test]
async fn what_a_member_asks_of_the_gateway_is_in_the_record() {
    let mut door = Door::open().await;
    let sending = door
        .chat(question(false))
        .header("lockgate-tags", "fast, eu")
        .header("lockgate-guarded", "true")
        .send();
    let sent = tokio_util::task::TaskTracker::new().spawn(sending);
    let request = door.accepted().await;
    let attributes = [("lockgate-guarded", "true"), ("lockgate-tags", "eu,fast")];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(request.attributes, attributes.into());
    let end = Event::Completed(terminal(0, Some(&json!({}))));
    door.append(&request, vec![started(), end]).await;
    assert_eq!(soon(sent).await.unwrap().unwrap().status(), 200);
    door.close().await;
}

#[tokio::test]
async fn an_admin_chooses_deployment_and_strategy_and_a_member_does_not() {
    let mut door = Door::open().await;
    let path = "/v1/chat/completions";
    let headers = [
        ("lockgate-deployment", "p/meta/llama"),
        ("lockgate-strategy", "least_in_flight"),
    ];
    for (name, value) in headers {
        let sending = door.request("POST", path, &door.member).header(name, value);
        let response = soon(sending.body(question(false)).send()).await;
        let (status, kind, ..) = error_of(response.unwrap()).await;
        assert_eq!((status, kind.as_str()), (403, "permission_error"), "{name}");
    }
    let mut sending = door.request("POST", path, &door.admin);
    for (name, value) in headers {
        sending = sending.header(name, value);
    }
    let sending = sending.body(question(false)).send();
    let sent = tokio_util::task::TaskTracker::new().spawn(sending);
    // What the member was refused made no record: this is the first.
    let request = door.accepted().await;
    let expected = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(request.attributes, expected.into());
    sent.abort();
    door.close().await;
}

#[tokio::test]
async fn a_header_that_makes_no_sense_is_400_and_named() {
    let door = Door::open().await;
    for (name, value) in [
        ("lockgate-tags", "a b"),
        ("lockgate-guarded", "perhaps"),
        ("lockgate-deployment", "nowhere"),
        ("lockgate-strategy", "best"),
    ] {
        let sending = door.request("POST", "/v1/chat/completions", &door.admin);
        let sending = sending.header(name, value).body(question(false)).send();
        let (status, kind, _, param) = error_of(soon(sending).await.unwrap()).await;
        assert_eq!((status, kind.as_str()), (400, "invalid_request_error"));
        assert_eq!(param.as_deref(), Some(name));
    }
    door.close().await;
}
