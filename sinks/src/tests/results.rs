//! The results sink over a store.

use bytes::Bytes;
use runtime::config::Bodies;
use runtime::store::Store;
use runtime::store::results::{Advance, ResultRow, Status};
use schemas::event::*;
use schemas::id::RequestId;
use schemas::request::Body;
use schemas::time::Timestamp;

use super::samples::*;
use crate::results::Results;
use crate::sink::{Input, Refused, Sink};

/// A sink with the position of one partition.
struct Story {
    store: Store,
    sink: Results,
    next: Option<i64>,
}

impl Story {
    async fn new(store: &Store) -> Self {
        let sink = Results::new(store.clone(), Bodies::Full);
        let positions = store.positions("results", "responses").await.unwrap();
        Self {
            store: store.clone(),
            sink,
            next: positions.first().map(|(_, next)| *next),
        }
    }

    async fn try_write(&mut self, inputs: &[Input]) -> Result<(), Refused> {
        let next = self.next.unwrap_or(0) + 1;
        let advance = Advance {
            topic: "responses".to_owned(),
            partition: 0,
            expected: self.next,
            next,
        };
        self.sink.write(inputs, &[advance]).await?;
        self.next = Some(next);
        Ok(())
    }

    async fn write(&mut self, inputs: impl IntoIterator<Item = Input>) {
        let inputs: Vec<Input> = inputs.into_iter().collect();
        self.try_write(&inputs).await.unwrap();
    }

    async fn row(&self, id: RequestId) -> Option<ResultRow> {
        self.store.result(id).await.unwrap()
    }
}

fn tell(id: RequestId, list: impl IntoIterator<Item = Event>) -> Input {
    Input::Events(events(id, list.into_iter().collect()))
}

fn ask(id: RequestId) -> Input {
    Input::Request(request(id))
}

#[tokio::test]
async fn a_request_is_readable_from_its_accept_to_its_end() {
    let (store, _folder) = store().await;
    let mut story = Story::new(&store).await;
    let (id, run) = (id(0), run(1, 1));
    story.write([ask(id)]).await;
    let row = story.row(id).await.unwrap();
    assert_eq!((row.status, row.stream), (Status::Accepted, Some(true)));
    assert_eq!(row.request_body, Some(request(id).body));

    story.write([tell(id, [started(run, 1)])]).await;
    let row = story.row(id).await.unwrap();
    assert_eq!(
        (row.status, row.run, row.attempt),
        (Status::Running, run, 1)
    );
    assert_eq!(row.deployment.as_deref(), Some("provider-1/model"));
    assert_eq!(row.started_at, Some(Timestamp(1_001)));

    let failed = Event::AttemptFailed(AttemptFailed {
        run,
        attempt: attempt(1),
    });
    story
        .write([tell(id, [failed, started(run, 2), delta(run, 0)])])
        .await;
    let row = story.row(id).await.unwrap();
    assert_eq!((row.attempt, row.attempts.len()), (2, 1));

    let text = |sequence| {
        let Event::Delta(mut delta) = delta(run, sequence) else {
            panic!("another event");
        };
        delta.attempt = 2;
        Event::Delta(delta)
    };
    story.write([tell(id, [text(0), text(1)])]).await;
    story.write([tell(id, [text(2)])]).await;
    let row = story.row(id).await.unwrap();
    assert_eq!((row.status, row.next_sequence), (Status::Running, 3));

    story.write([tell(id, [completed(run)])]).await;
    let row = story.row(id).await.unwrap();
    assert_eq!(
        (row.status, row.http_status),
        (Status::Completed, Some(200))
    );
    assert_eq!(row.usage, terminal(run).usage);
    assert_eq!(
        (row.cost_nanos, row.finished_at),
        (Some(7), Some(Timestamp(9_000)))
    );
    assert_eq!(row.answer, terminal(run).body);
    assert_eq!(row.request_body, Some(request(id).body));
}

#[tokio::test]
async fn the_row_is_the_same_in_whatever_order_and_batches_the_topics_come() {
    let (store, _folder) = store().await;
    let mut story = Story::new(&store).await;
    let run = run(1, 1);
    let mut rows = Vec::new();
    for order in 0..4 {
        let id = id(0);
        let answer = [started(run, 1), completed(run)];
        match order {
            0 => story.write([ask(id), tell(id, answer)]).await,
            1 => story.write([tell(id, answer), ask(id)]).await,
            2 => {
                story.write([tell(id, answer)]).await;
                assert_eq!(story.row(id).await.unwrap().stream, None);
                story.write([ask(id)]).await;
            }
            _ => {
                story.write([tell(id, [started(run, 1)])]).await;
                story.write([ask(id)]).await;
                story.write([tell(id, [completed(run)])]).await;
            }
        }
        let mut row = story.row(id).await.unwrap();
        assert_eq!(row.deadline, Some(request(id).deadline));
        row.id = rows.first().map_or(id, |row: &ResultRow| row.id);
        row.accepted_at = Timestamp(0);
        row.deadline = None;
        rows.push(row);
    }
    assert!(rows.iter().all(|row| *row == rows[0]), "{rows:#?}");
    assert_eq!(rows[0].status, Status::Completed);
}

