//! Where the messages of one life of a stdio server go.
//!
//! Owns which requests are under way ([`Routes::open`]) and who listens for the rest ([`Routes::listen`]). Pure: no
//! await, no clock.
//! Invariant: a request that was opened gets exactly one answer, or learns from its closed channel that none will come.
//! A reader that does not read loses its own progress messages or its own stream, and never holds up another.
//! Never: looks at bytes; [`Message`] says what they are.

use super::message::{Id, Message};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use tokio::sync::mpsc;

/// Messages that wait for one reader. The last place is kept for the answer.
const QUEUE: usize = 256;
/// Messages kept while nobody listens: by number and by size.
const RECENT: usize = 256;
const RECENT_BYTES: usize = 4 << 20;

/// A message that belongs to a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Something before the answer.
    Note(Bytes),
    /// The answer. Nothing follows.
    Answer(Bytes),
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Another request with this id is under way.
    Duplicate,
    /// The life is over.
    Over,
}

/// What became of a message of the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// It went to who it is for, or is kept for them.
    Yes,
    /// Nobody waits for it any more.
    Nobody,
    /// Its reader had no room.
    NoRoom,
}

#[derive(Debug)]
struct Call {
    parts: mpsc::Sender<Part>,
    token: Option<Id>,
}

/// The routes of one life.
#[derive(Debug, Default)]
pub(super) struct Routes {
    calls: HashMap<Id, Call>,
    tokens: HashMap<Id, Id>,
    listeners: Vec<mpsc::Sender<Bytes>>,
    recent: VecDeque<Bytes>,
    recent_bytes: usize,
    over: bool,
}

impl Routes {
    /// Begins a request.
    pub(super) fn open(&mut self, id: Id, token: Option<Id>) -> Result<mpsc::Receiver<Part>, Refused> {
        if self.over {
            return Err(Refused::Over);
        }
        if self.calls.contains_key(&id) {
            return Err(Refused::Duplicate);
        }
        let (parts, receiver) = mpsc::channel(QUEUE);
        if let Some(token) = &token {
            self.tokens.insert(token.clone(), id.clone());
        }
        self.calls.insert(id, Call { parts, token });
        Ok(receiver)
    }

    /// Forgets a request whose reader went away. One that took the id since then is left alone.
    pub(super) fn forget(&mut self, id: &Id) {
        if self.calls.get(id).is_some_and(|call| call.parts.is_closed()) {
            self.take(id);
        }
    }

    /// Listens for the messages that belong to no request. The first listener gets what was kept.
    pub(super) fn listen(&mut self) -> Result<mpsc::Receiver<Bytes>, Refused> {
        if self.over {
            return Err(Refused::Over);
        }
        let (sender, receiver) = mpsc::channel(QUEUE + RECENT);
        for message in self.recent.drain(..) {
            // There is room: the channel holds all that is ever kept.
            let _ = sender.try_send(message);
        }
        self.recent_bytes = 0;
        self.listeners.push(sender);
        Ok(receiver)
    }

    /// Takes one message of the server to where it belongs.
    pub(super) fn deliver(&mut self, message: &Message, bytes: Bytes) -> Delivered {
        match message {
            Message::Response(id) => match self.take(id) {
                Some(call) => delivered(call.parts.try_send(Part::Answer(bytes)).is_ok()),
                None => Delivered::Nobody,
            },
            Message::Progress(token) => match self.tokens.get(token).and_then(|id| self.calls.get(id)) {
                Some(call) if call.parts.is_closed() => Delivered::Nobody,
                Some(call) => delivered(call.parts.capacity() > 1 && call.parts.try_send(Part::Note(bytes)).is_ok()),
                // Not of a request under way: a task's progress goes on after its request was answered.
                None => self.tell_all(&bytes),
            },
            Message::Request { .. } | Message::Notification | Message::Initialized => self.tell_all(&bytes),
        }
    }

    /// Ends all routes: no answer will come.
    pub(super) fn close(&mut self) {
        *self = Self { over: true, ..Self::default() };
    }

    fn take(&mut self, id: &Id) -> Option<Call> {
        let call = self.calls.remove(id)?;
        if let Some(token) = &call.token {
            self.tokens.remove(token);
        }
        Some(call)
    }

    /// A listener without room is let go: its stream ends, so it knows that it missed something.
    fn tell_all(&mut self, bytes: &Bytes) -> Delivered {
        self.listeners.retain(|listener| listener.try_send(bytes.clone()).is_ok());
        if self.listeners.is_empty() {
            self.keep(bytes);
        }
        Delivered::Yes
    }

    /// Keeps a copy of its own: the bytes may be a small part of a large read.
    fn keep(&mut self, bytes: &Bytes) {
        if bytes.len() > RECENT_BYTES {
            return;
        }
        self.recent_bytes += bytes.len();
        self.recent.push_back(Bytes::copy_from_slice(bytes));
        while self.recent.len() > RECENT || self.recent_bytes > RECENT_BYTES {
            let dropped = self.recent.pop_front().map_or(0, |oldest| oldest.len());
            self.recent_bytes -= dropped;
        }
    }
}

