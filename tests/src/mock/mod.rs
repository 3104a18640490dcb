//! A mock of the providers: answers as OpenAI (and Azure, DeepSeek and look-alikes), Anthropic and
//! Gemini do, whole and streamed, does what a test tells it, fails on demand, and remembers every
//! call.
//!
//! It speaks HTTP/1.1 over bare sockets, so that one connection loop can answer properly at full
//! speed and can also reset, cut or flood a connection at any byte, which a server library
//! rightly forbids.
//!
//! # Routes
//! | route | answer |
//! |---|---|
//! | `POST …/chat/completions` | the answer, as JSON or as SSE (`"stream":true`) |
//! | `POST …/completions` | the answer to a bare prompt, likewise |
//! | `POST …/embeddings` | vectors ([`embedding`]) as numbers or base64, as long as `dimensions` says (16) |
//! | `POST …/openai/deployments/{model}/…` | the three above, as Azure has them: `api-version` is needed |
//! | `POST …/messages` | the answer in Anthropic's form; `anthropic-version` is needed |
//! | `POST …/messages/count_tokens` | the prompt's tokens |
//! | `POST …/models/{model}:generateContent` | the answer in Gemini's form |
//! | `POST …/models/{model}:streamGenerateContent?alt=sse` | the same as SSE |
//! | `POST …/models/{model}:batchEmbedContents` | vectors in Gemini's form |
//! | `GET …/models` | two models, `mock` and `gpt-4o` |
//! | `GET /_mock/calls` | [`Snapshot`] as JSON |
//! | `POST /_mock/release`, `/_mock/release?id=ID` | lets held calls go, see `hold` |
//! | `POST /_mock/hold` | calls with `hold` are held again |
//!
//! # Directives
//! What a call gets is a [`Behaviour`]. It begins as the server's own ([`Mock::set_behaviour`]);
//! directives change single fields of it. They are `mock:` and then `name` or `name=value`
//! joined by commas, up to the next white space, found in this order, a later one winning:
//! the `model`, the last user message that has text (a prompt, a text to embed), the first segment
//! of the path (so `http://ADDR/mock:status=500/v1` is the base URL of a deployment that always
//! fails, in every dialect). A behaviour queued by [`Mock::enqueue`] replaces all of that for one
//! call. A directive that nobody knows is answered by a 400 that names it. Thoughts and parts of a
//! call count as tokens for `hold`, `after`, `delay` and the usage.
//!
//! | directive | meaning | default |
//! |---|---|---|
//! | `tokens=N` | number of content deltas | 8 |
//! | `text=WORD` | text of each token | `tokI `, I from 0 |
//! | `echo` | the tokens are the words of the last user message | |
//! | `tool=NAME` | calls the function NAME, which the request must have, with `{"city":"Paris"}`, in three parts (Gemini: whole, with the third); once the conversation ends in the result of that call, the tokens are `NAME says` and the words of the result | |
//! | `continue` | a conversation that ends in the beginning of an answer (OpenAI, DeepSeek, Anthropic) is answered by the tokens that are missing; blanks at its end do not matter | |
//! | `think=N` | thoughts before the first token, `thoughtI `, I from 0 | 0 |
//! | `bytes=N` | pads each token to N bytes | 0 |
//! | `stamp` | each token begins with its write time, 19 digits of Unix nanoseconds | |
//! | `first=D` | wait before the first token (`20ms`, `2s`, `500us`) | 0 |
//! | `delay=D` | wait between tokens; a whole answer takes as long as its stream would | 0 |
//! | `early_head` | head and role delta go out at once, not with the first token | |
//! | `hold`, `hold=N` | before token N (0: before the first byte) waits to be released | |
//! | `finish=REASON` | the finish reason | `stop` |
//! | `prompt_tokens=N`, `cached=N` | in the usage; how many of them came from a cache | 7, 0 |
//! | `key=VALUE` | a call without this key, in the header of its dialect, gets the dialect's error | |
//! | `after=N` | tokens before a fault of a running stream strikes | 1 |
//! | `status=N`, `retry_after=S` | error status with an error body of the dialect; `Retry-After` | |
//! | a fault's name | see [`Fault`](crate::fault::Fault) | |
//! | `ok` | no fault | |

