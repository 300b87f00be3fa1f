//! What a supervised process prints: to our terminal as it comes, to its log by lines.
//!
//! Owns [`Log`], the way to the one thread that writes both, and [`pump`], which empties a pipe into it.
//! Invariant: memory is bounded; a terminal or disk that is slow slows the process that prints, and nothing else. A disk
//! that takes nothing costs log lines, and the log says how many once it takes some again.
//! Never: blocks the runtime, or mixes half a line of standard output with half a line of standard error in the log.

use bytes::{Bytes, BytesMut};
use linchpin_shared::logfile::{self, Lossy};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How much is read at once, and how many such pieces wait to be written.
const CHUNK: usize = 16 << 10;
const QUEUE: usize = 64;
/// A line that is longer than this goes to the log in parts.
const LINE: usize = 64 << 10;
/// How much is still read from a pipe whose process has ended: the largest pipe an ordinary user can have.
const DRAIN: usize = 1 << 20;

/// Where output also goes, besides the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// To our own standard output and error.
    PassThrough,
    /// Nowhere.
    Silent,
}

/// Which of its outputs a process printed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

enum Entry {
    Printed(Stream, Bytes),
    /// A pipe ended; what it left of a line stands alone.
    Ended(Stream),
    /// A line of our own.
    Note(String),
    /// Everything before this is written.
    Flushed(oneshot::Sender<()>),
}

/// The way to the log of one process.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    entries: mpsc::Sender<Entry>,
}

impl Log {
    /// A log that goes to `file`.
    pub(crate) fn start(file: logfile::Writer, terminal: Terminal) -> io::Result<Self> {
        let (entries, queue) = mpsc::channel(QUEUE);
        let sink = Sink { file: Lossy::new(file), terminal, out: Vec::new(), err: Vec::new() };
        std::thread::Builder::new().name("log".into()).spawn(move || sink.run(queue))?;
        Ok(Self { entries })
    }

    /// Writes a line of our own. It is dropped when the log has no room: nothing may wait for a log.
    pub(crate) fn note(&self, text: &str) {
        self.offer(Entry::Note(format!("[linchpin] {text}\n")));
    }

    /// Writes a line that a process printed where only messages belong.
    pub(crate) fn stray(&self, line: &Bytes) {
        self.offer(Entry::Note(format!("[stdout] {}\n", String::from_utf8_lossy(line))));
    }

    /// Waits until all that was given before is written.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.entries.send(Entry::Flushed(done)).await.is_ok() {
            // It fails only when the thread has ended, and then nothing is left to wait for.
            let _ = flushed.await;
        }
    }

    fn offer(&self, entry: Entry) {
        if self.entries.try_send(entry).is_err() {
            tracing::debug!("a log line was dropped: the log has no room");
        }
    }
}

/// Empties a pipe into the log until it closes or, once the process has `ended`, until nothing more is in it.
pub(crate) async fn pump(pipe: OwnedFd, stream: Stream, log: Log, ended: CancellationToken) {
    if let Err(error) = copy(pipe, stream, &log, &ended).await {
        tracing::warn!(%error, ?stream, "cannot read what a process prints");
    }
    // It fails only when the thread has ended.
    let _ = log.entries.send(Entry::Ended(stream)).await;
}

async fn copy(pipe: OwnedFd, stream: Stream, log: &Log, ended: &CancellationToken) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        let Some(read) = ended.run_until_cancelled(pipe.read_buf(&mut buffer)).await else { break };
        if read? == 0 {
            return Ok(());
        }
        if log.entries.send(Entry::Printed(stream, buffer.split().freeze())).await.is_err() {
            return Ok(());
        }
    }
    let rest = drain(&pipe);
    // It fails only when the thread has ended.
    let _ = log.entries.send(Entry::Printed(stream, rest.into())).await;
    Ok(())
}

/// What is in a pipe now. It asks the system itself: the reactor may not have heard of the last bytes.
pub(crate) fn drain(pipe: &pipe::Receiver) -> Vec<u8> {
    let (mut all, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    while all.len() < DRAIN {
        match rustix::io::read(pipe, chunk.as_mut_slice()) {
            Ok(0) | Err(_) => break,
            Ok(read) => all.extend_from_slice(&chunk[..read]),
        }
    }
    all
}

/// The thread's side.
struct Sink {
    file: Lossy,
    terminal: Terminal,
    /// The begun lines.
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Sink {
    fn run(mut self, mut queue: mpsc::Receiver<Entry>) {
        while let Some(entry) = queue.blocking_recv() {
            self.take(entry);
        }
    }

    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Printed(stream, bytes) => {
                self.show(stream, &bytes);
                let begun = match stream {
                    Stream::Out => &mut self.out,
                    Stream::Err => &mut self.err,
                };
                by_lines(begun, &bytes, |lines| keep(&mut self.file, lines));
            }
            Entry::Ended(stream) => {
                let begun = match stream {
                    Stream::Out => &mut self.out,
                    Stream::Err => &mut self.err,
                };
                if !begun.is_empty() {
                    begun.push(b'\n');
                    keep(&mut self.file, begun);
                    begun.clear();
                }
            }
            Entry::Note(line) => keep(&mut self.file, line.as_bytes()),
            Entry::Flushed(done) => {
                // It fails only when nobody waits any more.
                let _ = done.send(());
            }
        }
    }

    /// A terminal that is gone is not an error of the process: it goes on, and so does its log.
    fn show(&mut self, stream: Stream, bytes: &[u8]) {
        let shown = match (self.terminal, stream) {
            (Terminal::Silent, _) => return,
            (Terminal::PassThrough, Stream::Out) => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            (Terminal::PassThrough, Stream::Err) => io::stderr().lock().write_all(bytes),
        };
        if let Err(error) = shown {
            self.terminal = Terminal::Silent;
            tracing::debug!(%error, "the terminal is gone; output goes on to the log only");
        }
    }
}

/// Writes all whole lines of what was begun and what came, and keeps the begun rest.
fn by_lines(begun: &mut Vec<u8>, bytes: &[u8], mut write: impl FnMut(&[u8])) {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole > 0 {
        begun.extend_from_slice(&bytes[..whole]);
        write(begun);
        begun.clear();
    }
    begun.extend_from_slice(&bytes[whole..]);
    if begun.len() >= LINE {
        begun.push(b'\n');
        write(begun);
        begun.clear();
    }
}

/// Writes to the log, and tells when it begins to refuse.
fn keep(file: &mut Lossy, lines: &[u8]) {
    if let Some(error) = file.write(lines) {
        tracing::warn!(%error, "the log of a process cannot be written; its output is not kept for now");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_stay_whole_and_nothing_is_lost(pieces in prop::collection::vec("[ab\n]{0,9}", 0..30)) {
            let (mut begun, mut writes) = (Vec::new(), Vec::new());
            for piece in &pieces {
                by_lines(&mut begun, piece.as_bytes(), |lines| writes.push(lines.to_vec()));
            }
            prop_assert!(writes.iter().all(|lines| lines.ends_with(b"\n")));
            let mut all = writes.concat();
            all.extend_from_slice(&begun);
            prop_assert_eq!(all, pieces.concat().into_bytes());
        }
    }

    #[test]
    fn a_line_without_end_does_not_fill_memory() {
        let (mut begun, mut written) = (Vec::new(), 0);
        for _ in 0..100 {
            by_lines(&mut begun, &[b'x'; CHUNK], |lines| written += lines.len());
            assert!(begun.len() < LINE);
        }
        assert!(written + begun.len() >= 100 * CHUNK);
    }
}
