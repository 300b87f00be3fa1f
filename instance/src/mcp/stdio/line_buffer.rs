//! Bytes from a pipe, cut into lines.
//!
//! Owns [`Lines`], a pure buffer: bytes in as they come, whole lines out, without a copy.
//! Invariant: how the bytes were cut into reads never changes the lines; no byte is looked at twice for a line's end.
//! Never: holds more than the bound on a line and one read.

use bytes::{Bytes, BytesMut};

/// How much room a read gets.
const READ: usize = 64 << 10;

/// A line was longer than allowed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// The buffer.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// How many bytes of the buffer are known to hold no line end.
    seen: usize,
    max: usize,
}

impl Lines {
    /// A buffer for lines of at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { buffer: BytesMut::new(), seen: 0, max }
    }

    /// Room to read into.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ);
        &mut self.buffer
    }

    /// The next whole line, without its end.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        let Some(end) = memchr::memchr(b'\n', &self.buffer[self.seen..]).map(|at| at + self.seen) else {
            self.seen = self.buffer.len();
            return if self.seen > self.max { Err(TooLong) } else { Ok(None) };
        };
        if end > self.max {
            return Err(TooLong);
        }
        let mut line = self.buffer.split_to(end + 1).freeze();
        self.seen = 0;
        line.truncate(if line[..end].ends_with(b"\r") { end - 1 } else { end });
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(lines: &mut Lines) -> Vec<Bytes> {
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn too_long_is_an_error_with_and_without_an_end() {
        let mut lines = Lines::new(4);
        lines.room().extend_from_slice(b"1234\n");
        assert_eq!(all(&mut lines), ["1234"]);
        lines.room().extend_from_slice(b"12345");
        assert_eq!(lines.next(), Err(TooLong));
        let mut lines = Lines::new(4);
        lines.room().extend_from_slice(b"12345\n");
        assert_eq!(lines.next(), Err(TooLong));
    }

    proptest! {
        #[test]
        fn the_cut_into_reads_changes_nothing(text in "[a\r\n{]{0,60}", cuts in prop::collection::vec(1_usize..7, 60)) {
            let mut lines = Lines::new(100);
            let (mut rest, mut got) = (text.as_bytes(), Vec::new());
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                lines.room().extend_from_slice(now);
                got.extend(all(&mut lines));
                rest = later;
            }
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            let expected: Vec<_> = whole.split_terminator('\n').map(|l| l.strip_suffix('\r').unwrap_or(l)).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
