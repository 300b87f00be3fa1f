//! Reading log files: the last lines, and the new ones as they come, across files that are put aside meanwhile.
//!
//! Owns [`tail`] and [`Follower`]. Invariant: between the last lines and the new ones nothing is missing or doubled, and
//! a follower that comes late still reads every file between the one it knows and the newest, as far as they are kept.
//! Files are told apart by inode, since their names move. Never: writes, or takes unbounded memory for one long line.

use super::aged;
use crate::registry::private;
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The most that is read for one [`tail`], and the longest line that is held until its end comes, in bytes.
const MAX_BYTES: u64 = 8 << 20;
const MAX_LINE: usize = 1 << 20;

/// How much is read at a time, in bytes.
const BLOCK: u64 = 64 << 10;

/// The last lines of a log, oldest first, reaching back into files that were put aside. Of very long lines fewer.
///
/// # Errors
/// When the log cannot be read; `NotFound` when there is none.
pub fn tail(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let family = family(path)?;
    if family.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let bytes = last_bytes(&family, lines)?;
    let mut text: Vec<String> = bytes.split_inclusive(|&byte| byte == b'\n').map(line).collect();
    Ok(text.split_off(text.len().saturating_sub(lines)))
}

/// Reads a log as it grows.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// The file being read and how far; `None` until there is one.
    reading: Option<(Member, u64)>,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
}

impl Follower {
    /// The last lines of a log, and a follower that goes on after them. The log need not exist yet.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn open(path: &Path, lines: usize) -> io::Result<(Vec<String>, Self)> {
        let family = family(path)?;
        let bytes = last_bytes(&family, lines)?;
        let (whole, partial) = bytes.split_at(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1));
        let mut text: Vec<String> = whole.split_inclusive(|&byte| byte == b'\n').map(line).collect();
        let reading = family.into_iter().next().map(|newest| {
            let end = newest.size;
            (newest, end)
        });
        let follower = Self { path: path.to_owned(), reading, partial: partial.to_vec() };
        Ok((text.split_off(text.len().saturating_sub(lines)), follower))
    }

    /// The lines that were finished since the last call; none if nothing happened. Call it a few times a second.
    ///
    /// # Errors
    /// When the log cannot be read any more.
    pub fn read(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            // Looked for before reading: what is written until a file is put aside is then read before it is left.
            let next = self.next_file()?;
            self.read_to_end(&mut lines)?;
            match next {
                Some(next) => self.reading = Some((next, 0)),
                None => return Ok(lines),
            }
        }
    }

    /// The file that was begun after the one being read; `None` while that is the newest.
    fn next_file(&self) -> io::Result<Option<Member>> {
        let Some((reading, _)) = &self.reading else { return Ok(family(&self.path)?.pop()) };
        for _ in 0..LISTINGS {
            let mut family = family(&self.path)?;
            match family.iter().position(|member| member.id == reading.id) {
                Some(0) => return Ok(None),
                Some(age) => return Ok(Some(family.swap_remove(age - 1))),
                // Ours was dropped, and the oldest that is left comes next.
                None if reading.file.metadata()?.nlink() == 0 => return Ok(family.pop()),
                // It moved too fast to be met, unless it was moved out of our sight.
                None => {}
            }
        }
        Ok(family(&self.path)?.pop())
    }

    fn read_to_end(&mut self, lines: &mut Vec<String>) -> io::Result<()> {
        let Some((member, offset)) = &mut self.reading else { return Ok(()) };
        if member.file.metadata()?.len() < *offset {
            *offset = 0; // Somebody emptied it.
        }
        let mut block = vec![0; usize::try_from(BLOCK).unwrap_or_default()];
        loop {
            let length = member.file.read_at(&mut block, *offset)?;
            if length == 0 {
                return Ok(());
            }
            *offset += length as u64;
            for part in block[..length].split_inclusive(|&byte| byte == b'\n') {
                self.partial.extend_from_slice(part);
                if part.ends_with(b"\n") || self.partial.len() >= MAX_LINE {
                    lines.push(line(&std::mem::take(&mut self.partial)));
                }
            }
        }
    }
}

/// One file of a log.
#[derive(Debug)]
struct Member {
    file: File,
    id: (u64, u64),
    size: u64,
}

/// How often the files are listed again because they moved meanwhile.
const LISTINGS: usize = 10;

/// How many ages in a row may be missing before the next file is. A rotation leaves one gap, several of them some more.
const GAP: usize = 8;

/// The files of a log, newest first. They are opened from the newest on, so that one that is put aside meanwhile is never
/// missed but met a second time, and then the order may be wrong.
fn family(path: &Path) -> io::Result<Vec<Member>> {
    for _ in 1..LISTINGS {
        if let (family, true) = list(path)? {
            return Ok(family);
        }
    }
    list(path).map(|(family, _)| family)
}

/// The files of a log as they were met, and whether none moved meanwhile.
fn list(path: &Path) -> io::Result<(Vec<Member>, bool)> {
    let (mut family, mut unmoved): (Vec<Member>, bool) = (Vec::new(), true);
    let (mut age, mut last) = (0, 0);
    while age <= last + GAP {
        match private::open(&aged(path, age), OFlags::RDONLY) {
            Ok((file, facts)) => {
                let id = (facts.dev(), facts.ino());
                if family.iter().any(|member| member.id == id) {
                    unmoved = false;
                } else {
                    family.push(Member { file, id, size: facts.len() });
                }
                last = age;
            }
            Err(why) if why.is_missing() => {}
            Err(why) => return Err(why.into()),
        }
        age += 1;
    }
    Ok((family, unmoved))
}

