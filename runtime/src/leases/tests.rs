//! On a real server, when `LOCKGATE_TEST_REDIS_URL` names one (`make test` sets it); each test with keys of its own.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const NAME: &str = "provider/model";
/// What a process has before it asked, of the limits that the tests set.
const NOTHING: Part = Part {
    calls: Some(0),
    requests_per_minute: Some(0.0),
    tokens_per_minute: None,
};

#[expect(
    clippy::disallowed_methods,
    reason = "how a test learns where its server is"
)]
fn url() -> Option<SecretString> {
    std::env::var("LOCKGATE_TEST_REDIS_URL")
        .ok()
        .map(SecretString::from)
}

fn limits(concurrency: usize, requests_per_minute: u64) -> config::Limits {
    config::Limits {
        concurrency: Some(concurrency),
        requests_per_minute: Some(requests_per_minute),
        ..config::Limits::default()
    }
}

fn demand(used: usize, wanted: usize, requests_per_minute: f64) -> Demand {
    Demand {
        calls_used: used,
        calls_wanted: wanted,
        requests_per_minute,
        tokens_per_minute: 0.0,
    }
}

/// Some processes that share one limit, as a test that knows all of them sees it.
struct Fleet {
    limits: config::Limits,
    /// What each takes for an equal part; none: it knows nobody else.
    equal: Option<Part>,
    processes: Vec<(Leases, Part)>,
}

impl Fleet {
    fn new(url: &SecretString, limits: config::Limits, count: usize) -> Self {
        let prefix = format!("test-{}:", uuid::Uuid::new_v4());
        let process = |number| {
            let leases = Leases::new(url, &prefix, &format!("p{number}")).unwrap();
            (leases, NOTHING)
        };
        Self {
            limits,
            equal: None,
            processes: (0..count).map(process).collect(),
        }
    }

    async fn sync(&mut self, process: usize, demand: Demand) -> Part {
        let (leases, part) = &mut self.processes[process];
        let claim = Claim {
            name: NAME,
            limits: &self.limits,
            demand,
            equal: self.equal.unwrap_or(Part::whole(&self.limits)),
        };
        *part = leases.sync(&[claim]).await.unwrap()[0];
        *part
    }

    fn calls(&self) -> usize {
        let calls = self.processes.iter().map(|(_, part)| part.calls.unwrap());
        calls.sum()
    }

    fn requests_per_minute(&self) -> f64 {
        let rates = self.processes.iter();
        rates
            .map(|(_, part)| part.requests_per_minute.unwrap())
            .sum()
    }
}

#[test]
fn equal_parts_use_the_whole_limit_and_never_leave_anybody_without_a_call() {
    let limits = limits(10, 90);
    let calls: Vec<usize> = (0..4)
        .map(|rank| Part::equal(&limits, rank, 4).calls.unwrap())
        .collect();
    assert_eq!(calls, [3, 3, 2, 2]);
    assert_eq!(
        Part::equal(&limits, 2, 4).requests_per_minute,
        Some(22.5),
        "a rate is divided exactly"
    );
    assert_eq!(Part::equal(&limits, 11, 12).calls, Some(1));
    assert_eq!(Part::whole(&limits).calls, Some(10));
    assert_eq!(Part::whole(&limits).tokens_per_minute, None);
}

