//! A private home, real agents in it, and a real hub's end of a connection.
//!
//! Owns [`Lab`]; [`hub`] speaks to an instance as the hub does, over HTTP/2 on TCP. Agents are the example `run`, in
//! processes of their own.
//! Invariant: a lab ends with everything that was started in it, and says so if something stayed: every process of it
//! carries the lab's directory in its environment.
//! Never: sleeps for luck: [`until`] waits for a condition and tells what it waited for.
#![allow(dead_code, clippy::allow_attributes, reason = "every test file uses its part")]

pub mod hub;

use linchpin_shared::home::Home;
use linchpin_shared::registry::record::Record;
use linchpin_shared::registry::{Owner, Registry};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const WITHIN: Duration = Duration::from_secs(20);

/// Waits until `look` finds something.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < WITHIN, "waited in vain until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub struct Lab {
    dir: TempDir,
    settings: Vec<(&'static str, &'static str)>,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("project")).unwrap();
        Self { dir, settings: vec![("LINCHPIN_INSTANCE_BACKOFF_MIN_MS", "20")] }
    }

    /// With a setting, as its environment variable.
    pub fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.settings.push((name, value));
        self
    }

    pub fn home(&self) -> Home {
        Home::at(self.dir.path().join("home"))
    }

    pub fn project(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    /// `run WORDS`, with output caught.
    pub fn start(&self, words: &[&str]) -> Agent {
        let mut command = Command::new(example("run"));
        command.args(words).current_dir(self.project()).env("LINCHPIN_HOME", self.home().root());
        command.envs(self.settings.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Agent { child: command.spawn().unwrap() }
    }

    /// `run --name NAME FLAGS -- COMMAND`, registered.
    pub async fn run(&self, name: &str, flags: &[&str], command: &[&str]) -> (Agent, Record) {
        let agent = self.start(&[&["--name", name], flags, &["--"], command].concat());
        let record = self.registered(name).await;
        (agent, record)
    }

    /// As [`Lab::run`], with the MCP server of the fixtures.
    pub async fn run_mcp(&self, name: &str) -> (Agent, Record) {
        self.run(name, &["--mcp"], &["python3", &fixture("server.py")]).await
    }

    /// The record of the live instance of this name, as soon as there is one.
    pub async fn registered(&self, name: &str) -> Record {
        until(&format!("{name} is registered"), async || Registry::new(&self.home()).find_live(name).map(|it| it.record))
            .await
    }

    /// The names in the registry, of the living and the dead.
    pub fn names(&self) -> Vec<(String, Owner)> {
        let scan = Registry::new(&self.home()).scan();
        scan.map(|scan| scan.entries.into_iter().map(|it| (it.record.name, it.owner)).collect()).unwrap_or_default()
    }

    /// The log of the process of this instance.
    pub fn log(&self, name: &str) -> String {
        let read = std::fs::read(self.home().process_log(name, "main"));
        String::from_utf8_lossy(&read.unwrap_or_default()).into_owned()
    }

    pub async fn logged(&self, name: &str, text: &str) {
        until(&format!("the log has {text:?}"), async || self.log(name).contains(text).then_some(())).await;
    }

    /// The living processes of this lab whose command line has this text.
    pub fn processes(&self, text: &str) -> Vec<u32> {
        let ours = self.dir.path().as_os_str().as_encoded_bytes();
        let has = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
        let pids = std::fs::read_dir("/proc").unwrap().filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok());
        let read = |pid: &u32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        pids.filter(|pid: &u32| *pid != std::process::id())
            .filter(|pid| has(&read(pid, "environ"), ours) && has(&read(pid, "cmdline"), text.as_bytes()))
            .collect()
    }

    /// Waits until nothing of this lab whose command line has this text is left.
    pub async fn gone(&self, text: &str) {
        until(&format!("{text:?} is gone"), async || self.processes(text).is_empty().then_some(())).await;
    }
}

/// What a test left behind goes with it, whether it failed or not; if it did not fail, leaving something is a failure.
impl Drop for Lab {
    fn drop(&mut self) {
        let left = self.processes("");
        for pid in &left {
            signal(*pid, Signal::KILL);
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "the test left processes behind: {left:?}");
        }
    }
}

/// A running example `run`.
pub struct Agent {
    child: Child,
}

impl Agent {
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub fn signal(&self, what: Signal) {
        signal(self.pid(), what);
    }

    /// Waits for the end; the output is standard output and standard error, one after the other.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        let (mut out, mut err) = (String::new(), String::new());
        let (mut stdout, mut stderr) = (self.child.stdout.take().unwrap(), self.child.stderr.take().unwrap());
        let all = async {
            let (o, e) = tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
            (o.unwrap(), e.unwrap());
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(WITHIN, all).await.expect("the agent ends");
        (status, out + &err)
    }

    /// SIGTERM, and a good end.
    pub async fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (status, output) = self.ended().await;
        assert!(status.success(), "{status}: {output}");
        output
    }
}

pub fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal);
}

pub fn is_alive(pid: u32) -> bool {
    linchpin_shared::process::Identity::of(pid).is_ok()
}

pub fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// An example of this crate; cargo builds them before it runs the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    path
}