/// A takeover with every trap: a zombie's tokens and terminal after it, repeats, and a late claim of the first run.
fn takeover(id: RequestId) -> Vec<Input> {
    let (first, second, late) = (run(1, 1), run(2, 2), run(1, 3));
    let abandoned = Event::Abandoned(Abandoned {
        run: first,
        at: Timestamp(5_000),
        usage: Usage::default(),
    });
    [
        vec![started(first, 1), delta(first, 0)],
        vec![delta(first, 1)],
        vec![abandoned],
        vec![started(second, 1)],
        vec![delta(first, 2), completed(first)],
        vec![started(second, 1), delta(second, 0)],
        vec![completed(second)],
        vec![completed(second), started(late, 1), completed(late)],
        vec![started(run(3, 4), 1), completed(run(3, 4))],
    ]
    .into_iter()
    .map(|list| tell(id, list))
    .collect()
}

#[tokio::test]
async fn the_answer_is_the_fold_wherever_the_sink_is_restarted() {
    let (store, _folder) = store().await;
    let length = takeover(id(0)).len();
    for restart in 0..=length {
        let id = id(0);
        let mut story = Story::new(&store).await;
        for (index, input) in takeover(id).into_iter().enumerate() {
            if index == restart {
                story = Story::new(&store).await;
            }
            story.write([input]).await;
        }
        let row = story.row(id).await.unwrap();
        assert_eq!(
            (row.status, row.run),
            (Status::Completed, run(2, 2)),
            "restart at {restart}"
        );
        assert_eq!(
            row.answer,
            Some(Body::Inline(Bytes::from_static(b"answer of 2")))
        );
        assert_eq!(row.started_at, Some(Timestamp(1_002)));
    }
}

#[tokio::test]
async fn the_answer_is_the_fold_when_all_comes_at_once() {
    let (store, _folder) = store().await;
    let mut story = Story::new(&store).await;
    let id = id(0);
    story.write(takeover(id)).await;
    let row = story.row(id).await.unwrap();
    assert_eq!((row.status, row.run), (Status::Completed, run(2, 2)));
    assert_eq!(row.deployment.as_deref(), Some("provider-2/model"));
}

#[tokio::test]
async fn a_run_that_was_given_up_or_put_aside_shows() {
    let (store, _folder) = store().await;
    let mut story = Story::new(&store).await;
    let (id, run) = (id(0), run(1, 1));
    let sign = Sign {
        run,
        at: Timestamp(2),
    };
    story
        .write([tell(id, [started(run, 1), Event::Released(sign)])])
        .await;
    assert!(story.row(id).await.unwrap().given_up);

    let again = super::samples::run(2, 2);
    let deferred = Event::Deferred(Deferred {
        run: again,
        due: Timestamp(9),
        reason: "later".to_owned(),
        at: Timestamp(3),
    });
    story.write([tell(id, [started(again, 1), deferred])]).await;
    let row = story.row(id).await.unwrap();
    assert_eq!((row.status, row.given_up), (Status::Deferred, false));
}

#[tokio::test]
async fn a_request_that_never_started_can_end() {
    let (store, _folder) = store().await;
    let mut story = Story::new(&store).await;
    let id = id(0);
    let expired = Terminal {
        status: 504,
        body: None,
        deployment: None,
        attempts: Vec::new(),
        ..terminal(Run::NONE)
    };
    story
        .write([ask(id), tell(id, [Event::Expired(expired)])])
        .await;
    let row = story.row(id).await.unwrap();
    assert_eq!(
        (row.status, row.http_status, row.run),
        (Status::Expired, Some(504), Run::NONE)
    );
}

#[tokio::test]
async fn shadows_leave_no_rows() {
    let (store, _folder) = store().await;
    let mut story = Story::new(&store).await;
    let (id, run) = (id(0), run(1, 1));
    let mut asked = request(id);
    asked.shadow_of = Some(super::samples::id(0));
    let mut told = events(id, vec![started(run, 1), completed(run)]);
    told.shadow_of = asked.shadow_of;
    story
        .write([Input::Request(asked), Input::Events(told)])
        .await;
    assert_eq!(story.row(id).await, None);
}

#[tokio::test]
async fn bodies_are_kept_only_when_wanted() {
    for bodies in [Bodies::Metadata, Bodies::None] {
        let (store, _folder) = store().await;
        let mut story = Story::new(&store).await;
        story.sink = Results::new(store.clone(), bodies);
        let (id, run) = (id(0), run(1, 1));
        story
            .write([ask(id), tell(id, [started(run, 1), completed(run)])])
            .await;
        let row = story.row(id).await.unwrap();
        assert_eq!((row.answer, row.request_body), (None, None));
        let has_sizes = (row.answer_bytes.is_some(), row.request_bytes.is_some());
        let is_metadata = bodies == Bodies::Metadata;
        assert_eq!(has_sizes, (is_metadata, is_metadata));
        assert_eq!(row.usage, terminal(run).usage);
    }
}

#[tokio::test]
async fn of_two_sinks_on_one_partition_one_is_fenced_and_writes_nothing() {
    let (store, _folder) = store().await;
    let (first, second) = (id(0), id(0));
    let mut owner = Story::new(&store).await;
    owner.write([ask(id(0))]).await;
    let mut zombie = Story::new(&store).await;
    owner.write([ask(first)]).await;
    let refused = zombie.try_write(&[ask(second)]).await;
    assert!(matches!(refused, Err(Refused::Fenced)), "{refused:?}");
    assert_eq!(zombie.row(second).await, None);
    assert!(zombie.row(first).await.is_some());
}
