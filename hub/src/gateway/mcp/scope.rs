//! What part of the world an address of the gateway shows.
//!
//! Owns [`Scope`]: `/mcp` shows all instances, `/i/NAME/mcp` one, `/i/NAME/SERVER/mcp` one server of one.
//! Invariant: names are prefixed only where several instances are shown together.

use std::fmt;
use std::sync::Arc;

/// What an address shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// Every instance.
    All,
    /// One instance.
    Instance(Arc<str>),
    /// One server of one instance.
    Server(Arc<str>, Arc<str>),
}

impl Scope {
    /// Whether this server of this instance is shown.
    pub(crate) fn covers(&self, instance: &str, server: &str) -> bool {
        match self {
            Self::All => true,
            Self::Instance(name) => **name == *instance,
            Self::Server(name, only) => **name == *instance && **only == *server,
        }
    }

    /// The instance, where only one is shown.
    pub(crate) fn instance(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Instance(name) | Self::Server(name, _) => Some(name),
        }
    }
}

/// The path, which is also what a session id is bound to.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("/mcp"),
            Self::Instance(name) => write!(f, "/i/{name}/mcp"),
            Self::Server(name, server) => write!(f, "/i/{name}/{server}/mcp"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scope_covers_its_own() {
        let (instance, server) = (Scope::Instance("a".into()), Scope::Server("a".into(), "x".into()));
        assert!(Scope::All.covers("a", "x") && instance.covers("a", "x") && server.covers("a", "x"));
        assert!(instance.covers("a", "y") && !instance.covers("b", "x"));
        assert!(!server.covers("a", "y") && !server.covers("b", "x"));
    }
}
