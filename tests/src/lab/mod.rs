//! One lab: a private home, and everything that a test starts in it.
//!
//! A lab has its own home, port and environment and shares nothing with other labs, so labs run side by side and never
//! touch a person's own Linchpin. Whatever a lab started, directly or through its children, ends with it:
//! [`Lab::finish`] stops everything as a person would and fails if anything is left behind, dropping a lab kills
//! everything at once, and if the test itself is killed, the `lab-reaper` beside it does the same. Nothing else is ever
//! signalled.

pub mod disk;
pub mod ledger;
pub mod leftovers;
pub mod namespace;
pub mod net;
pub mod running;
pub mod verb;
pub mod witness;

mod fixture;
mod hub;
mod steps;
#[cfg(test)]
mod tests;

pub use hub::HubFacts;
pub use steps::STEP;

use anyhow::{Context, Result};
use leftovers::Mark;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use tempfile::TempDir;
use tokio::process::Command;

/// The ports that labs give to their hubs. They are below those that Linux assigns by itself (`ip_local_port_range`
/// begins at 32768), so only another lab could take one.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Rounds of 10 ms within which the processes of a dropped lab must end.
const END_ROUNDS: u32 = 500;

/// A private home and everything that was started in it.
#[derive(Debug)]
pub struct Lab {
    dir: TempDir,
    home: PathBuf,
    mark: Mark,
    binary: PathBuf,
    port: u16,
    vars: Vec<(String, String)>,
    reaper: Child,
}

impl Lab {
    /// A new lab, in which nothing runs yet.
    ///
    /// # Errors
    /// If the programs were not built or the directory cannot be created.
    pub fn new() -> Result<Self> {
        Self::with_home(|dir| dir.join("home"))
    }

    /// A new lab whose home is at this place, given the lab's own directory.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn with_home(place: impl FnOnce(&Path) -> PathBuf) -> Result<Self> {
        let binary = crate::kit::program("linchpin")?;
        let dir = tempfile::Builder::new().prefix("linchpin-lab-").tempdir()?;
        let mark = Mark::new(uuid::Uuid::new_v4().to_string());
        let reaper = start_reaper(&mark, dir.path())?;
        std::fs::create_dir(dir.path().join("out"))?;
        let home = place(dir.path());
        Ok(Self { dir, home, mark, binary, port: free_port()?, vars: Vec::new(), reaper })
    }

    /// A new lab whose hub takes a port that the system chooses, instead of the lab's own.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn on_any_port() -> Result<Self> {
        Ok(Self::new()?.with("LINCHPIN_HUB_PORT", "0"))
    }

    /// Sets a variable for everything that is started from now on, for example a setting: `LINCHPIN_GATEWAY_WAIT_MS`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// As [`Lab::with`], for a lab in which something runs already.
    pub fn set(&mut self, name: &str, value: &str) {
        self.vars.push((name.to_owned(), value.to_owned()));
    }

    /// The home, as in `LINCHPIN_HOME`.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.home.clone()
    }

    /// The lab's own directory, above the home.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The port that the lab gives to its hub.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `linchpin` under test.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The mark that all processes of the lab carry.
    #[must_use]
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// A directory with this name for a project, or for files that a server shows.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn project(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join("projects").join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// A command in the lab's environment: it carries the mark, and no setting of a person's own Linchpin reaches it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LINCHPIN_")) {
            command.env_remove(name);
        }
        for name in ["XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "RUST_LOG"] {
            command.env_remove(name);
        }
        command
            .env("LINCHPIN_HOME", self.home())
            .env("LINCHPIN_HUB_PORT", self.port.to_string())
            .env("HOME", self.dir.path())
            .env(leftovers::VAR, self.mark.value())
            .envs(self.vars.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path());
        command
    }

    /// A `linchpin` command in the lab's environment.
    pub fn linchpin(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = self.command(&self.binary);
        command.args(arguments);
        command
    }

    /// The last lines of every log and output of the lab, for the message of a failed test.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut files = Vec::new();
        for dir in [self.dir.path().join("out"), self.home().join("logs")] {
            collect(&dir, &mut files);
        }
        let running = leftovers::describe(&self.mark.processes());
        let mut text = format!("running:\n{running}");
        for file in files {
            text.push_str(&format!("== {}\n{}", file.display(), tail(&file)));
        }
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.mark.end_all(END_ROUNDS) {
            report_failure(&format!("{error:#}"));
        }
        // Its standard input closes, so the reaper sees that the lab has ended; only the directory is left for it to
        // remove.
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
    }
}

#[expect(clippy::print_stderr, reason = "drop cannot return an error, and a stray process must be reported")]
fn report_failure(text: &str) {
    eprintln!("the lab leaves a process behind: {text}");
}

fn start_reaper(mark: &Mark, dir: &Path) -> Result<Child> {
    use std::os::unix::process::CommandExt;
    let program = crate::kit::program("lab-reaper")?;
    std::process::Command::new(&program)
        .arg(mark.value())
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A process group of its own, so that a signal to the test's group does not end its reaper.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// A port of [`PORTS`] that is free now, searched from a random start. Another lab could still take it before the hub
/// does: 20,000 ports make that rare, and the hub then takes the next one and writes it to `hub.json`, which tests
/// read.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    let seed = uuid::Uuid::new_v4().as_u128() % u128::from(PORTS.end - PORTS.start);
    let first = PORTS.start + u16::try_from(seed)?;
    (first..PORTS.end)
        .chain(PORTS.start..first)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no port is free")
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
    files.sort();
}

/// The last 4 KiB of a file.
fn tail(path: &Path) -> String {
    const KEPT: u64 = 4096;
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(KEPT);
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("({error})\n"))
}
