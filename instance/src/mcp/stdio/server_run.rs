//! One run of a stdio server: from the start of its process to its end. Its MCP session is exactly that long.
//!
//! Requests hold a [`ServerRun`]; a [`StdioSession`] owns the two tasks that move lines in and out of the pipes. All
//! that the process wrote before it ended is delivered before its requests learn that it ended. A line is written
//! completely or not at all, even when its sender is gone. Nothing is restarted here; the session only reports that it
//! is broken.

use super::line_buffer::{LineBuffer, LineTooLong};
use super::message::{JsonId, Message};
use super::message_router::{CallMessage, Delivery, MessageRouter, SendError};
use crate::supervisor::output::{Log, drain};
use bytes::{Buf, Bytes};
use linchpin_shared::json_line::one_line;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// How many messages may wait to be written. A server that does not read delays the senders rather than filling memory.
const WRITE_QUEUE: usize = 64;

/// One run of a stdio server.
#[derive(Debug)]
pub(super) struct ServerRun {
    /// The number of the run, starting at 1.
    pub(super) number: u64,
    /// The session id of this run.
    pub(super) session: String,
    /// The answer to `initialize`. It is locked while that request is in flight.
    pub(super) initialized: tokio::sync::Mutex<Option<Initialized>>,
    initialized_notified: AtomicBool,
    to_child: mpsc::Sender<Line>,
    router: Mutex<MessageRouter>,
    end_reason: OnceLock<String>,
    /// How many bytes the server had read from its standard input when it ended.
    bytes_read: OnceLock<u64>,
}

/// What a server was asked with `initialize`, and what it answered.
#[derive(Debug)]
pub(super) struct Initialized {
    pub(super) request: InitializeParams,
    pub(super) result: Box<RawValue>,
}

/// What distinguishes one `initialize` from another: the version, but neither the client nor its capabilities.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InitializeParams {
    #[serde(default)]
    protocol_version: Value,
}

/// A line for the server, and where to record at which byte of its standard input the line ends.
type Line = (Bytes, Option<Arc<AtomicU64>>);

/// The end of a line that was not written completely.
const NOT_WRITTEN: u64 = u64::MAX;

impl ServerRun {
    fn new(number: u64, to_child: mpsc::Sender<Line>) -> Self {
        Self {
            number,
            session: Uuid::new_v4().simple().to_string(),
            initialized: tokio::sync::Mutex::default(),
            initialized_notified: AtomicBool::new(false),
            to_child,
            router: Mutex::default(),
            end_reason: OnceLock::new(),
            bytes_read: OnceLock::new(),
        }
    }

    /// Sends a request. Its response, and what precedes it, arrives at the returned [`PendingCall`].
    pub(super) async fn call(
        self: &Arc<Self>,
        id: JsonId,
        token: Option<JsonId>,
        line: Bytes,
    ) -> Result<PendingCall, SendError> {
        let messages = self.router.lock().open(id.clone(), token)?;
        let line_end = Arc::new(AtomicU64::new(NOT_WRITTEN));
        let call = PendingCall { run: Arc::clone(self), id, messages, line_end: Arc::clone(&line_end) };
        self.send((one_line(line), Some(line_end))).await?;
        Ok(call)
    }

    /// Sends a message that has no response.
    pub(super) async fn notify(&self, line: Bytes) -> Result<(), SendError> {
        self.send((one_line(line), None)).await
    }

    async fn send(&self, line: Line) -> Result<(), SendError> {
        self.to_child.send(line).await.map_err(|_| SendError::Ended)
    }

    /// Sends `notifications/initialized`, but only once in a run: a hub that was restarted sends it again.
    pub(super) async fn notify_initialized(&self, line: Bytes) -> Result<(), SendError> {
        if self.initialized_notified.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.notify(line).await
    }

    /// Listens for the messages that belong to no request.
    pub(super) fn listen(&self) -> Result<mpsc::Receiver<Bytes>, SendError> {
        self.router.lock().listen()
    }

    /// Says, for people, how the run ended.
    pub(super) fn end_reason(&self) -> &str {
        self.end_reason.get().map_or("it is ending", String::as_str)
    }

    fn deliver(&self, line: Bytes, log: &Log) {
        let Some(message) = Message::parse(&line) else {
            if !line.trim_ascii().is_empty() {
                log.unexpected_line(&line);
            }
            return;
        };
        match self.router.lock().deliver(&message, line) {
            Delivery::Delivered => {}
            Delivery::NoReceiver => tracing::debug!(?message, "no request waits for this message any more"),
            Delivery::QueueFull => tracing::debug!(?message, "a progress message was dropped: its queue is full"),
        }
    }
}

/// A request in flight. Dropping it frees its id; as MCP specifies, the server is not notified.
#[derive(Debug)]
pub(super) struct PendingCall {
    /// The run to which the request was sent.
    pub(super) run: Arc<ServerRun>,
    /// The request's id.
    pub(super) id: JsonId,
    messages: mpsc::Receiver<CallMessage>,
    line_end: Arc<AtomicU64>,
}

impl PendingCall {
    /// Returns the next message of this request; `None` when the server ended before it answered.
    pub(super) async fn next(&mut self) -> Option<CallMessage> {
        self.messages.recv().await
    }

