//! What an upstream can do wrong. Each [`Fault`] is played by the [mock](crate::mock) for the
//! calls that ask for it; [`Refusing`] and [`Unanswering`] are servers that nobody ever reaches.

mod bomb;
mod play;
#[cfg(test)]
mod tests;

pub(crate) use play::{play_first, play_in_stream, play_whole};

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// One way an upstream fails. The name of its directive follows in brackets. Bodies of errors are in the
/// form of the dialect that the call is in.
///
/// Those of the second group strike a running stream, after as many tokens as
/// [`after`](crate::mock::Behaviour::after) says. In a whole answer `Cut`, `CutCleanly` and
/// `ResetLater` cut off half of the body, `Idle` stops there, `Drip` drips, and the others change
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    // Before the first token.
    /// The connection is reset once the request has been read [`reset`].
    Reset,
    /// The connection is closed without a byte of answer [`close`].
    Close,
    /// No byte ever comes [`silent`].
    Silent,
    /// Head and role delta of a stream come, a token never [`no_first_token`].
    NoFirstToken,
    /// An error status with a fitting error body and, if set, `Retry-After` [`status=N`].
    Status(u16),
    /// The error of a prompt that is too long, a 400 [`context_length`].
    ContextLength,
    /// The error of a prompt that breaks a policy, a 400; at Gemini a 200 without candidates
    /// [`content_policy`].
    ContentPolicy,
    /// The error of a model that is not there, a 404 [`model_not_found`].
    ModelNotFound,
    /// The error of an account that is used up: 429, at Anthropic 400 [`quota`].
    Quota,
    /// 200 with an HTML page [`html`].
    Html,
    /// 200 with an empty body that calls itself JSON [`empty`].
    EmptyBody,
    /// 200 with JSON that ends too early [`broken_json`].
    BrokenJson,
    /// 200 with a good JSON answer that calls itself `text/plain` [`wrong_content_type`].
    WrongContentType,
    /// 200 with a JSON object without `choices`, or what the dialect calls them
    /// [`missing_choices`].
    MissingChoices,
    /// 200 with SSE whose first event is an error [`error_first`].
    ErrorFirst,
    /// 200 with a JSON string that has no end (1 GiB) [`huge_body`].
    HugeBody,
    /// 200 with headers that have no end (1 GiB) [`endless_headers`].
    EndlessHeaders,
    /// 200 with `content-encoding: gzip`: 4 MiB that unpack to some 660 MB of one JSON string
    /// [`gzip_bomb`].
    GzipBomb,
    /// 307 to the same server's root [`redirect`].
    Redirect,

    // After the first token.
    /// The connection ends in the middle of the chunked body [`cut`].
    Cut,
    /// The body ends by the rules of HTTP, without finish reason and `[DONE]` [`cut_cleanly`].
    CutCleanly,
    /// The connection is reset [`reset_later`].
    ResetLater,
    /// Nothing more comes and the connection stays [`idle`].
    Idle,
    /// An error event comes, then the end of the body [`error_event`].
    ErrorEvent,
    /// Everything comes but `[DONE]`, or at Anthropic `message_stop` [`no_done`].
    NoDone,
    /// One event with broken JSON; the stream goes on and ends well [`broken_event`].
    BrokenEvent,
    /// Five events with broken JSON in a row; the stream would go on [`broken_events`].
    BrokenEvents,
    /// Everything comes, 7 bytes at a time with `delay` (at least 1 ms) between [`drip`].
    Drip,
}

impl Fault {
    /// Every fault once, [`Status`](Self::Status) with 500.
    pub const ALL: &[Self] = &[
        Self::Reset,
        Self::Close,
        Self::Silent,
        Self::NoFirstToken,
        Self::Status(500),
        Self::ContextLength,
        Self::ContentPolicy,
        Self::ModelNotFound,
        Self::Quota,
        Self::Html,
        Self::EmptyBody,
        Self::BrokenJson,
        Self::WrongContentType,
        Self::MissingChoices,
        Self::ErrorFirst,
        Self::HugeBody,
        Self::EndlessHeaders,
        Self::GzipBomb,
        Self::Redirect,
        Self::Cut,
        Self::CutCleanly,
        Self::ResetLater,
        Self::Idle,
        Self::ErrorEvent,
        Self::NoDone,
        Self::BrokenEvent,
        Self::BrokenEvents,
        Self::Drip,
    ];

