//! Something to do of which only the latest counts.
//!
//! Owns [`LatestOnly`]. Invariant: at most one does it at a time, and what was put while it was being done is done after, once.

use parking_lot::Mutex;

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct LatestOnly(Mutex<LatestState>);

#[derive(Debug, Default)]
struct LatestState {
    next: Option<String>,
    at_it: bool,
}

impl LatestOnly {
    /// Puts the latest in the place of what waits, and says whether nobody is at it: then the caller is from now on.
    pub(crate) fn put(&self, what: String) -> bool {
        let mut state = self.0.lock();
        state.next = Some(what);
        !std::mem::replace(&mut state.at_it, true)
    }

    /// What is to be done next; none when there is nothing, and then nobody is at it any more.
    pub(crate) fn take(&self) -> Option<String> {
        let mut state = self.0.lock();
        state.at_it = state.next.is_some();
        state.next.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_at_it_and_does_the_latest_once() {
        let latest = LatestOnly::default();
        assert!(latest.put(String::from("a")));
        assert_eq!(latest.take().as_deref(), Some("a"));
        assert!(!latest.put(String::from("b")) && !latest.put(String::from("c")));
        assert_eq!((latest.take().as_deref(), latest.take()), (Some("c"), None));
        assert!(latest.put(String::from("d")));
    }
}
