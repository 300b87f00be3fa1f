//! The agent under a keeper.
//!
//! Owns the hidden verb's work: reads [`RunOptions`] from standard input, runs the agent, reports once.
//! Invariant: exit code 0 means that the instance ended as it should; anything else, a signal included, means that the
//! keeper shall start it again.
//! Never: prints anything but the report.

use super::{Report, Started, orders, report};
use crate::agent::{self, RunOptions};
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Exit, Problem};

/// Runs an agent for the keeper that started this process.
pub async fn serve() -> Exit {
    let mut told = false;
    let run = async {
        let options: RunOptions = orders().await?;
        let home = Home::from_env()?;
        agent::run(&home, options, |record| {
            told = true;
            report(&Report::Ready(Started::from(record)));
        })
        .await
    };
    let ended: Result<agent::Ended, Problem> = run.await;
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
