//! `linchpin run --detach`: an agent in the background, and a keeper that starts it again when it dies.
//!
//! Owns [`detach`], the caller's side, and the words that travel between caller, keeper and agent. The caller starts a
//! keeper ([`keep()`]), the keeper an agent ([`serve()`]); each is this executable again, under hidden verbs. Orders go down
//! as a line of JSON on standard input, one [`Report`] comes up as a line on standard output.
//! Invariant: the caller returns only when the instance is registered, or with the reason why it is not. Either of keeper
//! and agent may be killed: the other starts it again. Killed together, they stay so, and the hub ends what is left.
//! Never: leaves a keeper without an agent, or lets keeper or agent belong to the caller's terminal or session.

mod keep;
mod serve;
mod standby;

pub use keep::keep;
pub use serve::serve;

use crate::agent::RunOptions;
use crate::agent::signals::Signals;
use crate::supervisor::{DETACHED, OWNER};
use linchpin_shared::home::{Home, private_dir};
use linchpin_shared::name;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::{Identity, ON_BEHALF, Signal};
use linchpin_shared::registry::private;
use linchpin_shared::registry::record::Record;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use uuid::Uuid;

/// How long an instance may take to be registered. A take-over waits for another instance to stop.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How keeper and agent are started: a program, and the words before the instance's name, which is there only so that
/// people see it in a list of processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relaunch {
    /// The executable, usually `std::env::current_exe()`.
    pub executable: PathBuf,
    /// The words that lead to [`keep()`].
    pub keeper: Vec<OsString>,
    /// The words that lead to [`serve()`].
    pub agent: Vec<OsString>,
    /// The words with which a person asked for it, without the program. Keeper and agent carry them, so that a list of
    /// processes and a name conflict show what the person knows. May be empty.
    pub said: Vec<OsString>,
}

/// The words that keeper and agent carry for people.
fn said(relaunch: &Relaunch) -> impl Iterator<Item = &OsStr> {
    let mark = (!relaunch.said.is_empty()).then_some(OsStr::new(ON_BEHALF));
    mark.into_iter().chain(relaunch.said.iter().map(OsString::as_os_str))
}

/// An instance that runs in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its name; with [`crate::Conflict::Alongside`] perhaps not the one that was asked for.
    pub name: String,
    /// Its id.
    pub id: Uuid,
    /// Which life of it.
    pub generation: Uuid,
    /// The process id of its agent.
    pub pid: u32,
    /// Where it listens.
    pub endpoint: String,
}

impl From<&Record> for Started {
    fn from(record: &Record) -> Self {
        let Record { name, id, generation, process, endpoint, .. } = record;
        Self { name: name.clone(), id: *id, generation: *generation, pid: process.pid, endpoint: endpoint.clone() }
    }
}

impl Relaunch {
    /// What to execute: the executable at its path, which may be a newer one by now, or while there is none the very
    /// program that runs, although its file is gone.
    fn program(&self) -> &Path {
        if self.executable.exists() {
            return &self.executable;
        }
        let missing = self.executable.display();
        tracing::warn!(%missing, "the executable is missing; the one that runs is used again until it is there");
        Path::new("/proc/self/exe")
    }
}

/// What the caller tells the keeper, and the keeper its agent.
#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    relaunch: Relaunch,
    options: RunOptions,
    log: PathBuf,
    /// The keeper, for its agent.
    keeper: Option<Identity>,
    /// The agent that a new keeper is to adopt.
    adopt: Option<Identity>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Ready(Started),
    Problem(Problem),
    /// It has begun to end as it should: whatever becomes of it now, it is not started again.
    Stopping,
}

