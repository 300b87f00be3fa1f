//! Decodes a stream of server-sent events, as far as MCP uses the format (HTML standard, "Server-sent events").
//!
//! The decoder takes chunks of any size and returns each event's data as a slice of what it received. How a stream is cut
//! into chunks never changes the events. An event larger than the limit ends the stream. The data is never interpreted.

use bytes::{Bytes, BytesMut};

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its data, which is never empty.
    pub data: Bytes,
}

/// An event is larger than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {0} bytes")]
pub struct TooLarge(
    /// The limit, in bytes.
    pub usize,
);

/// Cuts a stream into events.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    /// The start of the line that is being read, and how far it has been read.
    line: usize,
    read: usize,
    /// Whether the last byte was CR, in which case a following LF belongs to it.
    after_cr: bool,
    started: bool,
    limit: usize,
}

impl Decoder {
    /// Creates a decoder for events of up to `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), line: 0, read: 0, after_cr: false, started: false, limit }
    }

    /// Adds the next chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// Returns the next whole event, if there is one.
    ///
    /// # Errors
    /// When an event is larger than the limit. The stream cannot be decoded any further then.
    pub fn next_event(&mut self) -> Result<Option<Event>, TooLarge> {
        while let Some(block) = self.block() {
            if let Some(event) = read_event(&block) {
                return Ok(Some(event));
            }
        }
        if self.buffer.len() > self.limit { Err(TooLarge(self.limit)) } else { Ok(None) }
    }

    /// Returns the lines up to the next empty one.
    fn block(&mut self) -> Option<Bytes> {
        self.skip_mark()?;
        while self.read < self.buffer.len() {
            let byte = self.buffer[self.read];
            self.read += 1;
            let second_half = byte == b'\n' && std::mem::replace(&mut self.after_cr, byte == b'\r');
            if second_half {
                self.line = self.read;
                continue;
            }
            self.after_cr = byte == b'\r';
            if byte != b'\n' && byte != b'\r' {
                continue;
            }
            let empty = self.line + 1 == self.read;
            self.line = self.read;
            if empty {
                let block = self.buffer.split_to(self.read).freeze();
                (self.line, self.read) = (0, 0);
                return Some(block);
            }
        }
        None
    }

    /// Drops the byte order mark with which a stream may begin. Returns `None` while it is unknown whether there is
    /// one.
    fn skip_mark(&mut self) -> Option<()> {
        const MARK: &[u8] = "\u{feff}".as_bytes();
        if !self.started {
            if self.buffer.len() < MARK.len() && MARK.starts_with(&self.buffer) {
                return None;
            }
            if self.buffer.starts_with(MARK) {
                drop(self.buffer.split_to(MARK.len()));
            }
            self.started = true;
        }
        Some(())
    }
}

/// Returns the event that these lines form; `None` if it has no data.
fn read_event(block: &Bytes) -> Option<Event> {
    let mut parts = block.split(|byte| matches!(byte, b'\n' | b'\r')).filter_map(data);
    let first = parts.next()?;
    let Some(second) = parts.next() else {
        return (!first.is_empty()).then(|| Event { data: block.slice_ref(first) });
    };
    let mut joined = BytesMut::from(first);
    for part in std::iter::once(second).chain(parts) {
        joined.extend_from_slice(b"\n");
        joined.extend_from_slice(part);
    }
    Some(Event { data: joined.freeze() })
}

fn data(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"data")?;
    match rest.split_first() {
        None => Some(rest),
        Some((b':', value)) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(stream: &[u8], cuts: &[usize]) -> Vec<String> {
        let (mut decoder, mut out, mut done) = (Decoder::new(1 << 20), Vec::new(), 0);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
        cuts.sort_unstable();
        for cut in cuts.into_iter().chain([stream.len()]) {
            decoder.push(&stream[done..cut]);
            done = cut;
            while let Some(event) = decoder.next_event().unwrap() {
                out.push(String::from_utf8(event.data.to_vec()).unwrap());
            }
        }
        out
    }

    #[test]
    fn the_forms_of_the_standard() {
        assert_eq!(decode(b"data: a\n\ndata:b\r\n\r\ndata: c\r\r", &[]), ["a", "b", "c"]);
        assert_eq!(decode(b"data: a\ndata:\ndata:  b\n\n", &[]), ["a\n\n b"]);
        assert_eq!(decode(b": comment\n\nid: 7\nretry: 5\ndata: \n\nevent: x\ndata: a\nid: 8\n\n", &[]), ["a"]);
        assert_eq!(decode(b"\xef\xbb\xbfdata: a\n\ndataset: no\n\ndata\ndata: x\n\n", &[]), ["a", "\nx"]);
        assert_eq!(decode(b"data: cut off\n", &[]), [""; 0]);
    }

    #[test]
    fn an_event_beyond_the_bound_is_refused() {
        let mut decoder = Decoder::new(8);
        decoder.push(b"data: 0123456789");
        assert_eq!(decoder.next_event(), Err(TooLarge(8)));
    }

    #[test]
    fn one_line_of_data_is_not_copied() {
        let mut decoder = Decoder::new(100);
        decoder.push(b"data: abc\n\n");
        let at = decoder.buffer.as_ptr().addr();
        assert_eq!(decoder.next_event().unwrap().unwrap().data.as_ptr().addr(), at + 6);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(stream: Vec<u8>, cuts in prop::collection::vec(any::<usize>(), 0..4)) {
            let mut decoder = Decoder::new(1 << 20);
            for cut in cuts {
                decoder.push(&stream[..cut % (stream.len() + 1)]);
                while let Ok(Some(_)) = decoder.next_event() {}
            }
        }
    }
}
