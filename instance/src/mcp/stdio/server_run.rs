//! One life of a stdio server: from the start of its process to its end. Its MCP session is exactly that long.
//!
//! Owns [`Life`], what requests hold on to, and [`Session`], the two tasks that move lines in and out of the pipes.
//! Invariant: whatever the process wrote before it ended is delivered before its requests learn that it ended, and a
//! line is written whole or not at all, even when who sent it goes away.
//! Never: restarts anything; it only says that the session broke.

use super::initialize::Initialized;
use super::lines::{Lines, TooLong};
use super::message::{Id, Message};
use super::routes::{Delivered, Part, Refused, Routes};
use crate::supervisor::output::{Log, drain};
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
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

/// Messages that wait to be written. A server that does not read holds up who sends, not our memory.
const TO_CHILD: usize = 64;

/// One life of a stdio server.
#[derive(Debug)]
pub(crate) struct Life {
    /// Which life, beginning with 1.
    pub(super) epoch: u64,
    /// The session id of this life.
    pub(super) session: String,
    /// What the server answered to `initialize`. Locked while that is under way.
    pub(super) initialized: tokio::sync::Mutex<Option<Initialized>>,
    told_initialized: AtomicBool,
    to_child: mpsc::Sender<Line>,
    routes: Mutex<Routes>,
    end: OnceLock<String>,
    /// How many bytes the server had taken out of its standard input when it ended.
    taken: OnceLock<u64>,
}

/// A line for the server, and where to note at which byte of its standard input the line ends.
type Line = (Bytes, Option<Arc<AtomicU64>>);

/// The end of a line that was not written, or not whole.
const NEVER: u64 = u64::MAX;

impl Life {
    /// Sends a request. The answer, and what belongs to it, comes out of the [`Call`].
    pub(super) async fn call(self: &Arc<Self>, id: Id, token: Option<Id>, line: Bytes) -> Result<Call, Refused> {
        let parts = self.routes.lock().open(id.clone(), token)?;
        let line_end = Arc::new(AtomicU64::new(NEVER));
        let call = Call { life: Arc::clone(self), id, parts, line_end: Arc::clone(&line_end) };
        self.send((one_line(line), Some(line_end))).await?;
        Ok(call)
    }

    /// Sends a message that is not answered.
    pub(super) async fn tell(&self, line: Bytes) -> Result<(), Refused> {
        self.send((one_line(line), None)).await
    }

    async fn send(&self, line: Line) -> Result<(), Refused> {
        self.to_child.send(line).await.map_err(|_| Refused::Over)
    }

    /// Sends `notifications/initialized`, but once in a life: a hub that was restarted says it again.
    pub(super) async fn tell_initialized(&self, line: Bytes) -> Result<(), Refused> {
        if self.told_initialized.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.tell(line).await
    }

    /// Listens for the messages that belong to no request.
    pub(super) fn listen(&self) -> Result<mpsc::Receiver<Bytes>, Refused> {
        self.routes.lock().listen()
    }

    /// How it ended, for people.
    pub(super) fn end(&self) -> &str {
        self.end.get().map_or("it is ending", String::as_str)
    }

    fn deliver(&self, line: Bytes, log: &Log) {
        let Some(message) = Message::look(&line) else {
            if !line.trim_ascii().is_empty() {
                log.stray(&line);
            }
            return;
        };
        match self.routes.lock().deliver(&message, line) {
            Delivered::Yes => {}
            Delivered::Nobody => tracing::debug!(?message, "nobody waits for this message any more"),
            Delivered::NoRoom => tracing::debug!(?message, "progress dropped: its reader does not read"),
        }
    }
}

/// A request under way. Dropping it frees its id; the server is not told, as MCP has it.
#[derive(Debug)]
pub(super) struct Call {
    /// The life that the request was sent to.
    pub(super) life: Arc<Life>,
    /// The request's id.
    pub(super) id: Id,
    parts: mpsc::Receiver<Part>,
    line_end: Arc<AtomicU64>,
}

impl Call {
    /// The next message of this request; `None` when the server ended before it answered.
    pub(super) async fn next(&mut self) -> Option<Part> {
        self.parts.recv().await
    }

    /// Whether the server, which has ended, surely did nothing with the request: it had not read the whole line.
    pub(super) fn not_executed(&self) -> bool {
        self.life.taken.get().is_some_and(|taken| *taken < self.line_end.load(Ordering::Acquire))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.parts.close();
        self.life.routes.lock().forget(&self.id);
    }
}

/// Moves the lines of one life.
#[derive(Debug)]
pub(crate) struct Session {
    /// The life.
    pub(super) life: Arc<Life>,
    ending: CancellationToken,
    broken: mpsc::Receiver<&'static str>,
    tasks: TaskTracker,
}

