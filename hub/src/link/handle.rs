//! What callers hold of a link.
//!
//! Owns [`Handle`]: requests, waiting, and looking. A handle is cheap to clone and may outlive its link.
//! Invariant: a request is sent at once or refused at once, within the bounds on what is in flight; and the error says
//! whether the instance may have executed it. A caller that goes away resets its own stream and nothing else.
//! Never: queues, retries, or sets deadlines. Those belong to the caller's operation.

use super::actor::Command;
use super::lane::{Answering, Lane, NoResponse};
use super::metrics::Meter;
use super::start::{Start, Starter};
use super::status::{State, Status, Transition};
use super::{Body, classify};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use jiff::Timestamp;
use linchpin_shared::failure::{Failure, Phase};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::vitals::Vitals;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;
use uuid::Uuid;

/// What an overloaded caller is told to wait: long enough for a few hundred small calls to finish.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One link, for those who use it.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) status: watch::Receiver<Arc<Status>>,
    pub(super) vitals: watch::Receiver<Option<Arc<Vitals>>>,
    pub(super) lane: watch::Receiver<Option<Lane>>,
    pub(super) commands: mpsc::Sender<Command>,
    /// Room for requests on this link, and on all links.
    pub(super) room: [Arc<Semaphore>; 2],
    /// How much room there is on this link when it is empty.
    pub(super) in_flight: usize,
    pub(super) meter: Arc<Meter>,
    pub(super) starter: Arc<dyn Starter>,
}

/// Why there is no response.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// The link is not connected. The request was not sent.
    #[error("not connected: {state:?}")]
    NotConnected {
        /// What the link is doing.
        state: State,
        /// When it dials next.
        next_try: Option<Timestamp>,
        /// What went wrong last.
        last_failure: Option<Failure>,
    },
    /// It failed, and the instance surely did nothing with it.
    #[error("not sent: {0}")]
    NotSent(Failure),
    /// It failed after it was sent. Whether it was executed is not known.
    #[error("interrupted: {0}")]
    Interrupted(Failure),
    /// Too many requests are in flight. The request was not sent.
    #[error("too many requests in flight")]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// The instance is gone. The request was not sent.
    #[error("the instance is gone")]
    Gone,
}

impl Handle {
    /// The instance's id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.inner.id
    }

    /// The instance's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The link's status, now and at every change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.inner.status.clone()
    }

    /// The instance's vitals while it is connected, now and at every change.
    #[must_use]
    pub fn vitals(&self) -> watch::Receiver<Option<Arc<Vitals>>> {
        self.inner.vitals.clone()
    }

    /// Sends one request to the instance. Of its address only path and query matter.
    ///
    /// # Errors
    /// At once when the link is not connected or too much is in flight; later when the request fails.
    pub async fn request(&self, request: Request<Body>) -> Result<Response<ResponseBody>, RequestError> {
        self.send(request, |inner| inner.enter().map(Some)).await
    }

    /// Opens a stream of the hub's own, which stays open while nothing happens. There are few of them, one for each
    /// session with a server, and they take no room from callers.
    ///
    /// # Errors
    /// As [`Handle::request`].
    pub async fn listen(&self, request: Request<Body>) -> Result<Response<ResponseBody>, RequestError> {
        self.send(request, |_| Ok(None)).await
    }

    async fn send(
        &self,
        request: Request<Body>,
        enter: impl FnOnce(&Inner) -> Result<Option<Permits>, RequestError>,
    ) -> Result<Response<ResponseBody>, RequestError> {
        let Some(lane) = self.inner.lane.borrow().clone() else { return Err(self.refusal()) };
        lane.refuse_the_dead()?;
        let permits = enter(&self.inner)?;
        match lane.send(request).await {
            Ok(response) => Ok(response.map(|answering| ResponseBody { answering, _permits: permits })),
            Err(error) => {
                // Only a foreign program is connected to by a request; what that shows, the link should know too.
                if error.failure.phase == Phase::Dial {
                    self.check("a request could not connect");
                }
                Err(error.into())
            }
        }
    }

    /// Waits until requests pass. An instance that is gone may come back, so that is waited for too.
    ///
    /// # Errors
    /// The state of the link when it takes longer than `within`, or when the link has ended.
    pub async fn ready(&self, within: Duration) -> Result<(), RequestError> {
        let mut lane = self.inner.lane.clone();
        match timeout(within, lane.wait_for(Option::is_some)).await {
            Ok(Ok(_open)) => Ok(()),
            Ok(Err(_ended)) => Err(RequestError::Gone),
            Err(_elapsed) => Err(self.refusal()),
        }
    }

    /// Asks the link to make sure that its connection lives, or to dial now if it has none. Does not wait for the
    /// answer: that is in the status. `why` is written into the link's history.
    pub fn check(&self, why: &'static str) {
        // A full queue holds a check already, and a link that has ended has nothing to check.
        drop(self.inner.commands.try_send(Command::Check(why)));
    }

    /// Has the instance started if it is declared and does not run, and says what is known of that. It does not wait:
    /// what comes of it is in the status.
    #[must_use]
    pub fn wake(&self) -> Start {
        self.inner.starter.wake(self.inner.id)
    }

    /// What the instance's process wrote last, if that is to be had.
    pub async fn last_words(&self) -> Option<String> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.starter.last_words(&inner.name)).await.ok()?
    }

    /// The link's last transitions, oldest first; none when the link has ended.
    pub async fn transitions(&self) -> Vec<Transition> {
        let (reply, answer) = oneshot::channel();
        if self.inner.commands.send(Command::Transitions(reply)).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// Brings up to date what is only counted when somebody looks.
    pub(super) fn look(&self) {
        self.inner.meter.look(self.inner.in_flight - self.inner.room[0].available_permits());
    }

    fn refusal(&self) -> RequestError {
        let status = self.inner.status.borrow();
        let ended = self.inner.lane.has_changed().is_err();
        if ended || status.state == State::Gone {
            return RequestError::Gone;
        }
        RequestError::NotConnected {
            state: status.state,
            next_try: status.next_try,
            last_failure: status.last_failure.clone(),
        }
    }
}

