//! What follows from a look at the registry. Pure: no clock, no file system.
//!
//! Owns the rule of who is in the next snapshot, and who is swept. Invariant: an instance that was there leaves only by
//! proof; an instance whose record is readable is shown as the look showed it.
//! Never: keeps an instance that unregistered, except while it is awaited: the whole directory was lost a moment ago, and
//! unregistering cannot be told from the removal of all files.

use super::look::{Look, Sight, Trace};
use super::{Found, Snapshot};
use linchpin_shared::registry::{Entry, Owner, Scan};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// The snapshot after this look. `None` when nothing could be seen. `awaited` are the instances that have yet to write
/// their record again into a directory that was lost.
pub(super) fn reconcile(before: &Snapshot, look: Look, awaited: &BTreeSet<Uuid>) -> Option<Snapshot> {
    let scan = match look.sight {
        Sight::Seen(scan) => scan,
        Sight::Missing => Scan::default(),
        Sight::Hidden(_) => return None,
    };
    let mut instances: BTreeMap<Uuid, Found> =
        scan.entries.into_iter().map(|entry| (entry.record.id, found(before, entry))).collect();
    for (id, trace) in look.traces {
        let stays = match trace {
            Trace::Lease => true,
            Trace::Process => awaited.contains(&id),
            Trace::Nothing => false,
        };
        // One that was shown dead was being swept; its record is gone, and it is remembered as swept.
        if let Some(known) = before.instances.get(&id).filter(|known| stays && known.owner == Owner::Alive) {
            instances.insert(id, known.clone());
        }
    }
    let mut swept = before.swept.clone();
    let dead = before.instances.iter().filter(|(_, found)| found.owner == Owner::Dead);
    swept.extend(dead.map(|(id, found)| (*id, Arc::clone(&found.record))));
    swept.retain(|id, _| !instances.contains_key(id));
    Some(Snapshot { instances, swept, rejected: scan.rejected, aside: look.aside })
}

/// The records that are to be swept: those of the dead, except the ones that were tried in vain before.
pub(super) fn to_sweep(snapshot: &Snapshot, in_vain: &BTreeSet<Uuid>) -> Vec<Uuid> {
    let dead = snapshot.instances.iter().filter(|(_, found)| found.owner == Owner::Dead);
    dead.map(|(id, _)| *id).filter(|id| !in_vain.contains(id)).collect()
}