#[tokio::test]
async fn who_wants_little_gets_it_and_what_is_left_is_shared_by_the_others() {
    let Some(url) = url() else { return };
    let mut fleet = Fleet::new(&url, limits(30, 300), 3);
    // What one gives up another takes the next time.
    for _ in 0..2 {
        fleet.sync(0, demand(0, 2, 10.0)).await;
        fleet.sync(1, demand(0, 40, 1_000.0)).await;
        fleet.sync(2, demand(0, 20, 200.0)).await;
    }
    let calls = fleet.processes.iter().map(|(_, part)| part.calls.unwrap());
    assert_eq!(calls.collect::<Vec<_>>(), [2, 14, 14]);
    let rates = fleet.processes.iter();
    let rates: Vec<f64> = rates
        .map(|(_, part)| part.requests_per_minute.unwrap())
        .collect();
    assert_eq!(rates, [10.0, 145.0, 145.0]);

    // Nobody wants anything: all have the same, ready to be used.
    for _ in 0..2 {
        for process in 0..3 {
            fleet.sync(process, demand(0, 0, 0.0)).await;
        }
    }
    assert_eq!(fleet.calls(), 30);
    for (_, part) in &fleet.processes {
        assert_eq!(
            (part.calls, part.requests_per_minute),
            (Some(10), Some(100.0))
        );
    }
}

#[tokio::test]
async fn what_is_in_use_is_not_given_away_and_what_was_released_is() {
    let Some(url) = url() else { return };
    let mut fleet = Fleet::new(&url, limits(8, 60), 2);
    assert_eq!(fleet.sync(0, demand(0, 8, 60.0)).await.calls, Some(8));
    assert_eq!(fleet.sync(1, demand(0, 8, 60.0)).await.calls, Some(0));
    // Asked for half of it, the first one still has six calls in progress.
    assert_eq!(fleet.sync(0, demand(6, 8, 60.0)).await.calls, Some(6));
    assert_eq!(fleet.sync(1, demand(0, 8, 60.0)).await.calls, Some(2));
    assert_eq!(fleet.sync(0, demand(3, 8, 60.0)).await.calls, Some(4));
    assert_eq!(fleet.sync(1, demand(2, 8, 60.0)).await.calls, Some(4));
    fleet.processes[0].0.release(&[NAME]).await.unwrap();
    fleet.processes[0].1 = NOTHING;
    let part = fleet.sync(1, demand(4, 8, 60.0)).await;
    assert_eq!(
        (part.calls, part.requests_per_minute),
        (Some(8), Some(60.0))
    );
}

#[tokio::test]
async fn a_process_that_fell_silent_loses_its_part() {
    let Some(url) = url() else { return };
    let mut fleet = Fleet::new(&url, limits(1, 60), 2);
    assert_eq!(fleet.sync(0, demand(1, 1, 60.0)).await.calls, Some(1));
    let begun = tokio::time::Instant::now();
    while fleet.sync(1, demand(0, 1, 60.0)).await.calls == Some(0) {
        assert!(begun.elapsed() < LEASE * 4, "it never came free");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begun.elapsed() >= LEASE - Duration::from_millis(100));
}

