//! Which instance has which name: a hint, so that who registers need not read every record.
//!
//! Owns `.names` in the registry directory, one line an instance: its id, its name and a full stop, with blanks between.
//! Invariant: only who holds the directory lock writes it; a line counts only if it is whole and no other contradicts it.
//! What it says is used only to leave a record unread: an id is made of the name, so it never gets another one. Without
//! the file, or with a broken one, records are read instead: that costs time and nothing else.
//! Never: says that anybody lives, or is believed about an id that it does not name.

use super::atomic::Prepared;
use super::private;
use super::scan::record_path;
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use uuid::Uuid;

/// The file.
const FILE: &str = ".names";

/// The largest file that is read, in bytes: 50,000 instances.
const MAX_BYTES: u64 = 4 << 20;

/// So many lines may name nobody before the file is written anew; at least half of it are such lines then.
const SPARE: usize = 256;

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// `None`: lines contradict each other.
    by_id: BTreeMap<Uuid, Option<String>>,
}

impl Names {
    /// Reads the file.
    pub(super) fn read(dir: &Path) -> Self {
        let mut names = Self::default();
        let bytes = private::read(&dir.join(FILE), MAX_BYTES).unwrap_or_default();
        for line in bytes.split(|byte| *byte == b'\n') {
            if let Some((id, name)) = parse(line) {
                let known = names.by_id.entry(id).or_insert_with(|| Some(name.to_owned()));
                if known.as_deref() != Some(name) {
                    *known = None;
                }
            }
        }
        names
    }

    /// Whether this instance surely has another name.
    pub(super) fn differs(&self, id: Uuid, name: &str) -> bool {
        matches!(self.by_id.get(&id), Some(Some(known)) if known != name)
    }

    /// Writes down the name of an instance. To be called under the directory lock, before its record is there.
    pub(super) fn note(mut self, dir: &Path, id: Uuid, name: &str, present: usize) -> io::Result<()> {
        if self.by_id.len() > 2 * present + SPARE {
            self.by_id.retain(|id, _| record_path(dir, *id).exists());
            self.by_id.insert(id, Some(name.to_owned()));
            let known = self.by_id.iter().filter_map(|(id, name)| Some((id, name.as_ref()?)));
            let lines: String = known.map(|(id, name)| format!("{id} {name} .\n")).collect();
            return Prepared::new(&dir.join(FILE), lines.as_bytes())?.place();
        }
        if self.by_id.contains_key(&id) {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        let (mut file, facts) = private::open(&dir.join(FILE), flags)?;
        // A line that was cut short by the death of its writer must not swallow this one.
        let before = if facts.len() == 0 { "" } else { "\n" };
        file.write_all(format!("{before}{id} {name} .").as_bytes())
    }
}

fn parse(line: &[u8]) -> Option<(Uuid, &str)> {
    let (id, name) = std::str::from_utf8(line.strip_suffix(b" .")?).ok()?.split_once(' ')?;
    Some((id.parse().ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    fn plant(dir: &Path, text: &str) {
        std::fs::write(dir.join(FILE), text).unwrap();
        std::fs::set_permissions(dir.join(FILE), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn what_is_noted_is_known_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        Names::read(dir).note(dir, A, "shop", 0).unwrap();
        Names::read(dir).note(dir, A, "shop", 1).unwrap();
        let names = Names::read(dir);
        assert!(names.differs(A, "other"));
        assert!(!names.differs(A, "shop"), "it has this name");
        assert!(!names.differs(B, "shop"), "nobody knows");
        assert_eq!(std::fs::read_to_string(dir.join(FILE)).unwrap().lines().count(), 1);
    }

    #[test]
    fn broken_and_contradicting_lines_say_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let contradiction = format!("{A} shop .\n{A} other .\n");
        for text in ["", "x", &format!("{A} sh"), &format!("{A} shop\n"), &contradiction, "\0\n .\n", &format!("{A} .")]
        {
            plant(dir, text);
            assert!(!Names::read(dir).differs(A, "third"), "{text:?}");
        }
        // Cut short by its writer's death; the next one is whole all the same.
        plant(dir, &format!("{A} sh"));
        Names::read(dir).note(dir, B, "next", 1).unwrap();
        let names = Names::read(dir);
        assert!(names.differs(B, "shop"));
        assert!(!names.differs(A, "shop"));
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::fs::write(record_path(dir, A), "").unwrap();
        Names::read(dir).note(dir, A, "stays", 1).unwrap();
        for number in 0..2000_u128 {
            Names::read(dir).note(dir, Uuid::from_u128(number + 10), "gone", 1).unwrap();
        }
        assert!(Names::read(dir).by_id.len() <= SPARE + 4);
        assert!(Names::read(dir).differs(A, "gone"));
    }
}
