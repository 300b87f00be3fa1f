//! What a backend said of itself when it was initialized, or when it was discovered.
//!
//! Owns [`ServerInfo`]: the result of `initialize` as text, and the few capabilities that the gateway acts on. What a backend
//! says that speaks 2026-07-28 only is kept in the same form.
//! Invariant: what a client of a single server is shown differs from it only in the version that was agreed on with the
//! client, in `listChanged`, which the gateway adds because it watches lists over restarts, and in `tasks`, which only
//! 2025-11-25 has. Never: adds a capability that the backend does not have.

use crate::gateway::mcp::protocol::json::{Object, Span, Unreadable, quote, splice};
use crate::gateway::mcp::protocol::list_kind::ListKind;
use crate::gateway::mcp::protocol::stateless::{META_SERVER, VERSION};
use crate::gateway::mcp::protocol::version::Version;
use std::borrow::Cow;

/// What a backend said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerInfo {
    result: String,
    version: String,
    version_at: Span,
    capabilities: Option<Span>,
    offered: Vec<(String, bool)>,
    /// Its capabilities in 2026-07-28, where it speaks others too.
    discovered: Option<String>,
}

impl ServerInfo {
    /// Reads the result of `initialize`.
    pub(crate) fn parse(result: &str) -> Result<Self, Unreadable> {
        let object = Object::parse(result, Span::whole(result))?;
        let version_at =
            object.get("protocolVersion").ok_or_else(|| Unreadable::Syntax(String::from("no protocolVersion")))?;
        let version = version_at.string(result).unwrap_or_default();
        let capabilities = object.get("capabilities").filter(|at| at.is_object(result));
        let mut offered = Vec::new();
        if let Some(at) = capabilities {
            for (name, value) in Object::parse(result, at)?.members() {
                offered.push((name.to_owned(), flag(result, value, "listChanged")));
            }
        }
        Ok(Self { version, version_at, capabilities, offered, discovered: None, result: result.to_owned() })
    }

    /// Reads the result of `server/discover` of a backend that speaks nothing older.
    pub(crate) fn of_discovered(result: &str) -> Result<Self, Unreadable> {
        let said = Object::parse(result, Span::whole(result))?;
        let meta = said.object(result, "_meta")?;
        let info = meta.as_ref().and_then(|meta| meta.get(META_SERVER)).or(said.get("serverInfo"));
        let mut members = vec![format!(r#""protocolVersion":"{VERSION}""#)];
        let mut notify = |name: &str, at: Option<Span>| {
            members.extend(at.map(|at| format!(r#""{name}":{}"#, at.of(result))));
        };
        notify("capabilities", said.get("capabilities"));
        notify("serverInfo", info);
        notify("instructions", said.get("instructions"));
        Self::parse(&format!("{{{}}}", members.join(",")))
    }

    /// With what the backend answered to `server/discover`.
    pub(crate) fn with_discovered(self, result: &str) -> Self {
        let said = || {
            let at = Object::parse(result, Span::whole(result)).ok()?.get("capabilities")?;
            at.is_object(result).then(|| at.of(result).to_owned())
        };
        Self { discovered: said(), ..self }
    }

    /// All that it said.
    pub(crate) fn text(&self) -> &str {
        &self.result
    }

    /// The version that it speaks.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Whether it has this capability.
    pub(crate) fn offers(&self, capability: &str) -> bool {
        self.offered.iter().any(|(name, _)| name == capability)
    }

    /// Whether it tells when this list changes.
    pub(crate) fn announces(&self, kind: ListKind) -> bool {
        self.offered.iter().any(|(name, announces)| name == kind.capability() && *announces)
    }

    /// Whether it tells when a resource changes.
    pub(crate) fn subscribes(&self) -> bool {
        let resources = || Object::parse(&self.result, self.capabilities?).ok()?.get("resources");
        resources().is_some_and(|at| flag(&self.result, at, "subscribe"))
    }

    /// What a client that agreed on this version is shown.
    pub(crate) fn shown(&self, version: Version) -> String {
        let mut edits = vec![(self.version_at, Cow::Owned(quote(version.as_str())))];
        if let Some(at) = self.capabilities {
            edits.push((at, Cow::Owned(shown_capabilities(&self.result, at, version))));
        }
        splice(&self.result, &mut edits)
    }

    /// The capabilities that a client of 2026-07-28 is shown, extensions among them.
    pub(crate) fn shown_to_modern(&self) -> Option<String> {
        match &self.discovered {
            Some(said) => Some(shown_capabilities(said, Span::whole(said), Version::V2026_07_28)),
            None => self.capabilities.map(|at| shown_capabilities(&self.result, at, Version::V2026_07_28)),
        }
    }
}

fn shown_capabilities(text: &str, at: Span, version: Version) -> String {
    // It was read once already.
    let Ok(object) = Object::parse(text, at) else { return at.of(text).to_owned() };
    let shown = object.members().filter_map(|(name, value)| {
        let value = match name {
            "tasks" if version != Version::V2025_11_25 => return None,
            "tools" | "prompts" => String::from(r#"{"listChanged":true}"#),
            "resources" => format!(r#"{{"subscribe":{},"listChanged":true}}"#, flag(text, value, "subscribe")),
            _ => value.of(text).to_owned(),
        };
        Some(format!("{}:{value}", quote(name)))
    });
    format!("{{{}}}", shown.collect::<Vec<_>>().join(","))
}

fn flag(text: &str, object: Span, key: &str) -> bool {
    object.is_object(text)
        && Object::parse(text, object).is_ok_and(|object| object.get(key).is_some_and(|at| at.of(text) == "true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = r#"{"serverInfo":{"name":"x","version":"1.0"},"protocolVersion":"2025-06-18","capabilities":{"tools":{},"resources":{"subscribe":true},"logging":{},"tasks":{"list":{}},"experimental":{"a":1.0}},"instructions":"do"}"#;

    #[test]
    fn a_client_is_shown_what_the_backend_said() {
        let about = ServerInfo::parse(RESULT).unwrap();
        assert_eq!(
            about.shown(Version::V2025_11_25),
            r#"{"serverInfo":{"name":"x","version":"1.0"},"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"logging":{},"tasks":{"list":{}},"experimental":{"a":1.0}},"instructions":"do"}"#
        );
        assert!(!about.shown(Version::V2025_06_18).contains("tasks"));
        assert!(about.offers("tools") && !about.offers("prompts") && !about.announces(ListKind::Tools));
        assert_eq!(about.version(), "2025-06-18");
    }

    #[test]
    fn what_was_discovered_is_kept_as_if_it_had_been_initialized() {
        let about = ServerInfo::of_discovered(
            r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"extensions":{"x/y":{"n":1.0}}},"instructions":"do","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"x"}}}"#,
        )
        .unwrap();
        assert_eq!(
            about.shown(Version::V2025_06_18),
            r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"extensions":{"x/y":{"n":1.0}}},"serverInfo":{"name":"x"},"instructions":"do"}"#
        );
        assert_eq!(about.version(), "2026-07-28");
        let both = ServerInfo::parse(RESULT).unwrap().with_discovered(r#"{"capabilities":{"extensions":{}}}"#);
        assert_eq!(both.shown_to_modern().as_deref(), Some(r#"{"extensions":{}}"#));
    }

    #[test]
    fn a_result_without_version_is_none() {
        assert!(ServerInfo::parse("{}").is_err());
        assert!(ServerInfo::parse(r#"{"protocolVersion":"1"}"#).is_ok_and(|about| !about.offers("tools")));
    }
}
