//! What is removed from the quarantine, so that it cannot fill the disk.
//!
//! Owns its bounds: so many files, so many bytes, and an age for what is no longer among the newest. Pure but for the
//! removal itself. Invariant: the newest file stays whatever it is, and the newest [`SHOWN`] stay however old they are,
//! so that a clock that jumps takes away nothing that is shown. Never: touches a file that was not put aside by us.

use super::{Registry, why_of};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// So many are kept at most: enough to see a pattern.
const MOST: usize = 100;

/// So many bytes of disk are kept at most, the newest file apart.
const MOST_BYTES: u64 = 256 << 20;

/// So many of the newest are kept however old.
const SHOWN: usize = 20;

/// How long the others are kept, in milliseconds: 30 days.
const LONGEST: u64 = 30 * 24 * 60 * 60 * 1000;

impl Registry {
    /// Removes what is too much or too old from the quarantine, each file with its reason, and returns it.
    ///
    /// # Errors
    /// When the quarantine cannot be read, or a file cannot be removed.
    pub fn prune_quarantine(&self) -> io::Result<Vec<PathBuf>> {
        let places = self.places()?;
        let files: Vec<(u64, u64)> = places
            .iter()
            .map(|(at, place)| (*at, place.symlink_metadata().map_or(0, |facts| facts.blocks() * 512)))
            .collect();
        let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
        let surplus: Vec<PathBuf> = places
            .into_iter()
            .zip(surplus(&files, now))
            .filter_map(|((_, place), too_much)| too_much.then_some(place))
            .collect();
        for place in &surplus {
            for path in [place, &why_of(place)] {
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Ok(surplus)
    }
}

/// Of files with time and size, the newest first, which are too much.
fn surplus(files: &[(u64, u64)], now: u64) -> Vec<bool> {
    let mut total = 0u64;
    let judge = |(number, &(at, bytes)): (usize, &(u64, u64))| {
        total = total.saturating_add(if number == 0 { 0 } else { bytes });
        let old = number >= SHOWN && now.saturating_sub(at) > LONGEST;
        number > 0 && (number >= MOST || total > MOST_BYTES || old)
    };
    files.iter().enumerate().map(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;

    fn kept(files: &[(u64, u64)], now: u64) -> usize {
        let surplus = surplus(files, now);
        let kept = surplus.iter().take_while(|too_much| !**too_much).count();
        assert!(surplus[kept..].iter().all(|too_much| *too_much), "the newest are kept");
        kept
    }

    #[test]
    fn number_size_and_age_are_bounded_and_the_newest_stay() {
        let many = |bytes| vec![(1000, bytes); 150];
        assert_eq!(kept(&many(1), 1000), MOST);
        assert_eq!(kept(&many(1), 1000 + LONGEST), MOST);
        assert_eq!(kept(&many(1), 1001 + LONGEST), SHOWN);
        assert_eq!(kept(&many(MOST_BYTES / 2), 1000), 3);
        assert_eq!(kept(&many(10 * MOST_BYTES), u64::MAX), 1);
        assert_eq!(kept(&[], 0), 0);
    }

    /// Fault 20: junk, again and again, does not fill the disk.
    #[test]
    fn a_file_goes_with_its_reason_and_what_is_not_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        home.prepare().unwrap();
        let (registry, quarantine) = (Registry::new(&home), home.instances().join("quarantine"));
        for number in 0..MOST + 5 {
            std::fs::write(quarantine.join(format!("x.json.{}", 1000 + number)), "x").unwrap();
            std::fs::write(quarantine.join(format!("x.json.{}.why", 1000 + number)), "{}").unwrap();
        }
        std::fs::write(quarantine.join("mine"), "x").unwrap();
        // All of them are very old.
        assert_eq!(registry.prune_quarantine().unwrap().len(), MOST + 5 - SHOWN);
        assert_eq!(quarantine.read_dir().unwrap().count(), 2 * SHOWN + 1);
        assert_eq!(registry.aside().unwrap().files, SHOWN);
        assert_eq!(registry.aside().unwrap().since.unwrap().as_millisecond(), 1000 + (MOST + 5 - SHOWN) as i64);
        assert_eq!(registry.prune_quarantine().unwrap(), [] as [PathBuf; 0]);
    }
}
