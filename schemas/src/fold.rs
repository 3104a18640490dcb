//! The fold of events into an answer: one pure function for waiters, sinks and adoption.
//!
//! A `Started` counts only with a higher run number, or the same run and a higher attempt.
//! Anything else counts only for the current run; the first terminal of the current run closes
//! the request. What does not count only costs.
//!
//! So two processes that work on one request cannot mix their texts, whatever order their
//! records come in, and every reader of the log tells the same story. [`Fold`] keeps no text
//! and can be stored as a row; [`Text`] collects the text beside it where it is wanted.

mod text;

pub use text::Text;

use crate::event::{Deferred, Delta, Event, Run, Started, Terminal};
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
    /// Time of the last event of the current run that counted. Deltas carry no time: who waits
    /// for signs takes the time at which it read them.
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
    ///
    /// A repeated event changes nothing, and after the end every event is
    /// [`Step::Ignored`].
    pub fn apply<'a>(&mut self, event: &'a Event) -> Step<'a> {
        if self.end.is_some() {
            return Step::Ignored;
        }
        match event {
            Event::Started(started) => self.start(started),
            Event::Delta(delta) => self.append(delta),
            Event::AttemptFailed(failed) => {
                let attempt = &failed.attempt;
                if failed.run != self.run || attempt.number < self.attempt {
                    return Step::Ignored;
                }
                let lasted = u64::try_from(attempt.duration_micros).unwrap_or(0);
                let lasted = std::time::Duration::from_micros(lasted);
                self.sign(attempt.started_at.plus(lasted));
                Step::Sign
            }
            Event::Deferred(deferred) if deferred.run == self.run => {
                self.sign(deferred.at);
                Step::Deferred(deferred)
            }
            Event::Alive(alive) if alive.run == self.run => {
                self.sign(alive.at);
                Step::Sign
            }
            Event::Released(released) => self.give_up(released.run, released.at),
            Event::Abandoned(abandoned) => self.give_up(abandoned.run, abandoned.at),
            Event::Completed(terminal) => self.close(End::Completed, terminal),
            Event::Failed(terminal) => self.close(End::Failed, terminal),
            Event::Cancelled(terminal) => self.close(End::Cancelled, terminal),
            Event::Expired(terminal) => self.close(End::Expired, terminal),
            Event::Deferred(_) | Event::Alive(_) => Step::Ignored,
        }
    }

    fn start<'a>(&mut self, started: &'a Started) -> Step<'a> {
        let delivered = self.next_sequence > 0;
        let replaces = if started.run.number > self.run.number {
            self.run = started.run;
            self.next_sequence = 0;
            self.given_up = false;
            self.last_sign = None;
            delivered
        } else if started.run == self.run
            && started.run != Run::NONE
            && started.attempt > self.attempt
        {
            match started.continues_from {
                // Chunks are numbered through the run, so an attempt that replaces goes on counting.
                None => delivered,
                Some(sequence) => {
                    // Another place than the end of the text would be a silent splice.
                    let elsewhere = sequence != self.next_sequence;
                    self.next_sequence = sequence.max(0);
                    elsewhere && delivered
                }
            }
        } else {
            return Step::Ignored;
        };
        self.attempt = started.attempt;
        self.sign(started.at);
        Step::Started { started, replaces }
    }

    fn append<'a>(&mut self, delta: &'a Delta) -> Step<'a> {
        let ours = delta.run == self.run && delta.attempt == self.attempt;
        // A gap cannot be closed any more: what follows it is no continuation of the text.
        if !ours || delta.sequence < 0 || delta.sequence > self.next_sequence {
            return Step::Ignored;
        }
        match usize::try_from(self.next_sequence - delta.sequence) {
            Ok(from) if from < delta.chunks.len() => {
                let new = i64::try_from(delta.chunks.len() - from).unwrap_or(i64::MAX);
                self.next_sequence = self.next_sequence.saturating_add(new);
                Step::Delta { delta, from }
            }
            _ => Step::Ignored,
        }
    }

    fn give_up<'a>(&mut self, run: Run, at: Timestamp) -> Step<'a> {
        if run != self.run || self.given_up {
            return Step::Ignored;
        }
        self.given_up = true;
        self.sign(at);
        Step::GivenUp
    }

    fn close<'a>(&mut self, end: End, terminal: &'a Terminal) -> Step<'a> {
        if terminal.run != self.run {
            return Step::Ignored;
        }
        self.end = Some(end);
        self.sign(terminal.at);
        Step::Ended { end, terminal }
    }

    fn sign(&mut self, at: Timestamp) {
        self.last_sign = self.last_sign.max(Some(at));
    }
}
