//! The values that the fixtures hold. They change with a new version only.

#![expect(clippy::unwrap_used, reason = "constants of a test")]

use bytes::Bytes;
use schemas::control::Cancel;
use schemas::dead_letter::DeadLetter;
use schemas::event::{
    Abandoned, Attempt, AttemptFailed, Channel, Chunk, Deferred, Delta, ErrorBody, Event,
    EventRecord, Piece, Run, Sign, Started, Terminal, Usage,
};
use schemas::id::RequestId;
use schemas::request::{Body, Claim, Dialect, Endpoint, Lane, OnDisconnect, OnTakeover, Request};
use schemas::status::{self, DeploymentStatus, LaneStatus, Status};
use schemas::time::Timestamp;

const RUN: Run = Run {
    number: 2,
    nonce: -6_148_914_691_236_517_206,
};

fn id() -> RequestId {
    "req_06gb5gymwnxbs0938nkrkaydxw0000r".parse().unwrap()
}

fn other_id() -> RequestId {
    "req_06gb5gymwsyyz63pags11zpwq80g20g".parse().unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(1_790_000_000_000_000 + seconds * 1_000_000)
}

fn claim() -> Body {
    Body::Claim(Claim {
        name: "acme/2026-09-21/req/body".to_owned(),
        length: 300_000,
        sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned(),
    })
}

/// Requests by fixture name.
pub(crate) fn requests() -> Vec<(&'static str, Request)> {
    let inline = Request {
        id: id(),
        tenant: "acme".to_owned(),
        key_id: "k1".to_owned(),
        endpoint: Endpoint::ChatCompletions,
        dialect: Dialect::OpenAi,
        model: "gpt-demo".to_owned(),
        lane: Lane::Interactive,
        stream: true,
        accepted_at: at(0),
        deadline: at(600),
        on_disconnect: OnDisconnect::Cancel,
        on_takeover: OnTakeover::Retry,
        shadow_of: None,
        body: Body::Inline(Bytes::from_static(
            br#"{"model":"gpt-demo","messages":[{"role":"user","content":"hi"}]}"#,
        )),
        attributes: [("region".to_owned(), "eu".to_owned())].into(),
    };
    let claim = Request {
        endpoint: Endpoint::CountTokens,
        dialect: Dialect::DeepSeek,
        lane: Lane::Batch,
        stream: false,
        on_disconnect: OnDisconnect::Detach,
        on_takeover: OnTakeover::Fail,
        shadow_of: Some(other_id()),
        body: claim(),
        attributes: Default::default(),
        ..inline.clone()
    };
    vec![("request.inline", inline), ("request.claim", claim)]
}

fn usage(estimated: bool) -> Usage {
    Usage {
        prompt_tokens: 12,
        completion_tokens: 345,
        cached_tokens: 4,
        reasoning_tokens: 56,
        estimated,
    }
}

fn error() -> ErrorBody {
    ErrorBody {
        status: 502,
        kind: "upstream_error".to_owned(),
        code: Some("upstream_failed".to_owned()),
        message: "every provider failed".to_owned(),
        param: Some("model".to_owned()),
        retry_after_millis: Some(1_500),
        should_retry: Some(false),
    }
}

fn attempt(error: Option<ErrorBody>) -> Attempt {
    Attempt {
        number: 1,
        deployment: "local/gpt-4o".to_owned(),
        key_name: Some("LOCAL_API_KEY".to_owned()),
        started_at: at(1),
        first_token_micros: Some(180_000),
        duration_micros: 2_000_000,
        status: Some(200),
        upstream_request_id: Some("up-1".to_owned()),
        usage: Some(usage(false)),
        cost_nanos: Some(1_234_567),
        error,
    }
}

fn terminal(body: Option<Body>, error: Option<ErrorBody>) -> Terminal {
    Terminal {
        run: RUN,
        at: at(9),
        status: error.as_ref().map_or(200, |error| error.status),
        partial: error.is_some() && body.is_some(),
        body,
        chunks: 3,
        usage: Some(usage(true)),
        cost_nanos: Some(7),
        deployment: Some("local/gpt-4o".to_owned()),
        config_version: Some("c0ffee".to_owned()),
        attempts: vec![attempt(error.clone()), attempt(None)],
        error,
    }
}

