//! The lab for instances: a private home, real agents in it, and the hub's end of a connection.
//!
//! Agents are the example `run`, in processes of their own, and [`hub`] speaks to an instance as the hub does, over
//! HTTP/2 on TCP. Everything that was started in a lab ends with it, and a test fails if it left a process behind:
//! every process of a lab carries its directory in its environment. A wait ([`until`]) has a condition and names it
//! when it fails.

pub(crate) mod hub;

use linchpin_shared::home::Home;
use linchpin_shared::registry::record::Record;
use linchpin_shared::registry::{Owner, Registry};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const WITHIN: Duration = Duration::from_secs(20);

/// Runs `look` until it finds something.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < WITHIN, "waited in vain until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) struct InstanceLab {
    dir: TempDir,
    settings: Vec<(&'static str, &'static str)>,
}

impl InstanceLab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("project")).unwrap();
        Self { dir, settings: vec![("LINCHPIN_INSTANCE_BACKOFF_MIN_MS", "20")] }
    }

    /// With a setting, as its environment variable.
    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.settings.push((name, value));
        self
    }

    pub(crate) fn home(&self) -> Home {
        Home::at(self.dir.path().join("home"))
    }

    pub(crate) fn project(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    /// `run WORDS` in the project, with output caught.
    pub(crate) fn start(&self, words: &[&str]) -> Agent {
        self.start_in(&self.project(), words)
    }

    /// `run WORDS` in another directory.
    pub(crate) fn start_in(&self, dir: &Path, words: &[&str]) -> Agent {
        self.start_as(&example("run"), dir, words)
    }

    /// `run WORDS` by another executable.
    pub(crate) fn start_as(&self, program: &Path, dir: &Path, words: &[&str]) -> Agent {
        let mut command = Command::new(program);
        command.args(words).current_dir(dir).env("LINCHPIN_HOME", self.home().root());
        command.envs(self.settings.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Agent { child: command.spawn().unwrap() }
    }

    /// `run --name NAME FLAGS -- COMMAND`, registered.
    pub(crate) async fn run(&self, name: &str, flags: &[&str], command: &[&str]) -> (Agent, Record) {
        let agent = self.start(&[&["--name", name], flags, &["--"], command].concat());
        let pid = agent.pid();
        (agent, self.record(name, |record| record.process.pid == pid).await)
    }

    /// As [`InstanceLab::run`], with the MCP server of the fixtures.
    pub(crate) async fn run_mcp(&self, name: &str) -> (Agent, Record) {
        self.run(name, &["--mcp"], &["python3", &fixture("server.py")]).await
    }

    /// The record of the live instance of this name, as soon as there is one.
    pub(crate) async fn registered(&self, name: &str) -> Record {
        self.record(name, |_| true).await
    }

    /// The record of the live instance of this name, as soon as it is as wanted.
    pub(crate) async fn record(&self, name: &str, wanted: impl Fn(&Record) -> bool) -> Record {
        let registry = Registry::new(&self.home());
        until(&format!("{name} is registered"), async || {
            registry.find_live(name).map(|found| found.record).filter(|record| wanted(record))
        })
        .await
    }

    /// The names in the registry, each with the state of its owner.
    pub(crate) fn names(&self) -> Vec<(String, Owner)> {
        let scan = Registry::new(&self.home()).scan();
        scan.map(|scan| scan.entries.into_iter().map(|it| (it.record.name, it.owner)).collect()).unwrap_or_default()
    }

    /// The log of the process of this instance.
    pub(crate) fn log(&self, name: &str) -> String {
        let read = std::fs::read(self.home().process_log(name, "main"));
        String::from_utf8_lossy(&read.unwrap_or_default()).into_owned()
    }

    pub(crate) async fn logged(&self, name: &str, text: &str) {
        until(&format!("the log has {text:?}"), async || self.log(name).contains(text).then_some(())).await;
    }

    /// The live processes of this lab whose command line is as wanted.
    fn processes(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u32> {
        let ours = self.dir.path().as_os_str().as_encoded_bytes();
        let read = |pid: u32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let of_this_lab = |pid: u32| read(pid, "environ").windows(ours.len()).any(|part| part == ours);
        let pids = std::fs::read_dir("/proc").unwrap().filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != std::process::id() && of_this_lab(*pid) && wanted(&read(*pid, "cmdline"))).collect()
    }

    /// Whether nothing of this lab runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.processes(|_| true).is_empty()
    }

    /// The processes of this lab that are `sleep SECONDS`. Tests tell them apart by the number.
    pub(crate) fn sleepers(&self, seconds: u32) -> Vec<u32> {
        self.processes(|words| words == format!("sleep\0{seconds}\0").as_bytes())
    }

    /// Waits until `sleep SECONDS` runs.
    pub(crate) async fn sleeps(&self, seconds: u32) -> u32 {
        until(&format!("sleep {seconds} runs"), async || self.sleepers(seconds).pop()).await
    }
}

/// Kills what a test left behind, and fails if the test itself did not fail.
impl Drop for InstanceLab {
    fn drop(&mut self) {
        let left = self.processes(|_| true);
        for pid in &left {
            signal(*pid, Signal::KILL);
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "the test left processes behind: {left:?}");
        }
    }
}

/// A running example `run`.
pub(crate) struct Agent {
    child: Child,
}

impl Agent {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub(crate) fn signal(&self, what: Signal) {
        signal(self.pid(), what);
    }

    /// Waits for the end; the output is standard output and standard error, one after the other.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String) {
        let (mut out, mut err) = (String::new(), String::new());
        let (mut stdout, mut stderr) = (self.child.stdout.take().unwrap(), self.child.stderr.take().unwrap());
        let all = async {
            tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err)).unwrap();
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(WITHIN, all).await.expect("the agent ends");
        (status, out + &err)
    }

    /// Sends SIGTERM and waits for a successful end.
    pub(crate) async fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (status, output) = self.ended().await;
        assert!(status.success(), "{status}: {output}");
        output
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal);
}

pub(crate) fn is_alive(pid: u32) -> bool {
    linchpin_shared::process::Identity::of(pid).is_ok()
}

pub(crate) fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// An example. `cargo test` builds examples before it runs tests, except when told to run only some; then it is built here.
pub(crate) fn example(name: &str) -> PathBuf {
    static BUILT: Mutex<()> = Mutex::new(());
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    let _one_at_a_time = BUILT.lock();
    if !path.exists() {
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", env!("CARGO_PKG_NAME"), "--example", name]);
        assert!(cargo.status().unwrap().success() && path.exists(), "{} cannot be built", path.display());
    }
    path
}
