//! Splits the bytes of a pipe into lines.
//!
//! How the bytes are divided into reads never changes the lines. Lines are returned without a copy, no byte is searched
//! twice for the end of a line, and the buffer holds at most the longest allowed line and one read.

use bytes::{Bytes, BytesMut};

/// The spare capacity for one read.
const READ_SIZE: usize = 64 << 10;

/// A line was longer than allowed.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::mcp) struct LineTooLong;

/// A buffer that bytes are read into and lines are taken from.
#[derive(Debug)]
pub(in crate::mcp) struct LineBuffer {
    buffer: BytesMut,
    /// How many bytes at the start of the buffer are known to contain no line feed.
    searched: usize,
    max: usize,
}

impl LineBuffer {
    /// Creates a buffer for lines of at most `max` bytes.
    pub(in crate::mcp) fn new(max: usize) -> Self {
        Self { buffer: BytesMut::new(), searched: 0, max }
    }

    /// Returns the buffer with spare capacity to read into.
    pub(in crate::mcp) fn spare(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ_SIZE);
        &mut self.buffer
    }

    /// Takes the next whole line, without its line feed.
    pub(in crate::mcp) fn next(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]).map(|at| at + self.searched) else {
            self.searched = self.buffer.len();
            return if self.searched > self.max { Err(LineTooLong) } else { Ok(None) };
        };
        if end > self.max {
            return Err(LineTooLong);
        }
        let mut line = self.buffer.split_to(end + 1).freeze();
        self.searched = 0;
        line.truncate(if line[..end].ends_with(b"\r") { end - 1 } else { end });
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(lines: &mut LineBuffer) -> Vec<Bytes> {
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn too_long_is_an_error_with_and_without_an_end() {
        let mut lines = LineBuffer::new(4);
        lines.spare().extend_from_slice(b"1234\n");
        assert_eq!(all(&mut lines), ["1234"]);
        lines.spare().extend_from_slice(b"12345");
        assert_eq!(lines.next(), Err(LineTooLong));
        let mut lines = LineBuffer::new(4);
        lines.spare().extend_from_slice(b"12345\n");
        assert_eq!(lines.next(), Err(LineTooLong));
    }

    proptest! {
        #[test]
        fn the_division_into_reads_changes_nothing(
            text in "[a\r\n{]{0,60}",
            cuts in prop::collection::vec(1_usize..7, 60),
        ) {
            let mut lines = LineBuffer::new(100);
            let (mut rest, mut got) = (text.as_bytes(), Vec::new());
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                lines.spare().extend_from_slice(now);
                got.extend(all(&mut lines));
                rest = later;
            }
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            let expected: Vec<_> = whole.split_terminator('\n').map(|l| l.strip_suffix('\r').unwrap_or(l)).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
