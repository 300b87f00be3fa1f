//! One lab: a private home, and everything that was started in it.
//!
//! Owns the home directory, the environment of everything that runs in it, and its end: [`Lab::finish`] stops all the
//! way a person would and fails if anything is left behind; dropping a lab ends all at once. If this very process is
//! killed, the `lab-reaper` beside it does the same.
//! Invariant: a person's own Linchpin is never touched: home, port and settings are the lab's.
//! Never: shares anything with another lab.

pub mod ledger;
pub mod leftovers;
pub mod net;
pub mod running;
pub mod verb;
pub mod witness;

mod steps;

pub use steps::{HubFacts, STEP};

use anyhow::{Context, Result};
use leftovers::Mark;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use tempfile::TempDir;
use tokio::process::Command;

/// The lowest port that a lab gives its hub, and how many there are: below those that Linux hands out by itself
/// (`ip_local_port_range` begins with 32768), so that only another lab could be in the way.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Rounds of 10 ms in which a dropped lab's processes must be gone.
const END_ROUNDS: u32 = 500;

/// A private home and everything that was started in it.
#[derive(Debug)]
pub struct Lab {
    dir: TempDir,
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
    /// When the programs were not built or there is no room for a directory.
    pub fn new() -> Result<Self> {
        let binary = crate::kit::program("linchpin")?;
        let dir = tempfile::Builder::new().prefix("linchpin-lab-").tempdir()?;
        let mark = Mark::new(uuid::Uuid::new_v4().to_string());
        let reaper = start_reaper(&mark, dir.path())?;
        std::fs::create_dir(dir.path().join("out"))?;
        Ok(Self { dir, mark, binary, port: free_port()?, vars: Vec::new(), reaper })
    }

    /// Sets a variable for everything that is started from now on, for example a setting: `LINCHPIN_GATEWAY_WAIT_MS`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The home, as in `LINCHPIN_HOME`.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// The lab's own directory, above the home.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The port that the lab's hub is to have.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `linchpin` that is tested.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The mark on the lab's processes.
    #[must_use]
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// A directory of this name for a project, or for files that a server shows.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn project(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join("projects").join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// A command in the lab's environment: nothing of a person's Linchpin leaks in, and the mark is on it.
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

    /// The last lines of every log and output of the lab, for a failed test's message.
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
            complain(&format!("{error:#}"));
        }
        // Its standard input closes, so it sees that the lab is gone, and finds nothing left to do but the directory.
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
    }
}

#[expect(clippy::print_stderr, reason = "a drop has nobody to return an error to, and a stray process must be told")]
fn complain(text: &str) {
    eprintln!("the lab leaves something behind: {text}");
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
        // A group of its own: what ends the test's group must not end the one who cleans up after it.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// A port of [`PORTS`] that is free now, tried from a random place. Another lab could still take it before the hub does:
/// 20,000 ports make that rare, and the hub then takes the next one and says so in `hub.json`, which is what is read.
///
/// # Errors
/// When there is none.
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
