//! The instance's entry in the registry, kept for as long as the instance lives.
//!
//! Owns the [`Registration`] and the task that looks after it: once a second it makes sure that the record is there and
//! says what we say, whatever happened to the registry.
//! Invariant: the lease is held until [`Registrar::unregister`] or the end of the process.
//! Never: unregisters by being dropped when processes may be left. What ended without a word must look dead, so that it
//! is swept.

use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::registry::Registration;
use linchpin_shared::registry::record::Service;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often the record is looked after. A registry that was removed and made again is whole within this time.
const LOOK: Duration = Duration::from_secs(1);

/// Looks after the entry.
#[derive(Debug)]
pub(crate) struct Registrar {
    leave: CancellationToken,
    services: watch::Sender<Vec<Service>>,
    task: JoinHandle<Result<(), Problem>>,
}

impl Registrar {
    /// Begins to look after a registration.
    pub(crate) fn start(registration: Registration) -> Self {
        let leave = CancellationToken::new();
        let services = watch::Sender::new(registration.record().services.clone());
        let task = tokio::spawn(keep(registration, leave.clone(), services.subscribe()));
        Self { leave, services, task }
    }

    /// Where to say which services the instance offers.
    pub(crate) fn services(&self) -> watch::Sender<Vec<Service>> {
        self.services.clone()
    }

    /// Removes the record and lets go of the lease.
    pub(crate) async fn unregister(mut self) -> Result<(), Problem> {
        self.leave.cancel();
        (&mut self.task).await.unwrap_or_else(|error| Err(broken(&error)))
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(
    mut registration: Registration,
    leave: CancellationToken,
    mut services: watch::Receiver<Vec<Service>>,
) -> Result<(), Problem> {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = None;
    let mut due = async || {
        tokio::select! {
            _ = ticks.tick() => {}
            // Whoever could change them has ended; the record is looked after all the same.
            Ok(()) = services.changed() => {}
        }
        services.borrow_and_update().clone()
    };
    while let Some(offered) = leave.run_until_cancelled(due()).await {
        let looked = tokio::task::spawn_blocking(move || {
            let looked = look_after(&mut registration, offered);
            (registration, looked)
        });
        let (back, looked) = looked.await.map_err(|error| broken(&error))?;
        registration = back;
        trouble = told(looked, trouble);
    }
    tokio::task::spawn_blocking(move || registration.unregister()).await.unwrap_or_else(|error| Err(broken(&error)))
}

/// Sees to it that the record is there and tells these services; `true` if it had vanished.
fn look_after(registration: &mut Registration, offered: Vec<Service>) -> Result<bool, Problem> {
    let restored = registration.ensure()?;
    if registration.record().services != offered {
        registration.update(|record| record.services = offered)?;
    }
    Ok(restored)
}

/// Says what was found, but the same trouble only once. Returns the trouble there is now.
fn told(looked: Result<bool, Problem>, before: Option<Code>) -> Option<Code> {
    match looked {
        Ok(false) => None,
        Ok(true) => {
            tracing::info!("the record had vanished or was changed; it is written again");
            None
        }
        Err(problem) => {
            if before != Some(problem.code) {
                tracing::warn!(%problem, "the record cannot be kept; trying again every second");
            }
            Some(problem.code)
        }
    }
}

fn broken(error: &JoinError) -> Problem {
    Problem::new(Code::Internal, format!("the task that keeps the record failed: {error}"))
        .next("report this with the log of the instance")
}
