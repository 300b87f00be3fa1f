//! A log whose disk may be full.
//!
//! Owns [`Lossy`]: what the file does not take is counted, and the log says so in the midst of it once it takes something
//! again. Invariant: memory is a few numbers however much is lost; the file holds whole writes only, so a line is never
//! torn by a lack of room. Never: fails, waits, or keeps what was lost.

use super::Writer;
use jiff::Timestamp;
use std::io;

/// A log that goes on whatever its disk does.
#[derive(Debug)]
pub struct Lossy {
    file: Writer,
    gap: Option<Gap>,
}

/// What was lost in a row.
#[derive(Debug)]
struct Gap {
    lines: u64,
    bytes: u64,
    since: Timestamp,
    why: String,
}

impl Lossy {
    /// A log in this file.
    #[must_use]
    pub fn new(file: Writer) -> Self {
        Self { file, gap: None }
    }

    /// Appends whole lines, or counts them. The error is that which begins a gap, and of no other write in it.
    pub fn write(&mut self, lines: &[u8]) -> Option<io::Error> {
        let done = match &self.gap {
            None => self.file.append(lines),
            // Both or none: a mark alone, again and again, would fill the last of the room.
            Some(gap) => self.file.append(&[gap.mark().as_bytes(), lines].concat()),
        };
        let (count, bytes) = (lines.iter().filter(|&&byte| byte == b'\n').count() as u64, lines.len() as u64);
        match (done, &mut self.gap) {
            (Ok(()), gap) => {
                *gap = None;
                None
            }
            (Err(_), Some(gap)) => {
                gap.lines += count;
                gap.bytes += bytes;
                None
            }
            (Err(error), gap @ None) => {
                *gap = Some(Gap { lines: count, bytes, since: Timestamp::now(), why: error.to_string() });
                Some(error)
            }
        }
    }
}

impl Gap {
    fn mark(&self) -> String {
        let Self { lines, bytes, since, why } = self;
        format!(
            "[linchpin] {lines} lines ({bytes} bytes) since {since} are missing here: the log could not be written: {why}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Takes the place of the log by a directory: nothing can be written then.
    fn block(path: &Path) {
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
    }

    #[test]
    fn a_gap_is_marked_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Lossy::new(Writer::open(&path, 1000, 1).unwrap());
        assert!(log.write(b"one\n").is_none());
        block(&path);
        assert!(log.write(b"two\nthree\n").is_some(), "told once");
        assert!(log.write(b"four\n").is_none());
        std::fs::remove_dir(&path).unwrap();
        assert!(log.write(b"five\n").is_none());
        assert!(log.write(b"six\n").is_none());
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("[linchpin] 3 lines (15 bytes) since ") && lines[1..] == ["five", "six"],
            "{text}"
        );
    }
}
