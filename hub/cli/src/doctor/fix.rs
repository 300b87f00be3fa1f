//! Repairs what is safe to repair, and reports it.
//!
//! First come the modes of files, without which no lock can be taken, then what is removed under the directory lock. A
//! mode is only ever made stricter. A record or lease is removed only after the registry, under its lock, has found its
//! owner to be dead. If the lock stays held, the rest is reported as not done. No process is ended, no live instance is
//! touched, and nothing is removed that a person may want to read.

use super::check::Fix;
use super::{places, records};
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::registry::{LeaseState, Registry};

/// Makes the repairs, and returns them together with those that failed.
pub(super) fn repair(home: &Home) -> Vec<Fix> {
    let mut fixes = Vec::new();
    // A directory that cannot be entered hides what is in it. This can happen twice: to the home and to the registry.
    for _ in 0..3 {
        let found = modes(home);
        let go_on = !found.is_empty() && found.iter().all(|fix| fix.done);
        fixes.extend(found);
        if !go_on {
            break;
        }
    }
    let registry = Registry::new(home);
    // Nothing is removed from a directory that is not ours.
    if registry.dir().is_dir() && places::faults(home).iter().all(|fault| !home.instances().starts_with(&fault.path)) {
        // If the first of them cannot get the lock, the others are not tried, because each would wait equally long.
        let removed = leftovers(&registry, &mut fixes)
            .and_then(|()| leases(&registry, &mut fixes))
            .and_then(|()| dead(&registry, &mut fixes));
        if let Err(problem) = removed {
            fixes.push(Fix::failed("remove what dead instances left behind", problem));
        }
    }
    fixes
}

/// Repairs the modes of our files, as far as they can be seen.
fn modes(home: &Home) -> Vec<Fix> {
    let mut fixes = Vec::new();
    for fault in places::faults(home) {
        let Some(mode) = fault.repair else { continue };
        let what = format!("set the mode of {} to {mode:04o}", fault.path.display());
        fixes.push(match places::set_mode(&fault.path, mode) {
            Ok(()) => Fix::done(what),
            Err(error) => Fix::failed(
                what,
                Problem::from_io(&error, Code::HomeUnusable, "cannot change the mode")
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
            fixes.push(Fix::done(format!("removed the lease {}, which no process held", orphan.path.display())));
        }
    }
    Ok(())
}

fn dead(registry: &Registry, fixes: &mut Vec<Fix>) -> Result<(), Problem> {
    for entry in records::dead(registry) {
        if registry.sweep(entry.record.id)? {
            fixes.push(Fix::done(format!("removed the record of {}, whose process is dead", entry.record.name)));
        }
    }
    Ok(())
}
