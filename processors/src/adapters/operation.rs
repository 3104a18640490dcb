//! What a client asks for, as validated.

use bytes::Bytes;
use schemas::dialect::anthropic::{self, CountTokensRequest, MessagesRequest};
use schemas::dialect::openai::{self, ChatRequest, CompletionRequest, EmbeddingsRequest};
use schemas::event::ErrorBody;
use schemas::model;
use schemas::request::{Dialect, Endpoint};

/// A client's body that passed validation, by the operation that it asks for.
#[derive(Debug)]
pub(crate) enum Operation<'a> {
    /// The next message of a conversation, in the dialect of OpenAI or DeepSeek.
    Chat(ChatRequest<'a>),
    /// The continuation of a text.
    Completion(CompletionRequest<'a>),
    /// Vectors for texts.
    Embeddings(EmbeddingsRequest<'a>),
    /// The next message of a conversation, in Anthropic's dialect.
    Messages(MessagesRequest<'a>),
    /// How long such a conversation is.
    CountTokens(CountTokensRequest<'a>),
}

impl<'a> Operation<'a> {
    /// Validates `body`.
    ///
    /// # Errors
    /// 400: it does not pass, or this version does not serve `endpoint` in `dialect`.
    pub(crate) fn parse(
        endpoint: Endpoint,
        dialect: Dialect,
        body: &'a [u8],
    ) -> Result<Self, ErrorBody> {
        match (endpoint, dialect) {
            (Endpoint::ChatCompletions, Dialect::OpenAi | Dialect::DeepSeek) => {
                ChatRequest::parse(body).map(Self::Chat)
            }
            (Endpoint::Completions, Dialect::OpenAi | Dialect::DeepSeek) => {
                CompletionRequest::parse(body).map(Self::Completion)
            }
            (Endpoint::Embeddings, Dialect::OpenAi) => {
                EmbeddingsRequest::parse(body).map(Self::Embeddings)
            }
            (Endpoint::Messages, Dialect::Anthropic) => {
                MessagesRequest::parse(body).map(Self::Messages)
            }
            (Endpoint::CountTokens, Dialect::Anthropic) => {
                CountTokensRequest::parse(body).map(Self::CountTokens)
            }
            _ => {
                let message = "this version of the gateway does not serve this operation";
                Err(ErrorBody::invalid_request(None, message))
            }
        }
    }

    /// The operation without its details.
    pub(crate) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Chat(_) => Endpoint::ChatCompletions,
            Self::Completion(_) => Endpoint::Completions,
            Self::Embeddings(_) => Endpoint::Embeddings,
            Self::Messages(_) => Endpoint::Messages,
            Self::CountTokens(_) => Endpoint::CountTokens,
        }
    }

    /// Whether the client wants a stream.
    pub(crate) fn stream(&self) -> bool {
        match self {
            Self::Chat(chat) => chat.stream,
            Self::Completion(completion) => completion.stream,
            Self::Messages(messages) => messages.stream,
            Self::Embeddings(_) | Self::CountTokens(_) => false,
        }
    }

    /// Length of what a model reads, as JSON, for an estimate of its tokens; nothing when none reads it.
    pub(crate) fn prompt_bytes(&self) -> usize {
        match self {
            Self::Chat(chat) => chat.prompt_bytes,
            Self::Completion(completion) => completion.prompt_bytes,
            Self::Embeddings(embeddings) => embeddings.prompt_bytes,
            Self::Messages(messages) => messages.prompt_bytes,
            Self::CountTokens(_) => 0,
        }
    }

    /// What is asked of the model, for a provider of another dialect; `body` is the one that was validated.
    ///
    /// # Errors
    /// 400: something is asked for that only providers of the client's dialect can serve.
    pub(crate) fn chat(&self, body: &Bytes) -> Result<model::Chat, ErrorBody> {
        match self {
            Self::Chat(_) => openai::read_request(body),
            Self::Completion(_) => openai::read_completion(body),
            Self::Messages(_) => anthropic::read_request(body),
            Self::Embeddings(_) | Self::CountTokens(_) => Err(self.not_served()),
        }
    }

    /// 400: this deployment does not serve the operation.
    pub(crate) fn not_served(&self) -> ErrorBody {
        let name = name(self.endpoint());
        ErrorBody::invalid_request(None, format!("this model does not serve {name}"))
    }
}

/// The operation as clients know it.
pub(crate) fn name(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::ChatCompletions => "chat completions",
        Endpoint::Completions => "completions",
        Endpoint::Embeddings => "embeddings",
        Endpoint::Responses => "responses",
        Endpoint::Messages => "messages",
        Endpoint::CountTokens => "the counting of tokens",
        Endpoint::Unknown => "this operation",
    }
}
