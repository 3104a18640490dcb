//! A reader of server-sent events over bytes as they arrive: frames split anywhere, LF, CRLF
//! and CR line ends, comments, several `data` lines, a byte order mark
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use bytes::{Buf, Bytes, BytesMut};

/// An event is larger than the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Yields the data of events; other fields than `data` do not matter here.
#[derive(Debug)]
pub(crate) struct Reader {
    buffer: BytesMut,
    /// Bytes of `buffer` known to hold no line end.
    searched: usize,
    /// The data lines of the event so far, joined by line feeds.
    data: Data,
    at_start: bool,
    /// The last line ended in CR: an LF that follows belongs to it.
    after_cr: bool,
    event_bytes_max: usize,
}

#[derive(Debug)]
enum Data {
    None,
    /// The usual case: one line, shared with the buffer.
    One(Bytes),
    Many(BytesMut),
}

impl Reader {
    /// A reader that refuses lines and events over `event_bytes_max`.
    pub(crate) fn new(event_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            data: Data::None,
            at_start: true,
            after_cr: false,
            event_bytes_max,
        }
    }

    /// Takes in bytes as they came.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The data of the next whole event; none until more bytes came.
    ///
    /// # Errors
    /// [`TooLarge`] when a line or an event is over the bound; the reader is of no use then.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, TooLarge> {
        while let Some(line) = self.line()? {
            if line.is_empty() {
                match std::mem::replace(&mut self.data, Data::None) {
                    Data::None => {}
                    Data::One(data) => return Ok(Some(data)),
                    Data::Many(data) => return Ok(Some(data.freeze())),
                }
                continue;
            }
            if let Some(data) = data_of(&line) {
                self.append(data)?;
            }
        }
        Ok(None)
    }

    /// The data of an event that the end of the stream left without its empty line. The
    /// standard drops it; providers that forget the last line feed exist, so it is given.
    pub(crate) fn finish(&mut self) -> Option<Bytes> {
        let rest = self.buffer.split().freeze();
        if let Some(data) = data_of(&rest) {
            self.append(data).ok()?;
        }
        match std::mem::replace(&mut self.data, Data::None) {
            Data::None => None,
            Data::One(data) => Some(data),
            Data::Many(data) => Some(data.freeze()),
        }
    }

    /// The next whole line without its end.
    fn line(&mut self) -> Result<Option<Bytes>, TooLarge> {
        if self.at_start && !self.skip_mark() {
            return Ok(None);
        }
        if self.after_cr && !self.buffer.is_empty() {
            self.after_cr = false;
            if self.buffer[0] == b'\n' {
                self.buffer.advance(1);
            }
        }
        let end = self.buffer[self.searched..]
            .iter()
            .position(|byte| matches!(byte, b'\n' | b'\r'));
        let Some(end) = end else {
            self.searched = self.buffer.len();
            if self.searched > self.event_bytes_max {
                return Err(TooLarge);
            }
            return Ok(None);
        };
        let end = self.searched + end;
        self.searched = 0;
        if end > self.event_bytes_max {
            return Err(TooLarge);
        }
        let line = self.buffer.split_to(end).freeze();
        self.after_cr = self.buffer[0] == b'\r';
        self.buffer.advance(1);
        Ok(Some(line))
    }

    /// Skips a byte order mark; false when too little has come to tell.
    fn skip_mark(&mut self) -> bool {
        const MARK: &[u8] = b"\xEF\xBB\xBF";
        let length = self.buffer.len().min(MARK.len());
        if self.buffer[..length] == MARK[..length] {
            if length < MARK.len() {
                return false;
            }
            self.buffer.advance(MARK.len());
        }
        self.at_start = false;
        true
    }

    fn append(&mut self, line: Bytes) -> Result<(), TooLarge> {
        self.data = match std::mem::replace(&mut self.data, Data::None) {
            Data::None => Data::One(line),
            Data::One(first) => {
                let mut many = BytesMut::with_capacity(first.len() + 1 + line.len());
                many.extend_from_slice(&first);
                many.extend_from_slice(b"\n");
                many.extend_from_slice(&line);
                Data::Many(many)
            }
            Data::Many(mut many) => {
                many.extend_from_slice(b"\n");
                many.extend_from_slice(&line);
                Data::Many(many)
            }
        };
        match &self.data {
            Data::Many(many) if many.len() > self.event_bytes_max => Err(TooLarge),
            Data::None | Data::One(_) | Data::Many(_) => Ok(()),
        }
    }
}

/// The value of a `data` line.
fn data_of(line: &Bytes) -> Option<Bytes> {
    let rest = line.strip_prefix(b"data")?;
    match rest {
        [] => Some(Bytes::new()),
        [b':', b' ', ..] => Some(line.slice(6..)),
        [b':', ..] => Some(line.slice(5..)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(chunks: &[&[u8]]) -> Vec<Bytes> {
        let mut reader = Reader::new(1 << 20);
        let mut events = Vec::new();
        for chunk in chunks {
            reader.push(chunk);
            while let Some(event) = reader.next().unwrap() {
                events.push(event);
            }
        }
        events.extend(reader.finish());
        events
    }

    #[test]
    fn reads_line_ends_comments_marks_fields_and_several_data_lines() {
        let text = b"\xEF\xBB\xBF: hello\r\ndata: a\r\n\r\nevent: x\ndata:b\ndata:  c\nid: 1\n\n\n\
            data\n\ndatabase: no\ndata: d\r\rdata: last";
        let events = read(&[text]);
        assert_eq!(events, ["a", "b\n c", "", "d", "last"].map(Bytes::from));
    }

    #[test]
    fn a_line_or_an_event_over_the_bound_is_refused() {
        let mut reader = Reader::new(16);
        reader.push(b"data: 0123456789abcdef");
        assert_eq!(reader.next(), Err(TooLarge));
        let mut reader = Reader::new(16);
        reader.push(b"data: 01234567\ndata: 01234567\n\n");
        assert_eq!(reader.next(), Err(TooLarge));
    }

    #[test]
    fn a_carriage_return_at_the_end_of_a_chunk_is_one_line_end() {
        assert_eq!(
            read(&[b"data: a\r", b"\n\r", b"\ndata: b\n\n"]),
            ["a", "b"].map(Bytes::from)
        );
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(
            lines in proptest::collection::vec(("(data: ?[a-z]{0,5}|: c|event: e|)", "(\n|\r\n|\r)"), 0..20),
            cuts in proptest::collection::vec(0_usize..200, 0..12),
        ) {
            let text: String = lines.iter().flat_map(|(line, end)| [line.as_str(), end]).collect();
            let text = text.into_bytes();
            let whole = read(&[&text]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&pieces), whole.clone());
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            prop_assert_eq!(read(&bytes), whole);
        }
    }
}
