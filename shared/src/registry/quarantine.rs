//! Files that cannot be read as records, put aside: `quarantine/`, each beside a `.why` file with the [`Problem`].
//!
//! Owns the move and the list. Invariant: a file is moved only as it was seen: ours, unreadable, unchanged, and with no
//! lease held by who may be writing it; it is moved whole and its reason is there before it,
//! under the same lock.
//! Never: touches a file that is not ours to touch (another owner, a link, an open mode) or a newer format. Only the hub
//! calls this; what it removes again is decided in [`prune`].

mod prune;

use super::atomic::Prepared;
use super::lease::Lease;
use super::record::{FORMAT, MAX_BYTES};
use super::scan::{self, Rejected, lease_path};
use super::{Registry, private};
use crate::home::private_dir;
use crate::problem::{Code, Problem};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Deserialize;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The directory, in that of the registry.
const QUARANTINE: &str = "quarantine";

/// The end of the name of a file that says why another was put aside.
const WHY: &str = ".why";

/// The largest `.why` file that is read, in bytes.
const WHY_MAX: u64 = 64 << 10;

/// The longest part of a file's own name in its new one: both endings must fit into the 255 bytes of a file name.
const NAME_MAX: usize = 200;

/// A file as it was at one look. Any write shows in it, and so does another file in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// The file at this path, itself and not what it may link to.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let facts = std::fs::symlink_metadata(path).ok()?;
        Some(Self {
            file: (facts.dev(), facts.ino()),
            size: facts.len(),
            modified: (facts.mtime(), facts.mtime_nsec()),
        })
    }
}

/// What can be told of a record that cannot be read as one.
#[derive(Debug, Default, Deserialize)]
struct Glimpse {
    #[serde(default)]
    format: serde_json::Value,
    #[serde(default)]
    id: serde_json::Value,
}

impl Glimpse {
    fn of(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }
}

/// How much was put aside and is still there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Aside {
    /// So many files.
    pub files: usize,
    /// When the oldest of them was put aside.
    pub since: Option<jiff::Timestamp>,
}

/// Whether these bytes are a record of a format that came after ours, which is for others to judge.
pub(super) fn is_newer(bytes: &[u8]) -> bool {
    Glimpse::of(bytes).format.as_u64().is_some_and(|format| format > u64::from(FORMAT))
}

impl Registry {
    /// Puts a rejected file aside and returns where it is now; `None` when it is not to be touched, has changed since it
    /// was seen, or somebody holds its lease.
    ///
    /// # Errors
    /// [`Code::LockTimeout`], or what keeps the file from being moved.
    pub fn quarantine(&self, rejected: &Rejected) -> Result<Option<PathBuf>, Problem> {
        // Asked here too, so that nothing is written, again and again, for a file that has to wait.
        let Some(seen) = rejected.stamp.filter(|seen| self.may_be_moved(&rejected.path, *seen)) else {
            return Ok(None);
        };
        let dir = self.quarantine_dir();
        private_dir(&dir)?;
        let place = dir.join(new_name(&rejected.path));
        let why = why_of(&place);
        let cannot = |error: io::Error| {
            Problem::from_io(&error, Code::BadRecord, "cannot put a bad record aside")
                .seen("path", rejected.path.display().to_string())
                .next(format!("ls -ld {}", dir.display()))
        };
        let json =
            serde_json::to_vec_pretty(&put_aside(rejected, &place, &why)).map_err(|error| cannot(error.into()))?;
        let reason = Prepared::new(&why, &json).map_err(cannot)?;
        let _lock = self.lock()?;
        // Looked at before the reason is placed: another may have moved it just now, with a reason of this very name.
        if !self.may_be_moved(&rejected.path, seen) || Stamp::at(&place).is_some() {
            return Ok(None);
        }
        reason.place().map_err(cannot)?;
        let moved = move_aside(&rejected.path, seen, &place);
        if !matches!(moved, Ok(true)) {
            let _ = std::fs::remove_file(&why);
        }
        Ok(moved.map_err(cannot)?.then_some(place))
    }

    /// Whether the file is as it was seen, still no record, and nobody holds the lease of any id that it may be of.
    fn may_be_moved(&self, path: &Path, seen: Stamp) -> bool {
        let unchanged = scan::judge(path).is_err_and(|rejected| rejected.stamp == Some(seen));
        unchanged && !self.is_leased(path)
    }

