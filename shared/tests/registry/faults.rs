//! Faults of directories, files and locks.

use crate::lab::{Other, RegistryLab, record};
use linchpin_shared::problem::Code;
use linchpin_shared::registry::{Lease, Owner, Scan};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use uuid::Uuid;

/// 23: the directory is removed, or moved away.
#[test]
fn owner_writes_a_lost_record_again() {
    let lab = RegistryLab::new();
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
fn lost_lease_file_does_not_make_its_owner_dead() {
    let lab = RegistryLab::new();
    let mut registration = lab.register("shop");
    let id = registration.record().id;
    let lease = lab.registry.dir().join(format!("{id}.lease"));
    std::fs::remove_file(&lease).unwrap();
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Alive)], "its process runs");
    assert!(!lab.registry.sweep(id).unwrap());
    assert!(registration.ensure().unwrap());
    assert!(lease.exists());
}

/// 21, 14: without a lease file the process identity decides, which differs after a boot or for a reused pid.
#[test]
fn record_of_an_earlier_boot_is_dead() {
    let lab = RegistryLab::new();
    let mut registration = lab.register("shop");
    let id = registration.record().id;
    registration.update(|record| record.process.boot_id = String::from("earlier")).unwrap();
    std::fs::remove_file(lab.registry.dir().join(format!("{id}.lease"))).unwrap();
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Dead)]);
    assert!(lab.registry.sweep(id).unwrap());
    assert_eq!(lab.owners(), []);
}

#[test]
fn rewrite_keeps_unknown_fields() {
    let lab = RegistryLab::new();
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
fn record_of_a_newer_format_is_read_and_never_rewritten() {
    let lab = RegistryLab::new();
    let mut registration = lab.register("shop");
    let path = lab.scan().entries[0].path.clone();
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["format"] = 2.into();
    json["version"] = "9.0.0".into();
    std::fs::write(&path, json.to_string()).unwrap();
    assert!(!registration.ensure().unwrap());
    assert_eq!(lab.scan().entries[0].record.version, "9.0.0");
}

/// 20, 66: every kind of file that must not be trusted, beside two good records.
#[test]
fn bad_files_are_named_and_affect_no_other_record() {
    let lab = RegistryLab::new();
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

/// 3: the leftovers of a writer that was killed while writing.
#[test]
fn unfinished_write_is_no_record_and_is_removed() {
    let lab = RegistryLab::new();
    let left = lab.plant(".new-1-1-abcdef", b"{\"format\":1,");
    assert_eq!(lab.scan(), Scan::default());
    lab.registry.tidy().unwrap();
    assert!(!left.exists());
}

/// Without a lease file, the process proves that the owner is alive.
#[test]
fn second_owner_is_refused_after_a_lost_lease_file() {
    let lab = RegistryLab::new();
    let mut first = lab.start("shop", "/project");
    assert_eq!(first.outcome(), "registered");
    std::fs::remove_file(lab.registry.dir().join(format!("{}.lease", record("shop", "/project").id))).unwrap();
    let problem = lab.registry.register(record("shop", "/project")).unwrap_err();
    assert_eq!((problem.code, problem.observed["pid"].as_u64()), (Code::NameTaken, Some(first.child.id().into())));
}

#[test]
fn owner_without_its_lease_file_still_unregisters() {
    let lab = RegistryLab::new();
    let registration = lab.register("shop");
    std::fs::remove_file(lab.registry.dir().join(format!("{}.lease", registration.record().id))).unwrap();
    registration.unregister().unwrap();
    assert_eq!(lab.scan(), Scan::default());

    // It must not remove the record of another owner, which came when the directory was gone.
    let lost = lab.register("shop");
    std::fs::rename(lab.registry.dir(), lab.root.path().join("aside")).unwrap();
    let mut other = lab.start("shop", "/project");
    assert_eq!(other.outcome(), "registered");
    lost.unregister().unwrap();
    assert_eq!(lab.owners(), [(String::from("shop"), Owner::Alive)]);
}

#[test]
fn name_wanted_by_many_goes_to_exactly_one() {
    let lab = RegistryLab::new();
    let mut others: Vec<_> = (0..12).map(|number| lab.start("shop", &format!("/project/{number}"))).collect();
    let mut outcomes: Vec<_> = others.iter_mut().map(Other::outcome).collect();
    outcomes.sort();
    assert_eq!(outcomes.pop().unwrap(), "registered");
    assert!(outcomes.iter().all(|outcome| outcome == "NameTaken"), "{outcomes:?}");
}

#[test]
fn registrations_of_128_processes_at_once_all_succeed() {
    let lab = RegistryLab::new();
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
fn scans_and_sweeps_never_disturb_registrations() {
    let lab = RegistryLab::new();
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

/// 22: the holder of the directory lock does not release it; a waiting writer learns the holder.
#[test]
fn stopped_lock_holder_is_named_and_readers_continue() {
    let lab = RegistryLab::new();
    let _shop = lab.register("shop");
    let _held = Lease::acquire(&lab.registry.dir().join(".lock"), Duration::ZERO).unwrap().unwrap();
    let problem = lab.registry.register(record("other", "/project")).unwrap_err();
    assert_eq!(problem.code, Code::LockTimeout);
    assert_eq!(problem.observed["pid"], std::process::id());
    assert_eq!(lab.owners().len(), 1);
}

#[test]
fn directory_open_to_others_is_refused() {
    let lab = RegistryLab::new();
    std::fs::set_permissions(lab.registry.dir(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(lab.registry.register(record("shop", "/project")).unwrap_err().code, Code::HomeUnusable);
}
