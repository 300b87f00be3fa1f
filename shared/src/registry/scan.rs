//! Reading the registry: who is there, who is alive, and which files cannot be believed.
//!
//! Owns [`Scan`] and the judgement of an [`Owner`]. Invariant: every record is judged alone, so one bad file never
//! affects another; a held lease proves life, a free one proves death, and only where neither can be had do pid, start
//! ticks and boot decide. Never: needs a lock, writes, follows a link, or takes age for death.

use super::lease::{self, LeaseState};
use super::private::{self, Untrusted};
use super::quarantine::{self, Stamp};
use super::record::{MAX_BYTES, Record};
use crate::problem::{Code, Problem};
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What the registry holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scan {
    /// The records, by name.
    pub entries: Vec<Entry>,
    /// The files that look like records and cannot be believed, by path.
    pub rejected: Vec<Rejected>,
}

/// A record and what is known of its owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The record.
    pub record: Record,
    /// Whether its owner lives.
    pub owner: Owner,
    /// The file it is in.
    pub path: PathBuf,
}

/// Whether the owner of a record lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It holds its lease; or, where there are no locks, its very process runs.
    Alive,
    /// It is proven dead.
    Dead,
}

/// A file that looks like a record and cannot be believed.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
    /// The file as it was, if it is ours and no record: only such a file may be put aside.
    pub stamp: Option<Stamp>,
}

/// Where the record of an instance is.
pub(crate) fn record_path(dir: &Path, id: Uuid) -> PathBuf {
    dir.join(format!("{id}.json"))
}

/// Where the lease of an instance is.
pub(crate) fn lease_path(dir: &Path, id: Uuid) -> PathBuf {
    dir.join(format!("{id}.lease"))
}

/// Reads and judges every record of a registry directory.
pub(crate) fn scan(dir: &Path) -> io::Result<Scan> {
    let mut scan = Scan::default();
    for (path, read) in records(dir)? {
        match read.map(|record| (owner(dir, &record), record)) {
            Ok((Ok(owner), record)) => scan.entries.push(Entry { record, owner, path }),
            Ok((Err(problem), _)) => scan.rejected.push(Rejected { path, problem, stamp: None }),
            Err(rejected) => scan.rejected.push(rejected),
        }
    }
    scan.entries.sort_by(|a, b| (&a.record.name, a.record.id).cmp(&(&b.record.name, b.record.id)));
    scan.rejected.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(scan)
}

/// The records of a directory, not yet judged. One that vanishes while we look was never there.
pub(crate) fn records(dir: &Path) -> io::Result<impl Iterator<Item = (PathBuf, Result<Record, Rejected>)>> {
    let mut paths = Vec::new();
    for file in dir.read_dir()? {
        let path = file?.path();
        if is_record(&path) {
            paths.push(path);
        }
    }
    Ok(paths.into_iter().filter_map(|path| {
        let record = judge(&path).transpose()?;
        Some((path, record))
    }))
}

fn is_record(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

/// The id that a record's file is named after.
pub(crate) fn id_of(path: &Path) -> Option<Uuid> {
    path.file_stem().filter(|_| is_record(path))?.to_str()?.parse().ok()
}

/// Reads the record in this file; `None` where there is no such file.
///
/// # Errors
/// Why it cannot be believed: the file is not private and ours, or holds something else than the record of that id.
pub(crate) fn read(path: &Path) -> Result<Option<Record>, Problem> {
    judge(path).map_err(|rejected| rejected.problem)
}

/// As [`read`], and also whether the file is ours, so that its content alone is at fault.
pub(super) fn judge(path: &Path) -> Result<Option<Record>, Rejected> {
    let reject = |problem, ours: bool| {
        // Told after reading: a file that is written meanwhile shows another stamp at the next look.
        Rejected { path: path.to_owned(), problem, stamp: if ours { Stamp::at(path) } else { None } }
    };
    match private::read(path, MAX_BYTES) {
        Ok(bytes) => believe(path, &bytes).map(Some).map_err(|problem| reject(problem, !quarantine::is_newer(&bytes))),
        Err(why) if why.is_missing() => Ok(None),
        Err(why) => Err(reject(why.problem(Code::BadRecord, path), matches!(why, Untrusted::Size { .. }))),
    }
}

/// The record in these bytes, if the file is named after it.
fn believe(path: &Path, bytes: &[u8]) -> Result<Record, Problem> {
    let record = Record::parse(bytes).map_err(|problem| explain(problem, path))?;
    if record_path(path.parent().unwrap_or(path), record.id) == path {
        return Ok(record);
    }
    let problem = Problem::new(Code::BadRecord, "the file is not named after the id in it");
    Err(explain(problem.seen("id", record.id.to_string()), path))
}

/// Names the file of a problem that its content has.
fn explain(problem: Problem, path: &Path) -> Problem {
    let shown = path.display();
    problem
        .seen("path", shown.to_string())
        .next(format!("head -c 400 {shown}    (what is in it)"))
        .next(format!("rm {shown}    (a live instance writes its record again)"))
}

/// Whether the owner of this record lives.
pub(crate) fn owner(dir: &Path, record: &Record) -> Result<Owner, Problem> {
    let path = lease_path(dir, record.id);
    let alive = match lease::probe(&path) {
        Ok(LeaseState::Held) => true,
        Ok(LeaseState::Free) => false,
        Ok(LeaseState::Missing | LeaseState::Unsupported) => record.process.is_alive(),
        Err(error) => {
            return Err(Problem::from_io(&error, Code::BadRecord, "cannot tell whether its owner lives")
                .seen("path", path.display().to_string())
                .next(format!("ls -l {}", path.display())));
        }
    };
    Ok(if alive { Owner::Alive } else { Owner::Dead })
}
