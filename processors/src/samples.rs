//! What unit tests begin with.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use runtime::config::{Api, Http, Timeouts};
use schemas::id::RequestId;
use schemas::request::{Body, Dialect, Endpoint, Lane, OnDisconnect, OnTakeover, Request};
use schemas::time::Timestamp;
use schemas::topic::{ReplyPlace, ReplyTopic};

/// A chat that is not streamed and has no body, accepted now, with a minute to be answered in.
pub(crate) fn request() -> Request {
    let now = Timestamp::now();
    Request {
        id: RequestId::new(ReplyPlace {
            topic: ReplyTopic::Responses,
            partition: 0,
        }),
        tenant: "t".into(),
        key_id: "k".into(),
        endpoint: Endpoint::ChatCompletions,
        dialect: Dialect::OpenAi,
        model: "m".into(),
        lane: Lane::Interactive,
        stream: false,
        accepted_at: now,
        deadline: now.plus(Duration::from_secs(60)),
        on_disconnect: OnDisconnect::Cancel,
        on_takeover: OnTakeover::Retry,
        shadow_of: None,
        body: Body::Inline(Bytes::new()),
        attributes: BTreeMap::new(),
    }
}

/// Settings of an OpenAI-like provider at `base_url`, without a key and with time enough.
pub(crate) fn http(base_url: &str) -> Http {
    let long = Duration::from_secs(60);
    Http {
        api: Api::OpenAi,
        base_url: base_url.parse().unwrap(),
        api_version: None,
        keys: Vec::new(),
        timeouts: Timeouts {
            connect: long,
            first_token: long,
            idle: long,
            total: long,
        },
    }
}
