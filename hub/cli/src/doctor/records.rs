//! The check `record`, one for each record: whether its owner is alive, and whether lease and process agree on that.
//!
//! The registry decides that an owner is dead: by a free lease, or by a process that has ended. If the two disagree,
//! the record is not called dead here. Age is no evidence.

use super::check::Check;
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::Identity;
use linchpin_shared::registry::{Entry, LeaseState, Owner, Registry, Rejected};

/// What is known about a record's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RecordFindings {
    owner: Owner,
    lease: Option<LeaseState>,
    /// Whether the process that the record names is running.
    running: bool,
    this_boot: bool,
}

/// What follows from the findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnerVerdict {
    Alive,
    /// The owner is alive, judged by its process, but the lease file is missing.
    LeaseMissing,
    /// The lease is held, but the process that the record names has ended.
    OtherHolder,
    /// The lease is free, but the process that the record names is running.
    LeaseLost,
    Dead,
    /// Dead, because the machine was restarted since.
    OtherBoot,
}

impl RecordFindings {
    fn of(registry: &Registry, entry: &Entry) -> Self {
        let process = &entry.record.process;
        let this_boot = Identity::current().is_ok_and(|me| me.boot_id == process.boot_id);
        let lease = registry.lease(entry.record.id).ok();
        Self { owner: entry.owner, lease, running: process.is_alive(), this_boot }
    }

    const fn verdict(self) -> OwnerVerdict {
        match (self.owner, self.lease) {
            (Owner::Alive, Some(LeaseState::Missing)) => OwnerVerdict::LeaseMissing,
            (Owner::Alive, Some(LeaseState::Held)) if !self.running => OwnerVerdict::OtherHolder,
            (Owner::Alive, _) => OwnerVerdict::Alive,
            (Owner::Dead, _) if self.running => OwnerVerdict::LeaseLost,
            (Owner::Dead, _) if self.this_boot => OwnerVerdict::Dead,
            (Owner::Dead, _) => OwnerVerdict::OtherBoot,
        }
    }
}

/// Returns one check for each record, or a single one if there are none.
pub(super) fn checks(home: &Home) -> Vec<Check> {
    let registry = Registry::new(home);
    let scan = match registry.scan() {
        Ok(scan) => scan,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let problem = Problem::from_io(&error, Code::HomeUnusable, "cannot read the registry");
            return vec![Check::error("records", problem.next(format!("ls -ld {}", registry.dir().display())))];
        }
    };
    if scan.entries.is_empty() && scan.rejected.is_empty() {
        return vec![Check::ok("records", "no instance is registered")];
    }
    let good = scan.entries.iter().map(|entry| judge(entry, RecordFindings::of(&registry, entry)));
    good.chain(scan.rejected.into_iter().map(rejected)).collect()
}

/// Returns the records whose owner is dead and whose process has ended. These may be removed.
pub(super) fn dead(registry: &Registry) -> Vec<Entry> {
    let entries = registry.scan().map_or_else(|_| Vec::new(), |scan| scan.entries);
    let is_dead = |entry: &Entry| {
        matches!(RecordFindings::of(registry, entry).verdict(), OwnerVerdict::Dead | OwnerVerdict::OtherBoot)
    };
    entries.into_iter().filter(is_dead).collect()
}

fn judge(entry: &Entry, findings: RecordFindings) -> Check {
    let (record, pid) = (&entry.record, entry.record.process.pid);
    let problem = |detail: String| {
        Problem::new(Code::Stale, detail)
            .seen("pid", pid)
            .seen("project", record.project_dir.display().to_string())
            .seen("since", record.registered_at.to_string())
            .seen("record", entry.path.display().to_string())
    };
    let check = match findings.verdict() {
        OwnerVerdict::Alive => Check::ok("record", format!("alive, pid {pid}, {}", record.endpoint)),
        OwnerVerdict::LeaseMissing => Check::warning(
            "record",
            problem(format!(
                "pid {pid} is running, but its lease file is missing; it creates the file again within a second"
            ))
            .next("linchpin doctor"),
        ),
        OwnerVerdict::OtherHolder => Check::warning(
            "record",
            problem(format!("its lease is held, but pid {pid}, which it names, has ended")).next(format!(
                "fuser -v {}    (shows who holds the lease)",
                entry.path.with_extension("lease").display()
            )),
        ),
        OwnerVerdict::LeaseLost => Check::warning(
            "record",
            problem(format!("pid {pid} is running but does not hold its lease, so it counts as dead"))
                .next(format!("ps -o pid,stat,etime,args -p {pid}"))
                .next("restart it, or register it again: linchpin register"),
        ),
        OwnerVerdict::Dead => Check::warning("record", swept(problem(format!("dead: pid {pid} has ended")))),
        OwnerVerdict::OtherBoot => Check::warning(
            "record",
            swept(problem("dead: it was registered before this machine was last started".to_owned())),
        ),
    };
    check.about(record.name.clone())
}

fn swept(problem: Problem) -> Problem {
    problem.next("linchpin doctor --fix    (a running hub does this on its own)").next("start the instance again")
}

fn rejected(rejected: Rejected) -> Check {
    let subject = rejected.path.display().to_string();
    Check::error("record", rejected.problem).about(subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_and_process_decide_together() {
        use LeaseState::{Free, Held, Missing, Unsupported};
        let verdict = |owner, lease, running, this_boot| {
            RecordFindings { owner, lease: Some(lease), running, this_boot }.verdict()
        };
        assert_eq!(verdict(Owner::Alive, Held, true, true), OwnerVerdict::Alive);
        assert_eq!(verdict(Owner::Alive, Unsupported, true, true), OwnerVerdict::Alive);
        assert_eq!(verdict(Owner::Alive, Missing, true, true), OwnerVerdict::LeaseMissing);
        assert_eq!(verdict(Owner::Alive, Held, false, true), OwnerVerdict::OtherHolder);
        assert_eq!(verdict(Owner::Dead, Free, true, true), OwnerVerdict::LeaseLost);
        assert_eq!(verdict(Owner::Dead, Free, false, true), OwnerVerdict::Dead);
        assert_eq!(verdict(Owner::Dead, Missing, false, false), OwnerVerdict::OtherBoot);
    }
}
