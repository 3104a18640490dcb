use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The caller closed the connection, or broke it.
#[derive(Debug)]
pub(crate) struct PeerClosed;

impl From<io::Error> for PeerClosed {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// A request as it came.
#[derive(Debug)]
pub(crate) struct RawRequest {
    /// Request line and headers, without the empty line.
    pub(crate) head: Bytes,
    /// The body, its transfer encoding undone.
    pub(crate) body: Bytes,
    /// `x-request-id`, if it came.
    pub(crate) request_id: Option<String>,
}

impl RawRequest {
    /// The path and the query, each as it came.
    pub(crate) fn path_and_query(&self) -> (&str, &str) {
        let (_, target) = self.line();
        target.split_once('?').unwrap_or((target, ""))
    }

    /// The value of a header, white space trimmed.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Method and path with query.
    pub(crate) fn line(&self) -> (&str, &str) {
        let line = self.head.split(|&b| b == b'\r').next().unwrap_or_default();
        let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
        (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        )
    }
}

/// One connection of a caller: what came and is not read yet, what is to go out.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    inbox: BytesMut,
    /// What the next [`flush`](Self::flush) writes.
    pub(crate) outbox: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            inbox: BytesMut::with_capacity(8 * 1024),
            outbox: Vec::with_capacity(4 * 1024),
        }
    }

    /// The next request; `None` when the caller has closed the connection between two.
    pub(crate) async fn read_request(&mut self) -> io::Result<Option<RawRequest>> {
        let mut searched = 0;
        let head_len = loop {
            if let Some(at) = find(&self.inbox[searched..], b"\r\n\r\n") {
                break searched + at;
            }
            searched = self.inbox.len().saturating_sub(3);
            if self.inbox.len() > HEAD_BYTES_MAX {
                return Err(invalid("the head of the request is too long"));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        };
        let head = self.inbox.split_to(head_len).freeze();
        self.inbox.advance(4);

        let mut body_len = 0;
        let mut chunked = false;
        let mut request_id = None;
        for line in head.split(|&b| b == b'\n').skip(1) {
            let Some(colon) = line.iter().position(|&b| b == b':') else {
                continue;
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                body_len = text(value)?
                    .parse()
                    .map_err(|_| invalid("content-length"))?;
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                chunked = value.eq_ignore_ascii_case(b"chunked");
            } else if name.eq_ignore_ascii_case(b"x-request-id") {
                request_id = Some(text(value)?.to_owned());
            }
        }
        let body = if chunked {
            self.read_chunked().await?
        } else {
            self.read_exactly(body_len).await?
        };
        Ok(Some(RawRequest {
            head,
            body,
            request_id,
        }))
    }

    async fn read_chunked(&mut self) -> io::Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let line_len = loop {
                match find(&self.inbox, b"\r\n") {
                    Some(at) => break at,
                    None if self.inbox.len() > HEAD_BYTES_MAX => {
                        return Err(invalid("the length of a chunk is too long"));
                    }
                    None => self.fill_some().await?,
                }
            };
            let line = self.inbox.split_to(line_len);
            self.inbox.advance(2);
            let digits = text(&line)?.split(';').next().unwrap_or_default().trim();
            let len = usize::from_str_radix(digits, 16).map_err(|_| invalid("chunk length"))?;
            if body.len() + len > BODY_BYTES_MAX {
                return Err(invalid("the body of the request is too long"));
            }
            let chunk = self.read_exactly(len + 2).await?;
            if len == 0 {
                return Ok(body.freeze());
            }
            body.extend_from_slice(&chunk[..len]);
        }
    }

    async fn read_exactly(&mut self, len: usize) -> io::Result<Bytes> {
        if len > BODY_BYTES_MAX {
            return Err(invalid("the body of the request is too long"));
        }
        while self.inbox.len() < len {
            self.fill_some().await?;
        }
        Ok(self.inbox.split_to(len).freeze())
    }

    async fn fill_some(&mut self) -> io::Result<()> {
        if self.fill().await? {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Reads what is there; false at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        self.inbox.reserve(4 * 1024);
        Ok(self.stream.read_buf(&mut self.inbox).await? > 0)
    }

    /// Writes the outbox in one go.
    pub(crate) async fn flush(&mut self) -> Result<(), PeerClosed> {
        self.stream.write_all(&self.outbox).await?;
        self.outbox.clear();
        Ok(())
    }

    /// Writes the outbox in pieces of a few bytes with a pause after each.
    pub(crate) async fn drip(&mut self, pause: Duration) -> Result<(), PeerClosed> {
        let bytes = std::mem::take(&mut self.outbox);
        for piece in bytes.chunks(7) {
            self.stream.write_all(piece).await?;
            self.unless_closed(tokio::time::sleep(pause)).await?;
        }
        Ok(())
    }

    /// Waits for `event`, or until the caller closes the connection.
    pub(crate) async fn unless_closed<T>(
        &mut self,
        event: impl Future<Output = T>,
    ) -> Result<T, PeerClosed> {
        let mut event = std::pin::pin!(event);
        loop {
            tokio::select! {
                biased;
                value = &mut event => return Ok(value),
                // A pipelined request may come meanwhile: it stays in the inbox, within bounds.
                filled = self.fill() => {
                    if !filled? || self.inbox.len() > HEAD_BYTES_MAX {
                        return Err(PeerClosed);
                    }
                }
            }
        }
    }

    /// Waits until the caller closes the connection.
    pub(crate) async fn until_closed(&mut self) -> PeerClosed {
        match self.unless_closed(std::future::pending::<()>()).await {
            Ok(()) | Err(PeerClosed) => PeerClosed,
        }
    }

    /// Makes the coming close a reset (RST) instead of an orderly end.
    pub(crate) fn reset_on_close(&self) -> io::Result<()> {
        self.stream.set_zero_linger()
    }
}

/// The value of a header in a head, white space trimmed.
pub(super) fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let head = std::str::from_utf8(head).ok()?;
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn text(bytes: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| invalid("a header is not UTF-8"))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