mod answer;
mod anthropic;
mod asked;
mod behaviour;
mod call;
mod completions;
mod connection;
mod dialect;
mod embeddings;
mod gate;
mod gemini;
mod openai;
mod record;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use answer::Answer;
pub use behaviour::{Behaviour, UnknownDirective};
pub(crate) use call::Ending;
pub(crate) use connection::{Connection, PeerClosed};
pub(crate) use dialect::{Dialect, Problem};
pub use embeddings::embedding;
pub use record::{Call, CallsOfId, Outcome, Snapshot};
pub(crate) use wire::{JSON, push_chunk, push_last_chunk, push_response, push_stream_head};

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use server::Server;

/// How a [`Mock`] is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen. Default `127.0.0.1:0`, a free port.
    pub listen: SocketAddr,
    /// Most calls that are remembered one by one; later ones are only counted. Default 100,000.
    /// 0 for benchmarks.
    pub calls_max: usize,
    /// Longest request body that is kept with its call, in bytes. Default 64 KiB; a longer one
    /// is kept as empty.
    pub body_bytes_kept_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            calls_max: 100_000,
            body_bytes_kept_max: 64 * 1024,
        }
    }
}

/// A running mock upstream, on a thread and runtime of its own. Dropping it closes its port and
/// every connection.
#[derive(Debug)]
pub struct Mock {
    addr: SocketAddr,
    server: Arc<Server>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Mock {
    /// Starts on a free port of the loopback interface.
    ///
    /// # Errors
    /// When no port or thread is to be had.
    pub fn start() -> io::Result<Self> {
        Self::start_with(Options::default())
    }

    /// Starts as the options say.
    ///
    /// # Errors
    /// When the address is taken or no thread is to be had.
    pub fn start_with(options: Options) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(options.listen)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let server = Arc::new(Server::new(options));
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new().name("mock".into()).spawn({
            let (server, stop) = (Arc::clone(&server), stop.clone());
            move || runtime.block_on(server.run(listener, stop))
        })?;
        Ok(Self {
            addr,
            server,
            stop,
            thread: Some(thread),
        })
    }

    /// The address it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://ADDR/v1`: what a client is configured with.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// A base URL all of whose calls obey `directives`, such as `status=500` or `reset`.
    #[must_use]
    pub fn base_url_with(&self, directives: &str) -> String {
        format!("http://{}/mock:{directives}/v1", self.addr)
    }

    /// Sets what calls get that no directive and no queued behaviour speaks for.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.server.set_behaviour(behaviour);
    }

    /// Queues behaviours: each is used by one call, in order, whatever that call says.
    pub fn enqueue(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.server.enqueue(behaviours);
    }

    /// Lets every held call go, and those that come later.
    pub fn release(&self) {
        self.server.gate().open();
    }

    /// Lets the calls of one forwarded request id go, now and later.
    pub fn release_id(&self, id: &str) {
        self.server.gate().open_for(id);
    }

    /// Calls with `hold` are held again.
    pub fn hold(&self) {
        self.server.gate().close();
    }

    /// Every call remembered so far, in the order of arrival.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.server.record().calls()
    }

    /// The calls of one forwarded request id, in the order of arrival.
    #[must_use]
    pub fn calls_of(&self, id: &str) -> Vec<Call> {
        self.server.record().calls_of(id)
    }

    /// Counts over all calls, by forwarded request id.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.server.record().snapshot()
    }

    /// Waits until the predicate holds for what happened so far, at most `patience`. It is asked
    /// again after every event. Returns the snapshot it held for, or the last one as an error.
    ///
    /// # Errors
    /// The last snapshot, when patience ran out.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_until(
        &self,
        patience: Duration,
        predicate: impl Fn(&Snapshot) -> bool,
    ) -> Result<Snapshot, Box<Snapshot>> {
        self.server.record().wait_until(patience, predicate).await
    }

    /// Closes the port and every connection, and waits for that.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            // The panic has been printed by its own thread; a second one here would hide it.
        }
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.end();
    }
}
