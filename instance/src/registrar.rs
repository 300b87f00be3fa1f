//! Keeps the instance's record in the registry for as long as the instance runs.
//!
//! A task holds the [`Registration`], and with it the lease. Once a second it makes sure that the record exists and is
//! up to date, whatever happened to the registry. The lease is held until [`Registrar::unregister`] or the end of the
//! process. Dropping the registrar does not remove the record where processes may be left: an instance that ended
//! unexpectedly must look dead, so that what it left is cleaned up.

use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::registry::Registration;
use linchpin_shared::registry::record::Service;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often the record is checked. After the registry was removed and created again, it is complete within this time.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The handle of the task that maintains the record.
#[derive(Debug)]
pub(crate) struct Registrar {
    leave: CancellationToken,
    services: watch::Sender<Vec<Service>>,
    task: JoinHandle<Result<(), Problem>>,
}

impl Registrar {
    /// Starts to maintain the record of a registration.
    pub(crate) fn start(registration: Registration) -> Self {
        let leave = CancellationToken::new();
        let services = watch::Sender::new(registration.record().services.clone());
        let task = tokio::spawn(maintain(registration, leave.clone(), services.subscribe()));
        Self { leave, services, task }
    }

    /// The services in the record: a value that is sent here is written to it.
    pub(crate) fn services(&self) -> watch::Sender<Vec<Service>> {
        self.services.clone()
    }

    /// Removes the record and releases the lease.
    pub(crate) async fn unregister(mut self) -> Result<(), Problem> {
        self.leave.cancel();
        (&mut self.task).await.unwrap_or_else(|error| Err(task_failed(&error)))
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn maintain(
    mut registration: Registration,
    leave: CancellationToken,
    mut services: watch::Receiver<Vec<Service>>,
) -> Result<(), Problem> {
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reported = None;
    let mut due = async || {
        tokio::select! {
            _ = ticks.tick() => {}
            // When the sender is gone, the services cannot change any more; the record is checked all the same.
            Ok(()) = services.changed() => {}
        }
        services.borrow_and_update().clone()
    };
    while let Some(services) = leave.run_until_cancelled(due()).await {
        let checked = tokio::task::spawn_blocking(move || {
            let checked = check(&mut registration, services);
            (registration, checked)
        });
        let (back, checked) = checked.await.map_err(|error| task_failed(&error))?;
        registration = back;
        reported = report(checked, reported);
    }
    tokio::task::spawn_blocking(move || registration.unregister())
        .await
        .unwrap_or_else(|error| Err(task_failed(&error)))
}

/// Makes sure that the record exists and lists these services. Returns whether it had to be restored.
fn check(registration: &mut Registration, services: Vec<Service>) -> Result<bool, Problem> {
    let restored = registration.ensure()?;
    if registration.record().services != services {
        registration.update(|record| record.services = services)?;
    }
    Ok(restored)
}

/// Logs the result of a check, but each kind of problem only when it first appears. Returns the current kind.
fn report(checked: Result<bool, Problem>, reported: Option<Code>) -> Option<Code> {
    match checked {
        Ok(false) => None,
        Ok(true) => {
            tracing::info!("the record was missing or had been changed; it was written again");
            None
        }
        Err(problem) => {
            if reported != Some(problem.code) {
                tracing::warn!(%problem, "the record cannot be written; this is retried every second");
            }
            Some(problem.code)
        }
    }
}

fn task_failed(error: &JoinError) -> Problem {
    Problem::new(Code::Internal, format!("the task that maintains the record failed: {error}"))
        .next("report this with the log of the instance")
}
