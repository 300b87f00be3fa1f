//! What servers offered in an earlier life of the hub, and what of it the journal is given.
//!
//! Owns [`Recalled`], which gives each upstream what it knew. Invariant: it is given out once, to the same server of the
//! same instance; what the server says itself replaces it. Never: is a reason to take a server for one that is up.

use super::{About, Known};
use crate::gateway::mcp::catalog::list::List;
use crate::gateway::mcp::catalog::server_key::Place;
use crate::gateway::mcp::protocol::list_kind::Kind;
use crate::journal;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use uuid::Uuid;

/// The largest list that is kept, in bytes.
const MAX_LIST: usize = 4 << 20;

/// What a server said of itself, beside its lists.
const ABOUT: &str = "about";

/// What is kept of one server, by fingerprint: its four lists and what it said of itself.
pub(crate) type Kept = [Option<u64>; 5];

/// What servers offered.
#[derive(Debug, Default)]
pub(crate) struct Recalled(Mutex<HashMap<(String, String, String), Known>>);

impl Recalled {
    /// Takes over what the journal has.
    pub(crate) fn new(lists: Vec<journal::SavedList>) -> Self {
        let mut servers: HashMap<_, Known> = HashMap::new();
        for journal::SavedList { instance, server, session_kind, kind, items } in lists {
            let known = servers.entry((instance, server, session_kind)).or_default();
            let list = Kind::of_method(&kind).and_then(|kind| Some((kind, List::read(kind, &items)?)));
            match list {
                Some((kind, list)) => drop(known.lists.set(kind, list)),
                None if kind == ABOUT => known.about = About::parse(&items).ok().map(Arc::new),
                None => {}
            }
        }
        Self(Mutex::new(servers))
    }

    /// What is known of this server; nothing the next time.
    pub(super) fn take(&self, instance: Uuid, place: &Place) -> Known {
        let key = (instance.to_string(), place.server.to_string(), place.lane.code());
        self.0.lock().remove(&key).unwrap_or_default()
    }

    /// Whoever did not ask by now does not come back.
    pub(crate) fn forget(&self) {
        *self.0.lock() = HashMap::new();
    }
}

impl Known {
    /// What differs from what is kept, which it is from now on.
    pub(crate) fn news(&self, instance: Uuid, place: &Place, kept: &mut Kept) -> Vec<journal::SavedList> {
        let about = self.about.as_ref().map(|about| about.text());
        let lists = Kind::ALL.map(|kind| self.lists.get(kind));
        let mut now: Kept = [None; 5];
        for (print, list) in now.iter_mut().zip(&lists) {
            *print = list.map(|list| list.print());
        }
        now[4] = about.map(|text| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        });
        let differs = |at: usize| now[at].is_some() && now[at] != kept[at];
        let lists = Kind::ALL.into_iter().zip(lists).enumerate().filter(|(at, _)| differs(*at));
        let lists = lists.filter_map(|(_, (kind, list))| Some((kind.method(), list?.text(kind))));
        let about = about.filter(|_| differs(4)).map(|text| (ABOUT, text.to_owned()));
        let row = |(kind, items): (&str, String)| journal::SavedList {
            instance: instance.to_string(),
            server: place.server.to_string(),
            session_kind: place.lane.code(),
            kind: kind.to_owned(),
            items,
        };
        let news = lists.chain(about).filter(|(_, items)| items.len() <= MAX_LIST).map(row).collect();
        *kept = now;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mcp::catalog::list::tests::{listed, tools};
    use crate::gateway::mcp::catalog::scope::tests::place;

    #[test]
    fn what_was_kept_is_given_back_once_and_news_are_told_once() {
        let mut known = Known::default();
        known.lists.set(Kind::Tools, tools(&["b", "a"]));
        known.lists.set(Kind::Templates, listed(Kind::Templates, &["x://{y}"]));
        known.about = About::parse(r#"{"protocolVersion":"2025-11-25","n":1.0}"#).ok().map(Arc::new);
        let (place, mut kept) = (place("shop", "files"), Kept::default());
        let rows = known.news(Uuid::nil(), &place, &mut kept);
        assert_eq!((rows.len(), known.news(Uuid::nil(), &place, &mut kept).len()), (3, 0));

        let recalled = Recalled::new(rows);
        assert!(recalled.take(Uuid::max(), &place).about.is_none(), "another instance");
        let again = recalled.take(Uuid::nil(), &place);
        assert_eq!(again.about, known.about);
        for kind in [Kind::Tools, Kind::Templates] {
            assert_eq!(again.lists.get(kind).unwrap().print(), known.lists.get(kind).unwrap().print());
        }
        assert!(recalled.take(Uuid::nil(), &place).about.is_none());
        assert!(known.lists.set(Kind::Tools, tools(&["a"])));
        assert_eq!(known.news(Uuid::nil(), &place, &mut kept)[0].kind, "tools/list");
    }
}
