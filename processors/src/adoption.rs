//! Who runs a request that was open at an assignment. Pure.
//!
//! A run belongs to the process that started it, not to the owner of the partition: open
//! deliveries are adopted by what the log says of them, not run again.

use runtime::store::results::{ResultRow, Status};
use schemas::dialect::openai;
use schemas::event::{Run, Usage};
use schemas::fold::{End, Fold};
use schemas::request::{Body, OnTakeover, Request};

/// From this run on a request runs alone in its process: two runs died with theirs.
const ALONE_FROM_RUN: i32 = 3;
/// So many runs that ran alone may be taken over; the next takeover is a dead letter.
const TAKEOVERS_ALONE_MAX: i32 = 3;
/// A token of an answer is about so many bytes, a chunk about a token.
const CHUNK_BYTES: usize = 4;

/// What to do with an open request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It has its terminal: complete the delivery.
    Complete,
    /// It never started: run it.
    Run,
    /// Its run is over or its process gone: take it over.
    TakeOver,
    /// Another process runs it: watch it.
    Follow,
}

/// What a takeover does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Another run.
    Again,
    /// A terminal: its policy is to call at most once.
    Lost,
    /// A dead letter and a terminal: it took too many processes down.
    Poison,
}

/// The run that is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prior {
    /// Which.
    pub(crate) run: Run,
    /// Chunks that it appended.
    pub(crate) chunks: i64,
    /// Whether it was released or abandoned already.
    pub(crate) given_up: bool,
    /// Length of the request's body.
    pub(crate) body_bytes: usize,
}

impl Prior {
    /// What is known of a request that started.
    pub(crate) fn new(fold: &Fold, request: &Request) -> Self {
        let body_bytes = match &request.body {
            Body::Inline(bytes) => bytes.len(),
            Body::Claim(claim) => usize::try_from(claim.length).unwrap_or(0),
        };
        Self {
            run: fold.run,
            chunks: fold.next_sequence,
            given_up: fold.given_up,
            body_bytes,
        }
    }

    /// What the run probably cost.
    pub(crate) fn usage(&self) -> Usage {
        let chunks = usize::try_from(self.chunks).unwrap_or(0);
        openai::estimate_usage(self.body_bytes, chunks.saturating_mul(CHUNK_BYTES))
    }

    /// Whether the run that takes over has to run alone.
    pub(crate) fn runs_alone(&self) -> bool {
        self.run.number.saturating_add(1) >= ALONE_FROM_RUN
    }
}

/// What to do with a request of which `fold` is known; in a log of a `single_process` a new
/// process means that every older one is gone.
pub(crate) fn decide(fold: &Fold, single_process: bool) -> Decision {
    if fold.end.is_some() {
        Decision::Complete
    } else if fold.run == Run::NONE {
        Decision::Run
    } else if fold.given_up || single_process {
        Decision::TakeOver
    } else {
        Decision::Follow
    }
}

/// What the takeover of `run` does under `policy`.
pub(crate) fn fate(run: Run, policy: OnTakeover) -> Fate {
    let ran_alone = run.number.saturating_sub(ALONE_FROM_RUN - 1).max(0);
    match policy {
        OnTakeover::Fail => Fate::Lost,
        OnTakeover::Retry if ran_alone > TAKEOVERS_ALONE_MAX => Fate::Poison,
        OnTakeover::Retry => Fate::Again,
    }
}

/// The fold that a stored row stands for.
pub(crate) fn fold_of(row: &ResultRow) -> Fold {
    Fold {
        run: row.run,
        attempt: row.attempt,
        next_sequence: row.next_sequence,
        given_up: row.given_up,
        last_sign: row.started_at,
        end: match row.status {
            Status::Accepted | Status::Running | Status::Deferred => None,
            Status::Completed => Some(End::Completed),
            Status::Failed => Some(End::Failed),
            Status::Cancelled => Some(End::Cancelled),
            Status::Expired => Some(End::Expired),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(number: i32, given_up: bool, end: Option<End>) -> Fold {
        Fold {
            run: Run {
                number,
                nonce: i64::from(number) * 7,
            },
            given_up,
            end,
            ..Fold::default()
        }
    }

    #[test]
    fn every_state_of_an_open_request_has_its_decision() {
        let table = [
            // run, given up, end, one process: decision
            (0, false, None, false, Decision::Run),
            (0, false, None, true, Decision::Run),
            (0, false, Some(End::Cancelled), false, Decision::Complete),
            (1, false, Some(End::Completed), true, Decision::Complete),
            (2, true, Some(End::Failed), false, Decision::Complete),
            (1, false, None, false, Decision::Follow),
            (1, true, None, false, Decision::TakeOver),
            (1, false, None, true, Decision::TakeOver),
            (4, true, None, true, Decision::TakeOver),
        ];
        for (number, given_up, end, single, expected) in table {
            let decision = decide(&fold(number, given_up, end), single);
            assert_eq!(decision, expected, "{number} {given_up} {end:?} {single}");
        }
    }

    #[test]
    fn takeovers_go_on_alone_and_end_as_a_dead_letter() {
        let run = |number| Run { number, nonce: 1 };
        let alone = |number| {
            let prior = Prior {
                run: run(number),
                chunks: 0,
                given_up: false,
                body_bytes: 0,
            };
            prior.runs_alone()
        };
        assert!(!alone(1), "the first takeover runs among others");
        assert!(alone(2), "the second takeover runs alone");
        for number in 1..=5 {
            assert_eq!(
                fate(run(number), OnTakeover::Retry),
                Fate::Again,
                "{number}"
            );
        }
        assert_eq!(fate(run(6), OnTakeover::Retry), Fate::Poison);
        assert_eq!(fate(run(1), OnTakeover::Fail), Fate::Lost);
    }

    #[test]
    fn the_cost_of_a_lost_run_is_marked_as_estimated() {
        let prior = Prior {
            run: Run {
                number: 1,
                nonce: 1,
            },
            chunks: 10,
            given_up: false,
            body_bytes: 400,
        };
        let usage = prior.usage();
        assert!(usage.estimated);
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (100, 10));
    }
}
