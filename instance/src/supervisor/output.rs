//! What a supervised process prints: to our terminal at once, to its log by whole lines.
//!
//! [`copy_output`] empties a pipe into a [`Log`], behind which one thread writes both, so the runtime is never blocked.
//! Memory is bounded: a slow terminal or disk slows down the process that prints, and nothing else. While the disk
//! accepts nothing, log lines are lost, and the log states their number afterwards. Parts of lines of standard output
//! and standard error are never mixed in the log.

use bytes::{Bytes, BytesMut};
use linchpin_shared::logfile::{self, Lossy};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How much is read at once, and how many such chunks may wait to be written.
const CHUNK: usize = 16 << 10;
const QUEUE: usize = 64;
/// A longer line is written to the log in parts.
const MAX_LINE: usize = 64 << 10;
/// How much is still read from a pipe whose process has ended: the largest pipe that an ordinary user can have.
const MAX_DRAIN: usize = 1 << 20;

/// Where output goes besides the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// To our own standard output and standard error.
    PassThrough,
    /// Nowhere.
    Silent,
}

/// The stream to which a process printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputStream {
    Stdout,
    Stderr,
}

enum LogItem {
    Printed(OutputStream, Bytes),
    /// A pipe ended; an incomplete line is written as it is.
    Ended(OutputStream),
    /// A line of our own.
    Note(String),
    /// Everything before this has been written.
    Flushed(oneshot::Sender<()>),
}

/// The sender to the thread that writes the log of one process.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    items: mpsc::Sender<LogItem>,
}

impl Log {
    /// Starts the thread that writes to `file`.
    pub(crate) fn start(file: logfile::Writer, terminal: Terminal) -> io::Result<Self> {
        let (items, queue) = mpsc::channel(QUEUE);
        let sink = Sink { file: Lossy::new(file), terminal, stdout: Vec::new(), stderr: Vec::new() };
        std::thread::Builder::new().name("log".into()).spawn(move || sink.run(queue))?;
        Ok(Self { items })
    }

    /// Writes a line of our own. It is dropped when the queue is full, because nothing may wait for a log.
    pub(crate) fn note(&self, text: &str) {
        self.offer(LogItem::Note(format!("[linchpin] {text}\n")));
    }

    /// Writes a line that a process printed to its standard output, where only messages are expected.
    pub(crate) fn unexpected_line(&self, line: &Bytes) {
        self.offer(LogItem::Note(format!("[stdout] {}\n", String::from_utf8_lossy(line))));
    }

    /// Waits until everything that was logged before has been written.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.items.send(LogItem::Flushed(done)).await.is_ok() {
            // It fails only when the thread has ended, and then nothing is left to wait for.
            let _ = flushed.await;
        }
    }

    fn offer(&self, item: LogItem) {
        if self.items.try_send(item).is_err() {
            tracing::debug!("a log line was dropped: the queue is full");
        }
    }
}

/// Copies a pipe to the log until it closes or, once the process has `ended`, until it is empty.
pub(crate) async fn copy_output(pipe: OwnedFd, stream: OutputStream, log: Log, ended: CancellationToken) {
    if let Err(error) = copy(pipe, stream, &log, &ended).await {
        tracing::warn!(%error, ?stream, "cannot read the output of a process");
    }
    // It fails only when the thread has ended.
    let _ = log.items.send(LogItem::Ended(stream)).await;
}

async fn copy(pipe: OwnedFd, stream: OutputStream, log: &Log, ended: &CancellationToken) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        let Some(read) = ended.run_until_cancelled(pipe.read_buf(&mut buffer)).await else { break };
        if read? == 0 {
            return Ok(());
        }
        if log.items.send(LogItem::Printed(stream, buffer.split().freeze())).await.is_err() {
            return Ok(());
        }
    }
    let rest = drain(&pipe);
    // It fails only when the thread has ended.
    let _ = log.items.send(LogItem::Printed(stream, rest.into())).await;
    Ok(())
}

