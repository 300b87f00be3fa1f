//! The lab for the doctor: a home in which single things are wrong, and processes that hold something. Each ends with
//! its owner.

use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::process::{Identity, Signal};
use linchpin_shared::registry::record::{Protocol, Record, instance_id};
use linchpin_shared::registry::{Lease, Registration, Registry};
use linchpin_tests::lab::Lab;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use uuid::Uuid;

/// The bound of every verb here, in seconds: the doctor waits 5 s at most for a lock, and 1 s for each other thing.
const BOUND: &str = "30";

pub(crate) struct DoctorLab {
    lab: Lab,
    pub(crate) home: Home,
    pub(crate) registry: Registry,
}

/// The exit code and the output of a doctor.
pub(crate) struct Said {
    pub(crate) code: i32,
    /// Standard output and standard error.
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl DoctorLab {
    pub(crate) fn new() -> Self {
        let lab = Lab::on_any_port().unwrap();
        let home = Home::at(lab.home());
        home.prepare().unwrap();
        Self { lab, registry: Registry::new(&home), home }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.lab.dir().join(name)
    }

    /// A verb of the real binary, bounded in time.
    pub(crate) fn linchpin(&self, arguments: &[&str]) -> Command {
        self.bounded(&["timeout"], arguments)
    }

    /// A verb of the real binary that these words run; the last of them limits its time.
    pub(crate) fn bounded(&self, run_by: &[&str], arguments: &[&str]) -> Command {
        let mut command = self.lab.command(run_by[0]);
        command.args(&run_by[1..]).arg(BOUND).arg(self.lab.binary()).args(arguments).stdin(Stdio::null());
        command.into_std()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        said(&mut self.linchpin(&[&["doctor"], arguments].concat()))
    }

    pub(crate) fn doctor(&self, arguments: &[&str]) -> Said {
        self.run(&[arguments, &["--json"]].concat())
    }

    pub(crate) fn plant(&self, file: &str, bytes: &[u8]) -> PathBuf {
        let path = self.home.root().join(file);
        let mut options = std::fs::OpenOptions::new();
        let mut open = options.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut open, bytes).unwrap();
        path
    }

    /// An instance that is this process, for as long as the result is kept.
    pub(crate) fn live(&self, name: &str) -> Registration {
        self.registry.register(record(name, Identity::current().unwrap())).unwrap()
    }

    /// The record of an instance whose process has ended.
    pub(crate) fn dead(&self, name: &str) -> PathBuf {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let record = record(name, identity);
        let path = self.registry.dir().join(format!("{}.json", record.id));
        drop(self.registry.register(record).unwrap());
        path
    }

    /// Another process that holds the lease at this path, and is stopped.
    pub(crate) fn stopped_holder(&self, path: &Path) -> Holder {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "doctor::lab::child_that_holds_a_lease", "--ignored", "--nocapture", "--test-threads=1"])
            .env("TEST_LEASE", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let holder = Holder(child);
        assert!(lines.map_while(Result::ok).any(|line| line.contains("HELD")), "the child holds the lease");
        holder.signal(Signal::STOP);
        holder
    }

    /// Starts a hub and waits until it serves.
    pub(crate) fn hub(&self, variables: &[(&str, &str)]) -> (Holder, HubFile) {
        let mut command = self.lab.linchpin(["hub"]).into_std();
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // It prints a line when it serves.
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let file = HubFile::current(&self.home).unwrap().unwrap_or_else(|| panic!("the hub said {line:?}"));
        (Holder(child), file)
    }

    /// Every file of the home with its mode, its size and the time of its last change.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let mut files = BTreeSet::new();
        list(self.home.root(), &mut files);
        files
    }

    pub(crate) fn no_hub_ran(&self) {
        for path in [self.home.hub_file(), self.home.hub_lease()] {
            assert!(!path.exists(), "{} was made", path.display());
        }
    }
}

fn list(dir: &Path, files: &mut BTreeSet<String>) {
    for file in dir.read_dir().unwrap() {
        let path = file.unwrap().path();
        let facts = path.symlink_metadata().unwrap();
        files.insert(format!("{} {:o} {} {}", path.display(), facts.mode(), facts.size(), facts.ctime_nsec()));
        if facts.is_dir() {
            list(&path, files);
        }
    }
}

pub(crate) fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let text = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    Said { code: output.status.code().unwrap(), json: serde_json::from_str(&stdout).unwrap_or_default(), text }
}

impl Said {
    /// The checks with this name.
    pub(crate) fn checks(&self, name: &str) -> Vec<&Value> {
        let checks = self.json["checks"].as_array().unwrap_or_else(|| panic!("{}", self.text));
        checks.iter().filter(|check| check["name"] == name).collect()
    }

    /// The only check with this name.
    pub(crate) fn check(&self, name: &str) -> &Value {
        let found = self.checks(name);
        assert_eq!(found.len(), 1, "{name}: {}", self.text);
        found[0]
    }

    /// The check of the record of this instance.
    pub(crate) fn record(&self, name: &str) -> &Value {
        let found = self.checks("record").into_iter().find(|check| check["subject"] == name);
        found.unwrap_or_else(|| panic!("no record {name}: {}", self.text))
    }
}

pub(crate) fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A record of this process.
pub(crate) fn record(name: &str, process: Identity) -> Record {
    Record {
        format: 1,
        id: instance_id(Path::new("/project"), name),
        name: name.to_owned(),
        generation: Uuid::now_v7(),
        endpoint: String::from("http://127.0.0.1:1"),
        protocol: Protocol::H2c,
        process,
        project_dir: PathBuf::from("/project"),
        version: String::from("0.1.0"),
        secret: format!("planted-{name}-secret"),
        services: Vec::new(),
        servers: Vec::new(),
        labels: BTreeMap::new(),
        registered_at: jiff::Timestamp::now(),
        other: serde_json::Map::new(),
    }
}

/// A child that is killed and waited for when dropped, also while it is stopped.
pub(crate) struct Holder(Child);

impl Holder {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        assert!(Identity::of(self.pid()).unwrap().signal(signal).unwrap());
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs in the process that [`DoctorLab::stopped_holder`] starts: takes the lease and keeps it until its input ends.
#[test]
#[ignore = "started by the other tests, in processes of their own"]
fn child_that_holds_a_lease() {
    let path = std::env::var_os("TEST_LEASE").unwrap();
    let lease = Lease::acquire(Path::new(&path), Duration::from_secs(1)).unwrap().unwrap();
    println!("HELD");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(lease);
}
