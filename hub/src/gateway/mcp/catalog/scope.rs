//! What part of the world an address of the gateway shows.
//!
//! Owns [`Scope`]: the path (`/mcp` shows all instances, `/i/NAME/mcp` one, `/i/NAME/SERVER/mcp` one server of one), and
//! what of that part its query and the settings choose.
//! Invariant: names are prefixed only where several instances are shown together.

use super::filter::{Choice, Rules};
use super::server_key::Place;
use std::fmt;
use std::sync::Arc;

/// What the path of an address shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Part {
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
    pub(crate) part: Part,
    /// What of them.
    pub(crate) choice: Arc<Choice>,
}

impl Scope {
    /// Whether this server is shown.
    pub(crate) fn covers(&self, place: &Place) -> bool {
        let Place { instance, server, project, .. } = place;
        let within = match &self.part {
            Part::All => true,
            Part::Instance(name) => name == instance,
            Part::Server(name, only) => name == instance && only == server,
        };
        within && self.choice.hides(&[instance, server], project).is_none()
    }

    /// Whether all instances stand together.
    pub(crate) fn is_all(&self) -> bool {
        self.part == Part::All
    }

    /// The scope that is written so, under these rules.
    pub(crate) fn parse(text: &str, rules: &Arc<Rules>) -> Option<Self> {
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        let parts: Vec<&str> = path.split('/').collect();
        let part = match parts[..] {
            ["", "mcp"] => Part::All,
            ["", "i", name, "mcp"] => Part::Instance(name.into()),
            ["", "i", name, server, "mcp"] => Part::Server(name.into(), server.into()),
            _ => return None,
        };
        Some(Self { part, choice: Arc::new(Choice::read(rules, query).ok()?) })
    }

    /// The instance, where only one is shown.
    pub(crate) fn instance(&self) -> Option<&str> {
        match &self.part {
            Part::All => None,
            Part::Instance(name) | Part::Server(name, _) => Some(name),
        }
    }
}

/// All that a path shows.
impl From<Part> for Scope {
    fn from(part: Part) -> Self {
        Self { part, choice: Arc::default() }
    }
}

/// Path and query, which is also what a session id is bound to.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::All => f.write_str("/mcp"),
            Part::Instance(name) => write!(f, "/i/{name}/mcp"),
            Part::Server(name, server) => write!(f, "/i/{name}/{server}/mcp"),
        }?;
        write!(f, "{}", self.choice)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::gateway::mcp::protocol::capabilities::Lane;
    use std::path::Path;

    pub(crate) fn place(instance: &str, server: &str) -> Place {
        let project = Path::new("/p").into();
        Place { instance: instance.into(), server: server.into(), project, lane: Lane::Shared }
    }

    #[test]
    fn each_scope_covers_its_own() {
        let instance = Scope::from(Part::Instance("a".into()));
        let server = Scope::from(Part::Server("a".into(), "x".into()));
        let (ax, ay, bx) = (place("a", "x"), place("a", "y"), place("b", "x"));
        assert!(Scope::from(Part::All).covers(&ax) && instance.covers(&ax) && server.covers(&ax));
        assert!(instance.covers(&ay) && !instance.covers(&bx));
        assert!(!server.covers(&ay) && !server.covers(&bx));
        let choice = Choice::read(&Arc::default(), Some("only=b,a/y")).unwrap();
        let chosen = Scope { part: Part::All, choice: Arc::new(choice) };
        assert!(!chosen.covers(&ax) && chosen.covers(&ay) && chosen.covers(&bx));
        assert_eq!(chosen.to_string(), "/mcp?only=a/y,b");
        for scope in [chosen, instance, server] {
            assert_eq!(Scope::parse(&scope.to_string(), &Arc::default()), Some(scope));
        }
        assert_eq!(Scope::parse("/i/a/b/c/mcp", &Arc::default()), None);
    }
}
