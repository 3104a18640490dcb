//! What OpenAI's other operations have in common with chat, and what not.

use schemas::event::{ErrorBody, Event};
use schemas::request::{Body, Dialect, Endpoint};
use serde_json::{Value, json};

use crate::harness::{Door, chunk, error_of, going, header_of, soon, started, terminal, token};

const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";

fn complete(stream: bool) -> String {
    json!({"model": "demo", "prompt": "Once", "stream": stream}).to_string()
}

fn embed() -> String {
    json!({"model": "demo", "input": ["a", "b"], "encoding_format": "base64"}).to_string()
}

#[tokio::test]
async fn an_answer_comes_back_as_it_was_written() {
    let mut door = Door::open().await;
    for (path, body, endpoint) in [
        (COMPLETIONS, complete(false), Endpoint::Completions),
        (EMBEDDINGS, embed(), Endpoint::Embeddings),
    ] {
        let sent = going(door.post(path, body.clone()));
        let request = door.accepted().await;
        assert_eq!(request.endpoint, endpoint);
        assert_eq!(request.dialect, Dialect::OpenAi);
        assert_eq!((request.model.as_str(), request.stream), ("demo", false));
        assert_eq!(request.body, Body::Inline(body.into()));
        let answer = json!({"object": path});
        let end = Event::Completed(terminal(0, Some(&answer)));
        door.append(&request, vec![started(), end]).await;
        let response = soon(sent).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(header_of(&response, "lockgate-deployment"), Some("p/m"));
        assert_eq!(header_of(&response, "request-id"), None);
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!(body, answer);
    }
    door.close().await;
}

#[tokio::test]
async fn a_completion_is_streamed_like_a_chat() {
    let mut door = Door::open().await;
    let sent = going(door.post(COMPLETIONS, complete(true)));
    let request = door.accepted().await;
    assert!(request.stream);
    door.append(&request, vec![started(), token(0, "a")]).await;
    let mut response = soon(sent).await.unwrap();
    let first = soon(response.chunk()).await.unwrap().unwrap();
    let first = String::from_utf8(first.to_vec()).unwrap();
    assert!(first.starts_with("id: ") && first.ends_with("\ndata: {\"t\":\"a\"}\n\n"));
    let end = Event::Completed(terminal(2, None));
    let last = chunk(1, "", &json!({"choices": []}));
    door.append(&request, vec![last, end]).await;
    let rest = soon(response.text()).await.unwrap();
    assert!(
        rest.ends_with("data: {\"choices\":[]}\n\ndata: [DONE]\n\n"),
        "{rest}"
    );
    door.close().await;
}

#[tokio::test]
async fn embeddings_are_never_streamed() {
    let mut door = Door::open().await;
    let body = json!({"model": "demo", "input": "a", "stream": true}).to_string();
    let sent = going(door.post(EMBEDDINGS, body));
    let request = door.accepted().await;
    assert!(!request.stream);
    let end = Event::Completed(terminal(0, Some(&json!({"data": []}))));
    door.append(&request, vec![started(), end]).await;
    let response = soon(sent).await.unwrap();
    assert_eq!(
        header_of(&response, "content-type"),
        Some("application/json")
    );
    assert_eq!(soon(response.text()).await.unwrap(), "{\"data\":[]}");
    door.close().await;
}

#[tokio::test]
async fn a_failure_has_the_status_and_the_words_of_its_terminal() {
    let mut door = Door::open().await;
    for (path, body) in [
        (COMPLETIONS, complete(false)),
        (COMPLETIONS, complete(true)),
        (EMBEDDINGS, embed()),
    ] {
        let sent = going(door.post(path, body));
        let request = door.accepted().await;
        let mut end = terminal(0, None);
        end.error = Some(ErrorBody::upstream_failed("nobody answered"));
        door.append(&request, vec![started(), Event::Failed(end)])
            .await;
        let response = soon(sent).await.unwrap();
        assert_eq!(header_of(&response, "x-should-retry"), Some("false"));
        let (status, kind, code, _) = error_of(response).await;
        assert_eq!((status, kind.as_str()), (502, "upstream_error"));
        assert_eq!(code.as_deref(), Some("upstream_failed"));
    }
    door.close().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_before_it_is_accepted() {
    let door = Door::with(|settings| settings.body_bytes_max = 1_000).await;
    let large = "x".repeat(2_000);
    for (path, good, field) in [
        (COMPLETIONS, complete(false), "prompt"),
        (EMBEDDINGS, embed(), "input"),
    ] {
        let wrong = json!({"model": "demo", field: {}}).to_string();
        let nameless = json!({field: "x"}).to_string();
        let unknown = good.replace("demo", "nobody");
        for (body, status, code, param) in [
            (&wrong, 400, None, Some(field)),
            (&nameless, 400, None, Some("model")),
            (&unknown, 404, Some("model_not_found"), None),
            (&large, 413, Some("request_too_large"), None),
        ] {
            let response = soon(door.post(path, body.clone()).send()).await;
            let (found, _, named, at) = error_of(response.unwrap()).await;
            assert_eq!(found, status, "{path} {body:.80}");
            assert_eq!((named.as_deref(), at.as_deref()), (code, param), "{path}");
        }
        let disabled = door.request("POST", path, &door.disabled).body(good);
        let (status, _, code, _) = error_of(soon(disabled.send()).await.unwrap()).await;
        assert_eq!((status, code.as_deref()), (401, Some("invalid_api_key")));
    }
    door.close().await;
}
