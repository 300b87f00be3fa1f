//! A registry in a private home, and other processes that register in it.

use linchpin_shared::home::Home;
use linchpin_shared::process::Identity;
use linchpin_shared::registry::record::{Protocol, Record, instance_id};
use linchpin_shared::registry::{Owner, Registration, Registry, Scan};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use tempfile::TempDir;
use uuid::Uuid;

/// A private home.
pub(crate) struct RegistryLab {
    pub(crate) registry: Registry,
    pub(crate) root: TempDir,
}

impl RegistryLab {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        home.prepare().unwrap();
        Self { registry: Registry::new(&home), root }
    }

    pub(crate) fn register(&self, name: &str) -> Registration {
        self.registry.register(record(name, "/project")).unwrap()
    }

    pub(crate) fn scan(&self) -> Scan {
        self.registry.scan().unwrap()
    }

    /// Name and owner of every entry.
    pub(crate) fn owners(&self) -> Vec<(String, Owner)> {
        self.scan().entries.into_iter().map(|entry| (entry.record.name, entry.owner)).collect()
    }

    pub(crate) fn plant(&self, file: &str, bytes: &[u8]) -> PathBuf {
        let path = self.registry.dir().join(file);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        path
    }

    /// Starts another process that registers `name`.
    pub(crate) fn start(&self, name: &str, project: &str) -> Other {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lab::child_that_registers", "--ignored", "--nocapture", "--test-threads=1"])
            .env("LINCHPIN_HOME", self.root.path().join("home"))
            .env("TEST_NAME", name)
            .env("TEST_PROJECT", project)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Other { stdin: child.stdin.take(), child, lines }
    }
}

/// A record of this process.
pub(crate) fn record(name: &str, project: &str) -> Record {
    Record {
        format: 1,
        id: instance_id(Path::new(project), name),
        name: name.to_owned(),
        generation: Uuid::now_v7(),
        endpoint: String::from("http://127.0.0.1:41873"),
        protocol: Protocol::H2c,
        process: Identity::current().unwrap(),
        project_dir: PathBuf::from(project),
        version: String::from("0.1.0"),
        secret: String::from("c2VjcmV0"),
        services: Vec::new(),
        servers: Vec::new(),
        labels: BTreeMap::new(),
        registered_at: jiff::Timestamp::now(),
        other: serde_json::Map::new(),
    }
}

/// Another process with a registration; killed when dropped.
pub(crate) struct Other {
    pub(crate) child: Child,
    stdin: Option<ChildStdin>,
    lines: BufReader<std::process::ChildStdout>,
}

impl Other {
    /// What it says of its registration: `registered`, or the code of the problem.
    pub(crate) fn outcome(&mut self) -> String {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some((_, outcome)) = line.split_once("OUTCOME ") {
                return outcome.trim().to_owned();
            }
            line.clear();
        }
        String::from("ended")
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn unregister(&mut self) {
        drop(self.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs in the processes that [`RegistryLab::start`] starts: registers, waits for the end of its input, unregisters.
#[test]
#[ignore = "started by the other tests, in processes of their own"]
fn child_that_registers() {
    let var = |name| std::env::var(name).unwrap();
    let registry = Registry::new(&Home::from_env().unwrap());
    match registry.register(record(&var("TEST_NAME"), &var("TEST_PROJECT"))) {
        Ok(registration) => {
            println!("OUTCOME registered");
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            registration.unregister().unwrap();
        }
        Err(problem) => println!("OUTCOME {:?}", problem.code),
    }
}
