//! What the agent says to the hub, over any number of hub lives.
//!
//! Owns the current [`life`]s: the one of the agent's session, and one for messages that stand for themselves (MCP
//! 2026-07-28). When the hub is gone it is found or started again, and continues the session with all that it kept of it;
//! only where it does not know the session any more the agent's own `initialize` is replayed, once for all who noticed.
//! Invariant: a message is sent again only when the hub surely did not act on it, or when repeating it changes nothing
//! ([`Repeat`]). Never: keeps anything of the agent's but its `initialize`.

mod life;

use super::Context;
use super::lost::{Lost, Repeat, interrupted, silent_hub, unreachable};
use bytes::Bytes;
pub(super) use life::Life;
use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::problem::{Code, Problem};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// How often one message meets a hub that has just gone before the agent is told.
const TRIES: u32 = 4;

/// The pause between two such tries.
const PAUSE: Duration = Duration::from_millis(50);

/// How often to look for a hub that was stopped on purpose.
const IDLE: Duration = Duration::from_secs(1);

/// A message to the hub.
pub(super) struct Message<'m> {
    /// The whole of it.
    pub(super) body: &'m Bytes,
    /// The id of a request.
    pub(super) id: Option<&'m RawValue>,
    /// Whether it may be sent again.
    pub(super) repeat: Repeat,
    /// The headers of one that stands for itself; none if it belongs to the session.
    pub(super) headers: Option<&'m HeaderMap>,
}

/// A session over any number of hub lives.
pub(super) struct Session {
    way: Way,
    state: Mutex<State>,
}

/// Where the hub is looked for, and the path of the gateway there.
struct Way {
    home: Home,
    autostart: bool,
    path: String,
}

#[derive(Default)]
struct State {
    initialize: Option<Bytes>,
    life: Option<Arc<Life>>,
    alone: Option<Arc<Life>>,
}

impl State {
    /// The current life of the same kind.
    fn of(&mut self, life: &Life) -> &mut Option<Arc<Life>> {
        if life.alone { &mut self.alone } else { &mut self.life }
    }
}

impl Session {
    /// A session at `path` of the hub of this home. Nothing happens before [`Session::initialize`].
    pub(super) fn new(context: &Context, path: String) -> Self {
        let way = Way { home: context.home.clone(), autostart: context.autostart, path };
        Self { way, state: Mutex::default() }
    }

    /// Begins the session with the agent's own message, and returns the hub's answer to it.
    pub(super) async fn initialize(&self, message: Bytes) -> Result<Bytes, Problem> {
        let mut state = self.state.lock().await;
        let (life, answer) = self.connect(&message).await?;
        state.initialize = Some(message);
        state.life = Some(Arc::new(life));
        Ok(answer)
    }

    /// Sends a message and hands every message that answers it to `out`.
    pub(super) async fn send(&self, message: &Message<'_>, out: &mpsc::Sender<Bytes>) -> Result<(), Problem> {
        let Message { body, id, repeat, headers } = *message;
        let mut life = if headers.is_some() { self.alone().await? } else { self.life().await? };
        let mut tries = 0;
        loop {
            tries += 1;
            let lost = match life.exchange(body, headers, id, out).await {
                Ok(()) => return Ok(()),
                Err(lost) => lost,
            };
            let unknown = matches!(lost, Lost::Unknown(_));
            match lost {
                Lost::Silent(pid) => return Err(silent_hub(pid, repeat)),
                Lost::Interrupted(cause) if repeat == Repeat::Unsafe => return Err(interrupted(&cause)),
                Lost::NotExecuted(cause) | Lost::Unknown(cause) | Lost::Interrupted(cause) if tries == TRIES => {
                    return Err(unreachable(&cause));
                }
                Lost::Refused(problem) => return Err(problem),
                Lost::NotExecuted(_) | Lost::Unknown(_) | Lost::Interrupted(_) => {
                    tokio::time::sleep(PAUSE * (tries - 1)).await;
                    life = self.renew(&life, unknown).await?;
                }
            }
        }
    }

