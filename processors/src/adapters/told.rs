//! A call whose outcome is known without calling anybody.

use std::task::{Context, Poll};

use schemas::event::ErrorBody;

use super::assembly::Assembly;
use super::failure::Failure;
use super::wire::Whole;
use super::{Calling, Step, Trace};

/// Yields one step.
#[derive(Debug)]
pub(crate) struct Told {
    outcome: Option<Result<Whole, Failure>>,
    trace: Trace,
}

impl Told {
    /// The call fails before it begins.
    pub(crate) fn failed(failure: Failure) -> Self {
        Self {
            outcome: Some(Err(failure)),
            trace: Trace::default(),
        }
    }

    /// The provider would answer with this status and error.
    pub(crate) fn refused(status: u16, error: ErrorBody) -> Self {
        Self {
            outcome: Some(Err(Failure::status(status, error))),
            trace: Trace {
                status: Some(status),
                ..Trace::default()
            },
        }
    }

    /// This is the answer.
    pub(crate) fn answer(whole: Whole) -> Self {
        Self {
            outcome: Some(Ok(whole)),
            trace: Trace::default(),
        }
    }
}

impl Calling for Told {
    fn poll_step(&mut self, _: &mut Context<'_>, assembly: &mut Assembly) -> Poll<Step> {
        let step = match self.outcome.take() {
            None => return Poll::Pending,
            Some(Err(failure)) => Step::Failed(failure),
            Some(Ok(whole)) => match assembly.told(whole) {
                Ok(body) => Step::Answer { body },
                Err(error) => Step::Failed(Failure::reported(error)),
            },
        };
        Poll::Ready(step)
    }

    fn poll_rest(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn trace(&self) -> &Trace {
        &self.trace
    }
}
