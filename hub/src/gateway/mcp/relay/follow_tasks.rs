//! Following what becomes of tasks, for one stream of `subscriptions/listen`.
//!
//! Owns [`Following`]: a request for news at each server that has one of the stream's tasks, kept up for as long as it is
//! held. Invariant: only what its server agreed to tell is promised; a server on stdio agrees on its one stream for
//! everything, so there it is taken for granted. Never: tells another client.

use crate::gateway::mcp::gateway::Gateway;
use crate::gateway::mcp::protocol::capabilities::{ClientCapabilities, SessionKind};
use crate::gateway::mcp::protocol::envelope::Envelope;
use crate::gateway::mcp::protocol::json::{Object, elements};
use crate::gateway::mcp::protocol::notification::{ACKNOWLEDGED, Notification};
use crate::gateway::mcp::protocol::stateless::{META_VERSION, VERSION};
use crate::gateway::mcp::session::client::Client;
use crate::gateway::mcp::session::task_id;
use crate::gateway::mcp::upstream::Upstream;
use crate::gateway::mcp::upstream::http_client::{ResponseMessages, read};
use crate::gateway::mcp::upstream::request_headers::{RequestHeaders, RoutingHeaders};
use crate::gateway::mcp::upstream::session::UpstreamSession;
use linchpin_shared::backoff::{Backoff, BackoffPolicy};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

/// The method.
const LISTEN: &str = "subscriptions/listen";

/// How long a server may take to agree; the client waits for it.
const AGREES: Duration = Duration::from_secs(2);

/// A stream that ended is opened again, but not in a hot loop.
const REOPEN: BackoffPolicy = BackoffPolicy {
    min: Duration::from_millis(100),
    max: Duration::from_secs(30),
    reset_after: Duration::from_secs(10),
};

/// While it is held, servers are followed.
#[derive(Debug)]
pub(crate) struct Following {
    /// The names of the tasks that will be told of.
    pub(crate) agreed: Vec<String>,
    _servers: Vec<AbortOnDropHandle<()>>,
}

/// A server, and of each of its tasks the client's name and its own.
type FollowedTasks = (Arc<Upstream>, Vec<(String, String)>);

/// Follows the tasks of these names for a client's stream.
pub(crate) async fn follow(gateway: &Gateway, client: &Client, names: &[String]) -> Following {
    let mut servers: Vec<FollowedTasks> = Vec::new();
    for name in names {
        let Some((upstream, task)) = server_of(gateway, client, name) else { continue };
        client.began_task(&upstream.server_key, &task, None);
        match servers.iter_mut().find(|(known, _)| known.server_key == upstream.server_key) {
            Some((_, tasks)) => tasks.push((name.clone(), task)),
            None => servers.push((upstream, vec![(name.clone(), task)])),
        }
    }
    let deadline = Instant::now() + AGREES;
    let (mut agreed, mut handles) = (Vec::new(), Vec::new());
    let mut answers = Vec::new();
    for (upstream, tasks) in servers {
        let (agree, agrees) = oneshot::channel();
        let ids = tasks.iter().map(|(_, id)| id.clone()).collect();
        handles.push(AbortOnDropHandle::new(tokio::spawn(keep_up(upstream, ids, agree))));
        answers.push((tasks, agrees));
    }
    for (tasks, agrees) in answers {
        let Ok(Ok(ids)) = timeout_at(deadline, agrees).await else { continue };
        agreed.extend(tasks.into_iter().filter(|(_, id)| ids.contains(id)).map(|(name, _)| name));
    }
    Following { agreed, _servers: handles }
}

fn server_of(gateway: &Gateway, client: &Client, name: &str) -> Option<(Arc<Upstream>, String)> {
    let task = task_id::open(gateway.clients.key(), client.owner(), name)?;
    let catalog = gateway.catalog(ClientCapabilities::NONE);
    let view = catalog.view(&client.scope);
    let mut backends = view.backends();
    let upstream =
        backends.find(|it| *it.server_key.instance == *task.instance && *it.server_key.server == *task.server)?.clone();
    upstream.session().is_some_and(|session| session.speaks_modern()).then_some((upstream, task.id))
}

/// Asks a server to tell of these tasks, again and again.
async fn keep_up(upstream: Arc<Upstream>, tasks: Vec<String>, agree: oneshot::Sender<Vec<String>>) {
    let mut agree = Some(agree);
    if upstream.server_key.session_kind == SessionKind::Shared {
        // Who asked does not wait any more if this fails.
        let _ = agree.take().map(|agree| agree.send(tasks.clone()));
    }
    let mut backoff = Backoff::new(REOPEN);
    loop {
        let begun = Instant::now();
        if let Some(session) = upstream.session() {
            listen(&upstream, &session, &tasks, &mut agree).await;
        }
        backoff.healthy_for(begun.elapsed());
        tokio::time::sleep(backoff.next_delay(crate::gateway::mcp::upstream::shared::random())).await;
    }
}

async fn listen(
    upstream: &Arc<Upstream>,
    session: &Arc<UpstreamSession>,
    tasks: &[String],
    agree: &mut Option<oneshot::Sender<Vec<String>>>,
) {
    let id = upstream.next_id();
    let _open = OpenTaskStream { upstream: Arc::clone(upstream), session: Arc::clone(session), id };
    let routing = RoutingHeaders::of(LISTEN, None);
    match upstream.call(RequestHeaders::Stateless(session, &routing), request(id, tasks)).await {
        Ok(stream) => notified(upstream, stream, agree).await,
        Err(broken) => {
            tracing::debug!(server = %upstream, why = %broken.into_problem().detail, "no news of its tasks");
        }
    }
}

async fn notified(upstream: &Upstream, mut stream: ResponseMessages, agree: &mut Option<oneshot::Sender<Vec<String>>>) {
    while let Ok(Some(message)) = stream.next().await {
        let Some((text, Envelope::Notification { method, params })) = read(&message) else { continue };
        if method == ACKNOWLEDGED {
            let agreed = || {
                let filter = Object::parse(text, params?).ok()?.object(text, "notifications").ok()??;
                elements(text, filter.get("taskIds")?)
            };
            let agreed = agreed().unwrap_or_default().into_iter().filter_map(|at| at.string(text)).collect();
            // The client may have gone meanwhile.
            let _ = agree.take().map(|agree| agree.send(agreed));
        } else if let Notification::Task(at) = Notification::read(text, &method, params) {
            upstream.task_told(text, at);
        }
    }
}

fn request(id: u64, tasks: &[String]) -> String {
    let meta = serde_json::json!({
        META_VERSION: VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "linchpin", "version": env!("CARGO_PKG_VERSION")},
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {crate::gateway::mcp::protocol::task_fields::EXTENSION: {}}},
    });
    let params = serde_json::json!({"notifications": {"taskIds": tasks}, "_meta": meta});
    serde_json::json!({"jsonrpc": "2.0", "id": id, "method": LISTEN, "params": params}).to_string()
}

/// A server on stdio does not see that nobody reads any more, so it is told.
struct OpenTaskStream {
    upstream: Arc<Upstream>,
    session: Arc<UpstreamSession>,
    id: u64,
}

impl Drop for OpenTaskStream {
    fn drop(&mut self) {
        if self.upstream.server_key.session_kind != SessionKind::Shared {
            return;
        }
        let (upstream, session, id) = (Arc::clone(&self.upstream), Arc::clone(&self.session), self.id);
        tokio::spawn(async move { upstream.give_up(&session, id).await });
    }
}