    /// Hands what the hub says by itself to `out` for as long as this life of the session lasts, then returns the next.
    pub(super) async fn listen(&self, life: Arc<Life>, out: &mpsc::Sender<Bytes>) -> Result<Arc<Life>, Problem> {
        match life.listen(out).await {
            Some(StatusCode::NOT_FOUND) => return self.renew(&life, true).await,
            Some(status) if !status.is_success() => tokio::time::sleep(IDLE).await,
            Some(_) | None => {}
        }
        self.next_life(life).await
    }

    /// The current life of the session.
    pub(super) async fn life(&self) -> Result<Arc<Life>, Problem> {
        self.state.lock().await.life.clone().ok_or_else(|| {
            Problem::new(Code::BadRequest, "the session has not been initialized").next("send initialize first")
        })
    }

    /// The current life of messages that stand for themselves.
    pub(super) async fn alone(&self) -> Result<Arc<Life>, Problem> {
        let mut state = self.state.lock().await;
        if let Some(life) = &state.alone {
            return Ok(life.clone());
        }
        let life = Arc::new(Life::find(&self.way, true).await?);
        state.alone = Some(life.clone());
        Ok(life)
    }

    /// Ends the session at the hub, if both are there.
    pub(super) async fn close(&self) {
        if let Ok(life) = self.life().await {
            life.close().await;
        }
    }

    /// The life after a stream has ended. The hub may have ended the stream only, and goes on; or it was stopped on
    /// purpose, and is started again only by a message that needs it.
    pub(super) async fn next_life(&self, life: Arc<Life>) -> Result<Arc<Life>, Problem> {
        tokio::time::sleep(PAUSE).await;
        loop {
            match HubFile::read(&self.way.home)? {
                Some(hub) if hub.stopped_at.is_some() => tokio::time::sleep(IDLE).await,
                Some(hub) if hub.process == life.hub.process && hub.process.is_alive() => {
                    return Ok(self.current(&life).await);
                }
                Some(_) | None => return self.renew(&life, false).await,
            }
        }
    }

    /// The life of this kind that is current: another caller may have made one.
    async fn current(&self, life: &Arc<Life>) -> Arc<Life> {
        self.state.lock().await.of(life).clone().unwrap_or_else(|| life.clone())
    }

    /// The life after `stale`: the one that another caller has made meanwhile, or a new one. A session goes on in it under
    /// its id, unless the hub said that this is `unknown` to it.
    pub(super) async fn renew(&self, stale: &Arc<Life>, unknown: bool) -> Result<Arc<Life>, Problem> {
        let mut state = self.state.lock().await;
        if let Some(life) = state.of(stale)
            && !Arc::ptr_eq(life, stale)
        {
            return Ok(life.clone());
        }
        let life = match state.initialize.clone().filter(|_| unknown && !stale.alone) {
            Some(message) => self.begin_anew(&message).await?,
            None => stale.elsewhere(&self.way).await?,
        };
        let life = Arc::new(life);
        *state.of(stale) = Some(life.clone());
        Ok(life)
    }

    async fn begin_anew(&self, initialize: &Bytes) -> Result<Life, Problem> {
        let (life, _) = self.connect(initialize).await?;
        life.confirm().await.map_err(|lost| match lost {
            Lost::Refused(problem) => problem,
            Lost::Silent(pid) => silent_hub(pid, Repeat::Safe),
            Lost::NotExecuted(cause) | Lost::Unknown(cause) | Lost::Interrupted(cause) => unreachable(&cause),
        })?;
        Ok(life)
    }

    /// Finds or starts a hub and initializes the session there.
    async fn connect(&self, initialize: &Bytes) -> Result<(Life, Bytes), Problem> {
        let mut cause = String::new();
        for tries in 0..TRIES {
            tokio::time::sleep(PAUSE * tries).await;
            let mut life = Life::find(&self.way, false).await?;
            match life.initialize(initialize).await {
                Ok(answer) => return Ok((life, answer)),
                Err(Lost::Refused(problem)) => return Err(problem),
                Err(Lost::Silent(pid)) => return Err(silent_hub(pid, Repeat::Safe)),
                Err(Lost::NotExecuted(why) | Lost::Unknown(why) | Lost::Interrupted(why)) => cause = why,
            }
        }
        Err(unreachable(&cause))
    }
}
