//! What becomes of a journal that cannot be used.
//!
//! Owns the names: `journal.<why>-<when>.db` beside it, with its write-ahead log. Never: removes a journal.

use super::store::Trouble;
use jiff::Timestamp;
use linchpin_shared::problem::Problem;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Gives the journal at `path` another name and says so.
pub(super) fn put(path: &Path, trouble: &Trouble) -> io::Result<Problem> {
    let (name, why) = match trouble {
        Trouble::Newer(form) => (format!("form-{form}"), format!("it is of form {form}, of a later Linchpin")),
        Trouble::Broken(why) => (String::from("broken"), why.clone()),
        Trouble::Locked | Trouble::Failing(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let to = free(path, &name);
    std::fs::rename(path, &to)?;
    // Without its log it would lack what was written last; with another's log it would be damaged.
    match std::fs::rename(with(path, "-wal"), with(&to, "-wal")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) | Ok(()) => {}
    }
    let _ = std::fs::remove_file(with(path, "-shm"));
    let shown = to.display();
    let problem = super::unusable(format!("the journal was put aside and a new one begun: {why}"), path)
        .seen("put_aside_at", Timestamp::now().to_string())
        .seen("kept_as", shown.to_string());
    Ok(match trouble {
        Trouble::Newer(_) => problem.next(format!(
            "to go back to the later Linchpin with it: linchpin hub stop; mv {shown} {}; then start that one",
            path.display()
        )),
        Trouble::Broken(_) | Trouble::Locked | Trouble::Failing(_) => problem
            .next(format!("to see what is left in it: sqlite3 {shown} .recover"))
            .next(format!("when it is of no use any more: rm {shown}*")),
    })
}

/// A name that nothing has yet.
fn free(path: &Path, why: &str) -> PathBuf {
    let when = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let name = |more: String| path.with_file_name(format!("journal.{why}-{when}{more}.db"));
    let numbered = (1..).map(|number: u32| name(format!("-{number}")));
    let mut names = std::iter::once(name(String::new())).chain(numbered);
    names.find(|name| name.symlink_metadata().is_err()).unwrap_or_else(|| name(String::from("-more")))
}

fn with(path: &Path, tail: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(tail);
    name.into()
}

/// The files that were put aside in this directory.
#[cfg(test)]
pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let is_aside = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("journal.") && name.ends_with(".db") && name != "journal.db"
    };
    let mut files: Vec<_> = dir.read_dir().into_iter().flatten().flatten().map(|file| file.path()).collect();
    files.retain(is_aside);
    files.sort();
    files
}
