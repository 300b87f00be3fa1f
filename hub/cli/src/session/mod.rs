//! A client's session with the hub, which outlives any number of hub processes.
//!
//! It has the current [`connection`]s: one for the messages of the session, and one for stateless messages (MCP
//! 2026-07-28). If the hub is gone, it is found or started again, and continues the session with everything that it
//! kept of it. Only if the hub does not know the session any more, the client's own `initialize` is replayed, once for
//! all callers that noticed. A message is sent again only if the hub certainly did not act on it, or if repeating it
//! changes nothing ([`Repeat`]).

mod connection;

use super::Context;
use super::send_error::{Repeat, SendError, interrupted, unreachable, unresponsive};
use bytes::Bytes;
pub(super) use connection::HubConnection;
use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::problem::{Code, Problem};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// How many times a message may meet a hub that has just gone before the client gets an error.
const TRIES: u32 = 4;

/// The pause between two such attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// How often to look for a new hub after the old one was stopped on purpose.
const IDLE: Duration = Duration::from_secs(1);

/// A message to the hub.
pub(super) struct OutgoingMessage<'m> {
    /// The whole message.
    pub(super) body: &'m Bytes,
    /// The id, if the message is a request.
    pub(super) id: Option<&'m RawValue>,
    /// Whether it may be sent again.
    pub(super) repeat: Repeat,
    /// The headers of a stateless message; `None` if the message belongs to the session.
    pub(super) headers: Option<&'m HeaderMap>,
}

/// A session that outlives hub processes.
pub(super) struct HubSession {
    target: HubTarget,
    state: Mutex<Connections>,
}

/// Where to look for the hub, and the path of the gateway there.
struct HubTarget {
    home: Home,
    autostart: bool,
    path: String,
}

#[derive(Default)]
struct Connections {
    initialize: Option<Bytes>,
    session: Option<Arc<HubConnection>>,
    stateless: Option<Arc<HubConnection>>,
}

impl Connections {
    /// Returns the current connection of the same kind.
    fn of(&mut self, connection: &HubConnection) -> &mut Option<Arc<HubConnection>> {
        if connection.stateless { &mut self.stateless } else { &mut self.session }
    }
}

impl HubSession {
    /// Creates a session at `path` of the hub of this home. Nothing is sent before [`HubSession::initialize`].
    pub(super) fn new(context: &Context, path: String) -> Self {
        let target = HubTarget { home: context.home.clone(), autostart: context.autostart, path };
        Self { target, state: Mutex::default() }
    }

    /// Initializes the session with the agent's own message, and returns the hub's answer.
    pub(super) async fn initialize(&self, message: Bytes) -> Result<Bytes, Problem> {
        let mut state = self.state.lock().await;
        let (connection, answer) = self.connect(&message).await?;
        state.initialize = Some(message);
        state.session = Some(Arc::new(connection));
        Ok(answer)
    }

