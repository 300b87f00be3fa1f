//! What servers asked a client and it did not answer yet.
//!
//! Owns [`ServerRequests`], by the ids under which the client knows them, which are the hub's and never used twice.
//! Invariant: an entry lives exactly as long as its [`ServerRequest`]; an answer is taken once. Never: blocks who answers.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// More than a person or a model is asked at once.
const MAX: usize = 64;

/// Messages about one question that wait to be sent on. The last place is kept for the answer.
const WAITING: usize = 8;

/// What a client says about a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClientReply {
    /// Its response.
    Answer(String),
    /// Its progress.
    Progress(String),
}

/// By id: the call that caused it, and where to say what the client says.
type WaiterTable = Arc<Mutex<HashMap<u64, (u64, mpsc::Sender<ClientReply>)>>>;

/// What servers asked a client.
#[derive(Debug, Default)]
pub(crate) struct ServerRequests(WaiterTable);

impl ServerRequests {
    /// Puts a question under this id, because of this call; none if too many wait for an answer.
    pub(crate) fn put(&self, id: u64, call: u64) -> Option<ServerRequest> {
        let mut table = self.0.lock();
        if table.len() >= MAX {
            return None;
        }
        let (say, said) = mpsc::channel(WAITING);
        table.insert(id, (call, say));
        Some(ServerRequest { table: Arc::clone(&self.0), id, said })
    }

    /// Takes what a client says of the question of this id, as JSON. What is too late is nobody's.
    pub(crate) fn say(&self, id: &str, said: ClientReply) {
        let Ok(id) = id.trim_matches('"').parse() else { return };
        let mut table = self.0.lock();
        let last = matches!(said, ClientReply::Answer(_));
        let taken = table.get(&id).is_some_and(|(_, say)| (last || say.capacity() > 1) && say.try_send(said).is_ok());
        if taken && last {
            table.remove(&id);
        }
    }

    /// Ends the questions of a call that is over, and says which were open.
    pub(crate) fn end(&self, call: u64) -> Vec<u64> {
        let mut table = self.0.lock();
        table.extract_if(|_, (of, _)| *of == call).map(|(id, _)| id).collect()
    }
}

/// A question that is open.
#[derive(Debug)]
pub(crate) struct ServerRequest {
    table: WaiterTable,
    /// Its id.
    pub(crate) id: u64,
    said: mpsc::Receiver<ClientReply>,
}

impl ServerRequest {
    /// What the client says next; none after its answer, or when its call is over.
    pub(crate) async fn said(&mut self) -> Option<ClientReply> {
        self.said.recv().await
    }

    /// Ends it and says whether it was open.
    pub(crate) fn close(&self) -> bool {
        self.table.lock().remove(&self.id).is_some()
    }
}

impl Drop for ServerRequest {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_taken_once_and_progress_leaves_room_for_it() {
        let server_requests = ServerRequests::default();
        let mut question = server_requests.put(7, 1).unwrap();
        for n in 0..20 {
            server_requests.say("7", ClientReply::Progress(n.to_string()));
        }
        server_requests.say("8", ClientReply::Answer(String::from("other")));
        server_requests.say("\"7\"", ClientReply::Answer(String::from("yes")));
        server_requests.say("7", ClientReply::Answer(String::from("again")));
        for n in 0..WAITING - 1 {
            assert_eq!(question.said().await, Some(ClientReply::Progress(n.to_string())));
        }
        assert_eq!(question.said().await, Some(ClientReply::Answer(String::from("yes"))));
        assert_eq!(question.said().await, None);
    }

    #[test]
    fn there_is_a_bound() {
        let server_requests = ServerRequests::default();
        let open: Vec<_> = (0..MAX as u64).map(|id| server_requests.put(id, 2).unwrap()).collect();
        assert!(server_requests.put(1000, 1).is_none());
        assert!(server_requests.end(1).is_empty());
        assert_eq!(server_requests.end(2).len(), MAX);
        assert!(!open[0].close());
        assert!(server_requests.put(1000, 1).is_some());
    }
}
