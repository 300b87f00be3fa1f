//! What the instance tells about itself: its [`Vitals`], as one watched value.
//!
//! Owns the value that `GET /.linchpin/vitals` answers. Every entry has one writer: a process its supervisor, an MCP
//! server its front.
//! Invariant: a reader that looks at any moment sees the whole truth; it needs no history.
//! Never: decides anything; it is a notice board.

use jiff::Timestamp;
use linchpin_shared::protocol;
use linchpin_shared::protocol::vitals::{Process, Server, Vitals};
use tokio::sync::watch;
use uuid::Uuid;

/// The notice board of one life of an instance.
#[derive(Debug)]
pub(crate) struct Board {
    vitals: watch::Sender<Vitals>,
}

impl Board {
    /// An empty board.
    pub(crate) fn new(generation: Uuid) -> Self {
        let vitals = Vitals {
            format: protocol::FORMAT,
            generation,
            started_at: Timestamp::now(),
            processes: Vec::new(),
            servers: Vec::new(),
        };
        Self { vitals: watch::Sender::new(vitals) }
    }

    /// Reads now and at every change.
    pub(crate) fn watch(&self) -> watch::Receiver<Vitals> {
        self.vitals.subscribe()
    }

    /// Puts up how a process is, in the place of what stood there under its name.
    pub(crate) fn set_process(&self, process: Process) {
        self.vitals.send_if_modified(|vitals| put(&mut vitals.processes, process, |entry| &entry.name));
    }

    /// Puts up how a server is, in the place of what stood there under its name.
    pub(crate) fn set_server(&self, server: Server) {
        self.vitals.send_if_modified(|vitals| put(&mut vitals.servers, server, |entry| &entry.name));
    }
}

/// Replaces the entry of the same name, or appends one. Says whether anything changed.
fn put<T: PartialEq>(entries: &mut Vec<T>, entry: T, name: impl Fn(&T) -> &str) -> bool {
    match entries.iter_mut().find(|old| name(old) == name(&entry)) {
        Some(old) if *old == entry => return false,
        Some(old) => *old = entry,
        None => entries.push(entry),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use linchpin_shared::protocol::vitals::Transport;

    #[test]
    fn readers_wake_only_for_a_real_change() {
        let board = Board::new(Uuid::nil());
        let mut reader = board.watch();
        let server = Server { name: "main".into(), transport: Transport::Stdio, up: true, epoch: 1 };
        board.set_server(server.clone());
        assert!(reader.has_changed().unwrap());
        assert_eq!(reader.borrow_and_update().servers, std::slice::from_ref(&server));
        board.set_server(server.clone());
        assert!(!reader.has_changed().unwrap());
        board.set_server(Server { up: false, ..server.clone() });
        assert_eq!(reader.borrow_and_update().servers, [Server { up: false, ..server }]);
    }
}
