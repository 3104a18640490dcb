//! Retention, with a clock that the tests set.

use std::time::Duration;

use runtime::config::Bodies;
use runtime::objects::Objects;
use runtime::store::results::Advance;
use schemas::id::RequestId;
use schemas::time::Timestamp;
use tokio_util::sync::CancellationToken;

use super::samples::*;
use crate::results::Results;
use crate::sink::{Input, Sink};
use crate::sweeper::Sweeper;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn ended_requests_are_forgotten_after_their_retention_and_open_ones_later() {
    let (store, folder) = store().await;
    let mut sink = Results::new(store.clone(), Bodies::Full);
    let run = run(1, 1);
    // More than one step.
    let ended: Vec<RequestId> = (0..1_200).map(|_| id(0)).collect();
    let open = id(0);
    let mut inputs: Vec<Input> = ended
        .iter()
        .map(|&id| Input::Events(events(id, vec![started(run, 1), completed(run)])))
        .collect();
    inputs.push(Input::Request(request(open)));
    let advance = Advance {
        topic: "responses".to_owned(),
        partition: 0,
        expected: None,
        next: 1,
    };
    sink.write(&inputs, &[advance]).await.unwrap();

    let objects = runtime::config::Objects {
        url: None,
        shared: false,
        aws: std::collections::BTreeMap::new(),
    };
    let objects = Objects::open(&objects, folder.path()).unwrap();
    let sweeper = Sweeper::new(store.clone(), objects, DAY * 7);
    let never = CancellationToken::new();
    let now = Timestamp::now();
    assert_eq!(
        sweeper.sweep_rows(now.plus(DAY * 6), &never).await.unwrap(),
        0
    );
    assert!(store.result(ended[0]).await.unwrap().is_some());
    let later = now.plus(DAY * 7 + Duration::from_secs(60));
    assert_eq!(sweeper.sweep_rows(later, &never).await.unwrap(), 1_200);
    assert_eq!(store.result(ended[1_199]).await.unwrap(), None);
    assert!(store.result(open).await.unwrap().is_some());
    assert_eq!(
        sweeper.sweep_rows(later.plus(DAY), &never).await.unwrap(),
        1
    );
    assert_eq!(store.result(open).await.unwrap(), None);
}

#[tokio::test]
async fn a_stopped_sweep_leaves_the_rest_for_the_next() {
    let (store, folder) = store().await;
    let objects = runtime::config::Objects {
        url: None,
        shared: false,
        aws: std::collections::BTreeMap::new(),
    };
    let objects = Objects::open(&objects, folder.path()).unwrap();
    let sweeper = Sweeper::new(store, objects, DAY);
    let stopped = CancellationToken::new();
    stopped.cancel();
    assert_eq!(
        sweeper
            .sweep_rows(Timestamp::now(), &stopped)
            .await
            .unwrap(),
        0
    );
    sweeper.run(stopped).await;
}