    fn is_leased(&self, path: &Path) -> bool {
        let inside = private::read(path, MAX_BYTES).map(|bytes| Glimpse::of(&bytes).id).unwrap_or_default();
        let inside = inside.as_str().and_then(|id| id.parse::<Uuid>().ok());
        // What cannot be told is not free.
        scan::id_of(path).into_iter().chain(inside).any(|id| Lease::is_held(&lease_path(&self.dir, id)).unwrap_or(true))
    }

    /// The files that were put aside last, at most so many, the newest first.
    ///
    /// # Errors
    /// When the quarantine cannot be read; none at all is an empty one.
    pub fn quarantined(&self, newest: usize) -> io::Result<Vec<Rejected>> {
        Ok(self.places()?.into_iter().map(|(_, place)| place).filter_map(told).take(newest).collect())
    }

    /// How much is in the quarantine.
    ///
    /// # Errors
    /// As [`Registry::quarantined`].
    pub fn aside(&self) -> io::Result<Aside> {
        let places = self.places()?;
        let oldest = places.last().and_then(|(at, _)| i64::try_from(*at).ok());
        let since = oldest.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
        Ok(Aside { files: places.len(), since })
    }

    /// The files that were put aside, the newest first, each with the time in milliseconds since 1970.
    fn places(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let files = match self.quarantine_dir().read_dir() {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut places: Vec<(u64, PathBuf)> = files.flatten().filter_map(|file| when(&file.path())).collect();
        places.sort_by(|a, b| b.cmp(a));
        Ok(places)
    }

    /// The directory.
    pub(super) fn quarantine_dir(&self) -> PathBuf {
        self.dir.join(QUARANTINE)
    }

    /// The reasons whose file is not there: the mover died before the move, or somebody took the file away.
    pub(super) fn lonely_reasons(&self) -> Vec<PathBuf> {
        let files = self.quarantine_dir().read_dir().into_iter().flatten().flatten().map(|file| file.path());
        files.filter(|path| when(path).is_some_and(|(_, place)| Stamp::at(&place).is_none())).collect()
    }
}

/// Moves it, under the directory lock; `false` when it was put back.
fn move_aside(path: &Path, seen: Stamp, place: &Path) -> io::Result<bool> {
    std::fs::rename(path, place)?;
    // A writer that knows nothing of the lock may have replaced it just now; then that file goes back, unless there is a
    // newer one already.
    let other = Stamp::at(place) != Some(seen);
    Ok(!other || renameat_with(CWD, place, CWD, path, RenameFlags::NOREPLACE).is_err())
}

/// The name in the quarantine: the file's own, with what could confuse a terminal or a shell replaced, and the time.
fn new_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = name.chars().map(safe).take(NAME_MAX).collect();
    format!("{name}.{}", jiff::Timestamp::now().as_millisecond())
}

fn why_of(place: &Path) -> PathBuf {
    let mut why = place.as_os_str().to_owned();
    why.push(WHY);
    why.into()
}

/// When the file that this `.why` belongs to was put aside, and which it is.
fn when(why: &Path) -> Option<(u64, PathBuf)> {
    let place = why.to_str()?.strip_suffix(WHY)?;
    Some((place.rsplit('.').next()?.parse().ok()?, PathBuf::from(place)))
}

/// A file in the quarantine, with its reason. One that was taken away is not there, whatever its `.why` says.
fn told(place: PathBuf) -> Option<Rejected> {
    Stamp::at(&place)?;
    let why = private::read(&why_of(&place), WHY_MAX).ok()?;
    let problem = serde_json::from_slice(&why).ok()?;
    Some(Rejected { path: place, problem, stamp: None })
}

fn put_aside(rejected: &Rejected, place: &Path, why: &Path) -> Problem {
    let mut problem = rejected.problem.clone();
    problem.next_steps.clear();
    problem
        .seen("path", rejected.path.display().to_string())
        .seen("moved_to", place.display().to_string())
        .seen("put_aside_at", jiff::Timestamp::now().to_string())
        .seen("why", why.display().to_string())
        .next(format!("head -c 400 {}    (what is in it)", place.display()))
        .next(format!("rm {} {}    (once nothing in it is needed)", place.display(), why.display()))
}

#[cfg(test)]
mod tests;