/// Reads what a pipe contains now. It asks the system itself, because the reactor may not know of the last bytes yet.
pub(crate) fn drain(pipe: &pipe::Receiver) -> Vec<u8> {
    let (mut all, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    while all.len() < MAX_DRAIN {
        match rustix::io::read(pipe, chunk.as_mut_slice()) {
            Ok(0) | Err(_) => break,
            Ok(read) => all.extend_from_slice(&chunk[..read]),
        }
    }
    all
}

/// What the thread works on.
struct Sink {
    file: Lossy,
    terminal: Terminal,
    /// The incomplete last line of each stream.
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Sink {
    fn run(mut self, mut queue: mpsc::Receiver<LogItem>) {
        while let Some(item) = queue.blocking_recv() {
            self.write(item);
        }
    }

    fn write(&mut self, item: LogItem) {
        match item {
            LogItem::Printed(stream, bytes) => {
                self.show(stream, &bytes);
                let incomplete = match stream {
                    OutputStream::Stdout => &mut self.stdout,
                    OutputStream::Stderr => &mut self.stderr,
                };
                by_lines(incomplete, &bytes, |lines| write_log(&mut self.file, lines));
            }
            LogItem::Ended(stream) => {
                let incomplete = match stream {
                    OutputStream::Stdout => &mut self.stdout,
                    OutputStream::Stderr => &mut self.stderr,
                };
                if !incomplete.is_empty() {
                    incomplete.push(b'\n');
                    write_log(&mut self.file, incomplete);
                    incomplete.clear();
                }
            }
            LogItem::Note(line) => write_log(&mut self.file, line.as_bytes()),
            LogItem::Flushed(done) => {
                // It fails only when the caller has stopped waiting.
                let _ = done.send(());
            }
        }
    }

    /// Shows output on the terminal. If that is gone, the process and its log go on.
    fn show(&mut self, stream: OutputStream, bytes: &[u8]) {
        let shown = match (self.terminal, stream) {
            (Terminal::Silent, _) => return,
            (Terminal::PassThrough, OutputStream::Stdout) => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            (Terminal::PassThrough, OutputStream::Stderr) => io::stderr().lock().write_all(bytes),
        };
        if let Err(error) = shown {
            self.terminal = Terminal::Silent;
            tracing::debug!(%error, "the terminal is gone; output goes to the log only");
        }
    }
}

/// Writes all whole lines of the incomplete line and the new bytes, and keeps the rest.
fn by_lines(incomplete: &mut Vec<u8>, bytes: &[u8], mut write: impl FnMut(&[u8])) {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole > 0 {
        incomplete.extend_from_slice(&bytes[..whole]);
        write(incomplete);
        incomplete.clear();
    }
    incomplete.extend_from_slice(&bytes[whole..]);
    if incomplete.len() >= MAX_LINE {
        incomplete.push(b'\n');
        write(incomplete);
        incomplete.clear();
    }
}

/// Writes to the log file, and reports when it starts to fail.
fn write_log(file: &mut Lossy, lines: &[u8]) {
    if let Some(error) = file.write(lines) {
        tracing::warn!(%error, "the log of a process cannot be written; its output is lost until that changes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_stay_whole_and_nothing_is_lost(pieces in prop::collection::vec("[ab\n]{0,9}", 0..30)) {
            let (mut incomplete, mut writes) = (Vec::new(), Vec::new());
            for piece in &pieces {
                by_lines(&mut incomplete, piece.as_bytes(), |lines| writes.push(lines.to_vec()));
            }
            prop_assert!(writes.iter().all(|lines| lines.ends_with(b"\n")));
            let mut all = writes.concat();
            all.extend_from_slice(&incomplete);
            prop_assert_eq!(all, pieces.concat().into_bytes());
        }
    }

    #[test]
    fn an_endless_line_does_not_fill_memory() {
        let (mut incomplete, mut written) = (Vec::new(), 0);
        for _ in 0..100 {
            by_lines(&mut incomplete, &[b'x'; CHUNK], |lines| written += lines.len());
            assert!(incomplete.len() < MAX_LINE);
        }
        assert!(written + incomplete.len() >= 100 * CHUNK);
    }
}
