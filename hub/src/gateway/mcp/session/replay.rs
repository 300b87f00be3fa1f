//! The streams on which a client's requests are answered, kept for a while so that one that broke can be taken up again.
//!
//! Owns [`ReplayBuffers`] and [`ReplayBuffer`], the last events of one stream, and how an event's id names stream and place. A request
//! goes on when its client's connection breaks (that is no cancellation before 2026-07-28), and what it says is kept.
//! Invariant: an id is never used twice in a session, also over a restart of the hub; a stream that is taken up goes on
//! exactly after the id that is given, as far as its events are kept. An id names its request too, so that a client is
//! told when nobody has the answer any more. Never: waits for a client that is not there.

use crate::gateway::mcp::protocol::sse;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Events of one stream that are kept, and their bytes; the newest is kept whatever its size.
const MAX_EVENTS: usize = 256;
const MAX_BYTES: usize = 4 << 20;

/// Events that a reader has not taken yet, beyond which the request is held up.
const AHEAD: u64 = 16;

/// Streams that are kept of one client.
const MAX_STREAMS: usize = 32;

/// For this long a stream is kept that has ended.
const KEPT: Duration = Duration::from_secs(120);

/// The longest id of a request that ids of events repeat, in bytes. Those of SDKs are numbers or short words.
const MAX_REQUEST: usize = 64;

/// The streams of one client.
#[derive(Debug, Default)]
pub(crate) struct ReplayBuffers {
    /// Which session it is, so that an id of another one is not taken for one of an earlier life.
    session: u32,
    life: OnceLock<String>,
    table: Mutex<ReplayTable>,
}

#[derive(Debug, Default)]
struct ReplayTable {
    last: u64,
    logs: VecDeque<Arc<ReplayBuffer>>,
}

/// What an id of an event names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StreamPosition {
    /// This event of the client's own stream.
    Own(u64),
    /// This event of this stream of a request.
    Of(u64, u64),
    /// A stream that is not kept, of the request with this id, as JSON.
    Lost(String),
}

impl ReplayBuffers {
    /// The streams of the session with this id; none yet.
    pub(crate) fn of(session: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        session.hash(&mut hasher);
        // Half of the hash is as good as any other.
        Self { session: u32::try_from(hasher.finish() >> 32).unwrap_or_default(), ..Self::default() }
    }

    /// What ids of this life of the session begin with.
    pub(crate) fn life(&self) -> &str {
        // Without randomness ids of two lives may be the same; what was asked for then was kept by neither.
        self.life.get_or_init(|| format!("{:08x}{:08x}", self.session, getrandom::u32().unwrap_or_default()))
    }

    /// Begins the stream of the request with this id, as JSON.
    pub(crate) fn open(&self, request: &str) -> Arc<ReplayBuffer> {
        let now = Instant::now();
        let mut table = self.table.lock();
        table.logs.retain(|log| !log.is_over(now));
        if table.logs.len() >= MAX_STREAMS {
            table.logs.pop_front();
        }
        table.last += 1;
        let number = table.last;
        let log = Arc::new(ReplayBuffer {
            number,
            prefix: format!("{}.{number}{}", self.life(), named(request)),
            inner: Mutex::default(),
            wake: Notify::new(),
        });
        table.logs.push_back(Arc::clone(&log));
        log
    }

    /// What an id names; none if nothing is known of it.
    pub(crate) fn place(&self, id: &str) -> Option<StreamPosition> {
        let (life, rest) = id.split_once('.')?;
        let (stream, event) = rest.rsplit_once('-')?;
        let (number, request) = stream.split_once('.').map_or((stream, None), |(number, of)| (number, Some(of)));
        let (number, event) = (number.parse().ok()?, event.parse().ok()?);
        let ours = life == self.life();
        match number {
            0 => ours.then_some(StreamPosition::Own(event)),
            number if ours && self.table.lock().logs.iter().any(|log| log.number == number) => {
                Some(StreamPosition::Of(number, event))
            }
            _ if life.starts_with(&format!("{:08x}", self.session)) => request.and_then(name).map(StreamPosition::Lost),
            _ => None,
        }
    }

