//! Puts an unusable journal aside: it becomes `journal.<why>-<when>.db`, together with its write-ahead log. No journal is
//! ever removed.

use super::store::JournalError;
use jiff::Timestamp;
use linchpin_shared::problem::Problem;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Renames the journal at `path`, and describes that as a problem.
pub(super) fn put_aside(path: &Path, error: &JournalError) -> io::Result<Problem> {
    let (name, why) = match error {
        JournalError::Newer(version) => {
            (format!("form-{version}"), format!("a later Linchpin wrote it, with schema version {version}"))
        }
        JournalError::Corrupt(why) => (String::from("broken"), why.clone()),
        JournalError::Locked | JournalError::Io(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let to = free_name(path, &name);
    std::fs::rename(path, &to)?;
    // Without its log the journal would lack its last changes, and with the log of another journal it would be damaged.
    match std::fs::rename(with_suffix(path, "-wal"), with_suffix(&to, "-wal")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) | Ok(()) => {}
    }
    let _ = std::fs::remove_file(with_suffix(path, "-shm"));
    let shown = to.display();
    let problem = super::unusable(format!("the journal was put aside and a new one was created: {why}"), path)
        .seen("put_aside_at", Timestamp::now().to_string())
        .seen("kept_as", shown.to_string());
    Ok(match error {
        JournalError::Newer(_) => problem.next(format!(
            "to use it with the later Linchpin again: linchpin hub stop; mv {shown} {}; then start the later one",
            path.display()
        )),
        JournalError::Corrupt(_) | JournalError::Locked | JournalError::Io(_) => problem
            .next(format!("to see what can be recovered from it: sqlite3 {shown} .recover"))
            .next(format!("when it is no longer needed: rm {shown}*")),
    })
}

/// A name that is not taken yet.
fn free_name(path: &Path, why: &str) -> PathBuf {
    let when = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let name = |more: String| path.with_file_name(format!("journal.{why}-{when}{more}.db"));
    let numbered = (1..).map(|number: u32| name(format!("-{number}")));
    let mut names = std::iter::once(name(String::new())).chain(numbered);
    names.find(|name| name.symlink_metadata().is_err()).unwrap_or_else(|| name(String::from("-more")))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The journals in this directory that were put aside.
#[cfg(test)]
pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let was_put_aside = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("journal.") && name.ends_with(".db") && name != "journal.db"
    };
    let mut files: Vec<_> = dir.read_dir().into_iter().flatten().flatten().map(|file| file.path()).collect();
    files.retain(was_put_aside);
    files.sort();
    files
}
