//! The agent under a keeper.
//!
//! Owns the hidden verb's work: reads the orders from standard input, runs the agent, reports once.
//! Invariant: exit code 0 means that the instance ended as it should; anything else, a signal included, means that the
//! keeper shall start it again. A keeper that adopted the agent, and cannot see its exit code, is told.
//! Never: prints anything but the report.

use super::standby::Standby;
use super::{Report, Started, orders, report};
use crate::agent;
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Exit, Problem};
use linchpin_shared::registry::record::Record;
use std::cell::Cell;

/// Runs an agent for the keeper that started this process.
pub async fn serve() -> Exit {
    let standby = Cell::new(None);
    let run = async {
        let (mut orders, _) = orders().await?;
        let (home, options) = (Home::from_env()?, orders.options.clone());
        let ready = |record: &Record| {
            report(&Report::Ready(Started::from(record)));
            orders.options.settle(record.name.clone());
            standby.set(Some(Standby::begin(orders)));
        };
        let stopping = || {
            report(&Report::Stopping);
            standby.set(standby.take().inspect(Standby::stopping));
        };
        agent::run_telling(&home, options, ready, stopping).await
    };
    let ended: Result<agent::Ended, Problem> = run.await;
    let standby = standby.take();
    let told = standby.is_some();
    if let Some(standby) = standby {
        match ended {
            Ok(_) => standby.done().await,
            Err(_) => standby.failed().await,
        }
    }
    match ended {
        Ok(how) => {
            tracing::info!(?how, "the instance ended");
            Exit::Ok
        }
        Err(problem) => {
            tracing::error!(%problem, "the instance failed");
            let exit = problem.exit();
            if !told {
                report(&Report::Problem(problem));
            }
            exit
        }
    }
}
