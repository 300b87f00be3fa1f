//! Sessions over the hub's death: as the journal keeps them, and back.
//!
//! Owns the translation, and which sessions the journal has otherwise. Invariant: a session that is recalled has the level,
//! the subscriptions and the knowledge of lists that it had; it is told of a list only if that is another one now.
//! Never: recalls a session that was ended, or whose id this hub's key did not sign.

use super::client::{Client, ClientInfo, KnownLists, SessionMemory};
use super::store::SessionStore;
use super::task_book::StartedTask;
use crate::gateway::mcp::catalog::filter::FilterRules;
use crate::gateway::mcp::catalog::scope::Scope;
use crate::gateway::mcp::catalog::server_key::ServerKey;
use crate::gateway::mcp::catalog::view::Fingerprints;
use crate::gateway::mcp::protocol::capabilities::SessionKind;
use crate::gateway::mcp::protocol::json::{Object, Span};
use crate::gateway::mcp::protocol::level::Level;
use crate::journal::{SavedSession, SavedSubscription, SavedTask};
use jiff::{SignedDuration, Timestamp};
use parking_lot::MutexGuard;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// For so long after its start a hub does not compare lists: it learns of one instance after the other.
pub(crate) const SETTLING: Duration = Duration::from_millis(500);

/// A client that says more of itself is remembered without its words.
const MAX_INITIALIZE: usize = 16 << 10;

impl SessionMemory {
    /// Whether what a recalled client knows is not to be compared yet.
    pub(crate) fn waits_for_lists(&self, known: &KnownLists) -> bool {
        known.fetched.is_some() && self.recalled.is_some_and(|at| at.elapsed() < SETTLING)
    }
}

impl Client {
    /// The session as the journal keeps it.
    pub(crate) fn saved(&self, now: Instant) -> SavedSession {
        let silent = self.idle_since().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let silent = SignedDuration::try_from(silent).unwrap_or(SignedDuration::MAX);
        let memory = self.memory.lock();
        SavedSession {
            id: self.id.clone(),
            scope: self.scope.to_string(),
            version: self.version.as_str().to_owned(),
            initialize: memory.initialize.as_deref().map(str::to_owned),
            level: memory.level.map(|level| level.as_str().to_owned()),
            subscriptions: memory.subscriptions.iter().map(subscription).collect(),
            tasks: memory.tasks.all().into_iter().map(task).collect(),
            fetched: memory.knowledge.map(|known| known.fetched),
            used_at: Timestamp::now().saturating_sub(silent).unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }

    /// Takes over what an earlier life of the hub knew of the session.
    fn recall(&self, saved: &SavedSession, now: Instant) {
        let mut memory = self.memory.lock();
        memory.level = memory.level.or(saved.level.as_deref().and_then(Level::parse));
        memory.subscriptions.extend(saved.subscriptions.iter().filter_map(subscribed));
        memory.tasks.recall(saved.tasks.iter().filter_map(begun).collect());
        memory.initialize = memory.initialize.take().or(saved.initialize.as_deref().map(Into::into));
        for (known, fetched) in memory.knowledge.iter_mut().zip(saved.fetched) {
            if known.fetched.is_none() {
                known.fetched = fetched;
                known.notified = fetched.unwrap_or(known.notified);
            }
        }
        memory.recalled = Some(now);
    }

    /// What the client said of itself.
    pub(crate) fn began_with(&self, params: &str) {
        if params.len() <= MAX_INITIALIZE {
            let mut memory = self.memory.lock();
            memory.initialize = Some(params.into());
            self.changed(memory);
        }
    }

    /// What the client said that it is, as JSON.
    pub(crate) fn info(&self) -> Option<String> {
        let memory = self.memory.lock();
        let said = memory.initialize.as_deref()?;
        let at = Object::parse(said, Span::whole(said)).ok()?.get("clientInfo").filter(|at| at.is_object(said))?;
        Some(at.of(said).to_owned())
    }

    /// From now on this is rung when the session changes, and now.
    pub(crate) fn ring(&self, bell: &Arc<Notify>) {
        let bell = self.bell.get_or_init(|| Arc::clone(bell));
        bell.notify_one();
    }

    /// The journal has it otherwise now.
    pub(super) fn changed(&self, mut memory: MutexGuard<'_, SessionMemory>) {
        memory.unsaved = true;
        drop(memory);
        if let Some(bell) = self.bell.get() {
            bell.notify_one();
        }
    }
}

impl SessionStore {
    /// Makes the sessions of an earlier life of the hub again.
    pub(crate) fn recall(&self, sessions: &[SavedSession], rules: &Arc<FilterRules>) {
        let now = Instant::now();
        let mut recalled = 0_usize;
        for saved in sessions {
            let Some(scope) = Scope::parse(&saved.scope, rules) else { continue };
            let Some((version, capabilities)) = self.key.verify(&saved.id, &scope) else { continue };
            if self.inner.lock().ended.contains(&saved.id) {
                continue;
            }
            let nothing = Fingerprints { tools: 0, prompts: 0, resources: 0 };
            let client = Client::new(saved.id.clone(), scope, ClientInfo { version, capabilities }, nothing, false);
            let silent = Timestamp::now().duration_since(saved.used_at).unsigned_abs();
            client.touch(now.checked_sub(silent).unwrap_or(now));
            // One that showed itself before it was recalled is there already.
            let Ok(client) = self.add(client) else { break };
            client.recall(saved, now);
            recalled += 1;
        }
        if recalled > 0 {
            tracing::info!(sessions = recalled, "the sessions of an earlier life of the hub are continued");
            self.publish_wishes();
        }
    }

