//! The registry with real processes, files and faults. Numbers in comments are rows of the fault catalogue.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use linchpin_shared::home::Home;
use linchpin_shared::problem::Code;
use linchpin_shared::process::{Identity, Signal};
use linchpin_shared::registry::record::{Protocol, Record, instance_id};
use linchpin_shared::registry::{Owner, Registration, Registry, Scan};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;

struct Lab {
    registry: Registry,
    root: TempDir,
}

impl Lab {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        home.prepare().unwrap();
        Self { registry: Registry::new(&home), root }
    }

    fn register(&self, name: &str) -> Registration {
        self.registry.register(record(name, "/project")).unwrap()
    }

    fn scan(&self) -> Scan {
        self.registry.scan().unwrap()
    }

    /// Name and owner of every entry.
    fn owners(&self) -> Vec<(String, Owner)> {
        self.scan().entries.into_iter().map(|entry| (entry.record.name, entry.owner)).collect()
    }

    fn plant(&self, file: &str, bytes: &[u8]) -> PathBuf {
        let path = self.registry.dir().join(file);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        path
    }

    /// Starts another process that registers `name`.
    fn start(&self, name: &str, project: &str) -> Other {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_registers", "--ignored", "--nocapture", "--test-threads=1"])
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

fn record(name: &str, project: &str) -> Record {
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
struct Other {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: BufReader<std::process::ChildStdout>,
}

impl Other {
    /// What it says of its registration: `registered`, or the code of the problem.
    fn outcome(&mut self) -> String {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some((_, outcome)) = line.split_once("OUTCOME ") {
                return outcome.trim().to_owned();
            }
            line.clear();
        }
        String::from("ended")
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn unregister(&mut self) {
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

/// Runs in the processes that [`Lab::start`] starts: registers, waits for the end of its input, unregisters.
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

#[test]
fn a_registration_is_seen_alive_then_dead_then_swept() {
    let lab = Lab::new();
    let registration = lab.register("shop");
    let scan = lab.scan();
    assert_eq!(scan.rejected, []);
    assert_eq!(&scan.entries[0].record, registration.record());
    assert_eq!(scan.entries[0].owner, Owner::Alive);
    assert_eq!(scan.entries[0].path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let id = registration.record().id;
    assert!(!lab.registry.sweep(id).unwrap(), "its owner lives");
    drop(registration);
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Dead)], "nobody said goodbye");
    assert!(lab.registry.sweep(id).unwrap());
    assert_eq!(lab.scan(), Scan::default());
    assert!(lab.registry.sweep(id).unwrap(), "there is nothing left to sweep");
}

#[test]
fn unregistering_leaves_nothing_but_the_directory_lock() {
    let lab = Lab::new();
    lab.register("shop").unregister().unwrap();
    let mut left: Vec<_> = lab.registry.dir().read_dir().unwrap().map(|file| file.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".lock", "quarantine"]);
}

/// 1, 22: the kernel lets go of what a killed process held.
#[test]
fn a_killed_owner_is_dead_at_once_and_its_name_is_free() {
    let lab = Lab::new();
    let mut other = lab.start("shop", "/project");
    assert_eq!(other.outcome(), "registered");
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Alive)]);
    other.kill();
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Dead)]);
    assert!(lab.registry.find_live("shop").is_none());
    let _again = lab.register("shop");
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Alive)]);
}

/// 5: a stopped process is not a dead one.
#[test]
fn a_stopped_owner_is_alive() {
    let lab = Lab::new();
    let mut other = lab.start("shop", "/project");
    assert_eq!(other.outcome(), "registered");
    let identity = lab.scan().entries[0].record.process.clone();
    assert!(identity.signal(Signal::STOP).unwrap());
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Alive)]);
    assert!(!lab.registry.sweep(lab.scan().entries[0].record.id).unwrap());
    assert!(identity.signal(Signal::CONT).unwrap());
    other.unregister();
    assert_eq!(lab.owners(), []);
}

#[test]
fn a_taken_name_says_who_has_it_and_what_to_do() {
    let lab = Lab::new();
    let mut other = lab.start("shop", "/theirs");
    assert_eq!(other.outcome(), "registered");
    for project in ["/theirs", "/mine"] {
        let problem = lab.registry.register(record("shop", project)).unwrap_err();
        assert_eq!(problem.code, Code::NameTaken);
        assert_eq!(problem.observed["pid"], other.child.id());
        assert_eq!(problem.observed["project"], "/theirs");
        assert!(problem.observed["command"].as_str().unwrap().contains("child_that_registers"), "{problem}");
        assert!(problem.observed["record"].as_str().unwrap().ends_with(".json"), "{problem}");
        assert!(problem.observed.contains_key("since"));
        assert!(problem.next_steps[0].contains("--take-over"));
        assert!(problem.next_steps[1].contains("--alongside"));
    }
    let live = lab.registry.find_live("shop").unwrap();
    assert_eq!(live.record.process.pid, other.child.id());
    other.unregister();
    let _mine = lab.registry.register(record("shop", "/mine")).unwrap();
}

