//! How an answer looks to the client. One file per operation and dialect; what came is kept in [`Came`], free of any.

mod chat;
mod completion;
mod embeddings;
mod messages;

use bytes::Bytes;
use schemas::event::{ErrorBody, Usage};
use schemas::model::Said;

use super::assembly::Came;
use super::operation::Operation;
use super::wire::Whole;

/// The rendering of one answer.
///
/// The provider speaks either the client's dialect (`event`, `whole`: bytes are passed on with little edits) or another one (`said`,
/// `told`). Operations that are never streamed have the last two of each pair only.
pub(crate) trait Rendering: std::fmt::Debug + Send {
    /// Takes in the data of an event from a provider that speaks the client's dialect. True: it says that nothing more comes.
    ///
    /// # Errors
    /// What the provider reported in place of an answer; or that the event is malformed
    /// ([`schemas::dialect::openai::is_malformed`]).
    fn event(&mut self, _data: &Bytes, _came: &mut Came) -> Result<bool, ErrorBody> {
        Err(ErrorBody::internal())
    }

    /// Takes in what an event from a provider of another dialect says.
    fn said(&mut self, _said: Said, _came: &mut Came) {}

    /// Takes in a whole answer from a provider that speaks the client's dialect, and gives it as the client reads it.
    ///
    /// # Errors
    /// As [`Rendering::event`].
    fn whole(&mut self, body: &Bytes, came: &mut Came) -> Result<Bytes, ErrorBody>;

    /// Takes in a whole answer from a provider of another dialect, and gives it as the client reads it.
    ///
    /// # Errors
    /// When it answers something else than was asked, which is a fault of ours.
    fn told(&mut self, whole: Whole, came: &mut Came) -> Result<Bytes, ErrorBody>;

    /// Whether what the client has of a stream can be gone on with by another call.
    fn can_go_on(&self) -> bool {
        false
    }

    /// Another call goes on with the stream: what comes next is no beginning.
    fn go_on(&mut self, _came: &Came) {}

    /// Shows what is still due when the stream has ended properly.
    fn finish(&mut self, _usage: &Usage, _came: &mut Came) {}

    /// What came of a stream so far, as a client reads it that did not ask for one.
    fn so_far(&self, _usage: &Usage, _came: &Came) -> Bytes {
        Bytes::new()
    }
}

/// The rendering of the answer to `operation`, whose body is `body`.
pub(crate) fn of(operation: &Operation<'_>, body: &Bytes) -> Box<dyn Rendering> {
    match operation {
        Operation::Chat(asked) => Box::new(chat::Chat::new(asked.include_usage, body.clone())),
        Operation::Completion(asked) => Box::new(completion::Completion::new(asked.include_usage)),
        Operation::Embeddings(asked) => {
            Box::new(embeddings::Embeddings::new(asked.base64, asked.count))
        }
        Operation::Messages(_) => Box::<messages::Messages>::default(),
        Operation::CountTokens(_) => Box::new(messages::Count),
    }
}

/// The rendering before anything was asked.
pub(crate) fn of_nothing() -> Box<dyn Rendering> {
    Box::new(messages::Count)
}
