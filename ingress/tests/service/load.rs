use std::time::Duration;

use schemas::event::Event;
use schemas::status::{DeploymentStatus, HEALTHY, LaneStatus, Status};
use schemas::time::Timestamp;
use serde_json::{Value, json};

use crate::harness::{Door, MODEL, error_of, header_of, question, soon, started, terminal};

/// The heartbeat of a processor before whose one deployment an interactive request would wait.
fn status(wait: Duration) -> Status {
    let micros = i64::try_from(wait.as_micros()).unwrap();
    Status {
        process: "p1".to_owned(),
        at: Timestamp::now(),
        deployments: vec![DeploymentStatus {
            deployment: "p/m".to_owned(),
            models: vec![MODEL.to_owned()],
            health: HEALTHY.to_owned(),
            capacity: 4,
            in_flight: 4,
            interactive: LaneStatus {
                waiting: 7,
                wait_micros: micros,
                turn_micros: micros,
            },
            background: LaneStatus::default(),
            batch: LaneStatus::default(),
        }],
    }
}

/// The processor beats until the door knows; what the door says of it then.
async fn heard(door: &Door, status: &Status) -> Value {
    let wanted = status.deployments[0].interactive.wait_micros / 1_000;
    loop {
        door.heartbeat(status).await;
        let response = soon(door.get("/admin/v1/health", &door.admin).send()).await;
        let bytes = response.unwrap().bytes().await.unwrap();
        let health: Value = serde_json::from_slice(&bytes).unwrap();
        let seen = &health["processors"][0]["deployments"][0]["lanes"]["interactive"];
        if seen["wait_ms"] == wanted {
            return health;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn who_would_wait_past_the_deadline_is_told_so_before_anything_is_written_down() {
    let mut door = Door::open().await;
    soon(heard(&door, &status(Duration::from_secs(25)))).await;
    let sending = door
        .chat(question(false))
        .header("lockgate-timeout", "10s")
        .send();
    let refused = soon(sending).await.unwrap();
    assert_eq!(header_of(&refused, "retry-after"), Some("15"));
    assert_eq!(header_of(&refused, "retry-after-ms"), Some("15000"));
    let (status_code, kind, code, _) = error_of(refused).await;
    assert_eq!((status_code, kind.as_str()), (429, "rate_limit_error"));
    assert_eq!(code.as_deref(), Some("rate_limit_exceeded"));

    // With more time it is taken, and with the same once the queue is gone.
    let sent = door.sent(false);
    let request = door.accepted().await;
    let given = request.deadline.since(request.accepted_at);
    assert_eq!(
        given,
        Duration::from_secs(60),
        "the refused one is not on the log"
    );
    let end = Event::Completed(terminal(0, Some(&json!({}))));
    door.append(&request, vec![started(), end.clone()]).await;
    assert_eq!(soon(sent).await.unwrap().status(), 200);

    soon(heard(&door, &status(Duration::ZERO))).await;
    let sending = door
        .chat(question(false))
        .header("lockgate-timeout", "10s")
        .send();
    let sent = tokio_util::task::TaskTracker::new().spawn(sending);
    let request = door.accepted().await;
    door.append(&request, vec![started(), end]).await;
    assert_eq!(soon(sent).await.unwrap().unwrap().status(), 200);
    door.close().await;
}

#[tokio::test]
async fn an_admin_sees_every_processor_and_its_deployments() {
    let door = Door::open().await;
    let empty = soon(door.get("/admin/v1/health", &door.admin).send()).await;
    let empty: Value = serde_json::from_slice(&empty.unwrap().bytes().await.unwrap()).unwrap();
    assert_eq!(empty, json!({"object": "health", "processors": []}));
    let health = soon(heard(&door, &status(Duration::from_millis(1_500)))).await;
    let processor = &health["processors"][0];
    assert_eq!(processor["id"], "p1");
    assert!(processor["at"].is_string());
    let idle = json!({"waiting": 0, "wait_ms": 0, "turn_ms": 0});
    let expected = json!([{
        "deployment": "p/m", "models": [MODEL], "health": "healthy", "capacity": 4, "in_flight": 4,
        "lanes": {
            "interactive": {"waiting": 7, "wait_ms": 1_500, "turn_ms": 1_500},
            "background": idle, "batch": idle,
        },
    }]);
    assert_eq!(processor["deployments"], expected);
    door.close().await;
}
