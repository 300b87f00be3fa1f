//! The agent under a keeper.
//!
//! It reads its orders from standard input, runs the agent and reports on standard output, where nothing else is
//! printed. Exit code 0 means that the instance ended regularly; after anything else, a signal included, the keeper
//! restarts it. A keeper that adopted the agent cannot see its exit code and is notified through a pipe instead.

use super::keeper_watch::KeeperWatch;
use super::orders::{self, Report, Started};
use crate::agent;
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Exit, Problem};
use linchpin_shared::registry::record::Record;
use std::cell::Cell;

/// Runs an agent for the keeper that started this process.
pub async fn serve() -> Exit {
    let watch = Cell::new(None);
    let run = async {
        let (mut orders, _) = orders::read().await?;
        let (home, options) = (Home::from_env()?, orders.options.clone());
        let ready = |record: &Record| {
            Report::Ready(Started::from(record)).send();
            orders.options.keep_name(record.name.clone());
            watch.set(Some(KeeperWatch::start(orders)));
        };
        let stopping = || {
            Report::Stopping.send();
            watch.set(watch.take().inspect(KeeperWatch::agent_stopping));
        };
        agent::run_with_hooks(&home, options, ready, stopping).await
    };
    let ended: Result<agent::Ended, Problem> = run.await;
    let watch = watch.take();
    let was_ready = watch.is_some();
    if let Some(watch) = watch {
        match ended {
            Ok(_) => watch.agent_done().await,
            Err(_) => watch.agent_failed().await,
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
            if !was_ready {
                Report::Problem(problem).send();
            }
            exit
        }
    }
}
