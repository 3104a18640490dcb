//! One call, from its request to the end of its answer.

use std::time::Duration;

use tokio::time::Instant;

use super::answer::Answer;
use super::behaviour::Behaviour;
use super::connection::{Connection, PeerClosed, RawRequest};
use super::dialect::{Dialect, Events, Problem};
use super::gate::{Gate, Held};
use super::record::{Outcome, Record, Ticket};
use super::wire::{JSON, push_last_chunk, push_response, push_stream_head};
use crate::fault::{self, Fault};

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Answered whole: the next request may come.
    Kept,
    /// Broken off by an orderly close.
    Closed,
    /// Broken off by a reset.
    Reset,
}

/// A call that is to be answered.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// The dialect of the answer.
    pub(super) dialect: &'static dyn Dialect,
    /// The answer.
    pub(super) answer: Answer<'a>,
    /// The forwarded request id.
    pub(super) id: &'a str,
    /// Where it is recorded.
    pub(super) record: &'a Record,
    /// What holds it back.
    pub(super) gate: &'a Gate,
}

impl Call<'_> {
    /// Records the call and plays its answer.
    pub(super) async fn play(
        &self,
        connection: &mut Connection,
        request: &RawRequest,
    ) -> Result<Ending, PeerClosed> {
        let in_flight = InFlight {
            record: self.record,
            ticket: Some(self.record.begin(self.id, request, self.answer.asked)),
        };
        let played = self.answer(connection, request).await;
        in_flight.end(match &played {
            Ok(Ending::Kept) => Outcome::Answered,
            Ok(Ending::Closed | Ending::Reset) => Outcome::BrokenOff,
            Err(PeerClosed) => Outcome::ClosedByPeer,
        });
        played
    }

    async fn answer(
        &self,
        connection: &mut Connection,
        request: &RawRequest,
    ) -> Result<Ending, PeerClosed> {
        let behaviour = self.answer.behaviour;
        if let Some(problem) = self.problem(request) {
            return refuse(connection, self.dialect, &problem).await;
        }
        if behaviour.fault.as_ref().is_some_and(Fault::strikes_first) {
            wait(connection, behaviour.first).await?;
            return fault::play_first(connection, self.dialect, &self.answer).await;
        }
        match self.dialect.events() {
            Some(events) if self.answer.asked.stream => self.stream(connection, events).await,
            _ => self.whole(connection).await,
        }
    }

    /// What a provider would not accept, among what the behaviour makes it look at.
    fn problem(&self, request: &RawRequest) -> Option<Problem<'static>> {
        let (asked, behaviour) = (self.answer.asked, self.answer.behaviour);
        if let Some(key) = &behaviour.key
            && self.dialect.key(request) != Some(key)
        {
            return Some(Problem::WrongKey);
        }
        let tool = behaviour.tool.as_ref().filter(|_| asked.is_chat)?;
        if !asked.has_tool(tool) {
            return Some(Problem::Refused("there is no such function to be called"));
        }
        let strays = asked
            .result
            .as_ref()
            .is_some_and(|result| !result.is_of_a_call);
        strays.then_some(Problem::Refused("a result is that of no call"))
    }

    async fn wait_for_release(&self, connection: &mut Connection) -> Result<(), PeerClosed> {
        let _held = Held::new(self.record);
        connection.unless_closed(self.gate.passed(self.id)).await
    }

    async fn whole(&self, connection: &mut Connection) -> Result<Ending, PeerClosed> {
        let behaviour = self.answer.behaviour;
        if behaviour.hold.is_some() {
            self.wait_for_release(connection).await?;
        }
        let pause = behaviour.first + behaviour.delay * self.answer.pieces().saturating_sub(1);
        wait(connection, pause).await?;
        let body = self.dialect.whole(&self.answer);
        push_response(&mut connection.outbox, 200, JSON, "", &body);
        match &behaviour.fault {
            Some(fault) => fault::play_whole(connection, fault, behaviour).await,
            None => {
                connection.flush().await?;
                Ok(Ending::Kept)
            }
        }
    }

    async fn stream(
        &self,
        connection: &mut Connection,
        events: &dyn Events,
    ) -> Result<Ending, PeerClosed> {
        let (answer, behaviour) = (&self.answer, self.answer.behaviour);
        if behaviour.hold == Some(0) {
            self.wait_for_release(connection).await?;
        }
        push_stream_head(&mut connection.outbox);
        events.push_start(answer, &mut connection.outbox);
        if behaviour.early_head {
            connection.flush().await?;
        }
        let begun = Instant::now() + behaviour.first;
        let strikes_at = behaviour.after.min(answer.pieces());
        for index in 0..answer.pieces() {
            if index == strikes_at
                && let Some(ending) = self.strike(connection).await?
            {
                return Ok(ending);
            }
            if index > 0 && behaviour.hold == Some(index) {
                flush(connection, behaviour).await?;
                self.wait_for_release(connection).await?;
            }
            let due = begun + behaviour.delay * index;
            if due > Instant::now() {
                // The head waits for the first token, so that both go out in one write.
                if index > 0 {
                    flush(connection, behaviour).await?;
                }
                connection
                    .unless_closed(tokio::time::sleep_until(due))
                    .await?;
            }
            events.push_piece(answer, index, &mut connection.outbox);
        }
        if strikes_at == answer.pieces()
            && let Some(ending) = self.strike(connection).await?
        {
            return Ok(ending);
        }
        events.push_finish(answer, &mut connection.outbox);
        if behaviour.fault != Some(Fault::NoDone) {
            events.push_done(&mut connection.outbox);
        }
        push_last_chunk(&mut connection.outbox);
        flush(connection, behaviour).await?;
        Ok(Ending::Kept)
    }

    /// Plays the fault of a running stream, if there is one; `None` when the stream goes on.
    async fn strike(&self, connection: &mut Connection) -> Result<Option<Ending>, PeerClosed> {
        match &self.answer.behaviour.fault {
            Some(fault) => fault::play_in_stream(connection, fault, self.dialect).await,
            None => Ok(None),
        }
    }
}

/// Answers an error.
pub(crate) async fn refuse(
    connection: &mut Connection,
    dialect: &dyn Dialect,
    problem: &Problem<'_>,
) -> Result<Ending, PeerClosed> {
    let told = dialect.error(problem);
    push_response(&mut connection.outbox, told.status, JSON, "", &told.body);
    connection.flush().await?;
    Ok(Ending::Kept)
}

async fn wait(connection: &mut Connection, pause: Duration) -> Result<(), PeerClosed> {
    if pause.is_zero() {
        return Ok(());
    }
    connection.unless_closed(tokio::time::sleep(pause)).await
}

async fn flush(connection: &mut Connection, behaviour: &Behaviour) -> Result<(), PeerClosed> {
    if behaviour.fault == Some(Fault::Drip) {
        let pause = behaviour.delay.max(Duration::from_millis(1));
        connection.drip(pause).await
    } else {
        connection.flush().await
    }
}

/// A call in flight. Dropped without [`end`](Self::end) it was cut short by the caller, or by the
/// stop of the mock.
struct InFlight<'a> {
    record: &'a Record,
    ticket: Option<Ticket>,
}

impl InFlight<'_> {
    fn end(mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.record.end(ticket, outcome);
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.record.end(ticket, Outcome::BrokenOff);
        }
    }
}
