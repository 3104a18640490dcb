//! How long a decision of the router takes: at most 2 µs at 200 deployments.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use runtime::config::STRATEGIES;

// The router is no public interface; it is pure, so that it can be built here again.
#[expect(
    dead_code,
    unused_imports,
    reason = "a decision uses only a part of it, and none of its tests"
)]
#[path = "../src/router/mod.rs"]
mod router;

use router::load::Load;
use router::{Fleet, Readiness, Router, Seat, Standing, View, Wish};

const DEPLOYMENTS: usize = 200;

struct Idle {
    loads: Vec<Load>,
    healths: Vec<AtomicU64>,
    now: Duration,
}

impl Fleet for Idle {
    fn view(&self, deployment: usize) -> View {
        let load = &self.loads[deployment];
        // As health does it: one atomic word, and the time.
        let until = self.healths[deployment].load(Ordering::Relaxed);
        View {
            standing: if until == 0 {
                Standing::Open(1_000)
            } else {
                Standing::Out {
                    rest: Duration::from_micros(until).saturating_sub(self.now),
                    trial: false,
                }
            },
            full: load.in_flight() >= 1_000,
            in_flight: load.in_flight(),
        }
    }

    fn first_token_micros(&self, deployment: usize) -> u64 {
        self.loads[deployment].first_token_micros(self.now)
    }

    fn take(&self, _: usize, _: bool) -> Readiness {
        Readiness::Ready
    }
}

fn decide(criterion: &mut Criterion) {
    let now = Duration::from_secs(100);
    let fleet = Idle {
        loads: (0..DEPLOYMENTS).map(|_| Load::default()).collect(),
        // One in ten is out.
        healths: (0..DEPLOYMENTS)
            .map(|place| AtomicU64::new(u64::from(place % 10 == 9) * 105_000_000))
            .collect(),
        now,
    };
    for load in &fleet.loads {
        load.first_token(Duration::from_millis(200), now);
    }
    let mut group = criterion.benchmark_group("decision at 200 deployments");
    for (name, strategy) in STRATEGIES {
        let seats = (0..DEPLOYMENTS).map(|place| Seat {
            name: format!("p{place}/m"),
            weight: 1 + (place % 7) as u32,
            tier: 1 + (place % 3) as u32,
            context_tokens: Some(128_000),
            price: None,
            tags: Vec::new(),
            version: None,
        });
        let router = Router::new(strategy, seats.collect(), 0.5);
        let wish = Wish {
            prompt_tokens: 1_000,
            ..Wish::default()
        };
        let mut random = 1_u64;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let mut plan = router.plan(black_box(&wish)).ok()?;
                plan.next(&router, &fleet, random)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
