use std::sync::Arc;

use runtime::config::{Model, Origin, RoutingDocument};
use serde_json::{Value, json};

use crate::harness::{Door, error_of, header_of, soon};

async fn json_of(response: reqwest::Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn models_are_listed_and_found_by_names_with_slashes() {
    let door = Door::open().await;
    let response = soon(door.get("/v1/models", &door.member).send()).await;
    let list = json_of(response.unwrap()).await;
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "demo");
    assert_eq!(list["data"][1]["id"], "meta/llama");
    for path in ["/v1/models/meta/llama", "/v1/models/meta%2Fllama"] {
        let response = soon(door.get(path, &door.member).send()).await.unwrap();
        let model = json_of(response).await;
        assert_eq!(
            (&model["id"], &model["object"]),
            (&json!("meta/llama"), &json!("model"))
        );
    }
    let response = soon(door.get("/v1/models/nobody", &door.member).send()).await;
    let (status, _, code, _) = error_of(response.unwrap()).await;
    assert_eq!((status, code.as_deref()), (404, Some("model_not_found")));
    door.close().await;
}

#[tokio::test]
async fn models_of_a_new_routing_document_are_taken_and_those_of_the_old_are_not() {
    let door = Door::open().await;
    let status_of = async |name: &str| {
        let path = format!("/v1/models/{name}");
        soon(door.get(&path, &door.member).send())
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(
        (status_of("demo").await, status_of("fresh").await),
        (200, 404)
    );
    let document = RoutingDocument {
        providers: Vec::new(),
        models: vec![Model::new("fresh", Vec::new())],
        version: "v2".to_owned(),
        origin: Origin::File,
    };
    door.routing.send_replace(Arc::new(document));
    while status_of("fresh").await != 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(status_of("demo").await, 404);
    let body = r#"{"model":"demo","messages":[{"role":"user","content":"x"}]}"#;
    let refused = soon(door.chat(body).send()).await.unwrap();
    assert_eq!(refused.status(), 404);
    door.close().await;
}

#[tokio::test]
async fn an_admin_creates_lists_and_disables_keys() {
    let door = Door::open().await;
    let sending = door
        .request("POST", "/admin/v1/keys", &door.admin)
        .body(json!({"name": "app", "tenant": "acme", "expires": "30d"}).to_string());
    let response = soon(sending.send()).await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(header_of(&response, "cache-control"), Some("no-store"));
    let created = json_of(response).await;
    let secret = created["key"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("lg_"));
    let id = created["id"].as_str().unwrap();

    let response = soon(door.get("/admin/v1/keys", &door.admin).send()).await;
    let list = response.unwrap().text().await.unwrap();
    assert!(list.contains(id) && !list.contains(&secret));

    let path = format!("/admin/v1/keys/{id}/disable");
    let response = soon(door.request("POST", &path, &door.admin).send()).await;
    let disabled = json_of(response.unwrap()).await;
    assert!(disabled["disabled_at"].is_string());
    let path = "/admin/v1/keys/nobody";
    let response = soon(door.request("DELETE", path, &door.admin).send()).await;
    assert_eq!(error_of(response.unwrap()).await.0, 404);
    door.close().await;
}

#[tokio::test]
async fn a_member_administers_nothing() {
    let door = Door::open().await;
    for (method, path) in [
        ("GET", "/admin/v1/keys"),
        ("POST", "/admin/v1/keys"),
        ("POST", "/admin/v1/keys/k/disable"),
        ("DELETE", "/admin/v1/keys/k"),
        ("GET", "/admin/v1/health"),
    ] {
        let sending = door.request(method, path, &door.member).body("{}").send();
        let (status, kind, ..) = error_of(soon(sending).await.unwrap()).await;
        assert_eq!(
            (status, kind.as_str()),
            (403, "permission_error"),
            "{method} {path}"
        );
    }
    door.close().await;
}
