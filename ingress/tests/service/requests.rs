use bytes::Bytes;
use runtime::store::results::{ResultRow, Status};
use schemas::event::{Attempt, ErrorBody, Run, Usage};
use schemas::id::RequestId;
use schemas::request::{Body, Endpoint, Lane};
use schemas::time::Timestamp;
use schemas::topic::{ReplyPlace, ReplyTopic};
use serde_json::{Value, json};

use crate::harness::{Door, error_of, soon};

fn row(status: Status, answer: Option<&str>) -> ResultRow {
    let id = RequestId::new(ReplyPlace {
        topic: ReplyTopic::Responses,
        partition: 0,
    });
    ResultRow {
        id,
        tenant: "acme".to_owned(),
        key_id: "k".to_owned(),
        endpoint: Endpoint::ChatCompletions,
        model: "demo".to_owned(),
        lane: Lane::Interactive,
        stream: Some(false),
        status,
        accepted_at: Timestamp::now(),
        deadline: Some(Timestamp::now()),
        started_at: None,
        finished_at: None,
        run: Run::NONE,
        attempt: 0,
        next_sequence: 0,
        given_up: false,
        http_status: None,
        error: None,
        usage: None,
        cost_nanos: None,
        deployment: None,
        config_version: None,
        attempts: Vec::new(),
        answer: answer.map(|text| Body::Inline(Bytes::copy_from_slice(text.as_bytes()))),
        partial: false,
        request_body: None,
        request_bytes: None,
        answer_bytes: None,
    }
}

async fn keep(door: &Door, row: &ResultRow) {
    let rows = std::slice::from_ref(row);
    door.store
        .apply_results("results", rows, rows, &[])
        .await
        .unwrap();
}

async fn json_of(door: &Door, path: &str) -> Value {
    let response = soon(door.get(path, &door.member).send()).await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_request_is_read_with_its_answer_by_its_tenant_alone() {
    let door = Door::open().await;
    let kept = row(Status::Completed, Some("{\"a\":1}"));
    keep(&door, &kept).await;
    let path = format!("/v1/requests/{}", kept.id);
    let view = json_of(&door, &path).await;
    assert_eq!(view["id"], json!(kept.id));
    assert_eq!(view["status"], "completed");
    assert_eq!(view["answer"], json!({"a": 1}));
    let response = soon(door.get(&path, &door.stranger).send()).await.unwrap();
    assert_eq!(error_of(response).await.0, 404);
    let unknown = row(Status::Accepted, None).id.to_string();
    for name in [unknown.as_str(), "req_x", "x"] {
        let path = format!("/v1/requests/{name}");
        let response = soon(door.get(&path, &door.member).send()).await.unwrap();
        assert_eq!(error_of(response).await.0, 404, "{name}");
    }
    door.close().await;
}

#[tokio::test]
async fn every_attempt_is_shown_with_what_it_took_and_cost() {
    let door = Door::open().await;
    let mut kept = row(Status::Completed, None);
    let refused = Attempt {
        number: 1,
        deployment: "one/m".to_owned(),
        key_name: Some("OPENAI_API_KEY".to_owned()),
        started_at: Timestamp(1_700_000_000_000_000),
        first_token_micros: None,
        duration_micros: 1_500,
        status: Some(429),
        upstream_request_id: None,
        usage: None,
        cost_nanos: None,
        error: Some(ErrorBody::upstream_failed("busy")),
    };
    let answered = Attempt {
        number: 2,
        deployment: "two/m".to_owned(),
        key_name: None,
        first_token_micros: Some(250_000),
        duration_micros: 1_000_000,
        status: Some(200),
        upstream_request_id: Some("up-1".to_owned()),
        usage: Some(Usage {
            prompt_tokens: 10,
            completion_tokens: 5,
            cached_tokens: 4,
            reasoning_tokens: 2,
            estimated: false,
        }),
        cost_nanos: Some(75_000),
        error: None,
        ..refused.clone()
    };
    kept.attempts = vec![refused, answered];
    keep(&door, &kept).await;
    let view = json_of(&door, &format!("/v1/requests/{}", kept.id)).await;
    assert_eq!(
        view["attempts"],
        json!([
            {
                "number": 1, "deployment": "one/m", "key_name": "OPENAI_API_KEY",
                "started_at": "2023-11-14T22:13:20Z", "first_token_ms": null, "duration_ms": 1.5,
                "http_status": 429, "upstream_request_id": null, "usage": null, "cost_nanos": null,
                "error": {
                    "message": "busy", "type": "upstream_error", "param": null, "code": "upstream_failed",
                },
            },
            {
                "number": 2, "deployment": "two/m", "key_name": null,
                "started_at": "2023-11-14T22:13:20Z", "first_token_ms": 250.0, "duration_ms": 1_000.0,
                "http_status": 200, "upstream_request_id": "up-1",
                "usage": {
                    "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cached_tokens": 4,
                    "reasoning_tokens": 2, "estimated": false,
                },
                "cost_nanos": 75_000, "error": null,
            },
        ])
    );
    door.close().await;
}

#[tokio::test]
async fn requests_are_listed_newest_first_page_by_page() {
    let door = Door::open().await;
    let mut ids = Vec::new();
    for status in [Status::Completed, Status::Failed, Status::Completed] {
        let kept = row(status, None);
        keep(&door, &kept).await;
        ids.push(kept.id);
        // Ids made within one millisecond have no order.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    ids.reverse();
    let page = json_of(&door, "/v1/requests?limit=2").await;
    assert_eq!(
        (&page["object"], &page["has_more"]),
        (&json!("list"), &json!(true))
    );
    assert_eq!(page["first_id"], json!(ids[0]));
    assert_eq!(page["last_id"], json!(ids[1]));
    let path = format!("/v1/requests?limit=2&after={}", ids[1]);
    let page = json_of(&door, &path).await;
    assert_eq!(page["has_more"], false);
    assert_eq!(page["data"][0]["id"], json!(ids[2]));
    let page = json_of(&door, "/v1/requests?status=failed").await;
    assert_eq!(page["data"].as_array().unwrap().len(), 1);
    let page = json_of(&door, "/v1/requests?model=other").await;
    assert_eq!(page["data"], json!([]));
    assert_eq!(page["first_id"], Value::Null);
    let response = soon(door.get("/v1/requests?limit=x", &door.member).send()).await;
    let (status, _, _, param) = error_of(response.unwrap()).await;
    assert_eq!((status, param.as_deref()), (400, Some("limit")));
    door.close().await;
}
