//! What servers offered in an earlier life of the hub, and what of it the journal is given.
//!
//! Owns [`RecalledOffers`], which gives each upstream what it knew. Invariant: it is given out once, to the same server of the
//! same instance; what the server says itself replaces it. Never: is a reason to take a server for one that is up.

use super::KnownOffer;
use super::about::ServerInfo;
use crate::gateway::mcp::catalog::list::List;
use crate::gateway::mcp::catalog::server_key::ServerKey;
use crate::gateway::mcp::protocol::list_kind::ListKind;
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
pub(crate) type KeptFingerprints = [Option<u64>; 5];

/// What servers offered.
#[derive(Debug, Default)]
pub(crate) struct RecalledOffers(Mutex<HashMap<(String, String, String), KnownOffer>>);

impl RecalledOffers {
    /// Takes over what the journal has.
    pub(crate) fn new(lists: Vec<journal::SavedList>) -> Self {
        let mut servers: HashMap<_, KnownOffer> = HashMap::new();
        for journal::SavedList { instance, server, session_kind, kind, items } in lists {
            let known = servers.entry((instance, server, session_kind)).or_default();
            let list = ListKind::of_method(&kind).and_then(|kind| Some((kind, List::read(kind, &items)?)));
            match list {
                Some((kind, list)) => drop(known.lists.set(kind, list)),
                None if kind == ABOUT => known.about = ServerInfo::parse(&items).ok().map(Arc::new),
                None => {}
            }
        }
        Self(Mutex::new(servers))
    }

    /// What is known of this server; nothing the next time.
    pub(super) fn take(&self, instance: Uuid, server_key: &ServerKey) -> KnownOffer {
        let key = (instance.to_string(), server_key.server.to_string(), server_key.session_kind.code());
        self.0.lock().remove(&key).unwrap_or_default()
    }

    /// Whoever did not ask by now does not come back.
    pub(crate) fn forget(&self) {
        *self.0.lock() = HashMap::new();
    }
}

impl KnownOffer {
    /// What differs from what is kept, which it is from now on.
    pub(crate) fn news(
        &self,
        instance: Uuid,
        server_key: &ServerKey,
        kept: &mut KeptFingerprints,
    ) -> Vec<journal::SavedList> {
        let about = self.about.as_ref().map(|about| about.text());
        let lists = ListKind::ALL.map(|kind| self.lists.get(kind));
        let mut now: KeptFingerprints = [None; 5];
        for (fingerprint, list) in now.iter_mut().zip(&lists) {
            *fingerprint = list.map(|list| list.fingerprint());
        }
        now[4] = about.map(|text| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        });
        let differs = |at: usize| now[at].is_some() && now[at] != kept[at];
        let lists = ListKind::ALL.into_iter().zip(lists).enumerate().filter(|(at, _)| differs(*at));
        let lists = lists.filter_map(|(_, (kind, list))| Some((kind.method(), list?.text(kind))));
        let about = about.filter(|_| differs(4)).map(|text| (ABOUT, text.to_owned()));
        let row = |(kind, items): (&str, String)| journal::SavedList {
            instance: instance.to_string(),
            server: server_key.server.to_string(),
            session_kind: server_key.session_kind.code(),
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
    use crate::gateway::mcp::catalog::scope::tests::server_key;

    #[test]
    fn what_was_kept_is_given_back_once_and_news_are_told_once() {
        let mut known = KnownOffer::default();
        known.lists.set(ListKind::Tools, tools(&["b", "a"]));
        known.lists.set(ListKind::Templates, listed(ListKind::Templates, &["x://{y}"]));
        known.about = ServerInfo::parse(r#"{"protocolVersion":"2025-11-25","n":1.0}"#).ok().map(Arc::new);
        let (server_key, mut kept) = (server_key("shop", "files"), KeptFingerprints::default());
        let rows = known.news(Uuid::nil(), &server_key, &mut kept);
        assert_eq!((rows.len(), known.news(Uuid::nil(), &server_key, &mut kept).len()), (3, 0));

        let recalled = RecalledOffers::new(rows);
        assert!(recalled.take(Uuid::max(), &server_key).about.is_none(), "another instance");
        let again = recalled.take(Uuid::nil(), &server_key);
        assert_eq!(again.about, known.about);
        for kind in [ListKind::Tools, ListKind::Templates] {
            assert_eq!(again.lists.get(kind).unwrap().fingerprint(), known.lists.get(kind).unwrap().fingerprint());
        }
        assert!(recalled.take(Uuid::nil(), &server_key).about.is_none());
        assert!(known.lists.set(ListKind::Tools, tools(&["a"])));
        assert_eq!(known.news(Uuid::nil(), &server_key, &mut kept)[0].kind, "tools/list");
    }
}
