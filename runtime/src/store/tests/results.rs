//! Rows and positions.

use std::time::{Duration, Instant};

use bytes::Bytes;
use schemas::event::{Attempt, ErrorBody, Run, Usage};
use schemas::id::RequestId;
use schemas::request::{Body, Claim, Endpoint, Lane};
use schemas::time::Timestamp;

use super::super::StoreError;
use super::super::results::{Advance, Filter, ResultRow, Status};
use super::{fixtures, id};

fn accepted(id: RequestId) -> ResultRow {
    ResultRow {
        id,
        tenant: "acme".to_owned(),
        key_id: "k1".to_owned(),
        endpoint: Endpoint::ChatCompletions,
        model: "demo".to_owned(),
        lane: Lane::Interactive,
        stream: Some(true),
        status: Status::Accepted,
        accepted_at: Timestamp(1_000),
        deadline: Some(Timestamp(2_000)),
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
        answer: None,
        partial: false,
        request_body: Some(Body::Inline(Bytes::from_static(b"{\"q\":1}"))),
        request_bytes: Some(7),
        answer_bytes: None,
    }
}

/// As the events tell it; what only the request record knows is none.
fn completed(id: RequestId) -> ResultRow {
    let usage = Usage {
        prompt_tokens: 5,
        completion_tokens: 7,
        ..Usage::default()
    };
    let error = ErrorBody {
        status: 502,
        kind: "upstream_error".to_owned(),
        code: Some("upstream_failed".to_owned()),
        message: "a NUL \0 in it".to_owned(),
        param: None,
        retry_after_millis: Some(5),
        should_retry: Some(true),
    };
    ResultRow {
        stream: None,
        deadline: None,
        request_body: None,
        request_bytes: None,
        answer_bytes: Some(7),
        status: Status::Completed,
        started_at: Some(Timestamp(1_100)),
        finished_at: Some(Timestamp(1_900)),
        run: Run {
            number: 2,
            nonce: -7,
        },
        attempt: 3,
        next_sequence: 9,
        given_up: true,
        http_status: Some(200),
        error: Some(error.clone()),
        usage: Some(usage),
        cost_nanos: Some(12),
        deployment: Some("local/gpt".to_owned()),
        config_version: Some("abc".to_owned()),
        attempts: vec![Attempt {
            number: 1,
            deployment: "local/gpt".to_owned(),
            key_name: None,
            started_at: Timestamp(1_100),
            first_token_micros: Some(3),
            duration_micros: 40,
            status: Some(200),
            upstream_request_id: None,
            usage: Some(usage),
            cost_nanos: None,
            error: Some(error),
        }],
        answer: Some(Body::Inline(Bytes::from_static(b"hello"))),
        partial: true,
        ..accepted(id)
    }
}

/// What both records together tell.
fn whole(id: RequestId) -> ResultRow {
    let first = accepted(id);
    ResultRow {
        stream: first.stream,
        deadline: first.deadline,
        request_body: first.request_body,
        request_bytes: first.request_bytes,
        ..completed(id)
    }
}

fn advance(expected: Option<i64>, next: i64) -> Advance {
    Advance {
        topic: "responses".to_owned(),
        partition: 3,
        expected,
        next,
    }
}

