//! The tasks that a client began, and those that its stream was asked to tell of.
//!
//! Owns [`StartedTask`], as a part of what a session knows; it is in the journal with it. Invariant: a client is told of its own
//! tasks only, under its own names for them; beyond a bound the oldest are not listed or told of any more, but still
//! found by their names. Never: asks a server.

use super::client::Client;
use super::id::SessionKey;
use super::store::SessionStore;
use super::task_id;
use crate::gateway::mcp::catalog::server_key::ServerKey;
use crate::gateway::mcp::protocol::json::quote;
use std::collections::VecDeque;
use std::sync::Arc;

/// More than an agent has under way at once.
const MAX: usize = 256;

/// A task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartedTask {
    /// Its place among those of the client: the later, the higher.
    pub(crate) number: u64,
    /// The server that has it.
    pub(crate) server_key: ServerKey,
    /// The server's name of it.
    pub(crate) id: String,
    /// The token of its progress, as the server and as the client have it. It outlasts the request, but not the hub.
    pub(crate) token: Option<(u64, String)>,
}

/// The tasks of one client, oldest first.
#[derive(Debug, Default)]
pub(crate) struct TaskBook(VecDeque<StartedTask>);

impl TaskBook {
    pub(crate) fn all(&self) -> Vec<StartedTask> {
        self.0.iter().cloned().collect()
    }

    pub(crate) fn recall(&mut self, earlier: Vec<StartedTask>) {
        let newer = std::mem::replace(&mut self.0, earlier.into());
        for begun in newer {
            self.put(begun.server_key, begun.id, begun.token);
        }
    }

    fn put(&mut self, server_key: ServerKey, id: String, token: Option<(u64, String)>) {
        self.0.retain(|known| known.id != id || known.server_key != server_key);
        let number = self.0.back().map_or(1, |last| last.number + 1);
        if self.0.len() >= MAX {
            self.0.pop_front();
        }
        self.0.push_back(StartedTask { number, server_key, id, token });
    }
}

impl Client {
    /// Whose tasks are this client's: those of its session, or of nobody in particular.
    pub(crate) fn owner(&self) -> &str {
        if self.is_stateless() { "" } else { &self.id }
    }

    /// Its name of a task, as JSON.
    pub(crate) fn name_of(&self, key: &SessionKey, server_key: &ServerKey, task: &str) -> String {
        quote(&task_id::seal(key, self.owner(), server_key, task))
    }

    /// Remembers a task.
    pub(crate) fn began_task(&self, server_key: &ServerKey, task: &str, token: Option<(u64, String)>) {
        let mut memory = self.memory.lock();
        memory.tasks.put(server_key.clone(), task.to_owned(), token);
        self.changed(memory);
    }

    /// Forgets tasks that their servers do not know any more.
    pub(crate) fn forget_tasks(&self, gone: &[StartedTask]) {
        let mut memory = self.memory.lock();
        memory.tasks.0.retain(|known| !gone.contains(known));
        self.changed(memory);
    }

    /// Its tasks, oldest first.
    pub(crate) fn tasks(&self) -> Vec<StartedTask> {
        self.memory.lock().tasks.all()
    }

    /// Whether this is one of them.
    pub(crate) fn has_task(&self, server_key: &ServerKey, task: &str) -> bool {
        self.memory.lock().tasks.0.iter().any(|known| known.id == task && known.server_key == *server_key)
    }

    /// The client's token for the progress that this server tells under `number`, if that is of a task.
    fn task_token(&self, server_key: &ServerKey, number: u64) -> Option<String> {
        let memory = self.memory.lock();
        let of = |begun: &&StartedTask| {
            begun.server_key == *server_key && begun.token.as_ref().is_some_and(|(known, _)| *known == number)
        };
        memory.tasks.0.iter().find(of)?.token.as_ref().map(|(_, token)| token.clone())
    }
}

impl SessionStore {
    /// The clients that have this task of a server.
    pub(crate) fn with_task(&self, server_key: &ServerKey, task: &str) -> Vec<Arc<Client>> {
        let mut clients = self.covering(server_key);
        clients.retain(|client| client.has_task(server_key, task));
        clients
    }

    /// Who wants to hear of progress that this server tells under `number` after its request was answered, and under
    /// which token.
    pub(crate) fn task_progress(&self, server_key: &ServerKey, number: u64) -> Option<(Arc<Client>, String)> {
        let mut clients = self.covering(server_key).into_iter();
        clients.find_map(|client| client.task_token(server_key, number).map(|token| (client, token)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mcp::catalog::scope::tests::server_key;

    #[test]
    fn the_newest_tasks_are_kept_in_order() {
        let mut tasks = TaskBook::default();
        for n in 0..MAX + 2 {
            tasks.put(server_key("a", "s"), n.to_string(), None);
        }
        tasks.put(server_key("a", "s"), String::from("5"), None);
        tasks.put(server_key("b", "s"), String::from("5"), None);
        let all = tasks.all();
        assert_eq!((all.len(), all[0].id.as_str(), all[MAX - 1].id.as_str()), (MAX, "3", "5"));
        assert!(all.is_sorted_by_key(|begun| begun.number));
        let mut later = TaskBook::default();
        later.put(server_key("c", "s"), String::from("new"), None);
        later.recall(all);
        assert_eq!(later.all().last().map(|begun| begun.id.clone()), Some(String::from("new")));
    }
}
