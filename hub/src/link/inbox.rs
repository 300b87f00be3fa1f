//! Everything that can reach the actor of a link from other tasks.

use super::machine::Input;
use super::status::LinkTransition;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// What the hub observes about one instance: its entry in the list of declared servers, and then its entry in the
/// registry. The order matters, because a declared instance that unregisters becomes dormant instead of gone.
pub(super) type Observed = [Input; 2];

/// A message to the actor of a link.
#[derive(Debug)]
pub(super) enum Message {
    /// The observations changed.
    Observed(Observed),
    /// A caller has a reason to doubt the connection.
    Check(&'static str),
    /// A caller wants the history of the link.
    History(oneshot::Sender<Vec<LinkTransition>>),
}

/// The receiving ends of one actor.
pub(super) struct Inbox {
    pub(super) cancel: CancellationToken,
    pub(super) observed: watch::Receiver<Observed>,
    pub(super) messages: mpsc::Receiver<Message>,
}

impl Inbox {
    /// Receives the next message. `None` means that the hub ends.
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Option<Message> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => None,
            changed = self.observed.changed() => {
                changed.ok().map(|()| Message::Observed(self.observed.borrow_and_update().clone()))
            }
            Some(message) = self.messages.recv() => Some(message),
        }
    }
}
