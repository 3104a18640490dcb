//! The fold of events into an answer: one pure function for waiters, sinks and adoption.
//!
//! A `Started` counts only with a higher run number, or the same run and a higher attempt.
//! Anything else counts only for the current run; the first terminal of the current run closes
//! the request. What does not count only costs.

use crate::event::{Abandoned, Deferred, Delta, Event, Run, Started, Terminal};
use crate::time::Timestamp;

/// What is known of a request after some prefix of its events.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fold {
    /// The current run; [`Run::NONE`] before the first.
    pub run: Run,
    /// The current attempt within the run; 0 before the first.
    pub attempt: i32,
    /// Sequence of the next delta chunk that counts.
    pub next_sequence: i64,
    /// The current run was released or abandoned, and nobody has taken over yet.
    pub given_up: bool,
    /// Time of the last event of the current run that counted.
    pub last_sign: Option<Timestamp>,
    /// How the request ended, once it has.
    pub end: Option<End>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With the whole answer.
    Completed,
    /// With an error.
    Failed,
    /// By the client's wish.
    Cancelled,
    /// At its deadline.
    Expired,
}

/// What one event meant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step<'a> {
    /// A run or an attempt began. `replaces` when chunks were delivered before that
    /// are void now: whoever showed them must say so.
    Started {
        /// The event.
        started: &'a Started,
        /// Chunks that counted before do not any more.
        replaces: bool,
    },
    /// Chunks to append, from index `from` of `delta.chunks` (earlier ones are repeats).
    Delta {
        /// The event.
        delta: &'a Delta,
        /// First chunk that is new.
        from: usize,
    },
    /// The run is alive, an attempt failed, or other news without text.
    Sign,
    /// The request waits.
    Deferred(&'a Deferred),
    /// The current run was given up; somebody will take over.
    GivenUp,
    /// The request ended.
    Ended {
        /// How.
        end: End,
        /// With what.
        terminal: &'a Terminal,
    },
    /// Of another run, a repeat, or after the end: it only costs.
    Ignored,
}

impl Fold {
    /// Takes in the next event of the request, in log order, and says what it meant.
    pub fn apply<'a>(&mut self, event: &'a Event) -> Step<'a> {
        let _: Option<&Abandoned> = None;
        let _ = event;
        Step::Ignored
    }
}
