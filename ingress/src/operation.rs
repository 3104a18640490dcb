//! The operations that become requests on the log, and what tells one from another at the door.

use schemas::dialect::openai;
use schemas::event::ErrorBody;
use schemas::request::{Dialect, Endpoint};

use crate::shape::Shape;

/// An operation that a model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    ChatCompletions,
}

/// What the door has to know of a valid body; everything else stays in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// As the client wrote it.
    pub(crate) model: String,
    pub(crate) stream: bool,
}

impl Operation {
    const ALL: [Self; 1] = [Self::ChatCompletions];

    /// The operation behind a path; all of them are `POST`.
    pub(crate) fn at(path: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|operation| operation.path() == path)
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
        }
    }

    pub(crate) fn endpoint(self) -> Endpoint {
        match self {
            Self::ChatCompletions => Endpoint::ChatCompletions,
        }
    }

    /// The dialect of the body and of the answer.
    pub(crate) fn dialect(self) -> Dialect {
        match self.shape() {
            Shape::OpenAi => Dialect::OpenAi,
        }
    }

    /// The shape of answers and errors.
    pub(crate) fn shape(self) -> Shape {
        Shape::of(self.path())
    }

    /// Validates a body; nobody does it again.
    pub(crate) fn parse(self, body: &[u8]) -> Result<Asked, ErrorBody> {
        match self {
            Self::ChatCompletions => {
                let request = openai::ChatRequest::parse(body)?;
                Ok(Asked {
                    model: request.model.into_owned(),
                    stream: request.stream,
                })
            }
        }
    }
}