#[tokio::test]
async fn the_two_halves_of_a_row_arrive_in_any_order() {
    for fixture in fixtures().await {
        let store = fixture.open().await;
        let (a, b) = (id(), id());
        store
            .apply_results("results", &[accepted(a)], &[], &[])
            .await
            .unwrap();
        assert_eq!(store.result(a).await.unwrap(), Some(accepted(a)));
        store
            .apply_results("results", &[], &[completed(a), completed(b)], &[])
            .await
            .unwrap();
        assert_eq!(store.result(a).await.unwrap(), Some(whole(a)));
        assert_eq!(store.result(b).await.unwrap(), Some(completed(b)));
        store
            .apply_results("results", &[accepted(b)], &[], &[])
            .await
            .unwrap();
        assert_eq!(store.result(b).await.unwrap(), Some(whole(b)));
        assert_eq!(store.result(id()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_body_that_is_not_given_stays_and_a_new_one_replaces() {
    for fixture in fixtures().await {
        let store = fixture.open().await;
        let a = id();
        store
            .apply_results("results", &[], &[completed(a)], &[])
            .await
            .unwrap();
        let folded = store.results(&[a]).await.unwrap().remove(0);
        assert_eq!(
            folded,
            ResultRow {
                answer: None,
                ..completed(a)
            }
        );
        store
            .apply_results("results", &[], &[folded], &[])
            .await
            .unwrap();
        assert_eq!(store.result(a).await.unwrap(), Some(completed(a)));
        let claim = Some(Body::Claim(Claim {
            name: "acme/x".to_owned(),
            length: 9,
            sha256: "00".to_owned(),
        }));
        let claimed = ResultRow {
            answer: claim,
            ..completed(a)
        };
        store
            .apply_results("results", &[], std::slice::from_ref(&claimed), &[])
            .await
            .unwrap();
        assert_eq!(store.result(a).await.unwrap(), Some(claimed));
        let empty = ResultRow {
            answer: Some(Body::Inline(Bytes::new())),
            ..completed(a)
        };
        store
            .apply_results("results", &[], std::slice::from_ref(&empty), &[])
            .await
            .unwrap();
        assert_eq!(store.result(a).await.unwrap(), Some(empty));
    }
}

#[tokio::test]
async fn of_many_rows_with_one_id_the_last_counts() {
    for fixture in fixtures().await {
        let store = fixture.open().await;
        let ids: Vec<RequestId> = (0..300).map(|_| id()).collect();
        let mut rows: Vec<ResultRow> = ids.iter().map(|id| accepted(*id)).collect();
        rows.push(ResultRow {
            stream: Some(false),
            ..accepted(ids[0])
        });
        let running: Vec<ResultRow> = ids
            .iter()
            .map(|id| ResultRow {
                status: Status::Running,
                tenant: "nul\0".to_owned(),
                ..accepted(*id)
            })
            .collect();
        store
            .apply_results("results", &rows, &running, &[])
            .await
            .unwrap();
        let found = store.results(&ids).await.unwrap();
        assert_eq!(found.len(), 300);
        assert!(found.iter().all(|row| row.status == Status::Running));
        let first = found.iter().find(|row| row.id == ids[0]).unwrap();
        assert_eq!(first.stream, Some(false));
        assert_eq!(first.tenant, "acme");
        assert!(store.results(&[]).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_position_moves_only_from_where_it_is() {
    for fixture in fixtures().await {
        let store = fixture.open().await;
        let a = id();
        store
            .apply_results("results", &[], &[], &[advance(None, 10)])
            .await
            .unwrap();
        for wrong in [None, Some(9), Some(11)] {
            let result = store
                .apply_results("results", &[accepted(a)], &[], &[advance(wrong, 20)])
                .await;
            assert!(
                matches!(result, Err(StoreError::Fenced { partition: 3, .. })),
                "{result:?}"
            );
        }
        assert_eq!(
            store.result(a).await.unwrap(),
            None,
            "a fenced batch left a row"
        );
        let missing = store
            .apply_results("other", &[], &[], &[advance(Some(10), 20)])
            .await;
        assert!(matches!(missing, Err(StoreError::Fenced { .. })));
        store
            .apply_results("results", &[accepted(a)], &[], &[advance(Some(10), 20)])
            .await
            .unwrap();
        assert_eq!(
            store.positions("results", "responses").await.unwrap(),
            [(3, 20)]
        );
        assert!(
            store
                .positions("other", "responses")
                .await
                .unwrap()
                .is_empty()
        );
        assert!(store.result(a).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn of_two_that_move_a_position_at_once_one_is_fenced() {
    for fixture in fixtures().await {
        let (one, other) = (fixture.open().await, fixture.open().await);
        one.apply_results("results", &[], &[], &[advance(None, 0)])
            .await
            .unwrap();
        for step in 0..20 {
            let row = [accepted(id())];
            let moved = [advance(Some(step), step + 1)];
            let (left, right) = tokio::join!(
                one.apply_results("results", &row, &[], &moved),
                other.apply_results("results", &row, &[], &moved),
            );
            let fenced = [&left, &right]
                .iter()
                .filter(|it| matches!(it, Err(StoreError::Fenced { .. })))
                .count();
            let done = usize::from(left.is_ok()) + usize::from(right.is_ok());
            assert_eq!((done, fenced), (1, 1), "{left:?} {right:?}");
        }
    }
}

#[tokio::test]
async fn pages_are_newest_first_and_of_one_tenant() {
    for fixture in fixtures().await {
        let store = fixture.open().await;
        let mut ids: Vec<RequestId> = (0..5).map(|_| id()).collect();
        ids.sort();
        let rows: Vec<ResultRow> = ids.iter().map(|id| accepted(*id)).collect();
        let other = ResultRow {
            tenant: "other".to_owned(),
            ..accepted(id())
        };
        store
            .apply_results(
                "results",
                &[rows, vec![other]].concat(),
                &[completed(ids[1])],
                &[],
            )
            .await
            .unwrap();
        let filter = Filter {
            tenant: "acme".to_owned(),
            status: None,
            model: None,
            after: None,
            limit: 3,
        };
        let page = store.list_results(&filter).await.unwrap();
        let listed: Vec<RequestId> = page.iter().map(|row| row.id).collect();
        assert_eq!(listed, [ids[4], ids[3], ids[2]]);
        assert!(page.iter().all(|row| row.request_body.is_none()));
        let rest = Filter {
            after: Some(ids[2]),
            ..filter.clone()
        };
        assert_eq!(store.list_results(&rest).await.unwrap().len(), 2);
        let done = Filter {
            status: Some(Status::Completed),
            ..filter.clone()
        };
        assert_eq!(store.list_results(&done).await.unwrap()[0].id, ids[1]);
        let model = Filter {
            model: Some("nobody's".to_owned()),
            ..filter
        };
        assert!(store.list_results(&model).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_sweep_takes_what_has_ended_and_what_is_past_any_deadline() {
    for fixture in fixtures().await {
        let store = fixture.open().await;
        let day = Duration::from_secs(24 * 60 * 60);
        let now = Timestamp(0).plus(100 * day);
        let at = |days: u32, row: ResultRow| ResultRow {
            accepted_at: Timestamp(0).plus(days * day),
            ..row
        };
        let (old_ended, old_open, ancient, young) = (id(), id(), id(), id());
        let open = [
            at(99, accepted(old_open)),
            at(97, accepted(ancient)),
            at(100, accepted(young)),
        ];
        let ended = [ResultRow {
            accepted_at: Timestamp(now.0 - 1),
            ..completed(old_ended)
        }];
        store
            .apply_results("results", &open, &ended, &[])
            .await
            .unwrap();
        assert_eq!(store.sweep_results(now, 1).await.unwrap(), 1);
        assert_eq!(store.sweep_results(now, 10).await.unwrap(), 1);
        assert_eq!(store.sweep_results(now, 10).await.unwrap(), 0);
        for (id, is_there) in [
            (old_ended, false),
            (ancient, false),
            (old_open, true),
            (young, true),
        ] {
            assert_eq!(store.result(id).await.unwrap().is_some(), is_there);
        }
    }
}

/// A figure, not a bound; in release: `cargo test --release -p runtime --lib speed_of_batches`. One thread sends, SQLite
/// has one of its own.
#[tokio::test]
async fn speed_of_batches() {
    use std::io::Write as _;

    for fixture in fixtures().await {
        let store = fixture.open().await;
        let batches = if cfg!(debug_assertions) { 2 } else { 40 };
        let answer = Some(Body::Inline(Bytes::from(vec![b'x'; 300])));
        let mut spent = [Duration::ZERO; 2];
        for batch in 0..batches {
            let ids: Vec<RequestId> = (0..1_000).map(|_| id()).collect();
            let first: Vec<ResultRow> = ids.iter().map(|id| accepted(*id)).collect();
            let end = |id: &RequestId| ResultRow {
                answer: answer.clone(),
                error: None,
                ..completed(*id)
            };
            let second: Vec<ResultRow> = ids.iter().map(end).collect();
            for (half, (first, second)) in [(&first[..], &[][..]), (&[], &second)]
                .into_iter()
                .enumerate()
            {
                let expected = 2 * batch + i64::try_from(half).unwrap();
                let moved = [advance((expected > 0).then_some(expected), expected + 1)];
                let start = Instant::now();
                let applied = store.apply_results("results", first, second, &moved).await;
                spent[half] += start.elapsed();
                applied.unwrap();
            }
        }
        if !cfg!(debug_assertions) {
            let rates = spent.map(|spent| 1e3 * batches as f64 / spent.as_secs_f64());
            let kind = store.kind;
            writeln!(
                std::io::stderr(),
                "{kind:?}: accepted, ended {rates:.0?} rows/s"
            )
            .unwrap();
        }
    }
}
