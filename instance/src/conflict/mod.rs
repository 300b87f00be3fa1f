//! What to do when a live instance has the name already.
//!
//! The registry decides whether there is a conflict. Here it is resolved as [`Conflict`] says: the other instance is
//! described in full, or ended ([`takeover`]), or this one registers under another name. Only the registry gives a name
//! out, whichever instance was stopped before. People are asked by the command line, not here.

mod family;
mod takeover;

use family::ProcessFamily;
use jiff::{SignedDuration, Timestamp};
use linchpin_shared::name;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::Identity;
use linchpin_shared::registry::record::{Protocol, Record, instance_id};
use linchpin_shared::registry::{Entry, Registration, Registry};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The highest number that is tried after the name that is taken.
const MAX_ALONGSIDE: u32 = 99;

/// How many instances of the name are stopped in turn: a third one may take the name at the same moment.
const MAX_TAKE_OVERS: u32 = 3;

/// What to do when a live instance has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// Fail with a description of the other instance.
    #[default]
    Fail,
    /// Stop the other instance and take its name.
    TakeOver,
    /// Run beside it as `name-2`, or with the next free number.
    Alongside,
}

/// Registers `record`, under another name if that is how a conflict is resolved.
///
/// # Cancel safety
/// When the future is dropped, no record is left; nor is one when the registration is dropped, until its owner says
/// that processes may outlive it.
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
        Conflict::Fail => Err(explain(&registry, &record, taken).await),
        Conflict::TakeOver => take_over(&registry, record, taken, patience).await,
        Conflict::Alongside => alongside(&registry, record, taken).await,
    }
}

async fn attempt(registry: &Registry, record: Record) -> Result<Registration, Problem> {
    let registry = registry.clone();
    let register = move || {
        let mut registration = registry.register(record)?;
        // The caller may have been dropped by now.
        registration.take_back_when_dropped(true);
        Ok(registration)
    };
    blocking(register).await?
}

async fn alongside(registry: &Registry, record: Record, taken: Problem) -> Result<Registration, Problem> {
    for number in 2..=MAX_ALONGSIDE {
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

/// Ends the live instance of this name and registers in its place.
async fn take_over(
    registry: &Registry,
    record: Record,
    mut taken: Problem,
    patience: Duration,
) -> Result<Registration, Problem> {
    for _ in 0..MAX_TAKE_OVERS {
        if let Some((other, holder)) = live(registry, &record.name).await? {
            // An external program that is registered again goes on; only its previous registrar ends.
            let excluded = (record.protocol == Protocol::Http1).then_some(&record.process);
            takeover::stop(&other, holder, excluded, patience, taken).await?;
            // A killed instance could not remove its record. If that is not possible here either, a hub does it.
            let (registry, id) = (registry.clone(), other.record.id);
            let _ = blocking(move || registry.sweep(id)).await?;
        }
        match attempt(registry, record.clone()).await {
            Err(problem) if problem.code == Code::NameTaken => taken = problem,
            done => return done,
        }
    }
    Err(explain(registry, &record, taken).await)
}

/// Returns the live instance of this name and the process that holds its lease.
async fn live(registry: &Registry, name: &str) -> Result<Option<(Entry, Option<Identity>)>, Problem> {
    let (registry, name) = (registry.clone(), name.to_owned());
    blocking(move || {
        let entry = registry.find_live(&name)?;
        let holder = registry.lease_holder(entry.record.id);
        Some((entry, holder))
    })
    .await
}

/// Adds to a conflict all that is known about the other instance.
async fn explain(registry: &Registry, record: &Record, taken: Problem) -> Problem {
    let Ok(Some((other, holder))) = live(registry, &record.name).await else { return taken };
    let verb = match record.protocol {
        Protocol::H2c => "run",
        Protocol::Http1 => "register",
    };
    blocking(move || describe(taken, &other, holder, verb)).await.unwrap_or_else(|problem| problem)
}

fn describe(mut taken: Problem, other: &Entry, holder: Option<Identity>, verb: &str) -> Problem {
    let Record { name, process, registered_at, protocol, .. } = &other.record;
    taken.next_steps.clear();
    let uptime = Timestamp::now().duration_since(*registered_at);
    taken = taken.seen("for", format!("{:#}", SignedDuration::from_secs(uptime.as_secs())));
    if let Ok(family) = ProcessFamily::collect(other, holder.clone(), None) {
        let (bytes, processes) = family.memory();
        taken = taken.seen("memory", format!("{} MB in {processes} processes", bytes.div_ceil(1 << 20)));
    }
    if let Some(holder) = holder.filter(|holder| holder != process) {
        taken = taken.seen("registered by pid", holder.pid);
    }
    let end = match protocol {
        Protocol::H2c => format!("linchpin stop {name}    (ends it)"),
        Protocol::Http1 => format!("kill {}    (ends it)", process.pid),
    };
    taken
        .next(format!("linchpin {verb} --take-over …    (stops it and takes its place)"))
        .next(format!(
            "linchpin {verb} --alongside …    (runs beside it as {}, or the next free number)",
            numbered(name, 2)
        ))
        .next(format!(
            "linchpin status {name}; ps -o pid,etime,rss,args -p {}    (changes nothing and shows it)",
            process.pid
        ))
        .next(end)
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
            for number in [2, 10, MAX_ALONGSIDE] {
                assert!(name::check(&numbered(&name, number)).is_ok(), "{}", numbered(&name, number));
            }
        }
    }
}
