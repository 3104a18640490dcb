//! What an API of a provider has of its own.

use super::answer::Answer;
use super::asked::Asked;
use super::connection::RawRequest;
use super::{anthropic, completions, embeddings, gemini, openai};

/// One operation of one API: how it is read and how it answers.
pub(crate) trait Dialect: std::fmt::Debug + Sync {
    /// Reads a request.
    ///
    /// # Errors
    /// Why the provider would refuse it.
    fn read<'a>(&self, request: &'a RawRequest) -> Result<Asked<'a>, &'static str>;

    /// The key that came with a request, without what is around it.
    fn key<'a>(&self, request: &'a RawRequest) -> Option<&'a str>;

    /// The body of a whole answer.
    fn whole(&self, answer: &Answer<'_>) -> Vec<u8>;

    /// An error.
    fn error(&self, problem: &Problem<'_>) -> Told;

    /// The event of an error, for the inside of a chunk.
    fn push_error_event(&self, problem: &Problem<'_>, event: &mut Vec<u8>) {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(&self.error(problem).body);
        event.extend_from_slice(b"\n\n");
    }

    /// The start of an event whose data ends within its JSON; the end of the event is not part of it.
    fn broken_event(&self) -> &'static [u8] {
        b"data: {\"id\":\"chatcmpl-mock\",\"choices\":[{\"del"
    }

    /// How it is streamed; none when it is not.
    fn events(&self) -> Option<&dyn Events> {
        None
    }
}

/// The events of a streamed answer. Each call appends the chunks of some of them.
pub(crate) trait Events: std::fmt::Debug + Sync {
    /// What comes before the first piece.
    fn push_start(&self, answer: &Answer<'_>, out: &mut Vec<u8>);

    /// The piece of this number; may be nothing.
    fn push_piece(&self, answer: &Answer<'_>, index: u32, out: &mut Vec<u8>);

    /// What comes after the last piece, but for [`push_done`](Self::push_done).
    fn push_finish(&self, answer: &Answer<'_>, out: &mut Vec<u8>);

    /// The event that says that no event follows, where there is one.
    fn push_done(&self, out: &mut Vec<u8>);
}

/// What is wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Problem<'a> {
    /// The request is not understood, or says something that the mock does not know.
    Refused(&'a str),
    /// The call came without the key that it needs.
    WrongKey,
    /// A status, and the seconds after which to come again.
    Status(u16, Option<u32>),
    /// The prompt is too long for the model.
    ContextLength,
    /// The prompt breaks a policy.
    ContentPolicy,
    /// There is no such model.
    ModelNotFound,
    /// The account is used up.
    Quota,
    /// The model fell over.
    Overloaded,
}

/// An error as a response.
#[derive(Debug)]
pub(crate) struct Told {
    /// HTTP status.
    pub(crate) status: u16,
    /// JSON.
    pub(crate) body: Vec<u8>,
}

/// The operation behind a path; none when there is none.
pub(crate) fn of(path: &str) -> Option<&'static dyn Dialect> {
    let routes: [(&str, &'static dyn Dialect); 8] = [
        ("/chat/completions", &openai::Chat),
        ("/completions", &completions::Completions),
        ("/embeddings", &embeddings::Embeddings),
        ("/messages", &anthropic::Messages),
        ("/messages/count_tokens", &anthropic::CountTokens),
        (":generateContent", &gemini::Content),
        (":streamGenerateContent", &gemini::Content),
        (":batchEmbedContents", &gemini::BatchEmbed),
    ];
    let mut routes = routes.into_iter();
    routes.find_map(|(end, dialect)| path.ends_with(end).then_some(dialect))
}
