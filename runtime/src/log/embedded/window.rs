//! Reading frames out of a segment.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{self, Frame, PREFIX};
use super::storage::StorageFile;

/// Read at once when catching up.
const READ_BYTES: usize = 128 * 1024;

/// Reads frames through a window, so that neighbours cost one system call.
pub(super) struct Reader {
    file: Arc<dyn StorageFile>,
    len: u64,
    window: Bytes,
    window_at: u64,
}

impl Reader {
    pub(super) fn new(file: Arc<dyn StorageFile>) -> io::Result<Self> {
        Ok(Self {
            len: file.len()?,
            file,
            window: Bytes::new(),
            window_at: 0,
        })
    }

    /// The bytes from `at` on; none when the file ends before.
    fn slice(&mut self, at: u64, length: usize) -> io::Result<Option<Bytes>> {
        if at + length as u64 > self.len {
            return Ok(None);
        }
        let inside =
            at >= self.window_at && at + length as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let left = usize::try_from(self.len - at).unwrap_or(usize::MAX);
            let mut buffer = vec![0; length.max(READ_BYTES).min(left)];
            self.file.read_at(&mut buffer, at)?;
            self.window = buffer.into();
            self.window_at = at;
        }
        let start = (at - self.window_at) as usize;
        Ok(Some(self.window.slice(start..start + length)))
    }

    /// The frame at `at` with its length; none when there is no whole one. Its parts share the window.
    pub(super) fn next(&mut self, at: u64) -> io::Result<Option<(Frame, usize)>> {
        let Some(prefix) = self.slice(at, PREFIX)? else {
            return Ok(None);
        };
        let Ok(prefix) = <[u8; PREFIX]>::try_from(&prefix[..]) else {
            return Ok(None);
        };
        let length = frame::body_len(prefix);
        if length == 0 {
            return Ok(None);
        }
        let Some(body) = self.slice(at + PREFIX as u64, length)? else {
            return Ok(None);
        };
        Ok(frame::decode(prefix, &body).map(|frame| (frame, PREFIX + length)))
    }

    /// The frame at `at` in memory of its own, so that a record that is kept does not keep the window.
    pub(super) fn frame(&mut self, at: u64) -> io::Result<Option<Frame>> {
        let Some((_, length)) = self.next(at)? else {
            return Ok(None);
        };
        let bytes = Bytes::copy_from_slice(&self.raw(at, length)?);
        let Some((prefix, _)) = bytes.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        Ok(frame::decode(*prefix, &bytes.slice(PREFIX..)))
    }

    /// The bytes of a frame that [`Reader::next`] has just read.
    pub(super) fn raw(&mut self, at: u64, length: usize) -> io::Result<Bytes> {
        self.slice(at, length)?
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
