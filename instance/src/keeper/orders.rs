//! What caller, keeper and agent send each other.
//!
//! Their executables may be of different versions, because a newer one may have been installed meanwhile. So serialized
//! names never change.

use crate::agent::RunOptions;
use linchpin_shared::home::private_dir;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::{Identity, ON_BEHALF};
use linchpin_shared::registry::private;
use linchpin_shared::registry::record::Record;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use uuid::Uuid;

/// How keeper and agent are started: a program, and the words that precede the name of the instance, which is there
/// only for people who list processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relaunch {
    /// The executable, usually `std::env::current_exe()`.
    pub executable: PathBuf,
    /// The words that lead to [`keep()`](super::keep()).
    pub keeper: Vec<OsString>,
    /// The words that lead to [`serve()`](super::serve()).
    pub agent: Vec<OsString>,
    /// The command that a person typed, without the program. Keeper and agent carry it as arguments, so that a list of
    /// processes and a name conflict show what the person knows. It may be empty.
    #[serde(rename = "said")]
    pub typed: Vec<OsString>,
}

impl Relaunch {
    /// Returns what to execute: the executable at its path, which may be a newer one by now; while there is none, the
    /// running program, although its file is gone.
    pub(super) fn program(&self) -> &Path {
        if self.executable.exists() {
            return &self.executable;
        }
        let missing = self.executable.display();
        tracing::warn!(%missing, "the executable is missing; the running one is started again until it is back");
        Path::new("/proc/self/exe")
    }

    /// Returns the arguments that carry the typed command.
    pub(super) fn typed_args(&self) -> impl Iterator<Item = &OsStr> {
        let mark = (!self.typed.is_empty()).then_some(OsStr::new(ON_BEHALF));
        mark.into_iter().chain(self.typed.iter().map(OsString::as_os_str))
    }
}

/// An instance that runs in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its name; with [`crate::Conflict::Alongside`] perhaps not the requested one.
    pub name: String,
    /// Its id, which is the same in all its runs.
    pub id: Uuid,
    /// Identifies this run.
    pub generation: Uuid,
    /// The process id of its agent.
    pub pid: u32,
    /// The URL at which it listens.
    pub endpoint: String,
}

impl From<&Record> for Started {
    fn from(record: &Record) -> Self {
        let Record { name, id, generation, process, endpoint, .. } = record;
        Self { name: name.clone(), id: *id, generation: *generation, pid: process.pid, endpoint: endpoint.clone() }
    }
}

/// What the caller sends to the keeper, and the keeper to its agent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) relaunch: Relaunch,
    pub(super) options: RunOptions,
    pub(super) log: PathBuf,
    /// The keeper, for its agent.
    pub(super) keeper: Option<Identity>,
    /// The agent that a new keeper must adopt.
    pub(super) adopt: Option<Identity>,
}

impl Orders {
    /// Returns the line in which they are sent.
    pub(super) fn to_line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// What keeper and agent report.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The instance is registered.
    Ready(Started),
    /// The instance failed.
    Problem(Problem),
    /// The agent has started to end regularly: whatever happens to it now, it must not be restarted.
    Stopping,
}

impl Report {
    /// Sends the report on standard output.
    pub(super) fn send(&self) {
        use std::io::Write;
        let Ok(mut line) = serde_json::to_vec(self) else { return };
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        if let Err(error) = out.write_all(&line).and_then(|()| out.flush()) {
            tracing::debug!(%error, "the receiver of the reports is gone");
        }
    }
}

/// The pipe from the process that started this one, after the orders were read.
pub(super) type OrdersPipe = BufReader<pipe::Receiver>;

/// Reads the orders from standard input, which is a pipe.
pub(super) async fn read() -> Result<(Orders, OrdersPipe), Problem> {
    let read = async {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
        let mut pipe = BufReader::new(pipe::Receiver::from_owned_fd(stdin)?);
        let mut orders = String::new();
        pipe.read_line(&mut orders).await?;
        Ok((serde_json::from_str(&orders)?, pipe))
    };
    read.await.map_err(|error: std::io::Error| {
        Problem::new(Code::BadRequest, format!("this verb is only used by linchpin itself: {error}"))
            .next("linchpin run --help")
    })
}

/// Opens the log of keeper and agent themselves. They log little, so it is rotated only when one of them starts.
pub(super) fn open_log(path: &Path) -> Result<File, Problem> {
    const MAX_BYTES: u64 = 1 << 20;
    if let Some(dir) = path.parent() {
        private_dir(dir)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.len() > MAX_BYTES) {
        // If it cannot be renamed, it only grows further.
        let _ = std::fs::rename(path, path.with_extension("log.1"));
    }
    private::append(path).map_err(|why| why.problem(Code::HomeUnusable, path))
}
