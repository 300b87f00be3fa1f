//! The handle of a link: requests, waiting, and looking.
//!
//! A handle is cheap to clone and may outlive its link. A request is sent at once or refused at once, within the limits
//! on requests in flight. A handle does not queue, retry or set deadlines: these belong to the operation of the caller.

use super::body::Body;
use super::classify;
use super::error::SendError;
use super::failure::{Failure, FailurePhase};
use super::http1::PeerBody;
use super::inbox::Message;
use super::launcher::{LaunchState, Launcher};
use super::metrics::LinkMeter;
use super::request_sender::RequestSender;
use super::status::{LinkState, LinkStatus, LinkTransition};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use linchpin_shared::protocol::vitals::Vitals;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;
use uuid::Uuid;

/// How long an overloaded caller is asked to wait. A few hundred small requests finish in this time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A handle to one link.
#[derive(Debug, Clone)]
pub struct LinkHandle {
    pub(super) inner: Arc<LinkShared>,
}

/// What all handles of one link share.
#[derive(Debug)]
pub(super) struct LinkShared {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) status: watch::Receiver<Arc<LinkStatus>>,
    pub(super) vitals: watch::Receiver<Option<Arc<Vitals>>>,
    pub(super) sender: watch::Receiver<Option<RequestSender>>,
    pub(super) messages: mpsc::Sender<Message>,
    /// The capacity for requests on this link, and over all links.
    pub(super) capacity: [Arc<Semaphore>; 2],
    /// The capacity of this link while no request is in flight.
    pub(super) in_flight: usize,
    pub(super) meter: Arc<LinkMeter>,
    pub(super) launcher: Arc<dyn Launcher>,
}

impl LinkHandle {
    /// The id of the instance.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.inner.id
    }

    /// The name of the instance.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Watches the status of the link.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<LinkStatus>> {
        self.inner.status.clone()
    }

    /// Watches the vitals of the instance, which are `None` while it is not connected.
    #[must_use]
    pub fn vitals(&self) -> watch::Receiver<Option<Arc<Vitals>>> {
        self.inner.vitals.clone()
    }

    /// Sends one request to the instance. Only the path and the query of its URI are used.
    ///
    /// # Errors
    /// Fails at once if the link is not connected or has too many requests in flight, and later if the request fails.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream of this request, and affects no other request.
    pub async fn request(&self, request: Request<Body>) -> Result<Response<ResponseBody>, SendError> {
        self.send(request, |shared| shared.acquire().map(Some)).await
    }

    /// Opens a stream of the hub's own, which may stay open without traffic. There is one for each session with a server,
    /// and they do not use the capacity for callers.
    ///
    /// # Errors
    /// The same as those of [`LinkHandle::request`].
    pub async fn listen(&self, request: Request<Body>) -> Result<Response<ResponseBody>, SendError> {
        self.send(request, |_| Ok(None)).await
    }

    async fn send(
        &self,
        request: Request<Body>,
        acquire: impl FnOnce(&LinkShared) -> Result<Option<Permits>, SendError>,
    ) -> Result<Response<ResponseBody>, SendError> {
        let Some(sender) = self.inner.sender.borrow().clone() else { return Err(self.not_connected()) };
        sender.refuse_if_process_ended()?;
        let permits = acquire(&self.inner)?;
        match sender.send(request).await {
            Ok(response) => Ok(response.map(|body| ResponseBody { body, _permits: permits })),
            Err(error) => {
                // Only a request to a foreign program may open a connection. The link learns of its failure here.
                if error.failure().is_some_and(|failure| failure.phase == FailurePhase::Dial) {
                    self.check("a request could not connect");
                }
                Err(error)
            }
        }
    }

    /// Waits until the link accepts requests. An instance that is gone may come back, so the wait does not end for it.
    ///
    /// # Errors
    /// The state of the link, if it does not accept requests after `within`, or if the link has ended.
    pub async fn ready(&self, within: Duration) -> Result<(), SendError> {
        let mut sender = self.inner.sender.clone();
        match timeout(within, sender.wait_for(Option::is_some)).await {
            Ok(Ok(_sender)) => Ok(()),
            Ok(Err(_ended)) => Err(SendError::Gone),
            Err(_elapsed) => Err(self.not_connected()),
        }
    }

    /// Asks the link to check its connection, or to dial now if it has none. The result appears in the status. `why` is
    /// written into the history of the link.
    pub fn check(&self, why: &'static str) {
        // A full inbox contains a check already, and a link that has ended has nothing to check.
        drop(self.inner.messages.try_send(Message::Check(why)));
    }

    /// Starts the server if it is declared and does not run, and returns how far its start has got. The call does not
    /// wait for the start; the result appears in the status.
    #[must_use]
    pub fn launch(&self) -> LaunchState {
        self.inner.launcher.launch(self.inner.id)
    }

    /// Reads the last output of the instance's process, if there is any.
    pub async fn last_output(&self) -> Option<String> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.launcher.last_output(&inner.name)).await.ok()?
    }

    /// Reads the last transitions of the link, the oldest first. The list is empty after the link has ended.
    pub async fn transitions(&self) -> Vec<LinkTransition> {
        let (reply, history) = oneshot::channel();
        if self.inner.messages.send(Message::History(reply)).await.is_err() {
            return Vec::new();
        }
        history.await.unwrap_or_default()
    }

    /// Updates the metrics that are not counted as they change.
    pub(super) fn refresh_metrics(&self) {
        self.inner.meter.refresh(self.inner.in_flight - self.inner.capacity[0].available_permits());
    }

    fn not_connected(&self) -> SendError {
        let status = self.inner.status.borrow();
        let ended = self.inner.sender.has_changed().is_err();
        if ended || status.state == LinkState::Gone {
            return SendError::Gone;
        }
        SendError::NotConnected {
            state: status.state,
            next_try: status.next_try,
            last_failure: status.last_failure.clone(),
        }
    }
}

type Permits = [OwnedSemaphorePermit; 2];

impl LinkShared {
    fn acquire(&self) -> Result<Permits, SendError> {
        let [own, total] = self.capacity.each_ref().map(|capacity| Arc::clone(capacity).try_acquire_owned());
        match (own, total) {
            (Ok(own), Ok(total)) => Ok([own, total]),
            (own, Ok(_) | Err(_)) => {
                self.meter.rejected(own.is_err());
                Err(SendError::Overloaded { retry_after: RETRY_AFTER })
            }
        }
    }
}

/// The body of a response. Its request counts as in flight until the body is dropped.
#[derive(Debug)]
pub struct ResponseBody {
    body: PeerBody,
    _permits: Option<Permits>,
}

impl ResponseBody {
    /// Stops counting the request as in flight, because its response is a stream of the hub's own, see
    /// [`LinkHandle::listen`].
    pub fn release_capacity(&mut self) {
        self._permits = None;
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    /// The body ended early, after the response had begun.
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        polled.map_err(|error| classify::request_failure(&error).0)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