    /// Takes up a stream after this event; none if it is not kept any more.
    pub(crate) fn resume(&self, number: u64, after: u64) -> Option<ReplayReader> {
        let log = self.table.lock().logs.iter().find(|log| log.number == number).cloned()?;
        Some(ReplayBuffer::read(&log, after + 1))
    }
}

/// The part of an event's id that names a request.
fn named(request: &str) -> String {
    if request.len() > MAX_REQUEST {
        return String::new();
    }
    format!(".{}", URL_SAFE_NO_PAD.encode(request))
}

/// The id of the request that such a part names.
fn name(part: &str) -> Option<String> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
    let id: serde_json::Value = serde_json::from_str(&text).ok()?;
    (id.is_string() || id.is_number()).then_some(text)
}

/// The last events of one stream.
#[derive(Debug)]
pub(crate) struct ReplayBuffer {
    number: u64,
    prefix: String,
    inner: Mutex<ReplayState>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct ReplayState {
    events: VecDeque<(u64, Bytes)>,
    bytes: usize,
    last: u64,
    /// The reader that gets events, counted from 1, where it is, and whether it is there.
    reader: u64,
    taken: u64,
    is_read: bool,
    ended: Option<Instant>,
}

impl ReplayBuffer {
    /// Adds the event by which a client learns an id before anything was said.
    pub(crate) fn prime(&self) {
        self.inner.lock().add(|event| sse::priming(&format!("{}-{event}", self.prefix)));
    }

    /// Adds a message. Waits while a reader that is there is far behind.
    pub(crate) async fn push(&self, message: &str) {
        loop {
            let woken = self.wake.notified();
            let mut woken = std::pin::pin!(woken);
            woken.as_mut().enable();
            {
                let mut inner = self.inner.lock();
                if !inner.is_read || inner.last - inner.taken < AHEAD {
                    inner.add(|event| sse::event(&format!("{}-{event}", self.prefix), message));
                    break;
                }
            }
            woken.await;
        }
        self.wake.notify_waiters();
    }

    /// Nothing more will come.
    pub(crate) fn end(&self) {
        self.inner.lock().ended = Some(Instant::now());
        self.wake.notify_waiters();
    }

    fn is_over(&self, now: Instant) -> bool {
        let inner = self.inner.lock();
        !inner.is_read && inner.ended.is_some_and(|ended| now.duration_since(ended) > KEPT)
    }

    /// Reads from this event on, in place of an earlier reader.
    pub(crate) fn read(log: &Arc<Self>, from: u64) -> ReplayReader {
        let mut inner = log.inner.lock();
        inner.reader += 1;
        inner.is_read = true;
        inner.taken = from.saturating_sub(1).min(inner.last);
        let number = inner.reader;
        drop(inner);
        log.wake.notify_waiters();
        ReplayReader { log: Arc::clone(log), number }
    }
}

impl ReplayState {
    fn add(&mut self, event: impl FnOnce(u64) -> Bytes) {
        self.last += 1;
        let event = event(self.last);
        self.bytes += event.len();
        self.events.push_back((self.last, event));
        while self.events.len() > MAX_EVENTS || (self.bytes > MAX_BYTES && self.events.len() > 1) {
            let gone = self.events.pop_front().map_or(0, |(_, event)| event.len());
            self.bytes -= gone;
        }
    }
}

/// Who reads a stream.
#[derive(Debug)]
pub(crate) struct ReplayReader {
    log: Arc<ReplayBuffer>,
    number: u64,
}

impl ReplayReader {
    /// The next event; none at the end, or when another reader came. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let woken = self.log.wake.notified();
            let mut woken = std::pin::pin!(woken);
            // From here on no wake-up is missed, so looking first and waiting after is safe.
            woken.as_mut().enable();
            {
                let mut inner = self.log.inner.lock();
                if inner.reader != self.number {
                    return None;
                }
                let next = inner.events.iter().find(|(event, _)| *event > inner.taken).cloned();
                if let Some((at, event)) = next {
                    inner.taken = at;
                    drop(inner);
                    self.log.wake.notify_waiters();
                    return Some(event);
                }
                if inner.ended.is_some() {
                    return None;
                }
            }
            woken.await;
        }
    }
}

