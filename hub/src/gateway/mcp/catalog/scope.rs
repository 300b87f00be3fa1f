//! What part of the world an address of the gateway shows.
//!
//! Owns [`Scope`]: the path (`/mcp` shows all instances, `/i/NAME/mcp` one, `/i/NAME/SERVER/mcp` one server of one), and
//! what of that part its query and the settings choose.
//! Invariant: names are prefixed only where several instances are shown together.

use super::filter::{Filter, FilterRules};
use super::server_key::ServerKey;
use std::fmt;
use std::sync::Arc;

/// What the path of an address shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ScopePath {
    /// Every instance.
    All,
    /// One instance.
    Instance(Arc<str>),
    /// One server of one instance.
    Server(Arc<str>, Arc<str>),
}

/// What an address shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    /// Which instances and servers.
    pub(crate) part: ScopePath,
    /// What of them.
    pub(crate) filter: Arc<Filter>,
}

impl Scope {
    /// Whether this server is shown.
    pub(crate) fn covers(&self, server_key: &ServerKey) -> bool {
        let ServerKey { instance, server, project, .. } = server_key;
        let within = match &self.part {
            ScopePath::All => true,
            ScopePath::Instance(name) => name == instance,
            ScopePath::Server(name, only) => name == instance && only == server,
        };
        within && self.filter.hides(&[instance, server], project).is_none()
    }

    /// Whether all instances stand together.
    pub(crate) fn is_all(&self) -> bool {
        self.part == ScopePath::All
    }

    /// The scope that is written so, under these rules.
    pub(crate) fn parse(text: &str, rules: &Arc<FilterRules>) -> Option<Self> {
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        let parts: Vec<&str> = path.split('/').collect();
        let part = match parts[..] {
            ["", "mcp"] => ScopePath::All,
            ["", "i", name, "mcp"] => ScopePath::Instance(name.into()),
            ["", "i", name, server, "mcp"] => ScopePath::Server(name.into(), server.into()),
            _ => return None,
        };
        Some(Self { part, filter: Arc::new(Filter::read(rules, query).ok()?) })
    }

    /// The instance, where only one is shown.
    pub(crate) fn instance(&self) -> Option<&str> {
        match &self.part {
            ScopePath::All => None,
            ScopePath::Instance(name) | ScopePath::Server(name, _) => Some(name),
        }
    }
}

/// All that a path shows.
impl From<ScopePath> for Scope {
    fn from(part: ScopePath) -> Self {
        Self { part, filter: Arc::default() }
    }
}

/// Path and query, which is also what a session id is bound to.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            ScopePath::All => f.write_str("/mcp"),
            ScopePath::Instance(name) => write!(f, "/i/{name}/mcp"),
            ScopePath::Server(name, server) => write!(f, "/i/{name}/{server}/mcp"),
        }?;
        write!(f, "{}", self.filter)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::gateway::mcp::protocol::capabilities::SessionKind;
    use std::path::Path;

    pub(crate) fn server_key(instance: &str, server: &str) -> ServerKey {
        let project = Path::new("/p").into();
        ServerKey { instance: instance.into(), server: server.into(), project, session_kind: SessionKind::Shared }
    }

    #[test]
    fn each_scope_covers_its_own() {
        let instance = Scope::from(ScopePath::Instance("a".into()));
        let server = Scope::from(ScopePath::Server("a".into(), "x".into()));
        let (ax, ay, bx) = (server_key("a", "x"), server_key("a", "y"), server_key("b", "x"));
        assert!(Scope::from(ScopePath::All).covers(&ax) && instance.covers(&ax) && server.covers(&ax));
        assert!(instance.covers(&ay) && !instance.covers(&bx));
        assert!(!server.covers(&ay) && !server.covers(&bx));
        let filter = Filter::read(&Arc::default(), Some("only=b,a/y")).unwrap();
        let chosen = Scope { part: ScopePath::All, filter: Arc::new(filter) };
        assert!(!chosen.covers(&ax) && chosen.covers(&ay) && chosen.covers(&bx));
        assert_eq!(chosen.to_string(), "/mcp?only=a/y,b");
        for scope in [chosen, instance, server] {
            assert_eq!(Scope::parse(&scope.to_string(), &Arc::default()), Some(scope));
        }
        assert_eq!(Scope::parse("/i/a/b/c/mcp", &Arc::default()), None);
    }
}
