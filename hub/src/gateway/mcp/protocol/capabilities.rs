//! What a client can do when a server asks it something, and for whom a session with a server is.
//!
//! Owns [`ClientCapabilities`], the capabilities of clients that are relayed (sampling, elicitation, roots) as a small set, and
//! [`SessionKind`]. A server on HTTP has one session for each set, because what it offers depends on it. A server on stdio has
//! one session in its whole life, so it is told the union of all, and the hub refuses what the asking client cannot do:
//! a second child for another set would be a second writer of the same files, and a restart would end others' work.
//! Invariant: a server is never promised what is not in the set. Never: knows a capability that is not relayed.

use super::json::{Object, Span};

/// What a client can do when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct ClientCapabilities(u8);

/// Each ability: its capability, the member of it (empty for the capability itself), its bit.
const KNOWN: [(&str, &str, u8); 8] = [
    ("roots", "", 1),
    ("roots", "listChanged", 2),
    ("sampling", "", 4),
    ("sampling", "context", 8),
    ("sampling", "tools", 16),
    ("elicitation", "", 32),
    ("elicitation", "form", 64),
    ("elicitation", "url", 128),
];

impl ClientCapabilities {
    /// It can do nothing.
    pub(crate) const NONE: Self = Self(0);

    /// It can do everything that is relayed.
    pub(crate) const ALL: Self = Self(255);

    /// What the capabilities at `at` say.
    pub(crate) fn read(text: &str, at: Span) -> Self {
        let Ok(declared) = Object::parse(text, at) else { return Self::NONE };
        let has = |(name, member, _): &&(&str, &str, u8)| match declared.object(text, name) {
            Ok(Some(_)) if member.is_empty() => true,
            Ok(Some(capability)) => capability.get(member).is_some_and(|at| at.of(text) != "false"),
            Ok(None) | Err(_) => false,
        };
        Self(KNOWN.iter().filter(has).map(|(_, _, bit)| bit).sum())
    }

    /// As JSON, the way a client declares them.
    pub(crate) fn json(self) -> String {
        let mut out = serde_json::Map::new();
        for (name, member, _) in KNOWN.iter().filter(|(_, _, bit)| self.0 & bit != 0) {
            let capability = out.entry(*name).or_insert_with(|| serde_json::json!({}));
            if let Some(members) = capability.as_object_mut().filter(|_| !member.is_empty()) {
                let value = if *member == "listChanged" { true.into() } else { serde_json::json!({}) };
                members.insert((*member).to_owned(), value);
            }
        }
        serde_json::Value::Object(out).to_string()
    }

    /// The capability that is missing for a request of a server with this method and these params; none if it can be
    /// put. A client that says `elicitation` and no more can show forms, as 2025-06-18 has it.
    pub(crate) fn lacks(self, method: &str, text: &str, params: Option<Span>) -> Option<&'static str> {
        let param = |key: &str| Object::parse(text, params?).ok()?.get(key);
        let url = || param("mode").is_some_and(|at| at.of(text) == "\"url\"");
        let tools = || param("tools").is_some() || param("toolChoice").is_some();
        let wanted = match method {
            "roots/list" => ("roots", 1),
            "sampling/createMessage" if tools() => ("sampling.tools", 16),
            "sampling/createMessage" => ("sampling", 4),
            "elicitation/create" if url() => ("elicitation.url", 128),
            "elicitation/create" => ("elicitation", 32),
            _ => ("nothing of this kind", 0),
        };
        (self.0 & wanted.1 == 0).then_some(wanted.0)
    }

    /// As two digits.
    pub(crate) fn code(self) -> String {
        format!("{:02x}", self.0)
    }

    /// The set with this code.
    pub(crate) fn of_code(code: &str) -> Option<Self> {
        (code.len() == 2).then(|| u8::from_str_radix(code, 16).ok().map(Self))?
    }
}

/// For whom a session with a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SessionKind {
    /// For everybody.
    Shared,
    /// For clients that can do just this.
    PerCapabilities(ClientCapabilities),
}

impl SessionKind {
    /// Whether a client that can do this is served.
    pub(crate) fn serves(self, capabilities: ClientCapabilities) -> bool {
        match self {
            Self::Shared => true,
            Self::PerCapabilities(only) => only == capabilities,
        }
    }

    /// As a word.
    pub(crate) fn code(self) -> String {
        match self {
            Self::Shared => String::from("shared"),
            Self::PerCapabilities(capabilities) => capabilities.code(),
        }
    }

    /// The lane of this word.
    pub(crate) fn of_code(code: &str) -> Option<Self> {
        if code == "shared" { Some(Self::Shared) } else { ClientCapabilities::of_code(code).map(Self::PerCapabilities) }
    }

    /// What the server is promised.
    pub(crate) const fn capabilities(self) -> ClientCapabilities {
        match self {
            Self::Shared => ClientCapabilities::ALL,
            Self::PerCapabilities(capabilities) => capabilities,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ClientCapabilities {
        ClientCapabilities::read(text, Span::whole(text))
    }

    #[test]
    fn every_set_reads_back() {
        for bits in 0..=255 {
            let set = ClientCapabilities(bits);
            assert_eq!(ClientCapabilities::of_code(&set.code()), Some(set));
            let whole = [1, 4, 32].into_iter().fold(bits, |bits, bit| {
                let parts = [(1, 2), (4, 24), (32, 192)].into_iter().find(|(of, _)| *of == bit).map_or(0, |it| it.1);
                if bits & parts == 0 { bits } else { bits | bit }
            });
            assert_eq!(read(&set.json()), ClientCapabilities(whole), "a part stands in its capability");
        }
        assert_eq!(ClientCapabilities::of_code("123"), None);
    }

    #[test]
    fn what_is_not_relayed_is_not_promised() {
        assert_eq!(read(r#"{"experimental":{"x":{}},"tasks":{},"sampling":{}}"#).json(), r#"{"sampling":{}}"#);
        assert_eq!(read("{}"), ClientCapabilities::NONE);
        assert_eq!(read(r#"{"roots":{"listChanged":false}}"#).json(), r#"{"roots":{}}"#);
    }

    #[test]
    fn a_question_needs_its_capability() {
        let url = r#"{"mode":"url"}"#;
        let forms = read(r#"{"elicitation":{}}"#);
        assert_eq!(forms.lacks("elicitation/create", "{}", Some(Span::whole("{}"))), None);
        assert_eq!(forms.lacks("elicitation/create", url, Some(Span::whole(url))), Some("elicitation.url"));
        assert_eq!(forms.lacks("sampling/createMessage", "", None), Some("sampling"));
        assert_eq!(ClientCapabilities::ALL.lacks("tasks/get", "", None), Some("nothing of this kind"));
    }
}