/// Event records by fixture name; together they hold every kind of event.
pub(crate) fn events() -> Vec<(&'static str, EventRecord)> {
    let sign = Sign {
        run: RUN,
        at: at(2),
    };
    let started = Started {
        run: RUN,
        attempt: 1,
        deployment: "local/gpt-4o".to_owned(),
        config_version: "c0ffee".to_owned(),
        at: at(1),
        continues_from: None,
    };
    let continued = Started {
        attempt: 2,
        continues_from: Some(17),
        ..started.clone()
    };
    let channels = [
        Channel::Text,
        Channel::Reasoning,
        Channel::Refusal,
        Channel::ToolId,
        Channel::ToolName,
        Channel::ToolArguments,
        Channel::Finish,
        Channel::Unknown,
    ];
    let pieces = (0..)
        .zip(channels)
        .map(|(index, channel)| Piece {
            choice: index % 2,
            channel,
            index,
            text: format!("grüße {index}"),
        })
        .collect();
    let delta = Delta {
        run: RUN,
        attempt: 1,
        sequence: 41,
        chunks: vec![
            Chunk {
                pieces,
                raw: Bytes::from_static(br#"{"choices":[]}"#),
            },
            Chunk {
                pieces: Vec::new(),
                raw: Bytes::new(),
            },
        ],
    };
    let body = Body::Inline(Bytes::from_static(br#"{"object":"chat.completion"}"#));
    let bare = Terminal {
        run: Run::NONE,
        body: None,
        partial: false,
        chunks: 0,
        usage: None,
        cost_nanos: None,
        deployment: None,
        config_version: None,
        attempts: Vec::new(),
        ..terminal(None, Some(error()))
    };
    let record = |events: Vec<Event>| EventRecord {
        id: id(),
        tenant: "acme".to_owned(),
        key_id: "k1".to_owned(),
        endpoint: Endpoint::ChatCompletions,
        model: "gpt-demo".to_owned(),
        lane: Lane::Background,
        accepted_at: at(0),
        shadow_of: Some(other_id()),
        events,
    };
    vec![
        (
            "event.started",
            record(vec![
                Event::Started(started.clone()),
                Event::Started(continued),
            ]),
        ),
        ("event.delta", record(vec![Event::Delta(delta)])),
        (
            "event.attempt-failed",
            record(vec![Event::AttemptFailed(AttemptFailed {
                run: RUN,
                attempt: attempt(Some(error())),
            })]),
        ),
        (
            "event.deferred",
            record(vec![Event::Deferred(Deferred {
                run: RUN,
                due: at(60),
                reason: "all deployments rest".to_owned(),
                at: at(3),
            })]),
        ),
        ("event.alive", record(vec![Event::Alive(sign)])),
        ("event.released", record(vec![Event::Released(sign)])),
        (
            "event.abandoned",
            record(vec![Event::Abandoned(Abandoned {
                run: RUN,
                at: at(4),
                usage: usage(true),
            })]),
        ),
        (
            "event.completed",
            record(vec![
                Event::Started(started),
                Event::Completed(terminal(Some(body.clone()), None)),
            ]),
        ),
        (
            "event.failed",
            record(vec![Event::Failed(terminal(Some(claim()), Some(error())))]),
        ),
        (
            "event.cancelled",
            record(vec![Event::Cancelled(terminal(Some(body), Some(error())))]),
        ),
        ("event.expired", record(vec![Event::Expired(bare)])),
    ]
}

/// A dead letter.
pub(crate) fn dead_letter() -> DeadLetter {
    DeadLetter {
        id: Some(id()),
        topic: "lockgate.responses".to_owned(),
        partition: 7,
        offset: 123_456_789_012,
        schema_id: Some(99),
        key: Bytes::from_static(b"key"),
        value: Bytes::from_static(b"\0\0\0\0\x63garbage"),
        group: "results".to_owned(),
        reason: "undecodable".to_owned(),
        at: at(5),
    }
}

/// A cancel.
pub(crate) fn cancel() -> Cancel {
    Cancel {
        id: id(),
        reason: "client disconnected".to_owned(),
        at: at(6),
        deadline: at(600),
    }
}

/// A heartbeat.
pub(crate) fn status() -> Status {
    let lane = |waiting, wait_micros, turn_micros| LaneStatus {
        waiting,
        wait_micros,
        turn_micros,
    };
    let deployment = |health: &str, waiting| DeploymentStatus {
        deployment: "openai/gpt-4o".to_owned(),
        models: vec!["gpt-4".to_owned(), "gpt-4-latest".to_owned()],
        health: health.to_owned(),
        capacity: 64,
        in_flight: 63,
        interactive: lane(waiting, 1_500_000, 250_000),
        background: lane(0, 1_500_000, 1_500_000),
        batch: lane(4_000, 90_000_000_000, 0),
    };
    Status {
        process: "7f3a9c0d1e5b2846".to_owned(),
        at: at(7),
        deployments: vec![
            deployment(status::HEALTHY, 12),
            deployment(status::EJECTED, 0),
        ],
    }
}
