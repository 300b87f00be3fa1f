//! Every record: whether its owner lives, and whether lease and process say the same.
//!
//! Owns the checks `record`, one for each. Invariant: death is what the registry says it is, a free lease or a process
//! that is gone; where both disagree the record is not called dead here. Never: says anything by age.

use super::check::Check;
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::Identity;
use linchpin_shared::registry::{Entry, LeaseState, Owner, Registry, Rejected};

/// What is known of a record's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    owner: Owner,
    lease: Option<LeaseState>,
    /// Whether the process that the record names runs.
    running: bool,
    this_boot: bool,
}

/// What follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Alive,
    /// Its owner lives, by its process; the lease file is missing.
    LeaseMissing,
    /// Somebody holds the lease, and the process that the record names is gone.
    OtherHolder,
    /// The lease is free, and the process that the record names runs.
    LeaseLost,
    Dead,
    /// Dead since the machine was started again.
    OtherBoot,
}

impl Facts {
    fn of(registry: &Registry, entry: &Entry) -> Self {
        let process = &entry.record.process;
        let this_boot = Identity::current().is_ok_and(|me| me.boot_id == process.boot_id);
        let lease = registry.lease(entry.record.id).ok();
        Self { owner: entry.owner, lease, running: process.is_alive(), this_boot }
    }

    const fn verdict(self) -> Verdict {
        match (self.owner, self.lease) {
            (Owner::Alive, Some(LeaseState::Missing)) => Verdict::LeaseMissing,
            (Owner::Alive, Some(LeaseState::Held)) if !self.running => Verdict::OtherHolder,
            (Owner::Alive, _) => Verdict::Alive,
            (Owner::Dead, _) if self.running => Verdict::LeaseLost,
            (Owner::Dead, _) if self.this_boot => Verdict::Dead,
            (Owner::Dead, _) => Verdict::OtherBoot,
        }
    }
}

/// One check for each record, and one for all when there is none.
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
    let good = scan.entries.iter().map(|entry| judge(entry, Facts::of(&registry, entry)));
    good.chain(scan.rejected.into_iter().map(rejected)).collect()
}

/// The dead whose process is gone too: these may be swept.
pub(super) fn dead(registry: &Registry) -> Vec<Entry> {
    let entries = registry.scan().map_or_else(|_| Vec::new(), |scan| scan.entries);
    let is_dead = |entry: &Entry| matches!(Facts::of(registry, entry).verdict(), Verdict::Dead | Verdict::OtherBoot);
    entries.into_iter().filter(is_dead).collect()
}

fn judge(entry: &Entry, facts: Facts) -> Check {
    let (record, pid) = (&entry.record, entry.record.process.pid);
    let problem = |detail: String| {
        Problem::new(Code::Stale, detail)
            .seen("pid", pid)
            .seen("project", record.project_dir.display().to_string())
            .seen("since", record.registered_at.to_string())
            .seen("record", entry.path.display().to_string())
    };
    let check = match facts.verdict() {
        Verdict::Alive => Check::ok("record", format!("alive, pid {pid}, {}", record.endpoint)),
        Verdict::LeaseMissing => Check::warning(
            "record",
            problem(format!("pid {pid} runs and its lease file is missing; it makes it again within a second"))
                .next("linchpin doctor"),
        ),
        Verdict::OtherHolder => Check::warning(
            "record",
            problem(format!("its lease is held, and pid {pid}, which it names, is gone"))
                .next(format!("fuser -v {}    (who holds the lease)", entry.path.with_extension("lease").display())),
        ),
        Verdict::LeaseLost => Check::warning(
            "record",
            problem(format!("pid {pid} runs and does not hold its lease, so it counts as dead"))
                .next(format!("ps -o pid,stat,etime,args -p {pid}"))
                .next("start it again, or register it again: linchpin register"),
        ),
        Verdict::Dead => Check::warning("record", swept(problem(format!("dead: pid {pid} is gone")))),
        Verdict::OtherBoot => {
            Check::warning("record", swept(problem("dead: it is of another boot of this machine".to_owned())))
        }
    };
    check.about(record.name.clone())
}

fn swept(problem: Problem) -> Problem {
    problem.next("linchpin doctor --fix    (a running hub does it by itself)").next("start the instance again")
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
        let verdict =
            |owner, lease, running, this_boot| Facts { owner, lease: Some(lease), running, this_boot }.verdict();
        assert_eq!(verdict(Owner::Alive, Held, true, true), Verdict::Alive);
        assert_eq!(verdict(Owner::Alive, Unsupported, true, true), Verdict::Alive);
        assert_eq!(verdict(Owner::Alive, Missing, true, true), Verdict::LeaseMissing);
        assert_eq!(verdict(Owner::Alive, Held, false, true), Verdict::OtherHolder);
        assert_eq!(verdict(Owner::Dead, Free, true, true), Verdict::LeaseLost);
        assert_eq!(verdict(Owner::Dead, Free, false, true), Verdict::Dead);
        assert_eq!(verdict(Owner::Dead, Missing, false, false), Verdict::OtherBoot);
    }
}