/// The end of a log, with at least this many line ends if there are as many within [`MAX_BYTES`].
fn last_bytes(family: &[Member], lines: usize) -> io::Result<Vec<u8>> {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    let (mut ends, mut total) = (0, 0);
    for member in family {
        let mut end = member.size;
        while end > 0 && ends <= lines && total < MAX_BYTES {
            let start = end.saturating_sub(BLOCK);
            let mut block = vec![0; usize::try_from(end - start).unwrap_or_default()];
            member.file.read_exact_at(&mut block, start)?;
            ends += block.iter().filter(|&&byte| byte == b'\n').count();
            total += end - start;
            blocks.push(block);
            end = start;
        }
    }
    blocks.reverse();
    Ok(blocks.concat())
}

/// A line as text, without its end.
fn line(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Writer;
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|number| format!("line {number}")).collect()
    }

    fn write(log: &mut Writer, range: std::ops::Range<u32>) {
        for line in numbers(range) {
            log.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    }

    #[test]
    fn the_last_lines_reach_back_into_older_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&mut Writer::open(&path, 40, 20).unwrap(), 0..30);
        for lines in [0, 1, 7, 30] {
            assert_eq!(tail(&path, lines as usize).unwrap(), numbers(30 - lines..30));
        }
        assert_eq!(tail(&path, 1000).unwrap(), numbers(0..30));
        assert_eq!(tail(&dir.path().join("none"), 1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn lines_need_no_end_and_no_unicode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        Writer::open(&path, 1000, 1).unwrap().write_all(b"one\r\n\n\xff\nlast").unwrap();
        assert_eq!(tail(&path, 9).unwrap(), ["one", "", "\u{fffd}", "last"]);
    }

    #[test]
    fn one_long_line_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Writer::open(&path, 100 << 20, 1).unwrap();
        log.write_all(&vec![b'x'; 20 << 20]).unwrap();
        let shown = tail(&path, 1).unwrap();
        assert!(shown[0].len() as u64 <= MAX_BYTES, "{}", shown[0].len());
        let (_, mut follower) = Follower::open(&path, 0).unwrap();
        log.write_all(&vec![b'y'; 3 << 20]).unwrap();
        assert!(follower.read().unwrap().iter().all(|line| line.len() <= 2 * MAX_BYTES as usize));
        assert!(follower.partial.len() < MAX_LINE);
    }

    #[test]
    fn a_follower_misses_and_doubles_nothing_over_many_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Writer::open(&path, 40, 50).unwrap();
        write(&mut log, 0..10);
        let (last, mut follower) = Follower::open(&path, 3).unwrap();
        assert_eq!(last, numbers(7..10));
        assert_eq!(follower.read().unwrap(), [""; 0]);
        write(&mut log, 10..100);
        assert_eq!(follower.read().unwrap(), numbers(10..100));
        log.write_all(b"half").unwrap();
        assert_eq!(follower.read().unwrap(), [""; 0]);
        log.write_all(b" line\n").unwrap();
        assert_eq!(follower.read().unwrap(), ["half line"]);
    }

    #[test]
    fn a_follower_may_begin_in_the_midst_of_a_line_or_before_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (last, mut early) = Follower::open(&path, 3).unwrap();
        assert_eq!(last, [""; 0]);
        let mut log = Writer::open(&path, 1000, 1).unwrap();
        log.write_all(b"one\ntw").unwrap();
        let (last, mut late) = Follower::open(&path, 3).unwrap();
        assert_eq!(last, ["one"]);
        log.write_all(b"o\n").unwrap();
        assert_eq!(early.read().unwrap(), ["one", "two"]);
        assert_eq!(late.read().unwrap(), ["two"]);
    }

    #[test]
    fn a_follower_survives_removal_and_emptying() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&mut Writer::open(&path, 1000, 1).unwrap(), 0..5);
        let (_, mut follower) = Follower::open(&path, 0).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert_eq!(follower.read().unwrap(), [""; 0]);
        write(&mut Writer::open(&path, 1000, 1).unwrap(), 5..6);
        assert_eq!(follower.read().unwrap(), numbers(5..6));
        std::fs::remove_file(&path).unwrap();
        write(&mut Writer::open(&path, 1000, 1).unwrap(), 6..7);
        assert_eq!(follower.read().unwrap(), numbers(6..7));
    }

    #[test]
    fn a_follower_keeps_up_with_a_writer_in_another_thread() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Writer::open(&path, 200, 99).unwrap();
        let (_, mut follower) = Follower::open(&path, 0).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(&mut log, 0..1000));
            let mut seen = Vec::new();
            while !writer.is_finished() {
                seen.extend(follower.read().unwrap());
            }
            seen.extend(follower.read().unwrap());
            assert_eq!(seen, numbers(0..1000));
        });
    }

    proptest! {
        #[test]
        fn the_tail_is_the_end_of_all_lines(
            written in prop::collection::vec("[a-z]{0,30}", 0..60), max in 20u64..200, lines in 0usize..70,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let mut log = Writer::open(&path, max, 99).unwrap();
            for line in &written {
                log.write_all(format!("{line}\n").as_bytes()).unwrap();
            }
            let expected = &written[written.len().saturating_sub(lines)..];
            prop_assert_eq!(tail(&path, lines).unwrap(), expected);
        }
    }
}
