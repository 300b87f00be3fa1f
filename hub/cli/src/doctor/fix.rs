//! Mending what is safe to mend, and saying so.
//!
//! Owns the order: first modes, without which no lock can be taken, then what is removed under the directory lock.
//! Invariant: a mode becomes stricter and never wider; what is removed was proven dead by the registry itself, an
//! instant before and under its lock. A lock that stays held ends it: what is left is said to be not done.
//! Never: ends a process, touches a live instance, or removes what a person may want to read.

use super::check::Fix;
use super::{places, records};
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::registry::{LeaseState, Registry};

/// Mends, and returns what was and what was not.
pub(super) fn mend(home: &Home) -> Vec<Fix> {
    let mut fixes = Vec::new();
    // A directory that could not be entered hides what is in it: twice so, home and registry.
    for _ in 0..3 {
        let found = modes(home);
        let go_on = !found.is_empty() && found.iter().all(|fix| fix.done);
        fixes.extend(found);
        if !go_on {
            break;
        }
    }
    let registry = Registry::new(home);
    // Nothing is removed from a place that is not ours.
    if registry.dir().is_dir() && places::faults(home).iter().all(|fault| !home.instances().starts_with(&fault.path)) {
        // The first one that cannot have the lock ends it: each would wait for it as long.
        let removed = leftovers(&registry, &mut fixes)
            .and_then(|()| leases(&registry, &mut fixes))
            .and_then(|()| dead(&registry, &mut fixes));
        if let Err(problem) = removed {
            fixes.push(Fix::failed("remove what the dead left", problem));
        }
    }
    fixes
}

/// Modes of what is ours, as far as it can be seen.
fn modes(home: &Home) -> Vec<Fix> {
    let mut fixes = Vec::new();
    for fault in places::faults(home) {
        let Some(mode) = fault.mend else { continue };
        let what = format!("set the mode of {} to {mode:04o}", fault.path.display());
        fixes.push(match places::set_mode(&fault.path, mode) {
            Ok(()) => Fix::done(what),
            Err(error) => Fix::failed(
                what,
                Problem::from_io(&error, Code::HomeUnusable, "cannot change it")
                    .next(format!("ls -ld {}", fault.path.display())),
            ),
        });
    }
    fixes
}

fn leftovers(registry: &Registry, fixes: &mut Vec<Fix>) -> Result<(), Problem> {
    if registry.leftovers().is_ok_and(|files| files.is_empty()) {
        return Ok(());
    }
    let removed = registry.remove_leftovers()?;
    fixes.extend(removed.iter().map(|path| Fix::done(format!("removed the temporary file {}", path.display()))));
    Ok(())
}

fn leases(registry: &Registry, fixes: &mut Vec<Fix>) -> Result<(), Problem> {
    let orphans = registry.orphans().unwrap_or_default();
    for orphan in orphans.into_iter().filter(|orphan| orphan.state == LeaseState::Free) {
        if registry.remove_orphan(orphan.id)? {
            fixes.push(Fix::done(format!("removed the lease {}, which nobody holds", orphan.path.display())));
        }
    }
    Ok(())
}

fn dead(registry: &Registry, fixes: &mut Vec<Fix>) -> Result<(), Problem> {
    for entry in records::dead(registry) {
        if registry.sweep(entry.record.id)? {
            fixes.push(Fix::done(format!("removed the record of {}, whose owner is dead", entry.record.name)));
        }
    }
    Ok(())
}
