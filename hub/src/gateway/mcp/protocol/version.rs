//! The protocol versions, and how one with sessions is agreed on.
//!
//! Owns [`Version`]. Only versions with sessions are negotiated; in 2026-07-28 every request says its version.
//! Invariant: a client that asks for a version we do not speak is offered our newest legacy one, as
//! MCP's "Lifecycle" has it, and decides itself. Never: changes what a message says because of a version.

/// A version of MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// 2024-11-05.
    V2024_11_05,
    /// 2025-03-26.
    V2025_03_26,
    /// 2025-06-18.
    V2025_06_18,
    /// 2025-11-25.
    V2025_11_25,
    /// 2026-07-28, which has no sessions.
    V2026_07_28,
}

impl Version {
    /// Every version with sessions that we speak, oldest first.
    pub(crate) const ALL: [Self; 4] = [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25];

    /// The newest of them.
    pub(crate) const LATEST: Self = Self::V2025_11_25;

    /// As it stands in messages and headers.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The version of this name, if it has sessions and we speak it.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == name)
    }

    /// The answer to a client that asks for `name`.
    pub(crate) fn negotiate(name: &str) -> Self {
        Self::parse(name).unwrap_or(Self::LATEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_version_is_kept_and_an_unknown_one_gets_the_newest() {
        for version in Version::ALL {
            assert_eq!(Version::negotiate(version.as_str()), version);
        }
        for name in ["2026-07-28", "1.0", ""] {
            assert_eq!(Version::negotiate(name), Version::LATEST, "{name}");
        }
    }
}