    /// Rung when a session changed that the journal should have.
    pub(crate) fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// The sessions that the journal has otherwise; with `all`, every one. They count as saved now. One that was only begun is
    /// not worth a line: its id says all of it.
    pub(crate) fn unsaved(&self, all: bool) -> Vec<SavedSession> {
        let now = Instant::now();
        let changed = |client: &Arc<Client>| std::mem::take(&mut client.memory.lock().unsaved) || all;
        let clients = self.all().into_iter().filter(|client| !client.is_stateless() && client.was_used());
        clients.filter(changed).map(|client| client.saved(now)).collect()
    }

    /// The sessions that were ended or forgotten since this was asked last, but for those that came back.
    pub(crate) fn unsaved_ends(&self) -> Vec<String> {
        let mut inner = self.inner.lock();
        let mut ends = std::mem::take(&mut inner.unsaved_ends);
        ends.retain(|id| !inner.live.contains_key(id));
        ends
    }

    /// The sessions that were in use since `before` should be known as used.
    pub(crate) fn note_use(&self, before: Instant) {
        for client in self.all() {
            if client.idle_since().is_none_or(|since| since > before) {
                client.memory.lock().unsaved = true;
            }
        }
    }
}

fn subscription((server_key, uri): &(ServerKey, String)) -> SavedSubscription {
    subscription_to(server_key, uri.clone())
}

fn subscription_to(server_key: &ServerKey, uri: String) -> SavedSubscription {
    SavedSubscription {
        instance: server_key.instance.to_string(),
        server: server_key.server.to_string(),
        project: server_key.project.display().to_string(),
        session_kind: server_key.session_kind.code(),
        uri,
    }
}

fn subscribed(saved: &SavedSubscription) -> Option<(ServerKey, String)> {
    let session_kind = SessionKind::of_code(&saved.session_kind)?;
    let (instance, server) = (saved.instance.as_str().into(), saved.server.as_str().into());
    let project = Path::new(&saved.project).into();
    Some((ServerKey { instance, server, project, session_kind }, saved.uri.clone()))
}

fn task(begun: StartedTask) -> SavedTask {
    SavedTask { number: begun.number, of: subscription_to(&begun.server_key, begun.id) }
}

fn begun(saved: &SavedTask) -> Option<StartedTask> {
    let (server_key, id) = subscribed(&saved.of)?;
    Some(StartedTask { number: saved.number, server_key, id, token: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mcp::catalog::scope::ScopePath;
    use crate::gateway::mcp::catalog::scope::tests::server_key;
    use crate::gateway::mcp::protocol::capabilities::ClientCapabilities;
    use crate::gateway::mcp::protocol::version::Version;
    use crate::gateway::mcp::session::id::SessionKey;
    use crate::gateway::mcp::session::store::FoundSession;

    const SEEN: Fingerprints = Fingerprints { tools: u64::MAX, prompts: 0, resources: 1 };

    fn table() -> SessionStore {
        SessionStore::new(SessionKey::from_token("t"), 500)
    }

    fn begun(table: &SessionStore) -> Arc<Client> {
        let about = ClientInfo { version: Version::V2025_06_18, capabilities: ClientCapabilities::ALL };
        let scope = Scope::from(ScopePath::Server("shop".into(), "files".into()));
        let client = table.begin(scope, about, SEEN, [1; 16]).unwrap();
        client.touch(Instant::now());
        client
    }

    #[tokio::test]
    async fn a_session_is_recalled_with_all_it_had() {
        let first = table();
        let client = begun(&first);
        let server_key = ServerKey {
            session_kind: SessionKind::PerCapabilities(ClientCapabilities::ALL),
            ..server_key("shop", "files")
        };
        client.subscribe(&server_key, "file:///a");
        client.began_task(&server_key, "t1", None);
        first.set_level(&client, Level::Warning);
        client.began_with(r#"{"clientInfo":{}}"#);
        let saved = first.unsaved(false);
        assert_eq!((saved.len(), first.unsaved(false).len(), first.unsaved(true).len()), (1, 0, 1));

        let second = table();
        second.recall(&saved, &Arc::default());
        let all = second.all();
        let [again] = &all[..] else { panic!("{all:?}") };
        assert_eq!(
            (again.level(), again.subscriptions()),
            (Some(Level::Warning), vec![(server_key.clone(), "file:///a".into())])
        );
        assert!(again.has_task(&server_key, "t1"));
        let mut of_second = second.unsaved(true);
        of_second[0].used_at = saved[0].used_at;
        assert_eq!(of_second, saved);

        again.lists_are(SEEN);
        again.send("{\"end\":1}");
        let notified = again.open_stream(SEEN).next().await.unwrap();
        assert!(String::from_utf8_lossy(&notified).contains("end"), "nothing changed: {notified:?}");
    }

    #[test]
    fn an_ended_or_foreign_session_is_not_recalled() {
        let first = table();
        let client = begun(&first);
        let saved = first.unsaved(true);
        first.end(&client);
        assert_eq!(first.unsaved_ends(), std::slice::from_ref(&client.id));
        first.recall(&saved, &Arc::default());
        assert_eq!(first.all().len(), 0, "it was ended");
        let other = SessionStore::new(SessionKey::from_token("u"), 500);
        other.recall(&saved, &Arc::default());
        assert_eq!(other.all().len(), 0, "its id is of another hub");
    }

    #[test]
    fn who_came_before_it_was_recalled_keeps_what_it_said_since() {
        let first = table();
        let client = begun(&first);
        first.set_level(&client, Level::Debug);
        let saved = first.unsaved(true);
        let second = table();
        let scope = client.scope.clone();
        let found = second.find(&client.id, &scope, |_| SEEN);
        let FoundSession::Client(again) = found else { panic!("{found:?}") };
        second.set_level(&again, Level::Error);
        second.recall(&saved, &Arc::default());
        assert_eq!(again.level(), Some(Level::Error));
    }
}
