//! Delivers the messages of one run of a stdio server. Pure: no await, no clock.
//!
//! A request that was opened gets exactly one response, or learns from its closed channel that none will come. A
//! receiver that does not keep up loses its own progress messages or its own stream and never delays another.

use super::message::{JsonId, Message};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use tokio::sync::mpsc;

/// How many messages may wait for one receiver. The last place is reserved for the response.
const QUEUE: usize = 256;
/// The limits on messages that are kept while nobody listens: number and bytes.
const MAX_KEPT: usize = 256;
const MAX_KEPT_BYTES: usize = 4 << 20;

/// A message that belongs to a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CallMessage {
    /// A message that precedes the response.
    Progress(Bytes),
    /// The response. Nothing follows.
    Response(Bytes),
}

/// Why a message could not be sent to the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// Another request with this id is in flight.
    DuplicateId,
    /// The run has ended.
    Ended,
}

/// What became of a message of the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It was delivered, or is kept for the first listener.
    Delivered,
    /// Its receiver is gone.
    NoReceiver,
    /// Its receiver's queue is full.
    QueueFull,
}

/// Where the messages of one request go.
#[derive(Debug)]
struct Route {
    messages: mpsc::Sender<CallMessage>,
    token: Option<JsonId>,
}

/// The requests in flight and the listeners of one run.
#[derive(Debug, Default)]
pub(super) struct MessageRouter {
    calls: HashMap<JsonId, Route>,
    /// The requests by their progress tokens.
    tokens: HashMap<JsonId, JsonId>,
    listeners: Vec<mpsc::Sender<Bytes>>,
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    closed: bool,
}

impl MessageRouter {
    /// Opens a request.
    pub(super) fn open(&mut self, id: JsonId, token: Option<JsonId>) -> Result<mpsc::Receiver<CallMessage>, SendError> {
        if self.closed {
            return Err(SendError::Ended);
        }
        if self.calls.contains_key(&id) {
            return Err(SendError::DuplicateId);
        }
        let (messages, receiver) = mpsc::channel(QUEUE);
        if let Some(token) = &token {
            self.tokens.insert(token.clone(), id.clone());
        }
        self.calls.insert(id, Route { messages, token });
        Ok(receiver)
    }

    /// Forgets a request whose receiver is gone, unless another request has taken its id since then.
    pub(super) fn forget(&mut self, id: &JsonId) {
        if self.calls.get(id).is_some_and(|call| call.messages.is_closed()) {
            self.remove(id);
        }
    }

    /// Listens for the messages that belong to no request. The first listener gets the messages that were kept.
    pub(super) fn listen(&mut self) -> Result<mpsc::Receiver<Bytes>, SendError> {
        if self.closed {
            return Err(SendError::Ended);
        }
        let (sender, receiver) = mpsc::channel(QUEUE + MAX_KEPT);
        for message in self.kept.drain(..) {
            // It cannot fail: the queue is larger than what is ever kept.
            let _ = sender.try_send(message);
        }
        self.kept_bytes = 0;
        self.listeners.push(sender);
        Ok(receiver)
    }

    /// Delivers one message of the server.
    pub(super) fn deliver(&mut self, message: &Message, bytes: Bytes) -> Delivery {
        match message {
            Message::Response(id) => match self.remove(id) {
                Some(call) => sent(call.messages.try_send(CallMessage::Response(bytes)).is_ok()),
                None => Delivery::NoReceiver,
            },
            Message::Progress(token) => match self.tokens.get(token).and_then(|id| self.calls.get(id)) {
                Some(call) if call.messages.is_closed() => Delivery::NoReceiver,
                Some(call) => {
                    sent(call.messages.capacity() > 1 && call.messages.try_send(CallMessage::Progress(bytes)).is_ok())
                }
                // It belongs to no request in flight: a task's progress goes on after its request was answered.
                None => self.broadcast(&bytes),
            },
            Message::Request { .. } | Message::Notification | Message::Initialized => self.broadcast(&bytes),
        }
    }

    /// Closes all channels: no response will come any more.
    pub(super) fn close(&mut self) {
        *self = Self { closed: true, ..Self::default() };
    }

    fn remove(&mut self, id: &JsonId) -> Option<Route> {
        let call = self.calls.remove(id)?;
        if let Some(token) = &call.token {
            self.tokens.remove(token);
        }
        Some(call)
    }

    /// Sends to all listeners. One whose queue is full is dropped: its stream ends, which shows that it missed
    /// something.
    fn broadcast(&mut self, bytes: &Bytes) -> Delivery {
        self.listeners.retain(|listener| listener.try_send(bytes.clone()).is_ok());
        if self.listeners.is_empty() {
            self.keep(bytes);
        }
        Delivery::Delivered
    }

