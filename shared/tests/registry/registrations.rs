//! Registering, unregistering and names.

use crate::lab::{RegistryLab, record};
use linchpin_shared::problem::Code;
use linchpin_shared::process::Signal;
use linchpin_shared::registry::{Owner, Scan};
use std::os::unix::fs::PermissionsExt;
use uuid::Uuid;

#[test]
fn registration_is_alive_then_dead_then_swept() {
    let lab = RegistryLab::new();
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
fn unregistering_leaves_only_the_directory_lock() {
    let lab = RegistryLab::new();
    lab.register("shop").unregister().unwrap();
    let mut left: Vec<_> = lab.registry.dir().read_dir().unwrap().map(|file| file.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".lock", ".names", "quarantine"]);
}

/// 1, 22: the kernel frees the locks of a killed process.
#[test]
fn killed_owner_is_dead_at_once_and_frees_its_name() {
    let lab = RegistryLab::new();
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
fn stopped_owner_is_alive() {
    let lab = RegistryLab::new();
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
fn taken_name_reports_its_holder_and_next_steps() {
    let lab = RegistryLab::new();
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
fn taken_name_is_recognised_in_any_spelling() {
    let lab = RegistryLab::new();
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
fn owner_of_an_unreadable_record_keeps_its_name() {
    let lab = RegistryLab::new();
    let mut other = lab.start("shop", "/project");
    assert_eq!(other.outcome(), "registered");
    std::fs::write(&lab.scan().entries[0].path, b"{").unwrap();
    let problem = lab.registry.register(record("shop", "/project")).unwrap_err();
    assert_eq!(problem.code, Code::NameTaken);
    assert_eq!(problem.observed["pid"], other.child.id());
}

#[test]
fn invalid_record_is_not_written() {
    let lab = RegistryLab::new();
    let mut far = record("shop", "/project");
    far.endpoint = String::from("http://10.0.0.1:80");
    assert_eq!(lab.registry.register(far).unwrap_err().code, Code::BadRecord);
    assert_eq!(lab.registry.register(record("No Name", "/project")).unwrap_err().code, Code::BadName);
    let mut registration = lab.register("shop");
    assert!(registration.update(|record| record.name = String::from("No Name")).is_err());
    assert!(registration.update(|record| record.id = Uuid::nil()).is_err());
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Alive)]);
}