    /// The directive that asks for this fault.
    #[must_use]
    pub fn directive(&self) -> String {
        let name = match self {
            Self::Status(status) => return format!("status={status}"),
            Self::Reset => "reset",
            Self::Close => "close",
            Self::Silent => "silent",
            Self::NoFirstToken => "no_first_token",
            Self::ContextLength => "context_length",
            Self::ContentPolicy => "content_policy",
            Self::ModelNotFound => "model_not_found",
            Self::Quota => "quota",
            Self::Html => "html",
            Self::EmptyBody => "empty",
            Self::BrokenJson => "broken_json",
            Self::WrongContentType => "wrong_content_type",
            Self::MissingChoices => "missing_choices",
            Self::ErrorFirst => "error_first",
            Self::HugeBody => "huge_body",
            Self::EndlessHeaders => "endless_headers",
            Self::GzipBomb => "gzip_bomb",
            Self::Redirect => "redirect",
            Self::Cut => "cut",
            Self::CutCleanly => "cut_cleanly",
            Self::ResetLater => "reset_later",
            Self::Idle => "idle",
            Self::ErrorEvent => "error_event",
            Self::NoDone => "no_done",
            Self::BrokenEvent => "broken_event",
            Self::BrokenEvents => "broken_events",
            Self::Drip => "drip",
        };
        name.into()
    }

    /// The fault of a directive without a value.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let known = Self::ALL.iter().find(|fault| fault.directive() == name);
        known.cloned()
    }

    /// Whether it strikes before the first token of an answer.
    #[must_use]
    pub fn strikes_first(&self) -> bool {
        match self {
            Self::Reset
            | Self::Close
            | Self::Silent
            | Self::NoFirstToken
            | Self::Status(_)
            | Self::ContextLength
            | Self::ContentPolicy
            | Self::ModelNotFound
            | Self::Quota
            | Self::Html
            | Self::EmptyBody
            | Self::BrokenJson
            | Self::WrongContentType
            | Self::MissingChoices
            | Self::ErrorFirst
            | Self::HugeBody
            | Self::EndlessHeaders
            | Self::GzipBomb
            | Self::Redirect => true,
            Self::Cut
            | Self::CutCleanly
            | Self::ResetLater
            | Self::Idle
            | Self::ErrorEvent
            | Self::NoDone
            | Self::BrokenEvent
            | Self::BrokenEvents
            | Self::Drip => false,
        }
    }
}

/// A port that is taken and refuses every connection, for as long as this lives.
#[derive(Debug)]
pub struct Refusing {
    addr: SocketAddr,
    _socket: TcpSocket,
}

impl Refusing {
    /// Takes a free port of the loopback interface.
    ///
    /// # Errors
    /// When no port is to be had.
    pub fn bind() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Bound and never listening: nobody else gets the port, and the kernel refuses for it.
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let addr = socket.local_addr()?;
        Ok(Self {
            addr,
            _socket: socket,
        })
    }

    /// The address that refuses.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// A port whose connections are never established: a connect runs into its time-out.
#[derive(Debug)]
pub struct Unanswering {
    addr: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Unanswering {
    /// Takes a free port of the loopback interface and fills its queue of connections, which
    /// nobody accepts; from then on the kernel drops what asks for one.
    ///
    /// # Errors
    /// When no port is to be had, or the kernel takes more connections than were asked for.
    pub async fn bind() -> io::Result<Self> {
        const QUEUED_MAX: usize = 16;
        const ESTABLISHED_WITHIN: std::time::Duration = std::time::Duration::from_millis(100);
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let listener = socket.listen(1)?;
        let addr = listener.local_addr()?;
        let mut queued = Vec::new();
        for _ in 0..QUEUED_MAX {
            match tokio::time::timeout(ESTABLISHED_WITHIN, TcpStream::connect(addr)).await {
                Ok(stream) => queued.push(stream?),
                Err(_) => {
                    return Ok(Self {
                        addr,
                        _listener: listener,
                        _queued: queued,
                    });
                }
            }
        }
        Err(io::Error::other("the queue of connections has no end"))
    }

    /// The address that does not answer.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