type Permits = [OwnedSemaphorePermit; 2];

impl Inner {
    fn enter(&self) -> Result<Permits, RequestError> {
        let [own, all] = self.room.each_ref().map(|room| Arc::clone(room).try_acquire_owned());
        match (own, all) {
            (Ok(own), Ok(all)) => Ok([own, all]),
            (own, Ok(_) | Err(_)) => {
                self.meter.rejected(own.is_err());
                Err(RequestError::Overloaded { retry_after: RETRY_AFTER })
            }
        }
    }
}

impl From<NoResponse> for RequestError {
    fn from(error: NoResponse) -> Self {
        if error.not_executed { Self::NotSent(error.failure) } else { Self::Interrupted(error.failure) }
    }
}

impl RequestError {
    /// Whether the instance surely did nothing with the request, so that it may be repeated whatever it was.
    #[must_use]
    pub const fn not_executed(&self) -> bool {
        match self {
            Self::NotConnected { .. } | Self::NotSent(_) | Self::Overloaded { .. } | Self::Gone => true,
            Self::Interrupted(_) => false,
        }
    }

    /// As an error for people, about the instance of this name.
    #[must_use]
    pub fn problem(&self, name: &str) -> Problem {
        let explain = format!("linchpin explain {name}");
        let about = |code: Code, what: &str| Problem::new(code, format!("{name} {what}")).seen("instance", name);
        match self {
            Self::NotConnected { state: State::Dormant, .. } => {
                about(Code::InstanceUnavailable, "does not run: it is declared, and started on its first use")
                    .next("call one of its tools: linchpin tools")
                    .next(explain)
            }
            Self::NotConnected { state, next_try, last_failure } => {
                let what = format!("is {}", state.as_str());
                let mut problem = about(Code::InstanceUnavailable, &what).seen("state", state.as_str());
                if let Some(failure) = last_failure {
                    problem = problem.seen("last_failure", failure.to_string());
                }
                if let Some(at) = next_try {
                    problem = problem.seen("next_try", at.to_string());
                }
                problem.next("try again in a moment: the hub keeps connecting").next(explain)
            }
            Self::NotSent(failure) => about(Code::InstanceUnavailable, "did not take the request")
                .seen("failure", failure.to_string())
                .next("try again: nothing was executed")
                .next(explain),
            Self::Interrupted(failure) => about(Code::CallInterrupted, "was lost while it worked on the request")
                .seen("failure", failure.to_string())
                .next("look whether it had an effect before you repeat it")
                .next(explain),
            Self::Overloaded { retry_after } => about(Code::Overloaded, "has too many requests in flight")
                .seen("retry_after_ms", u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX))
                .next(format!("try again in {} s", retry_after.as_secs())),
            Self::Gone => about(Code::InstanceUnavailable, "is gone: its process has ended")
                .next("start it again: linchpin run")
                .next("linchpin status"),
        }
    }
}

/// The body of a response. While it is held, its request counts as in flight.
#[derive(Debug)]
pub struct ResponseBody {
    answering: Answering,
    _permits: Option<Permits>,
}

impl ResponseBody {
    /// It is a stream of the hub's own, see [`Handle::listen`].
    pub fn takes_no_room(&mut self) {
        self._permits = None;
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    /// The body broke off after the response had begun.
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.answering).poll_frame(context);
        polled.map_err(|error| classify::request_failure(&error).0)
    }

    fn is_end_stream(&self) -> bool {
        self.answering.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.answering.size_hint()
    }
}