impl Drop for ReplayReader {
    fn drop(&mut self) {
        let mut inner = self.log.inner.lock();
        if inner.reader == self.number {
            inner.is_read = false;
        }
        drop(inner);
        self.log.wake.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(reader: &mut ReplayReader) -> String {
        String::from_utf8(reader.next().await.unwrap().to_vec()).unwrap()
    }

    fn id(event: &str) -> &str {
        event.lines().find_map(|line| line.strip_prefix("id: ")).unwrap()
    }

    #[tokio::test]
    async fn a_stream_goes_on_after_the_id_that_is_given() {
        let streams = ReplayBuffers::default();
        let (one, other) = (streams.open("1"), streams.open("\"a-b.c\""));
        let mut reader = ReplayBuffer::read(&one, 1);
        one.prime();
        for message in ["a", "b"] {
            one.push(message).await;
            other.push("x").await;
        }
        let first = text(&mut reader).await;
        assert!(first.contains("retry: ") && first.ends_with("data: \n\n"), "{first}");
        drop(reader);
        one.push("c").await;
        one.end();
        let Some(StreamPosition::Of(stream, event)) = streams.place(id(&first)) else { panic!("{first}") };
        let mut again = streams.resume(stream, event).unwrap();
        for message in ["a", "b", "c"] {
            let event = text(&mut again).await;
            assert!(event.contains(&format!("data: {message}\n")), "{event}");
        }
        assert_eq!(again.next().await, None);
        assert_eq!(ReplayBuffers::default().place(id(&first)), Some(StreamPosition::Lost("1".into())), "another life");
        assert!(streams.resume(9, 1).is_none());
    }

    #[tokio::test]
    async fn who_comes_for_an_answer_that_nobody_has_is_known_by_its_request() {
        let earlier = ReplayBuffers::default();
        let long = format!("\"{}\"", "x".repeat(MAX_REQUEST));
        for (request, found) in [("7", Some("7")), ("\"a-b.c\"", Some("\"a-b.c\"")), (&*long, None)] {
            let log = earlier.open(request);
            log.prime();
            let first = text(&mut ReplayBuffer::read(&log, 1)).await;
            let found = found.map(|id| StreamPosition::Lost(id.to_owned()));
            assert_eq!(ReplayBuffers::default().place(id(&first)), found, "{first}");
            assert_eq!(ReplayBuffers::of("another").place(id(&first)), None, "{first}");
            assert!(matches!(earlier.place(id(&first)), Some(StreamPosition::Of(..))), "it is kept here");
        }
        for foreign in ["", "x", "x.1-2", "x.1.e30-2", "x.1.!-2", "x.0.Nw-1", "x.y.Nw-1", "x.1.Nw-1"] {
            assert_eq!(earlier.place(foreign), None, "{foreign}");
        }
    }

    #[tokio::test]
    async fn a_reader_holds_the_request_up_only_while_it_is_there() {
        let log = ReplayBuffers::default().open("1");
        let reader = ReplayBuffer::read(&log, 1);
        let pushing = tokio::spawn({
            let log = Arc::clone(&log);
            async move {
                for _ in 0..2 * MAX_EVENTS {
                    log.push("x").await;
                }
            }
        });
        while log.inner.lock().last < AHEAD {
            tokio::task::yield_now().await;
        }
        assert!(!pushing.is_finished());
        drop(reader);
        pushing.await.unwrap();
        assert_eq!(log.inner.lock().events.len(), MAX_EVENTS);
    }
}