#[test]
fn a_name_is_taken_however_it_is_written() {
    let lab = Lab::new();
    let mut theirs = lab.registry.register(record("shop", "/theirs")).unwrap();
    let path = lab.scan().entries[0].path.clone();
    let json = std::fs::read_to_string(&path).unwrap();
    for written in ["\"shop\"", "  \"shop\"", "\"\\u0073hop\""] {
        std::fs::write(&path, json.replace("\"shop\"", written)).unwrap();
        assert_eq!(lab.registry.register(record("shop", "/mine")).unwrap_err().code, Code::NameTaken, "{written}");
    }
    assert!(!theirs.ensure().unwrap());
}

#[test]
fn an_owner_whose_record_is_unreadable_still_has_its_name() {
    let lab = Lab::new();
    let mut other = lab.start("shop", "/project");
    assert_eq!(other.outcome(), "registered");
    std::fs::write(&lab.scan().entries[0].path, b"{").unwrap();
    let problem = lab.registry.register(record("shop", "/project")).unwrap_err();
    assert_eq!(problem.code, Code::NameTaken);
    assert_eq!(problem.observed["pid"], other.child.id());
}

#[test]
fn a_record_that_nobody_would_believe_is_not_written() {
    let lab = Lab::new();
    let mut far = record("shop", "/project");
    far.endpoint = String::from("http://10.0.0.1:80");
    assert_eq!(lab.registry.register(far).unwrap_err().code, Code::BadRecord);
    assert_eq!(lab.registry.register(record("No Name", "/project")).unwrap_err().code, Code::BadName);
    let mut registration = lab.register("shop");
    assert!(registration.update(|record| record.name = String::from("No Name")).is_err());
    assert!(registration.update(|record| record.id = Uuid::nil()).is_err());
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Alive)]);
}

/// 23: the directory is removed, or moved away.
#[test]
fn an_owner_writes_its_record_again() {
    let lab = Lab::new();
    let mut registration = lab.register("shop");
    assert!(!registration.ensure().unwrap());
    let path = lab.scan().entries[0].path.clone();

    std::fs::remove_file(&path).unwrap();
    assert!(registration.ensure().unwrap());

    std::fs::write(&path, b"junk").unwrap();
    assert!(registration.ensure().unwrap());

    std::fs::remove_dir_all(lab.registry.dir()).unwrap();
    assert!(registration.ensure().unwrap());
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Alive)]);

    std::fs::rename(lab.registry.dir(), lab.root.path().join("aside")).unwrap();
    assert!(registration.ensure().unwrap());
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Alive)]);
    assert_eq!(lab.scan().entries[0].record, *registration.record());
    assert!(!registration.ensure().unwrap());
}

#[test]
fn a_lost_lease_file_does_not_make_its_owner_dead() {
    let lab = Lab::new();
    let mut registration = lab.register("shop");
    let id = registration.record().id;
    let lease = lab.registry.dir().join(format!("{id}.lease"));
    std::fs::remove_file(&lease).unwrap();
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Alive)], "its process runs");
    assert!(!lab.registry.sweep(id).unwrap());
    assert!(registration.ensure().unwrap());
    assert!(lease.exists());
}

/// 21, 14: without a lease file the identity decides, and an earlier boot or a reused pid is not it.
#[test]
fn a_record_of_an_earlier_boot_is_dead() {
    let lab = Lab::new();
    let mut registration = lab.register("shop");
    let id = registration.record().id;
    registration.update(|record| record.process.boot_id = String::from("earlier")).unwrap();
    std::fs::remove_file(lab.registry.dir().join(format!("{id}.lease"))).unwrap();
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Dead)]);
    assert!(lab.registry.sweep(id).unwrap());
    assert_eq!(lab.owners(), []);
}

#[test]
fn a_rewrite_keeps_what_others_added() {
    let lab = Lab::new();
    let mut registration = lab.register("shop");
    let path = lab.scan().entries[0].path.clone();
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["weather"] = "sunny".into();
    std::fs::write(&path, json.to_string()).unwrap();
    assert!(!registration.ensure().unwrap(), "nothing of ours was changed");
    registration.update(|record| record.endpoint = String::from("http://127.0.0.1:2")).unwrap();
    let record = &lab.scan().entries[0].record;
    assert_eq!(record.other["weather"], "sunny");
    assert_eq!(record.endpoint, "http://127.0.0.1:2");
    assert_eq!(record, registration.record());
}

#[test]
fn a_record_of_a_newer_format_is_read_and_never_rewritten() {
    let lab = Lab::new();
    let mut registration = lab.register("shop");
    let path = lab.scan().entries[0].path.clone();
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["format"] = 2.into();
    json["version"] = "9.0.0".into();
    std::fs::write(&path, json.to_string()).unwrap();
    assert!(!registration.ensure().unwrap());
    assert_eq!(lab.scan().entries[0].record.version, "9.0.0");
}

