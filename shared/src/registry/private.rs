//! Opening files that only we may have written.
//!
//! Owns the check of every file that the registry reads: a regular file of this user, closed to all others, with one
//! name, no larger than its bound. Invariant: what was checked is the open file itself, not what its path may name by
//! now; links are not followed, and a pipe or a device cannot make the opener wait.
//! Never: repairs a file that fails the check, or lets its descriptor reach a child process.

use crate::problem::{Code, Problem};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// It cannot be opened or read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The path names a symbolic link.
    #[error("it is a symbolic link")]
    Link,
    /// It is a directory, a pipe or a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// It belongs to another user.
    #[error("it belongs to user {0}")]
    Owner(u32),
    /// Others may read or write it.
    #[error("its mode {0:04o} opens it to others")]
    Mode(u32),
    /// It has another name too, which may be out of our hands.
    #[error("it has {0} names (hard links)")]
    Names(u64),
    /// It is larger than its bound.
    #[error("its {size} bytes are more than {max}")]
    Size {
        /// How large it is.
        size: u64,
        /// How large it may be.
        max: u64,
    },
}

impl Untrusted {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// As a problem with this code, naming the file.
    #[must_use]
    pub fn problem(&self, code: Code, path: &Path) -> Problem {
        let what = format!("cannot use {}", path.display());
        let problem = match self {
            Self::Io(error) => Problem::from_io(error, code, what),
            Self::Link | Self::NotAFile | Self::Owner(_) | Self::Mode(_) | Self::Names(_) | Self::Size { .. } => {
                Problem::new(code, format!("{what}: {self}"))
            }
        };
        problem.seen("path", path.display().to_string()).next(format!("ls -l {}", path.display()))
    }
}

impl From<Untrusted> for io::Error {
    fn from(why: Untrusted) -> Self {
        match why {
            Untrusted::Io(error) => error,
            Untrusted::Link
            | Untrusted::NotAFile
            | Untrusted::Owner(_)
            | Untrusted::Mode(_)
            | Untrusted::Names(_)
            | Untrusted::Size { .. } => Self::new(io::ErrorKind::PermissionDenied, why.to_string()),
        }
    }
}

/// The whole of a private file of at most `max` bytes.
///
/// # Errors
/// Why it is not read.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, Untrusted> {
    let (file, facts) = open(path, OFlags::RDONLY)?;
    let too_large = |size| Untrusted::Size { size, max };
    if facts.len() > max {
        return Err(too_large(facts.len()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(facts.len()).unwrap_or_default());
    // It may have grown since.
    file.take(max + 1).read_to_end(&mut bytes)?;
    let size = bytes.len() as u64;
    if size > max { Err(too_large(size)) } else { Ok(bytes) }
}

/// Opens a private file; with `OFlags::CREATE` it is made, mode 0600.
pub(crate) fn open(path: &Path, flags: OFlags) -> Result<(File, Metadata), Untrusted> {
    let safe = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.read(!flags.contains(OFlags::WRONLY)).write(flags.intersects(OFlags::WRONLY | OFlags::RDWR));
    options.append(flags.contains(OFlags::APPEND)).create(flags.contains(OFlags::CREATE));
    let opened = options.mode(0o600).custom_flags(safe.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => Untrusted::Link,
        Some(Errno::ISDIR | Errno::NXIO) => Untrusted::NotAFile,
        Some(_) | None => Untrusted::Io(error),
    })?;
    let facts = file.metadata()?;
    check(&facts)?;
    Ok((file, facts))
}

/// Opens a private file to add to its end; made if there is none, mode 0600.
///
/// # Errors
/// Why it is not opened.
pub fn append(path: &Path) -> Result<File, Untrusted> {
    open(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE).map(|(file, _)| file)
}

fn check(facts: &Metadata) -> Result<(), Untrusted> {
    if !facts.is_file() {
        return Err(Untrusted::NotAFile);
    }
    if facts.uid() != rustix::process::geteuid().as_raw() {
        return Err(Untrusted::Owner(facts.uid()));
    }
    if facts.mode() & 0o077 != 0 {
        return Err(Untrusted::Mode(facts.mode() & 0o7777));
    }
    // None at all: it was removed or replaced after we opened it, which is nobody's fault.
    if facts.nlink() > 1 {
        return Err(Untrusted::Names(facts.nlink()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn private_file(dir: &Path) -> PathBuf {
        let path = dir.join("file");
        std::fs::write(&path, b"0123456789").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn a_private_file_is_read_up_to_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = private_file(dir.path());
        assert_eq!(read(&path, 10).unwrap(), b"0123456789");
        assert!(matches!(read(&path, 9), Err(Untrusted::Size { size: 10, max: 9 })));
        assert!(read(&dir.path().join("none"), 9).unwrap_err().is_missing());
    }

    #[test]
    fn everything_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = private_file(dir.path());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read(&link, 99), Err(Untrusted::Link)));
        assert!(matches!(read(dir.path(), 99), Err(Untrusted::NotAFile)));
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(matches!(read(&pipe, 99), Err(Untrusted::NotAFile)));
        for mode in [0o640, 0o602, 0o604] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path, 99), Err(Untrusted::Mode(seen)) if seen == mode));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::hard_link(&path, dir.path().join("second")).unwrap();
        assert!(matches!(read(&path, 99), Err(Untrusted::Names(2))));
    }

    /// Fault 67: the file that is checked is the file that is read, whatever its path names an instant later.
    #[test]
    fn a_path_that_changes_all_the_time_never_leads_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (private_file(dir.path()), dir.path().join("other"));
        std::fs::write(&other, "precious").unwrap();
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o644)).unwrap();
        let (own, link) = (dir.path().join("own"), dir.path().join("link"));
        let mut seen = [0, 0];
        std::thread::scope(|scope| {
            let (from, to, target) = (&own, &link, &other);
            let place = &path;
            let changing = scope.spawn(move || {
                for _ in 0..1_500 {
                    std::os::unix::fs::symlink(target, to).unwrap();
                    std::fs::rename(to, place).unwrap();
                    std::fs::hard_link(target, to).unwrap();
                    std::fs::rename(to, place).unwrap();
                    std::fs::write(from, b"0123456789").unwrap();
                    std::fs::set_permissions(from, std::fs::Permissions::from_mode(0o600)).unwrap();
                    std::fs::rename(from, place).unwrap();
                }
            });
            while !changing.is_finished() {
                match read(&path, 99) {
                    Ok(bytes) => {
                        assert_eq!(bytes, b"0123456789");
                        seen[0] += 1;
                    }
                    Err(_) => seen[1] += 1,
                }
            }
        });
        assert!(seen[0] > 0 && seen[1] > 0, "it was never both: {seen:?}");
        assert_eq!(std::fs::read(&other).unwrap(), b"precious");
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        // A file that root owns, seen by anybody else; where the tests run as root, one that is given away.
        let dir = tempfile::tempdir().unwrap();
        let path = private_file(dir.path());
        let path = if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            path
        } else {
            PathBuf::from("/etc/hostname")
        };
        assert!(matches!(read(&path, 1 << 20), Err(Untrusted::Owner(_))));
    }

    #[test]
    fn a_problem_names_the_file_and_what_to_look_at() {
        let problem = Untrusted::Mode(0o644).problem(Code::BadRecord, Path::new("/x/y.json"));
        assert_eq!(problem.detail, "cannot use /x/y.json: its mode 0644 opens it to others");
        assert_eq!(problem.next_steps, ["ls -l /x/y.json"]);
    }
}
