//! The quarantine on real files, with the moves that must not be made.

use super::*;
use crate::home::Home;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

struct Lab {
    _root: TempDir,
    registry: Registry,
}

impl Lab {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        home.prepare().unwrap();
        Self { registry: Registry::new(&home), _root: root }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.registry.dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn rejected(&self, path: &Path) -> Rejected {
        self.registry.scan().unwrap().rejected.into_iter().find(|rejected| rejected.path == path).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let files = self.registry.dir().join(QUARANTINE).read_dir().unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[test]
fn a_bad_file_is_moved_whole_with_its_reason() {
    let lab = Lab::new();
    let path = lab.write("some notes.json", b"hello");
    let place = lab.registry.quarantine(&lab.rejected(&path)).unwrap().unwrap();
    assert!(!path.exists());
    assert_eq!(std::fs::read(&place).unwrap(), b"hello");
    assert!(place.file_name().unwrap().to_str().unwrap().starts_with("some_notes.json."));
    let [shown] = &lab.registry.quarantined(20).unwrap()[..] else { panic!("one is shown") };
    assert_eq!((&shown.path, shown.stamp), (&place, None));
    assert_eq!(shown.problem.observed["path"], path.display().to_string());
    assert_eq!(shown.problem.next_steps.len(), 2);
    std::fs::remove_file(&place).unwrap();
    assert_eq!(lab.registry.quarantined(20).unwrap(), []);
}

#[test]
fn a_file_that_changed_since_is_left_alone() {
    let lab = Lab::new();
    let path = lab.write("notes.json", b"hello");
    let seen = lab.rejected(&path);
    lab.write("notes.json", b"hello, and more");
    assert_eq!(lab.registry.quarantine(&seen).unwrap(), None);
    let seen = lab.rejected(&path);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(lab.registry.quarantine(&seen).unwrap(), None);
    assert_eq!(lab.names(), Vec::<String>::new(), "and no reason is left behind");
}

#[test]
fn a_file_whose_lease_is_held_is_left_alone() {
    let lab = Lab::new();
    let id = Uuid::now_v7();
    let by_name = lab.write(&format!("{id}.json"), b"{\"format\":");
    let by_content = lab.write("copy.json", format!("{{\"format\":1,\"id\":\"{id}\"}}").as_bytes());
    let lease = Lease::acquire(&lease_path(lab.registry.dir(), id), std::time::Duration::ZERO).unwrap();
    for path in [&by_name, &by_content] {
        assert_eq!(lab.registry.quarantine(&lab.rejected(path)).unwrap(), None, "{path:?}");
        assert!(path.exists());
    }
    drop(lease);
    for path in [&by_name, &by_content] {
        assert!(lab.registry.quarantine(&lab.rejected(path)).unwrap().is_some(), "{path:?}");
    }
}

#[test]
fn what_is_not_ours_to_touch_has_no_stamp() {
    let lab = Lab::new();
    let dir = lab.registry.dir();
    let open = lab.write("open.json", b"x");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", dir.join("link.json")).unwrap();
    std::fs::create_dir(dir.join("dir.json")).unwrap();
    let twice = lab.write("twice.json", b"x");
    std::fs::hard_link(&twice, dir.join("again.json")).unwrap();
    lab.write("newer.json", b"{\"format\":2,\"name\":[]}");
    let rejected = lab.registry.scan().unwrap().rejected;
    assert_eq!(rejected.len(), 6);
    for file in rejected {
        assert_eq!(file.stamp, None, "{:?}", file.path);
        assert_eq!(lab.registry.quarantine(&file).unwrap(), None);
    }
}

#[test]
fn only_the_newest_are_shown() {
    let lab = Lab::new();
    let dir = lab.registry.dir().join(QUARANTINE);
    let problem = serde_json::to_vec(&Problem::new(Code::BadRecord, "bad")).unwrap();
    for time in 1..=30 {
        let place = dir.join(format!("x.json.{time}"));
        std::fs::write(&place, b"x").unwrap();
        crate::registry::atomic::write(&why_of(&place), &problem).unwrap();
    }
    let shown = lab.registry.quarantined(20).unwrap();
    assert_eq!(shown.len(), 20);
    assert!(shown[0].path.ends_with("x.json.30") && shown[19].path.ends_with("x.json.11"), "{shown:?}");
}
