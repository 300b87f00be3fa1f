//! A single start of a declared server.
//!
//! It has the same effect as `linchpin run --detach`. Environment and headers go to the agent through the pipe on which
//! it gets its orders, and never into a command line. The list is read again for each start, and its owner and mode are
//! checked again. If the name is taken by the same instance, another hub or a person was faster, and there is nothing
//! left to do. The start is complete when the instance is registered; its server may still be starting.

use super::LauncherState;
use crate::declared::{ServerEndpoint, ServerList, ServerSpec};
use linchpin_instance::Conflict;
use linchpin_instance::agent::{Kind, LaunchOptions, PortChoice, RunOptions};
use linchpin_instance::keeper::{self, Relaunch};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::registry::Owner;
use linchpin_shared::registry::record::instance_id;
use std::ffi::OsString;
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

/// How long discovery may take to see a registration. With file watches it takes milliseconds.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);

impl LauncherState {
    /// Starts the server of this instance as the list declares it now, and waits until the hub sees it.
    pub(super) async fn launch(&self, id: Uuid) -> Result<(), Problem> {
        let home = self.env.home.clone();
        let list = tokio::task::spawn_blocking(move || ServerList::read(&home)).await;
        let list = list.unwrap_or_else(|error| Err(Problem::new(Code::Internal, error.to_string())))?;
        let matches = |(name, server): &(String, ServerSpec)| instance_id(&server.project_dir, name) == id;
        let Some((name, server)) = list.servers.into_iter().find(matches) else {
            return Err(Problem::new(Code::InstanceNotFound, "this server is no longer declared")
                .next("linchpin status")
                .next("linchpin import"));
        };
        tracing::info!(name, "a declared server is started, because it is used");
        let started = keeper::detach(&self.env.home, self.relaunch(), self.options(&name, server)).await;
        match started {
            Err(problem) if problem.code == Code::NameTaken && self.is_seen(id).await => Ok(()),
            Err(problem) => Err(problem),
            Ok(_) => {
                // If it is not seen by then, the next poll of the registry will see it.
                self.is_seen(id).await;
                Ok(())
            }
        }
    }

    fn relaunch(&self) -> Relaunch {
        Relaunch {
            executable: self.env.executable.clone(),
            keeper: vec![OsString::from("keeper")],
            agent: vec![OsString::from("agent")],
            typed: Vec::new(),
        }
    }

    fn options(&self, name: &str, server: ServerSpec) -> RunOptions {
        let mut launch = LaunchOptions { open_files: self.env.open_files, ..LaunchOptions::default() };
        let (command, kind) = match server.endpoint {
            ServerEndpoint::Stdio { command, args, env } => {
                launch.env = env;
                (std::iter::once(command).chain(args).map(OsString::from).collect(), Kind::McpStdio)
            }
            ServerEndpoint::Url { url, headers } => {
                launch.headers = headers;
                (Vec::new(), Kind::McpUrl(url))
            }
        };
        RunOptions {
            name: Some(name.to_owned()),
            project_dir: server.project_dir,
            command,
            kind,
            conflict: Conflict::Fail,
            port: PortChoice::Nothing,
            pass_through: false,
            launch,
        }
    }

    /// Whether the registry shows this instance as alive, now or in a moment.
    async fn is_seen(&self, id: Uuid) -> bool {
        self.discovery.nudge();
        let mut snapshot = self.discovery.snapshot.clone();
        let alive =
            snapshot.wait_for(|snapshot| snapshot.instances.get(&id).is_some_and(|found| found.owner == Owner::Alive));
        matches!(timeout(DISCOVERY_TIMEOUT, alive).await, Ok(Ok(_)))
    }
}

/// Returns 64 random bits. If there are none, only the jitter is lost.
pub(super) fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX / 2)
}