#[tokio::test]
async fn what_cannot_be_divided_goes_round() {
    let Some(url) = url() else { return };
    let mut fleet = Fleet::new(&url, limits(1, 60), 3);
    let mut had = [false; 3];
    let begun = tokio::time::Instant::now();
    while had != [true; 3] {
        assert!(begun.elapsed() < TURN * 6, "somebody is left out: {had:?}");
        for (process, had) in had.iter_mut().enumerate() {
            *had |= fleet.sync(process, demand(0, 1, 60.0)).await.calls == Some(1);
            assert!(fleet.calls() <= 1);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Under any schedule of demands, whoever asks when: never more than the limit, and nobody loses a call in progress.
#[tokio::test]
async fn no_schedule_exceeds_the_limits() {
    let Some(url) = url() else { return };
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let count = random.random_range(1..7);
        let limits = limits(random.random_range(1..40), random.random_range(1..5_000));
        let mut fleet = Fleet::new(&url, limits, count);
        let mut used = vec![0_usize; count];
        for _ in 0..200 {
            let process = random.random_range(0..count);
            // It may have begun as many as its part allows, and some of them have ended.
            let had = fleet.processes[process].1.calls.unwrap();
            used[process] = random.random_range(0..=had.max(used[process]));
            let wanted = used[process] + random.random_range(0..20);
            let rate = random.random_range(0.0..3_000.0);
            let part = fleet
                .sync(process, demand(used[process], wanted, rate))
                .await;
            assert!(part.calls.unwrap() >= used[process], "seed {seed}");
            assert!(fleet.calls() <= limits.concurrency.unwrap(), "seed {seed}");
            let rate = fleet.requests_per_minute();
            let limit = limits.requests_per_minute.unwrap() as f64;
            assert!(
                rate <= limit * (1.0 + 1e-9),
                "seed {seed}: {rate} of {limit}"
            );
        }
        // All want more than there is: once everybody has said so, then given up, then taken, nothing is left unused.
        for _ in 0..3 {
            for (process, used) in used.iter().enumerate() {
                fleet.sync(process, demand(*used, 100, 5_000.0)).await;
            }
        }
        assert_eq!(fleet.calls(), limits.concurrency.unwrap(), "seed {seed}");
    }
}

#[tokio::test]
async fn a_server_that_lost_its_memory_gives_equal_parts_until_it_has_heard_all() {
    let Some(url) = url() else { return };
    let mut fleet = Fleet::new(&url, limits(8, 60), 2);
    fleet.equal = Some(Part::equal(&fleet.limits, 0, 2));
    fleet.sync(0, demand(0, 4, 0.0)).await;
    fleet.sync(1, demand(0, 4, 0.0)).await;
    let leases = &fleet.processes[0].0;
    let mut connection = leases.connection.clone();
    let forget = redis::cmd("DEL").arg(leases.key(NAME)).to_owned();
    forget.query_async::<()>(&mut connection).await.unwrap();
    // The second one has four calls in progress, of which Redis knows nothing now.
    for _ in 0..3 {
        let part = fleet.sync(0, demand(4, 8, 60.0)).await;
        assert_eq!(
            (part.calls, part.requests_per_minute),
            (Some(4), Some(30.0))
        );
    }
    fleet.sync(1, demand(4, 8, 60.0)).await;
    assert_eq!((fleet.calls(), fleet.requests_per_minute()), (8, 60.0));
    fleet.sync(1, demand(0, 0, 0.0)).await;
    let begun = tokio::time::Instant::now();
    while fleet.sync(0, demand(4, 8, 60.0)).await.calls != Some(8) {
        assert!(begun.elapsed() < HEARD * 5, "it stays with equal parts");
        fleet.sync(1, demand(0, 0, 0.0)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_server_that_forgot_the_script_is_told_again() {
    let Some(url) = url() else { return };
    let mut fleet = Fleet::new(&url, limits(4, 60), 1);
    fleet.sync(0, demand(0, 1, 1.0)).await;
    let mut connection = fleet.processes[0].0.connection.clone();
    let flush = redis::cmd("SCRIPT").arg("FLUSH").to_owned();
    flush.query_async::<()>(&mut connection).await.unwrap();
    assert_eq!(fleet.sync(0, demand(0, 1, 1.0)).await.calls, Some(4));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_without_the_password() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for url in [
        format!("redis://me:hunter2@{address}"),
        format!("rediss://me:hunter2@{address}"),
    ] {
        let leases = Leases::new(&url.into(), "test:", "p").unwrap();
        let claim = Claim {
            name: NAME,
            limits: &limits(1, 1),
            demand: demand(0, 0, 0.0),
            equal: Part::default(),
        };
        // It accepts, and says nothing.
        let error = leases.sync(&[claim]).await.unwrap_err();
        let shown = format!("{error} {error:?} {leases:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    drop(listener);
    let leases = Leases::new(&format!("redis://{address}").into(), "test:", "p").unwrap();
    leases.release(&[NAME]).await.unwrap_err();
    assert!(matches!(
        Leases::new(&"http://me:hunter2@x".to_owned().into(), "", "p"),
        Err(LeaseError::Address(_))
    ));
}
