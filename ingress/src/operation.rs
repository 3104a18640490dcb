//! The operations that become requests on the log, and what tells one from another at the door.

use schemas::dialect::{anthropic, openai};
use schemas::event::ErrorBody;
use schemas::request::{Dialect, Endpoint};

use crate::shape::Shape;

/// An operation that a model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    ChatCompletions,
    Completions,
    Embeddings,
    Messages,
    CountTokens,
}

/// What the door has to know of a valid body; everything else stays in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// As the client wrote it.
    pub(crate) model: String,
    /// Never of embeddings and counts.
    pub(crate) stream: bool,
}

impl Operation {
    const ALL: [Self; 5] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Embeddings,
        Self::Messages,
        Self::CountTokens,
    ];

    /// The operation behind a path; all of them are `POST`.
    pub(crate) fn at(path: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|operation| operation.path() == path)
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
        }
    }

    pub(crate) fn endpoint(self) -> Endpoint {
        match self {
            Self::ChatCompletions => Endpoint::ChatCompletions,
            Self::Completions => Endpoint::Completions,
            Self::Embeddings => Endpoint::Embeddings,
            Self::Messages => Endpoint::Messages,
            Self::CountTokens => Endpoint::CountTokens,
        }
    }

    /// The dialect of the body and of the answer.
    pub(crate) fn dialect(self) -> Dialect {
        match Shape::of(self.path()) {
            Shape::OpenAi => Dialect::OpenAi,
            Shape::Anthropic => Dialect::Anthropic,
        }
    }

    /// Validates a body; nobody does it again.
    pub(crate) fn parse(self, body: &[u8]) -> Result<Asked, ErrorBody> {
        let (model, stream) = match self {
            Self::ChatCompletions => {
                let request = openai::ChatRequest::parse(body)?;
                (request.model, request.stream)
            }
            Self::Completions => {
                let request = openai::CompletionRequest::parse(body)?;
                (request.model, request.stream)
            }
            Self::Embeddings => (openai::EmbeddingsRequest::parse(body)?.model, false),
            Self::Messages => {
                let request = anthropic::MessagesRequest::parse(body)?;
                (request.model, request.stream)
            }
            Self::CountTokens => (anthropic::CountTokensRequest::parse(body)?.model, false),
        };
        Ok(Asked {
            model: model.into_owned(),
            stream,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A valid body for every operation.
    const BODY: &str = r#"{"model": "m", "max_tokens": 1, "stream": true, "input": "x", "prompt": "x",
        "messages": [{"role": "user", "content": "x"}]}"#;

    #[test]
    fn every_operation_is_found_by_its_path_and_reads_its_body() {
        for operation in Operation::ALL {
            assert_eq!(Operation::at(operation.path()), Some(operation));
            let asked = operation.parse(BODY.as_bytes()).unwrap();
            assert_eq!(asked.model, "m");
            let streams = !matches!(operation, Operation::Embeddings | Operation::CountTokens);
            assert_eq!(asked.stream, streams, "{operation:?}");
            let refused = operation.parse(b"{}").unwrap_err();
            assert_eq!(refused.status, 400);
        }
        assert_eq!(Operation::at("/v1/messages/"), None);
    }
}