/// Starts an instance in the background and waits until it is registered. SIGTERM, SIGINT and SIGHUP cancel that.
///
/// # Errors
/// The [`Problem`] that the agent had, or one of starting it.
pub async fn detach(home: &Home, relaunch: Relaunch, mut options: RunOptions) -> Result<Started, Problem> {
    options.pass_through = false;
    let name = options.name.clone().unwrap_or_else(|| name::from_path(&options.project_dir));
    name::check(&name)?;
    home.prepare()?;
    let log = home.process_log(&name, "agent");
    let mut command = Command::new(&relaunch.executable);
    command.args(&relaunch.keeper).arg(&name).args(said(&relaunch)).current_dir("/");
    command.env(DETACHED, "1").env_remove(OWNER);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(open_log(&log)?);
    let failed = |error: std::io::Error| {
        Problem::from_io(&error, Code::Internal, "cannot start the keeper")
            .seen("executable", relaunch.executable.display().to_string())
            .next(format!("cat {}", log.display()))
    };
    let mut signals = Signals::listen()?;
    let mut keeper = command.spawn().map_err(failed)?;
    let orders = Orders { relaunch: relaunch.clone(), options, log: log.clone(), keeper: None, adopt: None };
    if let Some(mut stdin) = keeper.stdin.take() {
        let mut orders = serde_json::to_vec(&orders).map_err(|error| failed(error.into()))?;
        orders.push(b'\n');
        stdin.write_all(&orders).await.map_err(failed)?;
    }
    let mut line = String::new();
    if let Some(stdout) = keeper.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        let reading = tokio::time::timeout(READY_WITHIN, stdout.read_line(&mut line));
        let read = match signals.unless_heard(reading).await {
            Ok(read) => read,
            Err(signal) => return Err(cancelled(keeper, &mut signals, signal, &name).await),
        };
        read.map_err(|_| not_in_time(&name, &log))?.map_err(failed)?;
    }
    outcome(&line, &name, &log)
}

/// What the keeper said.
fn outcome(line: &str, name: &str, log: &Path) -> Result<Started, Problem> {
    match serde_json::from_str(line) {
        Ok(Report::Ready(started)) => Ok(started),
        Ok(Report::Problem(problem)) => Err(problem),
        Ok(Report::Stopping) | Err(_) => {
            Err(Problem::new(Code::Internal, format!("the keeper of {name:?} ended without a word"))
                .next(format!("cat {}", log.display())))
        }
    }
}

/// Ends what was begun. It belongs to no terminal, so no Ctrl-C reaches it.
async fn cancelled(mut keeper: Child, signals: &mut Signals, mut signal: &'static str, name: &str) -> Problem {
    let begun = keeper.id().and_then(|pid| Identity::of(pid).ok());
    let mut ended = std::pin::pin!(tokio::time::timeout(READY_WITHIN, keeper.wait()));
    loop {
        // What has ended needs no signal.
        let _ = begun.as_ref().map(|keeper| keeper.signal(Signal::TERM));
        match signals.unless_heard(ended.as_mut()).await {
            Ok(_) => break,
            Err(another) => signal = another,
        }
    }
    Problem::new(Code::Cancelled, format!("{name:?} was not started: {signal} came before it was registered"))
        .next(format!("linchpin status {name}"))
}

fn not_in_time(name: &str, log: &Path) -> Problem {
    Problem::new(Code::TimedOut, format!("the instance {name:?} was not registered in time; it is still being started"))
        .seen("waited_s", READY_WITHIN.as_secs())
        .next(format!("cat {}", log.display()))
        .next(format!("linchpin status {name}"))
}

/// The log of keeper and agent themselves. They write little, so it is put aside only when one of them starts.
fn open_log(path: &Path) -> Result<File, Problem> {
    const MAX_BYTES: u64 = 1 << 20;
    if let Some(dir) = path.parent() {
        private_dir(dir)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|facts| facts.len() > MAX_BYTES) {
        // If it stays, it only grows further.
        let _ = std::fs::rename(path, path.with_extension("log.1"));
    }
    private::append(path).map_err(|why| why.problem(Code::HomeUnusable, path))
}

/// The line from who started us, after its first words, the orders.
type Line = BufReader<pipe::Receiver>;

/// Reads the orders from standard input, which is a pipe.
async fn orders() -> Result<(Orders, Line), Problem> {
    let read = async {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
        let mut line = BufReader::new(pipe::Receiver::from_owned_fd(stdin)?);
        let mut orders = String::new();
        line.read_line(&mut orders).await?;
        Ok((serde_json::from_str(&orders)?, line))
    };
    read.await.map_err(|error: std::io::Error| {
        Problem::new(Code::BadRequest, format!("these words are for linchpin itself: {error}"))
            .next("linchpin run --help")
    })
}

/// Says what came of it, once.
fn report(report: &Report) {
    use std::io::Write;
    let Ok(mut line) = serde_json::to_vec(report) else { return };
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(&line).and_then(|()| out.flush()) {
        tracing::debug!(%error, "nobody waits for the report any more");
    }
}
