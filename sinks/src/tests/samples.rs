//! Records to write with.

use bytes::Bytes;
use runtime::config;
use runtime::store::Store;
use schemas::event::*;
use schemas::id::RequestId;
use schemas::request::*;
use schemas::time::Timestamp;
use schemas::topic::{ReplyPlace, ReplyTopic};
use tempfile::TempDir;

/// A store on a folder of its own, which lives as long as the folder is held.
pub(crate) async fn store() -> (Store, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (store_in(&folder).await, folder)
}

/// The store in a folder.
pub(crate) async fn store_in(folder: &TempDir) -> Store {
    let settings = config::Store { url: None };
    Store::open(&settings, folder.path()).await.unwrap()
}

pub(crate) fn id(partition: i32) -> RequestId {
    RequestId::new(ReplyPlace {
        topic: ReplyTopic::Responses,
        partition,
    })
}

pub(crate) fn request(id: RequestId) -> Request {
    Request {
        id,
        tenant: "tenant".to_owned(),
        key_id: "key".to_owned(),
        endpoint: Endpoint::ChatCompletions,
        dialect: Dialect::OpenAi,
        model: "model".to_owned(),
        lane: Lane::Interactive,
        stream: true,
        accepted_at: id.made_at(),
        deadline: id.made_at().plus(std::time::Duration::from_secs(600)),
        on_disconnect: OnDisconnect::Cancel,
        on_takeover: OnTakeover::Retry,
        shadow_of: None,
        body: Body::Inline(Bytes::from_static(b"{\"model\":\"model\"}")),
        attributes: std::collections::BTreeMap::new(),
    }
}

pub(crate) fn events(id: RequestId, events: Vec<Event>) -> EventRecord {
    EventRecord {
        id,
        tenant: "tenant".to_owned(),
        key_id: "key".to_owned(),
        endpoint: Endpoint::ChatCompletions,
        model: "model".to_owned(),
        lane: Lane::Interactive,
        accepted_at: id.made_at(),
        shadow_of: None,
        events,
    }
}

/// The run that `process` claims as number `number`.
pub(crate) fn run(number: i32, process: i64) -> Run {
    Run {
        number,
        nonce: process,
    }
}

pub(crate) fn started(run: Run, attempt: i32) -> Event {
    Event::Started(Started {
        run,
        attempt,
        deployment: format!("provider-{}/model", run.nonce),
        config_version: "v1".to_owned(),
        at: Timestamp(1_000 + i64::from(run.number)),
        continues_from: None,
    })
}

pub(crate) fn delta(run: Run, sequence: i64) -> Event {
    let piece = Piece {
        choice: 0,
        channel: Channel::Text,
        index: 0,
        text: "token ".to_owned(),
    };
    Event::Delta(Delta {
        run,
        attempt: 1,
        sequence,
        chunks: vec![Chunk {
            pieces: vec![piece],
            raw: Bytes::from_static(b"{}"),
        }],
    })
}

pub(crate) fn attempt(number: i32) -> Attempt {
    Attempt {
        number,
        deployment: "provider/model".to_owned(),
        key_name: None,
        started_at: Timestamp(1_000),
        first_token_micros: None,
        duration_micros: 10,
        status: Some(500),
        upstream_request_id: None,
        usage: None,
        cost_nanos: None,
        error: None,
    }
}

pub(crate) fn terminal(run: Run) -> Terminal {
    Terminal {
        run,
        at: Timestamp(9_000),
        status: 200,
        body: Some(Body::Inline(Bytes::from(format!(
            "answer of {}",
            run.nonce
        )))),
        partial: false,
        chunks: 0,
        error: None,
        usage: Some(Usage {
            prompt_tokens: 3,
            completion_tokens: 5,
            ..Usage::default()
        }),
        cost_nanos: Some(7),
        deployment: Some(format!("provider-{}/model", run.nonce)),
        config_version: Some("v1".to_owned()),
        attempts: vec![attempt(1)],
    }
}

pub(crate) fn completed(run: Run) -> Event {
    Event::Completed(terminal(run))
}
