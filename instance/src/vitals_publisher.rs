//! What the instance publishes about itself: its [`Vitals`], as one watched value.
//!
//! Every entry has one writer: a process its supervisor, an MCP server what attaches it. A reader sees the complete
//! current value at any moment and needs no history.

use jiff::Timestamp;
use linchpin_shared::protocol;
use linchpin_shared::protocol::vitals::{ProcessVitals, ServerVitals, Transport, Vitals};
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

/// Publishes the vitals of one run of an instance.
#[derive(Debug)]
pub(crate) struct VitalsPublisher {
    vitals: watch::Sender<Vitals>,
}

impl VitalsPublisher {
    /// Starts with no processes and no servers.
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

    /// Subscribes to the current value and every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Vitals> {
        self.vitals.subscribe()
    }

    /// Publishes the state of a process in place of the entry with its name.
    pub(crate) fn set_process(&self, process: ProcessVitals) {
        self.vitals.send_if_modified(|vitals| set(&mut vitals.processes, process, |entry| &entry.name));
    }

    /// Publishes the state of a server in place of the entry with its name.
    fn set_server(&self, server: ServerVitals) {
        self.vitals.send_if_modified(|vitals| set(&mut vitals.servers, server, |entry| &entry.name));
    }
}

/// Replaces the entry of the same name, or appends one. Returns whether anything changed.
fn set<T: PartialEq>(entries: &mut Vec<T>, entry: T, name: impl Fn(&T) -> &str) -> bool {
    match entries.iter_mut().find(|old| name(old) == name(&entry)) {
        Some(old) if *old == entry => return false,
        Some(old) => *old = entry,
        None => entries.push(entry),
    }
    true
}

/// Publishes whether one MCP server is up.
#[derive(Debug, Clone)]
pub(crate) struct ServerVitalsPublisher {
    name: String,
    transport: Transport,
    publisher: Arc<VitalsPublisher>,
}

impl ServerVitalsPublisher {
    /// For a server of this name; nothing is published yet.
    pub(crate) const fn new(name: String, transport: Transport, publisher: Arc<VitalsPublisher>) -> Self {
        Self { name, transport, publisher }
    }

    /// Publishes whether the server is up, and in which run.
    pub(crate) fn publish(&self, up: bool, run: u64) {
        let (name, transport) = (self.name.clone(), self.transport);
        self.publisher.set_server(ServerVitals { name, transport, up, epoch: run });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_wake_only_for_a_real_change() {
        let publisher = Arc::new(VitalsPublisher::new(Uuid::nil()));
        let mut reader = publisher.subscribe();
        let server = ServerVitalsPublisher::new("main".into(), Transport::Stdio, Arc::clone(&publisher));
        let published = |up| ServerVitals { name: "main".into(), transport: Transport::Stdio, up, epoch: 1 };
        server.publish(true, 1);
        assert!(reader.has_changed().unwrap());
        assert_eq!(reader.borrow_and_update().servers, [published(true)]);
        server.publish(true, 1);
        assert!(!reader.has_changed().unwrap());
        server.publish(false, 1);
        assert_eq!(reader.borrow_and_update().servers, [published(false)]);
    }
}
