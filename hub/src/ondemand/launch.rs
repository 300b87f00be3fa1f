//! One start of a declared server.
//!
//! Owns the way from the list to `linchpin run --detach`: environment and headers go to the agent through the pipe that
//! its orders go through, never in a command line. Invariant: the list is read again for each start, with its check of
//! owner and mode. Who finds the name taken by that very instance was overtaken by another hub or a person, and is done.
//! Never: waits for the server itself; that it was registered is all.

use super::Inner;
use linchpin_instance::Conflict;
use linchpin_instance::agent::{Kind, LaunchOptions, PortChoice, RunOptions};
use linchpin_instance::keeper::{self, Relaunch};
use linchpin_shared::declared::{Declared, How, Server};
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::registry::Owner;
use linchpin_shared::registry::record::instance_id;
use std::ffi::OsString;
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

/// How long discovery may take to see what was registered. It needs milliseconds where it hears of changes.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

impl Inner {
    /// Starts the server of this instance, as the list has it now, and waits until the hub sees it.
    pub(super) async fn launch(&self, id: Uuid) -> Result<(), Problem> {
        let home = self.means.home.clone();
        let list = tokio::task::spawn_blocking(move || Declared::read(&home)).await;
        let list = list.unwrap_or_else(|error| Err(Problem::new(Code::Internal, error.to_string())))?;
        let is_it = |(name, server): &(String, Server)| instance_id(&server.project_dir, name) == id;
        let Some((name, server)) = list.servers.into_iter().find(is_it) else {
            return Err(Problem::new(Code::InstanceNotFound, "this server is not declared any more")
                .next("linchpin status")
                .next("linchpin import"));
        };
        tracing::info!(name, "a declared server is used and started");
        let started = keeper::detach(&self.means.home, self.relaunch(), self.options(&name, server)).await;
        match started {
            Err(problem) if problem.code == Code::NameTaken && self.is_seen(id).await => Ok(()),
            Err(problem) => Err(problem),
            Ok(_) => {
                // If it is not seen by then, the next poll of the registry sees it.
                self.is_seen(id).await;
                Ok(())
            }
        }
    }

    fn relaunch(&self) -> Relaunch {
        Relaunch {
            executable: self.means.executable.clone(),
            keeper: vec![OsString::from("keeper")],
            agent: vec![OsString::from("agent")],
            typed: Vec::new(),
        }
    }

    fn options(&self, name: &str, server: Server) -> RunOptions {
        let mut launch = LaunchOptions { open_files: self.means.open_files, ..LaunchOptions::default() };
        let (command, kind) = match server.how {
            How::Stdio { command, args, env } => {
                launch.env = env;
                (std::iter::once(command).chain(args).map(OsString::from).collect(), Kind::McpStdio)
            }
            How::Url { url, headers } => {
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

    /// Whether the registry shows this instance alive, now or in a moment.
    async fn is_seen(&self, id: Uuid) -> bool {
        self.discovery.nudge();
        let mut snapshot = self.discovery.snapshot.clone();
        let alive =
            snapshot.wait_for(|snapshot| snapshot.instances.get(&id).is_some_and(|found| found.owner == Owner::Alive));
        matches!(timeout(SEEN_WITHIN, alive).await, Ok(Ok(_)))
    }
}

/// 64 random bits; without them the jitter is lost, and nothing else.
pub(super) fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX / 2)
}
