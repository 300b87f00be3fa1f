//! Leases on real files, with the interleavings that are rare made certain.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

const NO_WAIT: Duration = Duration::ZERO;

fn take(path: &Path) -> Option<Lease> {
    Lease::acquire(path, NO_WAIT).unwrap()
}

#[test]
fn one_holder_who_is_named_until_it_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease");
    assert!(!Lease::is_held(&path).unwrap());
    let lease = take(&path).unwrap();
    assert!(Lease::is_held(&path).unwrap());
    assert!(take(&path).is_none());
    assert_eq!(Lease::holder(&path).unwrap(), Identity::current().unwrap());
    drop(lease);
    assert!(!Lease::is_held(&path).unwrap());
    assert!(take(&path).is_some());
}

#[test]
fn the_name_of_a_holder_replaces_a_longer_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease");
    drop(take(&path).unwrap());
    for before in [0, 10, 5000] {
        std::fs::write(&path, vec![b'x'; before]).unwrap();
        let _lease = take(&path).unwrap();
        assert_eq!(Lease::holder(&path).unwrap(), Identity::current().unwrap());
    }
}

#[test]
fn it_is_had_as_soon_as_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease");
    let lease = take(&path).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| Lease::acquire(&path, Duration::from_secs(30)).unwrap());
        drop(lease);
        assert!(waiter.join().unwrap().is_some());
    });
}

#[test]
fn a_probe_is_waited_out_also_by_who_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease");
    let probe = File::create(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    probe.lock_shared().unwrap();
    let attempts = AtomicUsize::new(0);
    let lease = Lease::acquire_by(&path, NO_WAIT, |file| {
        let seen = try_exclusive(file);
        if attempts.fetch_add(1, Ordering::Relaxed) == 1 {
            probe.unlock().unwrap();
        }
        seen
    });
    assert!(lease.unwrap().is_some());
    assert_eq!(attempts.into_inner(), 3);
}

#[test]
fn probes_never_keep_an_owner_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease");
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while taken.load(Ordering::Relaxed) < 200 {
                    Lease::is_held(&path).unwrap();
                }
            });
        }
        for _ in 0..200 {
            // Counted in any case, so that the probes end also when the assertion fails.
            let lease = Lease::acquire(&path, NO_WAIT);
            taken.fetch_add(1, Ordering::Relaxed);
            if !matches!(lease, Ok(Some(_))) {
                taken.store(200, Ordering::Relaxed);
            }
            assert!(matches!(lease, Ok(Some(_))), "{lease:?}");
        }
    });
}

#[test]
fn a_lock_on_a_file_that_was_replaced_is_no_lease() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease");
    let lost = take(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(!lost.is_current());
    let current = take(&path).unwrap();
    assert!(current.is_current());
    lost.remove().unwrap();
    assert!(current.is_current(), "only who is current removes the file");
    current.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_removed_before_it_is_locked_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease");
    let attempts = AtomicUsize::new(0);
    let lease = Lease::acquire_by(&path, NO_WAIT, |file| {
        if attempts.fetch_add(1, Ordering::Relaxed) == 0 {
            std::fs::remove_file(&path).unwrap();
        }
        try_exclusive(file)
    });
    assert!(lease.unwrap().unwrap().is_current());
    assert_eq!(attempts.into_inner(), 2);
}

#[test]
fn a_file_that_is_replaced_before_it_is_probed_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease");
    let next = std::cell::RefCell::new(None);
    drop(take(&path).unwrap());
    let seen = probe_by(&path, |file| {
        if next.borrow().is_none() {
            std::fs::remove_file(&path).unwrap();
            *next.borrow_mut() = take(&path);
        }
        try_shared(file)
    });
    assert_eq!(seen.unwrap(), LeaseState::Held);
}

#[test]
fn who_waits_for_a_removed_lease_gets_the_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease");
    for _ in 0..50 {
        let lease = take(&path).unwrap();
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let lease = Lease::acquire(&path, Duration::from_secs(30)).unwrap().unwrap();
                        assert!(lease.is_current());
                        lease.remove().unwrap();
                    })
                })
                .collect();
            lease.remove().unwrap();
            waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        });
    }
}

#[test]
fn a_child_does_not_inherit_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease");
    let lease = take(&path).unwrap();
    let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    // Closed without unlocking, as at our death: the child must not keep it.
    let file = lease.file.try_clone().unwrap();
    std::mem::forget(lease);
    let links = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    let inherited = links.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok()).any(|target| target == path);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!inherited);
    file.unlock().unwrap();
}

#[test]
fn a_link_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease");
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
    assert!(Lease::acquire(&path, NO_WAIT).is_err());
    assert!(Lease::is_held(&path).is_err());
    assert!(!dir.path().join("elsewhere").exists());
}

#[test]
fn without_locks_the_identity_decides() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lease");
    let take = || Lease::acquire_by(&path, NO_WAIT, |_| Ok(Attempt::Unsupported)).unwrap();
    let lease = take().unwrap();
    assert!(take().is_none(), "its holder is alive");
    let mut dead = Identity::current().unwrap();
    dead.start_ticks += 1;
    lease.file.set_len(0).unwrap();
    lease.file.write_all_at(&serde_json::to_vec(&dead).unwrap(), 0).unwrap();
    assert!(take().is_some(), "its holder is dead");
    assert!(take().is_some(), "its holder let go");
}

#[test]
fn the_errors_of_file_systems_without_locks_are_known() {
    for errno in [libc::ENOLCK, libc::EOPNOTSUPP] {
        assert!(has_no_locks(&io::Error::from_raw_os_error(errno)));
    }
    assert!(!has_no_locks(&io::Error::from_raw_os_error(libc::EIO)));
}