/// 20, 66: every kind of file that cannot be believed, beside two good records.
#[test]
fn bad_files_are_named_and_affect_nobody() {
    let lab = Lab::new();
    let _good = [lab.register("first"), lab.register("second")];
    let whole = serde_json::to_vec(&record("bad", "/bad")).unwrap();
    let name = || format!("{}.json", Uuid::now_v7());
    let mut bad = vec![
        lab.plant(&name(), b""),
        lab.plant(&name(), &whole[..whole.len() / 2]),
        lab.plant(&name(), &[0, 159, 146, 150, 255]),
        lab.plant(&name(), &vec![b' '; 100 << 20]),
        lab.plant(&name(), &whole),
        lab.plant("notes.json", b"{}"),
    ];
    let open = lab.plant(&name(), &whole);
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    bad.push(open);
    let outside = lab.root.path().join("outside");
    std::fs::write(&outside, &whole).unwrap();
    std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (hard, soft) = (lab.registry.dir().join(name()), lab.registry.dir().join(name()));
    std::fs::hard_link(&outside, &hard).unwrap();
    std::os::unix::fs::symlink(&outside, &soft).unwrap();
    bad.extend([hard, soft]);
    bad.push(lab.registry.dir().join(name()));
    std::fs::create_dir(bad.last().unwrap()).unwrap();
    lab.plant("README", b"not a record");

    let scan = lab.scan();
    assert_eq!(lab.owners().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    bad.sort();
    assert_eq!(scan.rejected.iter().map(|rejected| &rejected.path).collect::<Vec<_>>(), bad.iter().collect::<Vec<_>>());
    for rejected in &scan.rejected {
        assert_eq!(rejected.problem.code, Code::BadRecord, "{}", rejected.problem);
        assert!(!rejected.problem.next_steps.is_empty());
        assert!(rejected.path.symlink_metadata().is_ok(), "left in place");
    }
    let _third = lab.register("third");
    assert_eq!(lab.owners().len(), 3);
}

/// 3: what a writer that was killed in the midst of it left.
#[test]
fn an_unfinished_write_is_no_record_and_is_cleared_away() {
    let lab = Lab::new();
    let left = lab.plant(".new-1-1-abcdef", b"{\"format\":1,");
    assert_eq!(lab.scan(), Scan::default());
    let _shop = lab.register("shop");
    assert!(!left.exists());
}

#[test]
fn of_many_that_want_one_name_exactly_one_has_it() {
    let lab = Lab::new();
    let mut others: Vec<_> = (0..12).map(|number| lab.start("shop", &format!("/project/{number}"))).collect();
    let mut outcomes: Vec<_> = others.iter_mut().map(Other::outcome).collect();
    outcomes.sort();
    assert_eq!(outcomes.pop().unwrap(), "registered");
    assert!(outcomes.iter().all(|outcome| outcome == "NameTaken"), "{outcomes:?}");
}

#[test]
fn of_128_processes_at_once_none_is_lost() {
    let lab = Lab::new();
    let mut others: Vec<_> = (0..128).map(|number| lab.start(&format!("i{number}"), "/project")).collect();
    for other in &mut others {
        assert_eq!(other.outcome(), "registered");
    }
    let owners = lab.owners();
    assert_eq!(owners.len(), 128);
    assert!(owners.iter().all(|(_, owner)| *owner == Owner::Alive));
    others.iter_mut().for_each(Other::unregister);
    assert_eq!(lab.scan(), Scan::default());
}

#[test]
fn scanning_and_sweeping_never_disturb_those_who_come_and_go() {
    let lab = Lab::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|number| {
                let lab = &lab;
                scope.spawn(move || {
                    for round in 0..10 {
                        let registration = lab.register(&format!("i{number}"));
                        if round % 2 == 0 { registration.unregister().unwrap() } else { drop(registration) }
                    }
                    lab.register(&format!("i{number}"))
                })
            })
            .collect();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            for entry in lab.scan().entries {
                if entry.owner == Owner::Dead {
                    lab.registry.sweep(entry.record.id).unwrap();
                }
            }
        }
        let held: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        assert_eq!(lab.owners().len(), held.len());
        assert!(held.into_iter().all(|mut registration| !registration.ensure().unwrap()), "all were left alone");
    });
}

/// 22: the holder of the directory lock is stopped; who waits is told so and named the holder.
#[test]
fn a_stopped_lock_holder_is_named_and_readers_go_on() {
    use linchpin_shared::registry::Lease;
    let lab = Lab::new();
    let _shop = lab.register("shop");
    let _held = Lease::acquire(&lab.registry.dir().join(".lock"), Duration::ZERO).unwrap().unwrap();
    let problem = lab.registry.register(record("other", "/project")).unwrap_err();
    assert_eq!(problem.code, Code::LockTimeout);
    assert_eq!(problem.observed["pid"], std::process::id());
    assert_eq!(lab.owners().len(), 1);
}

#[test]
fn a_directory_that_others_may_enter_is_refused() {
    let lab = Lab::new();
    std::fs::set_permissions(lab.registry.dir(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(lab.registry.register(record("shop", "/project")).unwrap_err().code, Code::HomeUnusable);
}
