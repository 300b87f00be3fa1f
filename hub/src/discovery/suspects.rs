//! Which rejected files are put aside, and when.
//!
//! Owns the patience with a file that cannot be read: a writer of another language may write it in place, slowly. Pure:
//! time is an argument. Invariant: a file is due only when it stayed the same over at least three looks and
//! [`SETTLED`]; time in which nobody looked counts as one [`STEP`] at most, since the writer may have been stopped too.
//! Never: touches a file.

use linchpin_shared::registry::{Rejected, Stamp};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// How long a file must have stayed the same.
pub(super) const SETTLED: Duration = Duration::from_secs(1);

/// The most that counts between two looks, and how often is looked while a file is watched.
pub(super) const STEP: Duration = Duration::from_millis(500);

/// The files that may have to be put aside.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    files: BTreeMap<PathBuf, Suspect>,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Suspect {
    stamp: Stamp,
    unchanged: Duration,
    not_before: Instant,
}

impl Suspects {
    /// Takes note of a look, and says which files are due.
    pub(super) fn observe(&mut self, rejected: &[Rejected], now: Instant) -> Vec<Rejected> {
        let passed = self.looked.replace(now).map_or(Duration::ZERO, |before| now - before).min(STEP);
        let mut before = std::mem::take(&mut self.files);
        let mut due = Vec::new();
        for file in rejected {
            let Some(stamp) = file.stamp else { continue };
            let known = before.remove(&file.path).filter(|known| known.stamp == stamp);
            let suspect = match known {
                Some(known) => Suspect { unchanged: (known.unchanged + passed).min(SETTLED), ..known },
                None => Suspect { stamp, unchanged: Duration::ZERO, not_before: now },
            };
            if suspect.unchanged >= SETTLED && now >= suspect.not_before {
                due.push(file.clone());
            }
            self.files.insert(file.path.clone(), suspect);
        }
        due
    }

    /// Leaves a file alone until then.
    pub(super) fn postpone(&mut self, path: &Path, until: Instant) {
        if let Some(suspect) = self.files.get_mut(path) {
            suspect.not_before = until;
        }
    }

    /// Whether some file is being watched, so that the next look should come soon.
    pub(super) fn is_watching(&self) -> bool {
        self.files.values().any(|suspect| suspect.unchanged < SETTLED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linchpin_shared::home::Home;
    use linchpin_shared::registry::Registry;
    use std::os::unix::fs::PermissionsExt;

    /// One bad file, as it is seen before and after a write.
    fn seen() -> [Vec<Rejected>; 2] {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        home.prepare().unwrap();
        let (registry, path) = (Registry::new(&home), home.instances().join("x.json"));
        ["", "more"].map(|bytes| {
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            registry.scan().unwrap().rejected
        })
    }

    #[test]
    fn a_file_is_due_once_it_has_settled_and_no_sooner() {
        let ([file, written], mut suspects, start) = (seen(), Suspects::default(), Instant::now());
        let mut due = |file: &[Rejected], millis| suspects.observe(file, start + Duration::from_millis(millis)).len();
        assert_eq!([due(&file, 0), due(&file, 500), due(&file, 999), due(&file, 1000)], [0, 0, 0, 1]);
        assert_eq!([due(&written, 1100), due(&written, 1600), due(&written, 2100)], [0, 0, 1], "begins anew");
        assert_eq!([due(&[], 2200), due(&written, 2300), due(&written, 2800)], [0, 0, 0], "it was away");
    }

    #[test]
    fn time_in_which_nobody_looked_hardly_counts() {
        let ([file, _], mut suspects, start) = (seen(), Suspects::default(), Instant::now());
        let mut due = |seconds| suspects.observe(&file, start + Duration::from_secs(seconds)).len();
        assert_eq!([due(0), due(3600), due(3601)], [0, 0, 1]);
    }

    #[test]
    fn what_was_postponed_is_left_alone_until_then() {
        let ([file, _], mut suspects, start) = (seen(), Suspects::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        suspects.observe(&file, at(0));
        suspects.observe(&file, at(1));
        assert!(suspects.is_watching());
        assert_eq!(suspects.observe(&file, at(2)).len(), 1);
        assert!(!suspects.is_watching());
        suspects.postpone(&file[0].path, at(9));
        assert_eq!([suspects.observe(&file, at(3)).len(), suspects.observe(&file, at(9)).len()], [0, 1]);
    }
}