/// Shares the record with the last snapshot while it stays the same.
fn found(before: &Snapshot, entry: Entry) -> Found {
    let record = match before.instances.get(&entry.record.id) {
        Some(known) if *known.record == entry.record => Arc::clone(&known.record),
        Some(_) | None => Arc::new(entry.record),
    };
    Found { record, owner: entry.owner }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::tests::record;
    use linchpin_shared::problem::{Code, Problem};
    use linchpin_shared::registry::Aside;
    use proptest::prelude::*;
    use std::path::PathBuf;

    fn entry(name: &str, owner: Owner) -> Entry {
        Entry { record: record(name), owner, path: PathBuf::new() }
    }

    fn scanned(entries: &[Entry]) -> Sight {
        Sight::Seen(Scan { entries: entries.to_vec(), rejected: Vec::new() })
    }

    fn look(sight: Sight, traces: BTreeMap<Uuid, Trace>) -> Look {
        Look { sight, traces, aside: Aside::default() }
    }

    fn snapshot(entries: &[Entry]) -> Snapshot {
        reconcile(&Snapshot::default(), look(scanned(entries), BTreeMap::new()), &BTreeSet::new()).unwrap()
    }

    /// How many are left of those who were there, of whom one trace each is left and whom nobody, or somebody, awaits.
    fn left(before: &Snapshot, trace: Trace, awaited: bool) -> usize {
        let traces = before.instances.keys().map(|id| (*id, trace)).collect();
        let awaited = before.instances.keys().copied().filter(|_| awaited).collect();
        reconcile(before, look(scanned(&[]), traces), &awaited).unwrap().instances.len()
    }

    #[test]
    fn only_proof_takes_an_instance_away() {
        let before = snapshot(&[entry("shop", Owner::Alive)]);
        assert_eq!(left(&before, Trace::Lease, false), 1);
        assert_eq!(left(&before, Trace::Process, false), 0, "it unregistered");
        assert_eq!(left(&before, Trace::Process, true), 1, "the directory was lost");
        assert_eq!(left(&before, Trace::Nothing, false), 0);
        assert_eq!(left(&before, Trace::Nothing, true), 0);
    }

    #[test]
    fn who_was_dead_and_is_swept_is_gone() {
        let before = snapshot(&[entry("shop", Owner::Dead)]);
        assert_eq!(left(&before, Trace::Lease, true), 0);
    }

    #[test]
    fn a_death_is_remembered_and_a_goodbye_is_not() {
        let id = record("shop").id;
        let empty = || look(scanned(&[]), BTreeMap::from([(id, Trace::Nothing)]));
        let after = |owner| reconcile(&snapshot(&[entry("shop", owner)]), empty(), &BTreeSet::new()).unwrap();
        assert!(after(Owner::Alive).swept.is_empty());
        let dead = after(Owner::Dead);
        assert!(dead.swept.contains_key(&id));
        let back = look(scanned(&[entry("shop", Owner::Alive)]), BTreeMap::new());
        assert!(reconcile(&dead, back, &BTreeSet::new()).unwrap().swept.is_empty(), "it came back");
    }

    #[test]
    fn a_scan_that_failed_says_nothing() {
        let before = snapshot(&[entry("shop", Owner::Alive)]);
        let failed = |sight| {
            let traces = before.instances.keys().map(|id| (*id, Trace::Process)).collect();
            reconcile(&before, look(sight, traces), &before.instances.keys().copied().collect())
        };
        assert_eq!(failed(Sight::Hidden(Problem::new(Code::PermissionDenied, "no"))), None);
        assert_eq!(failed(Sight::Missing), Some(before.clone()));
    }

    #[test]
    fn an_unchanged_record_is_shared() {
        let before = snapshot(&[entry("shop", Owner::Alive)]);
        let look = look(scanned(&[entry("shop", Owner::Dead)]), BTreeMap::new());
        let after = reconcile(&before, look, &BTreeSet::new()).unwrap();
        let id = record("shop").id;
        assert!(Arc::ptr_eq(&before.instances[&id].record, &after.instances[&id].record));
        assert_eq!(after.instances[&id].owner, Owner::Dead);
    }

    #[test]
    fn the_dead_are_swept_but_not_over_and_over() {
        let snapshot = snapshot(&[entry("a", Owner::Dead), entry("b", Owner::Alive), entry("c", Owner::Dead)]);
        let (a, c) = (record("a").id, record("c").id);
        let mut both = vec![a, c];
        both.sort();
        assert_eq!(to_sweep(&snapshot, &BTreeSet::new()), both);
        assert_eq!(to_sweep(&snapshot, &BTreeSet::from([a])), [c]);
    }

    proptest! {
        /// Whatever was known before: who is seen is shown just as seen, and nobody else without a trace.
        #[test]
        fn the_scan_decides_for_whom_it_shows(
            before in prop::collection::btree_map("[a-d]", any::<bool>(), 0..4),
            seen in prop::collection::btree_map("[a-d]", any::<bool>(), 0..4),
            awaited: bool,
        ) {
            let owner = |alive: bool| if alive { Owner::Alive } else { Owner::Dead };
            let entries = |map: &BTreeMap<String, bool>| -> Vec<Entry> {
                map.iter().map(|(name, alive)| entry(name, owner(*alive))).collect()
            };
            let before = snapshot(&entries(&before));
            let traces = before.instances.keys().map(|id| (*id, Trace::Nothing));
            let absent = traces.filter(|(id, _)| !seen.keys().any(|name| record(name).id == *id)).collect();
            let look = look(scanned(&entries(&seen)), absent);
            let awaited = before.instances.keys().copied().filter(|_| awaited).collect();
            let after = reconcile(&before, look, &awaited).unwrap();
            let shown: BTreeMap<Uuid, Owner> = after.instances.iter().map(|(id, found)| (*id, found.owner)).collect();
            prop_assert_eq!(shown, seen.iter().map(|(name, alive)| (record(name).id, owner(*alive))).collect());
        }
    }
}