const fn delivered(yes: bool) -> Delivered {
    if yes { Delivered::Yes } else { Delivered::NoRoom }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give(routes: &mut Routes, json: &str) -> Delivered {
        routes.deliver(&Message::look(json.as_bytes()).unwrap(), Bytes::copy_from_slice(json.as_bytes()))
    }

    fn id(json: &str) -> Id {
        match Message::look(format!("{{\"id\":{json},\"result\":0}}").as_bytes()) {
            Some(Message::Response(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    const PROGRESS: &str = r#"{"method":"notifications/progress","params":{"progressToken":"t"}}"#;
    const ANSWER: &str = r#"{"id":1,"result":{}}"#;

    #[test]
    fn progress_and_answer_go_to_their_request() {
        let mut routes = Routes::default();
        let mut one = routes.open(id("1"), Some(id("\"t\""))).unwrap();
        assert_eq!(routes.open(id("1"), None).unwrap_err(), Refused::Duplicate);
        assert_eq!(give(&mut routes, PROGRESS), Delivered::Yes);
        assert_eq!(give(&mut routes, ANSWER), Delivered::Yes);
        assert_eq!(one.try_recv().unwrap(), Part::Note(PROGRESS.into()));
        assert_eq!(one.try_recv().unwrap(), Part::Answer(ANSWER.into()));
        assert_eq!(give(&mut routes, ANSWER), Delivered::Nobody);
        assert_eq!(give(&mut routes, PROGRESS), Delivered::Yes, "for who listens");
        assert_eq!(routes.listen().unwrap().try_recv().unwrap(), PROGRESS);
        assert!(routes.open(id("1"), None).is_ok(), "an answered id is free");
    }

    #[test]
    fn the_answer_has_room_when_progress_has_none() {
        let mut routes = Routes::default();
        let mut one = routes.open(id("1"), Some(id("\"t\""))).unwrap();
        let progress: Vec<_> = (0..QUEUE + 5).map(|_| give(&mut routes, PROGRESS)).collect();
        assert_eq!(progress.iter().filter(|it| **it == Delivered::NoRoom).count(), 6);
        assert_eq!(give(&mut routes, ANSWER), Delivered::Yes);
        assert_eq!(std::iter::from_fn(|| one.try_recv().ok()).count(), QUEUE);
    }

    #[test]
    fn forgetting_spares_who_took_the_id_since() {
        let mut routes = Routes::default();
        let first = routes.open(id("1"), None).unwrap();
        routes.forget(&id("1"));
        assert_eq!(routes.open(id("1"), None).unwrap_err(), Refused::Duplicate, "its reader is there");
        drop(first);
        routes.forget(&id("1"));
        let mut second = routes.open(id("1"), None).unwrap();
        routes.forget(&id("1"));
        assert_eq!(give(&mut routes, ANSWER), Delivered::Yes);
        assert!(second.try_recv().is_ok());
    }

    #[test]
    fn what_belongs_to_no_request_is_kept_for_the_first_listener_and_goes_to_all() {
        let mut routes = Routes::default();
        for n in 0..RECENT + 3 {
            give(&mut routes, &format!(r#"{{"method":"n{n}"}}"#));
        }
        let mut first = routes.listen().unwrap();
        let mut second = routes.listen().unwrap();
        give(&mut routes, r#"{"method":"ping","id":5}"#);
        let of = |it: &mut mpsc::Receiver<Bytes>| std::iter::from_fn(|| it.try_recv().ok()).collect::<Vec<_>>();
        let (first, second) = (of(&mut first), of(&mut second));
        assert_eq!(first.len(), RECENT + 1);
        assert_eq!(first[0], r#"{"method":"n3"}"#);
        assert_eq!(second, [r#"{"method":"ping","id":5}"#]);
    }

    #[test]
    fn a_listener_that_does_not_read_is_let_go() {
        let mut routes = Routes::default();
        let mut slow = routes.listen().unwrap();
        for _ in 0..=QUEUE + RECENT {
            give(&mut routes, r#"{"method":"n"}"#);
        }
        assert_eq!(std::iter::from_fn(|| slow.try_recv().ok()).count(), QUEUE + RECENT);
        assert_eq!(slow.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
    }

    #[test]
    fn the_end_is_known_to_all() {
        let mut routes = Routes::default();
        let mut call = routes.open(id("1"), None).unwrap();
        let mut listener = routes.listen().unwrap();
        routes.close();
        assert_eq!(call.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
        assert_eq!(listener.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
        assert_eq!(routes.open(id("1"), None).unwrap_err(), Refused::Over);
        assert_eq!(routes.listen().unwrap_err(), Refused::Over);
    }
}
