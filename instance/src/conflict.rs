//! What to do when a live instance has the name already.
//!
//! Owns [`Conflict`] and what follows from it. The registry decides whether there is a conflict; here it is resolved.
//! Invariant: another instance is asked to stop only after its identity was checked, and the name is ours only when the
//! registry says so.
//! Never: kills. An instance that does not stop when asked keeps its name, and the person is told.

use linchpin_shared::name;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::{Signal, exited};
use linchpin_shared::registry::record::{Record, instance_id};
use linchpin_shared::registry::{Entry, Registration, Registry};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How many names are tried beside the one that is taken.
const MOST_ALONGSIDE: u32 = 99;

/// What to do when a live instance has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// Say who has it.
    #[default]
    Fail,
    /// Stop the other one, and take its name.
    TakeOver,
    /// Run beside it, as `name-2` or the next free number.
    Alongside,
}

/// Registers `record`, under another name if that is how a conflict is resolved.
pub(crate) async fn register(
    registry: Registry,
    record: Record,
    conflict: Conflict,
    patience: Duration,
) -> Result<Registration, Problem> {
    let taken = match attempt(&registry, record.clone()).await {
        Err(problem) if problem.code == Code::NameTaken => problem,
        done => return done,
    };
    match conflict {
        Conflict::Fail => Err(taken),
        Conflict::TakeOver => {
            stop_other(&registry, &record.name, taken, patience).await?;
            attempt(&registry, record).await
        }
        Conflict::Alongside => alongside(&registry, record, taken).await,
    }
}

async fn attempt(registry: &Registry, record: Record) -> Result<Registration, Problem> {
    let registry = registry.clone();
    blocking(move || registry.register(record)).await?
}

async fn alongside(registry: &Registry, record: Record, taken: Problem) -> Result<Registration, Problem> {
    for number in 2..=MOST_ALONGSIDE {
        let mut beside = record.clone();
        beside.name = numbered(&record.name, number);
        beside.id = instance_id(&beside.project_dir, &beside.name);
        match attempt(registry, beside).await {
            Err(problem) if problem.code == Code::NameTaken => {}
            done => return done,
        }
    }
    Err(taken)
}

/// `name-2`, shortened so that it stays a valid name.
fn numbered(name: &str, number: u32) -> String {
    let number = format!("-{number}");
    let kept = &name[..name.len().min(name::MAX_LEN - number.len())];
    format!("{}{number}", kept.trim_end_matches('-'))
}

/// Asks the live instance of this name to stop, and waits until its process has ended.
async fn stop_other(registry: &Registry, name: &str, taken: Problem, patience: Duration) -> Result<(), Problem> {
    let (looking, wanted) = (registry.clone(), name.to_owned());
    let Some(Entry { record: other, .. }) = blocking(move || looking.find_live(&wanted)).await? else { return Ok(()) };
    if other.process.pid == std::process::id() {
        // It is this very program, under the same name: stopping it would stop us.
        return Err(taken);
    }
    tracing::info!(name, pid = other.process.pid, "asking the other instance to stop");
    let refused = |error: std::io::Error| {
        Problem::from_io(&error, Code::PermissionDenied, format!("cannot stop the instance {name:?}"))
            .seen("pid", other.process.pid)
            .next(format!("linchpin stop {name}"))
    };
    if !other.process.signal(Signal::TERM).map_err(refused)? {
        return Ok(());
    }
    tokio::time::timeout(patience, exited(&other.process)).await.map_err(|_| {
        Problem::new(Code::TimedOut, format!("the instance {name:?} was asked to stop and did not end in time"))
            .seen("pid", other.process.pid)
            .seen("waited_ms", u64::try_from(patience.as_millis()).unwrap_or(u64::MAX))
            .next(format!("linchpin logs {name}"))
            .next(format!("kill -9 {}", other.process.pid))
            .next("linchpin run --alongside …")
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Problem::new(Code::Internal, format!("a task of the registry failed: {error}")).next("report this with the log")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_name_is_a_valid_name() {
        assert_eq!(numbered("shop", 2), "shop-2");
        for name in ["x".repeat(name::MAX_LEN), format!("{}-yy", "x".repeat(name::MAX_LEN - 3))] {
            for number in [2, 10, MOST_ALONGSIDE] {
                assert!(name::check(&numbered(&name, number)).is_ok(), "{}", numbered(&name, number));
            }
        }
    }
}
