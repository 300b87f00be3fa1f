//! What bytes that nobody chose come to, for the fuzz target of the workspace.
//!
//! Owns a way to this room's readers for a program outside. Invariant: what is said here is what a running instance sees.
//! Never: called by an instance.

use super::lines::Lines;
use super::message::Message;

/// What routing sees of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// A request of this id, as JSON.
    Request(String),
    /// An answer to the request of this id.
    Response(String),
    /// A notification.
    Notification,
}

/// What routing sees of a message; nothing if it is none.
#[must_use]
pub fn look(message: &[u8]) -> Option<Seen> {
    Some(match Message::look(message)? {
        Message::Request { id, .. } => Seen::Request(id.as_json().to_owned()),
        Message::Response(id) => Seen::Response(id.as_json().to_owned()),
        Message::Progress(_) | Message::Initialized | Message::Notification => Seen::Notification,
    })
}

/// The lines of what comes in these pieces; none when one of them is longer than `max`.
#[must_use]
pub fn lines<'d>(pieces: impl Iterator<Item = &'d [u8]>, max: usize) -> Option<Vec<Vec<u8>>> {
    let (mut lines, mut all) = (Lines::new(max), Vec::new());
    for piece in pieces {
        lines.room().extend_from_slice(piece);
        while let Some(line) = lines.next().ok()? {
            all.push(line.to_vec());
        }
    }
    Some(all)
}