    /// Whether the server, which has ended, certainly did not execute the request: it had not read the whole line.
    pub(super) fn not_executed(&self) -> bool {
        self.run.bytes_read.get().is_some_and(|read| *read < self.line_end.load(Ordering::Acquire))
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        self.messages.close();
        self.run.router.lock().forget(&self.id);
    }
}

/// The tasks that move the lines of one run.
#[derive(Debug)]
pub(super) struct StdioSession {
    pub(super) run: Arc<ServerRun>,
    ending: CancellationToken,
    broken: mpsc::Receiver<&'static str>,
    tasks: TaskTracker,
}

impl StdioSession {
    /// Starts a session on the pipes of a process that has just started.
    pub(super) fn start(number: u64, stdin: OwnedFd, stdout: OwnedFd, max_line: usize, log: Log) -> io::Result<Self> {
        let (mut stdin, stdout) = (pipe::Sender::from_owned_fd(stdin)?, pipe::Receiver::from_owned_fd(stdout)?);
        let (to_child, lines) = mpsc::channel(WRITE_QUEUE);
        let (break_read, broken) = mpsc::channel(2);
        let break_write = break_read.clone();
        let run = Arc::new(ServerRun::new(number, to_child));
        let session = Self { run, ending: CancellationToken::new(), broken, tasks: TaskTracker::new() };
        let (run, ending) = (Arc::clone(&session.run), session.ending.clone());
        session.tasks.spawn(async move {
            let mut stdout = stdout;
            let why = read(&mut stdout, &run, LineBuffer::new(max_line), &log, &ending).await;
            // It fails only when the session is not awaited any more.
            let _ = break_read.send(why).await;
            // If the pipe were closed now, the server would be killed while it writes, which hides why its session
            // broke.
            ending.cancelled().await;
        });
        let (run, ending) = (Arc::clone(&session.run), session.ending.clone());
        session.tasks.spawn(async move {
            let mut written = 0;
            if let Some(Err(_)) = ending.run_until_cancelled(write(&mut stdin, lines, &mut written)).await {
                let _ = break_write.send("it closed its standard input").await;
                ending.cancelled().await;
            }
            // It cannot be set already: only this task sets it.
            let _ = run.bytes_read.set(written.saturating_sub(left_unread(&stdin)));
        });
        Ok(session)
    }

    /// Resolves with the reason when the session cannot go on although the process may.
    pub(super) async fn broken(&mut self) -> &'static str {
        match self.broken.recv().await {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// Ends the session: delivers what the pipe contains already, then notifies all waiting requests. It also closes
    /// the standard input.
    pub(super) async fn end(self, reason: String) {
        // It cannot be set already: it is set nowhere else, and this consumes the session.
        let _ = self.run.end_reason.set(reason);
        self.ending.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.run.router.lock().close();
    }
}

impl Drop for StdioSession {
    fn drop(&mut self) {
        self.ending.cancel();
        self.run.router.lock().close();
    }
}

/// Reads until the pipe closes, the session ends or the server sends what cannot be a message. Returns the reason.
async fn read(
    stdout: &mut pipe::Receiver,
    run: &ServerRun,
    mut lines: LineBuffer,
    log: &Log,
    ending: &CancellationToken,
) -> &'static str {
    let too_long = |LineTooLong| "it sent a longer line than allowed";
    loop {
        let read = tokio::select! {
            biased;
            () = ending.cancelled() => {
                lines.spare().extend_from_slice(&drain(stdout));
                return deliver_all(&mut lines, run, log).map_or_else(too_long, |()| "it was ended");
            }
            read = stdout.read_buf(lines.spare()) => read,
        };
        match read {
            Ok(0) => return "it closed its standard output",
            Ok(_) => {}
            Err(_) => return "its standard output cannot be read",
        }
        if let Err(error) = deliver_all(&mut lines, run, log) {
            return too_long(error);
        }
    }
}

fn deliver_all(lines: &mut LineBuffer, run: &ServerRun, log: &Log) -> Result<(), LineTooLong> {
    while let Some(line) = lines.next()? {
        run.deliver(line, log);
    }
    Ok(())
}

/// Writes lines, counts their bytes and records where each one ends once it is in the pipe completely.
async fn write(stdin: &mut pipe::Sender, mut lines: mpsc::Receiver<Line>, written: &mut u64) -> io::Result<()> {
    while let Some((line, line_end)) = lines.recv().await {
        let mut line = line.chain(b"\n".as_slice());
        while line.has_remaining() {
            *written += stdin.write_buf(&mut line).await? as u64;
        }
        if let Some(line_end) = line_end {
            line_end.store(*written, Ordering::Release);
        }
    }
    Ok(())
}

/// Returns how many bytes in the pipe will never be read: all of them when no reader is left.
fn left_unread(stdin: &pipe::Sender) -> u64 {
    let mut polled = [PollFd::new(stdin, PollFlags::empty())];
    let answered = poll(&mut polled, Some(&Timespec::default()));
    // On the writing end, POLLERR says that the reading end is closed (poll(2)). A grandchild may hold it open.
    let no_reader = answered.is_ok() && polled[0].revents().contains(PollFlags::ERR);
    if no_reader { ioctl_fionread(stdin).unwrap_or_default() } else { 0 }
}