impl Session {
    /// Begins a life on the pipes of a process that was just started.
    pub(super) fn begin(epoch: u64, stdin: OwnedFd, stdout: OwnedFd, max_line: usize, log: Log) -> io::Result<Self> {
        let (mut stdin, stdout) = (pipe::Sender::from_owned_fd(stdin)?, pipe::Receiver::from_owned_fd(stdout)?);
        let (to_child, lines) = mpsc::channel(TO_CHILD);
        let life = Arc::new(Life {
            epoch,
            session: Uuid::new_v4().simple().to_string(),
            initialized: tokio::sync::Mutex::default(),
            told_initialized: AtomicBool::new(false),
            to_child,
            routes: Mutex::default(),
            end: OnceLock::new(),
            taken: OnceLock::new(),
        });
        let (break_read, broken) = mpsc::channel(2);
        let break_write = break_read.clone();
        let session = Self { life, ending: CancellationToken::new(), broken, tasks: TaskTracker::new() };
        let (life, ending) = (Arc::clone(&session.life), session.ending.clone());
        session.tasks.spawn(async move {
            let mut stdout = stdout;
            let why = read(&mut stdout, &life, Lines::new(max_line), &log, &ending).await;
            // It fails only when nobody asks any more.
            let _ = break_read.send(why).await;
            // Closed now, the pipe would kill the server while it writes, and hide why its session broke.
            ending.cancelled().await;
        });
        let (life, ending) = (Arc::clone(&session.life), session.ending.clone());
        session.tasks.spawn(async move {
            let mut written = 0;
            if let Some(Err(_)) = ending.run_until_cancelled(write(&mut stdin, lines, &mut written)).await {
                let _ = break_write.send("it closed its standard input").await;
                ending.cancelled().await;
            }
            // Set once: this task is the only one.
            let _ = life.taken.set(written.saturating_sub(left_for_good(&stdin)));
        });
        Ok(session)
    }

    /// Ends with the reason when the session cannot go on although the process may.
    pub(crate) async fn broken(&mut self) -> &'static str {
        match self.broken.recv().await {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// Ends the life: reads what is in the pipe already, then tells all who wait. Also closes the standard input.
    pub(crate) async fn end(self, how: String) {
        // It is set nowhere else, and this consumes the session.
        let _ = self.life.end.set(how);
        self.ending.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.life.routes.lock().close();
    }
}

/// A session that is dropped without [`Session::end`] ends too.
impl Drop for Session {
    fn drop(&mut self) {
        self.ending.cancel();
        self.life.routes.lock().close();
    }
}

/// Reads until the pipe closes, the session ends or the server sends what cannot be a message. Says why.
async fn read(
    stdout: &mut pipe::Receiver,
    life: &Life,
    mut lines: Lines,
    log: &Log,
    ending: &CancellationToken,
) -> &'static str {
    let too_long = |TooLong| "it sent a longer line than allowed";
    loop {
        let read = tokio::select! {
            biased;
            () = ending.cancelled() => {
                lines.room().extend_from_slice(&drain(stdout));
                return deliver_all(&mut lines, life, log).map_or_else(too_long, |()| "it was ended");
            }
            read = stdout.read_buf(lines.room()) => read,
        };
        match read {
            Ok(0) => return "it closed its standard output",
            Ok(_) => {}
            Err(_) => return "its standard output cannot be read",
        }
        if let Err(error) = deliver_all(&mut lines, life, log) {
            return too_long(error);
        }
    }
}

fn deliver_all(lines: &mut Lines, life: &Life, log: &Log) -> Result<(), TooLong> {
    while let Some(line) = lines.next()? {
        life.deliver(line, log);
    }
    Ok(())
}

/// Writes lines, counts their bytes and notes where each one ends once all of it is in the pipe.
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

/// How many bytes are in the pipe that nobody will ever read: with no reader left, all that it holds.
fn left_for_good(stdin: &pipe::Sender) -> u64 {
    let mut polled = [PollFd::new(stdin, PollFlags::empty())];
    let asked = poll(&mut polled, Some(&Timespec::default()));
    // Of the writing end, POLLERR says that the reading end is closed (poll(2)). A grandchild may hold it open.
    let no_reader = asked.is_ok() && polled[0].revents().contains(PollFlags::ERR);
    if no_reader { ioctl_fionread(stdin).unwrap_or_default() } else { 0 }
}

/// A line feed or carriage return inside valid JSON is only ever space between tokens: a space does as well.
pub(super) fn one_line(json: Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', &json).is_none() {
        return json;
    }
    json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect()
}