    /// Keeps a copy, because the bytes may be a small part of a large read.
    fn keep(&mut self, bytes: &Bytes) {
        if bytes.len() > MAX_KEPT_BYTES {
            return;
        }
        self.kept_bytes += bytes.len();
        self.kept.push_back(Bytes::copy_from_slice(bytes));
        while self.kept.len() > MAX_KEPT || self.kept_bytes > MAX_KEPT_BYTES {
            let dropped = self.kept.pop_front().map_or(0, |oldest| oldest.len());
            self.kept_bytes -= dropped;
        }
    }
}

const fn sent(sent: bool) -> Delivery {
    if sent { Delivery::Delivered } else { Delivery::QueueFull }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give(router: &mut MessageRouter, json: &str) -> Delivery {
        router.deliver(&Message::parse(json.as_bytes()).unwrap(), Bytes::copy_from_slice(json.as_bytes()))
    }

    fn id(json: &str) -> JsonId {
        match Message::parse(format!("{{\"id\":{json},\"result\":0}}").as_bytes()) {
            Some(Message::Response(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    const PROGRESS: &str = r#"{"method":"notifications/progress","params":{"progressToken":"t"}}"#;
    const RESPONSE: &str = r#"{"id":1,"result":{}}"#;

    #[test]
    fn progress_and_response_go_to_their_request() {
        let mut router = MessageRouter::default();
        let mut one = router.open(id("1"), Some(id("\"t\""))).unwrap();
        assert_eq!(router.open(id("1"), None).unwrap_err(), SendError::DuplicateId);
        assert_eq!(give(&mut router, PROGRESS), Delivery::Delivered);
        assert_eq!(give(&mut router, RESPONSE), Delivery::Delivered);
        assert_eq!(one.try_recv().unwrap(), CallMessage::Progress(PROGRESS.into()));
        assert_eq!(one.try_recv().unwrap(), CallMessage::Response(RESPONSE.into()));
        assert_eq!(give(&mut router, RESPONSE), Delivery::NoReceiver);
        assert_eq!(give(&mut router, PROGRESS), Delivery::Delivered, "for the listeners");
        assert_eq!(router.listen().unwrap().try_recv().unwrap(), PROGRESS);
        assert!(router.open(id("1"), None).is_ok(), "an answered id is free");
    }

    #[test]
    fn the_response_has_room_when_progress_has_none() {
        let mut router = MessageRouter::default();
        let mut one = router.open(id("1"), Some(id("\"t\""))).unwrap();
        let progress: Vec<_> = (0..QUEUE + 5).map(|_| give(&mut router, PROGRESS)).collect();
        assert_eq!(progress.iter().filter(|it| **it == Delivery::QueueFull).count(), 6);
        assert_eq!(give(&mut router, RESPONSE), Delivery::Delivered);
        assert_eq!(std::iter::from_fn(|| one.try_recv().ok()).count(), QUEUE);
    }

    #[test]
    fn forgetting_spares_a_request_that_took_the_id_since() {
        let mut router = MessageRouter::default();
        let first = router.open(id("1"), None).unwrap();
        router.forget(&id("1"));
        assert_eq!(router.open(id("1"), None).unwrap_err(), SendError::DuplicateId, "its receiver exists");
        drop(first);
        router.forget(&id("1"));
        let mut second = router.open(id("1"), None).unwrap();
        router.forget(&id("1"));
        assert_eq!(give(&mut router, RESPONSE), Delivery::Delivered);
        assert!(second.try_recv().is_ok());
    }

    #[test]
    fn messages_without_a_request_are_kept_for_the_first_listener() {
        let mut router = MessageRouter::default();
        for n in 0..MAX_KEPT + 3 {
            give(&mut router, &format!(r#"{{"method":"n{n}"}}"#));
        }
        let mut first = router.listen().unwrap();
        let mut second = router.listen().unwrap();
        give(&mut router, r#"{"method":"ping","id":5}"#);
        let of = |it: &mut mpsc::Receiver<Bytes>| std::iter::from_fn(|| it.try_recv().ok()).collect::<Vec<_>>();
        let (first, second) = (of(&mut first), of(&mut second));
        assert_eq!(first.len(), MAX_KEPT + 1);
        assert_eq!(first[0], r#"{"method":"n3"}"#);
        assert_eq!(second, [r#"{"method":"ping","id":5}"#]);
    }

    #[test]
    fn a_listener_that_does_not_read_is_dropped() {
        let mut router = MessageRouter::default();
        let mut slow = router.listen().unwrap();
        for _ in 0..=QUEUE + MAX_KEPT {
            give(&mut router, r#"{"method":"n"}"#);
        }
        assert_eq!(std::iter::from_fn(|| slow.try_recv().ok()).count(), QUEUE + MAX_KEPT);
        assert_eq!(slow.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
    }

    #[test]
    fn closing_ends_all_receivers() {
        let mut router = MessageRouter::default();
        let mut call = router.open(id("1"), None).unwrap();
        let mut listener = router.listen().unwrap();
        router.close();
        assert_eq!(call.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
        assert_eq!(listener.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
        assert_eq!(router.open(id("1"), None).unwrap_err(), SendError::Ended);
        assert_eq!(router.listen().unwrap_err(), SendError::Ended);
    }
}