    /// Sends a message and forwards every message of its response to `out`.
    pub(super) async fn send(&self, message: &OutgoingMessage<'_>, out: &mpsc::Sender<Bytes>) -> Result<(), Problem> {
        let OutgoingMessage { body, id, repeat, headers } = *message;
        let mut connection =
            if headers.is_some() { self.stateless_connection().await? } else { self.connection().await? };
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match connection.exchange(body, headers, id, out).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let unknown = matches!(error, SendError::SessionLost(_));
            match error {
                SendError::Unresponsive(pid) => return Err(unresponsive(pid, repeat)),
                SendError::Interrupted(cause) if repeat == Repeat::Unsafe => return Err(interrupted(&cause)),
                SendError::NotExecuted(cause) | SendError::SessionLost(cause) | SendError::Interrupted(cause)
                    if tries == TRIES =>
                {
                    return Err(unreachable(&cause));
                }
                SendError::Refused(problem) => return Err(problem),
                SendError::NotExecuted(_) | SendError::SessionLost(_) | SendError::Interrupted(_) => {
                    tokio::time::sleep(PAUSE * (tries - 1)).await;
                    connection = self.renew(&connection, unknown).await?;
                }
            }
        }
    }

    /// Forwards what the hub sends on its own to `out` until the stream of this connection ends, then returns the next
    /// connection.
    pub(super) async fn listen(
        &self,
        connection: Arc<HubConnection>,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<Arc<HubConnection>, Problem> {
        match connection.listen(out).await {
            Some(StatusCode::NOT_FOUND) => return self.renew(&connection, true).await,
            Some(status) if !status.is_success() => tokio::time::sleep(IDLE).await,
            Some(_) | None => {}
        }
        self.next_connection(connection).await
    }

    /// Returns the current connection of the session.
    pub(super) async fn connection(&self) -> Result<Arc<HubConnection>, Problem> {
        self.state.lock().await.session.clone().ok_or_else(|| {
            Problem::new(Code::BadRequest, "the session has not been initialized").next("send initialize first")
        })
    }

    /// Returns the current connection for stateless messages.
    pub(super) async fn stateless_connection(&self) -> Result<Arc<HubConnection>, Problem> {
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.stateless {
            return Ok(connection.clone());
        }
        let connection = Arc::new(HubConnection::find(&self.target, true).await?);
        state.stateless = Some(connection.clone());
        Ok(connection)
    }

    /// Ends the session at the hub, if both exist.
    pub(super) async fn close(&self) {
        if let Ok(connection) = self.connection().await {
            connection.close().await;
        }
    }

    /// Returns the connection to use after a stream has ended. If the hub ended only the stream, it is the same one. If
    /// the hub was stopped on purpose, this waits, because only a message that needs the hub starts it again.
    pub(super) async fn next_connection(&self, connection: Arc<HubConnection>) -> Result<Arc<HubConnection>, Problem> {
        tokio::time::sleep(PAUSE).await;
        loop {
            match HubFile::read(&self.target.home)? {
                Some(hub) if hub.stopped_at.is_some() => tokio::time::sleep(IDLE).await,
                Some(hub) if hub.process == connection.hub.process && hub.process.is_alive() => {
                    return Ok(self.current(&connection).await);
                }
                Some(_) | None => return self.renew(&connection, false).await,
            }
        }
    }

    /// Returns the current connection of this kind, since another caller may have replaced it.
    async fn current(&self, connection: &Arc<HubConnection>) -> Arc<HubConnection> {
        self.state.lock().await.of(connection).clone().unwrap_or_else(|| connection.clone())
    }

    /// Replaces the connection `stale`, unless another caller has already done so. The session continues under its id,
    /// unless the hub said that it does not know it (`unknown`).
    pub(super) async fn renew(&self, stale: &Arc<HubConnection>, unknown: bool) -> Result<Arc<HubConnection>, Problem> {
        let mut state = self.state.lock().await;
        if let Some(connection) = state.of(stale)
            && !Arc::ptr_eq(connection, stale)
        {
            return Ok(connection.clone());
        }
        let connection = match state.initialize.clone().filter(|_| unknown && !stale.stateless) {
            Some(message) => self.initialize_again(&message).await?,
            None => stale.reconnect(&self.target).await?,
        };
        let connection = Arc::new(connection);
        *state.of(stale) = Some(connection.clone());
        Ok(connection)
    }

    async fn initialize_again(&self, initialize: &Bytes) -> Result<HubConnection, Problem> {
        let (connection, _) = self.connect(initialize).await?;
        connection.confirm().await.map_err(|error| match error {
            SendError::Refused(problem) => problem,
            SendError::Unresponsive(pid) => unresponsive(pid, Repeat::Safe),
            SendError::NotExecuted(cause) | SendError::SessionLost(cause) | SendError::Interrupted(cause) => {
                unreachable(&cause)
            }
        })?;
        Ok(connection)
    }

    /// Finds or starts a hub, and initializes the session there.
    async fn connect(&self, initialize: &Bytes) -> Result<(HubConnection, Bytes), Problem> {
        let mut cause = String::new();
        for tries in 0..TRIES {
            tokio::time::sleep(PAUSE * tries).await;
            let mut connection = HubConnection::find(&self.target, false).await?;
            match connection.initialize(initialize).await {
                Ok(answer) => return Ok((connection, answer)),
                Err(SendError::Refused(problem)) => return Err(problem),
                Err(SendError::Unresponsive(pid)) => return Err(unresponsive(pid, Repeat::Safe)),
                Err(SendError::NotExecuted(why) | SendError::SessionLost(why) | SendError::Interrupted(why)) => {
                    cause = why;
                }
            }
        }
        Err(unreachable(&cause))
    }
}
