//! Log levels of MCP, and what a backend is asked for when several clients want different ones.
//!
//! Owns [`Level`] and [`EffectiveLevel`]. Invariant: a backend is asked for the lowest level that any of its clients wants, and
//! each client is shown only what it wants. Never: asks a backend for anything while no client asked.

/// A severity (RFC 5424), lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Details for debugging.
    Debug,
    /// What happens normally.
    Info,
    /// Normal but significant.
    Notice,
    /// Something may be wrong.
    Warning,
    /// Something failed.
    Error,
    /// A component failed.
    Critical,
    /// Somebody must act at once.
    Alert,
    /// Nothing works.
    Emergency,
}

impl Level {
    const ALL: [Self; 8] = [
        Self::Debug,
        Self::Info,
        Self::Notice,
        Self::Warning,
        Self::Error,
        Self::Critical,
        Self::Alert,
        Self::Emergency,
    ];

    /// As it stands in messages.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Alert => "alert",
            Self::Emergency => "emergency",
        }
    }

    /// The level of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == name)
    }
}

/// What the clients of one backend want together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct EffectiveLevel {
    lowest: Option<Level>,
    someone_silent: bool,
}

impl EffectiveLevel {
    /// Adds what one client asked for, if it did.
    pub(crate) fn and(self, level: Option<Level>) -> Self {
        match level {
            Some(level) => Self { lowest: Some(self.lowest.map_or(level, |lowest| lowest.min(level))), ..self },
            None => Self { someone_silent: true, ..self },
        }
    }

    /// What two groups of clients want together.
    pub(crate) fn merged(self, other: Self) -> Self {
        let lowest = self.lowest.into_iter().chain(other.lowest).min();
        Self { lowest, someone_silent: self.someone_silent || other.someone_silent }
    }

    /// What to ask the backend for: nothing as long as nobody asked; afterwards a silent client counts as `info`.
    pub(crate) fn upstream(self) -> Option<Level> {
        let lowest = self.lowest?;
        Some(if self.someone_silent { lowest.min(Level::Info) } else { lowest })
    }
}

/// Whether a client that asked for `wanted` is shown a message of `level`. A client that never asked is shown all that
/// the backend sends of itself, but not the debug output that another client asked for.
pub(crate) fn shows(wanted: Option<Level>, upstream: Option<Level>, level: Level) -> bool {
    match (wanted, upstream) {
        (Some(wanted), _) => level >= wanted,
        (None, Some(_)) => level >= Level::Info,
        (None, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_goes_upstream() {
        let wish = |levels: &[Option<Level>]| {
            levels.iter().fold(EffectiveLevel::default(), |wish, level| wish.and(*level)).upstream()
        };
        assert_eq!(wish(&[]), None);
        assert_eq!(wish(&[None, None]), None);
        assert_eq!(wish(&[Some(Level::Error)]), Some(Level::Error));
        assert_eq!(wish(&[Some(Level::Error), Some(Level::Warning)]), Some(Level::Warning));
        assert_eq!(wish(&[Some(Level::Error), None]), Some(Level::Info));
        assert_eq!(wish(&[None, Some(Level::Debug)]), Some(Level::Debug));
    }

    #[test]
    fn each_client_is_shown_what_it_wants() {
        assert!(shows(None, None, Level::Debug));
        assert!(!shows(None, Some(Level::Debug), Level::Debug));
        assert!(shows(None, Some(Level::Debug), Level::Info));
        assert!(!shows(Some(Level::Error), Some(Level::Debug), Level::Warning));
        assert!(shows(Some(Level::Error), Some(Level::Debug), Level::Error));
    }

    #[test]
    fn names_read_back() {
        for level in Level::ALL {
            assert_eq!(Level::parse(level.as_str()), Some(level));
        }
        assert_eq!(Level::parse("loud"), None);
    }
}
