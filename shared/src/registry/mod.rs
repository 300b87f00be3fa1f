//! The registry: a directory in which instances make themselves known, and by which the hub finds them (see "Registry" in ARCHITECTURE.md).
//!
//! Owns registering, scanning and sweeping; a [`Registration`] is one instance's place in it.
//! Invariant: a record is written whole or not at all, under the directory lock and by who holds its lease; of two live
//! instances no two have one name; a record is removed by its owner, or by a sweeper that took the lease and so proved
//! the owner dead. Never: decides that an instance is dead by age, or lets one bad file affect another.
//!
//! Records are not synced to disk: a rename shows a reader the old or the new one, whole, whatever process dies, and after
//! a power cut the machine has another boot id, with which every record of before is void. What must outlive the machine
//! is written by [`atomic::write`].
//!
//! Everything here blocks: async code calls it by `spawn_blocking`.

pub mod atomic;
mod lease;
mod lock;
mod names;
pub mod private;
mod quarantine;
pub mod record;
mod registration;
mod scan;
mod tidy;

pub use lease::{Lease, LeaseState};
pub use quarantine::{Aside, Stamp};
pub use registration::Registration;
pub use scan::{Entry, Owner, Rejected, Scan};
pub use tidy::Orphan;

use crate::home::{Home, private_dir};
use crate::problem::{Code, Problem};
use crate::process::{Identity, command_line};
use crate::space::cannot_write;
use atomic::Prepared;
use lock::DirLock;
use names::Names;
use record::Record;
use scan::{lease_path, record_path};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// How long a lease may be in the hands of somebody who only looks (a sweeper); an owner keeps it for life.
const LEASE_PATIENCE: Duration = Duration::from_millis(100);

/// The registry of one home.
#[derive(Debug, Clone)]
pub struct Registry {
    dir: PathBuf,
}

impl Registry {
    /// The registry of this home. Touches nothing.
    #[must_use]
    pub fn new(home: &Home) -> Self {
        Self { dir: home.instances() }
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes an instance known: takes its lease for life and writes its record.
    ///
    /// # Errors
    /// [`Code::NameTaken`] when a live instance has the name, [`Code::LockTimeout`] when the directory stays locked, or
    /// what keeps the file from being written.
    pub fn register(&self, record: Record) -> Result<Registration, Problem> {
        let lease = self.publish(&record, || self.take_lease(&record))?;
        Ok(Registration::new(self.clone(), record, lease))
    }

    /// Who is there. Needs no lock, and one bad file never affects another.
    ///
    /// # Errors
    /// When the directory itself cannot be read, `NotFound` when there is none.
    pub fn scan(&self) -> io::Result<Scan> {
        scan::scan(&self.dir)
    }

    /// What the lease of this instance says of its owner, whether or not it has a record.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn lease(&self, id: Uuid) -> io::Result<LeaseState> {
        lease::probe(&lease_path(&self.dir, id))
    }

    /// Who says in the lease of this instance that it holds it; `None` if nobody holds it or it does not say. Of a foreign
    /// program that was registered on its behalf this is another process than that in its record.
    #[must_use]
    pub fn lease_holder(&self, id: Uuid) -> Option<Identity> {
        let path = lease_path(&self.dir, id);
        Lease::holder(&path).filter(|holder| holder.is_alive() && Lease::is_held(&path).unwrap_or(false))
    }

    /// The live instance of this name.
    #[must_use]
    pub fn find_live(&self, name: &str) -> Option<Entry> {
        self.live_entries(name).ok()?.next()
    }

    /// Removes the record and the lease of a dead owner; `false` when the owner lives. A record that is not there any
    /// more counts as removed.
    ///
    /// # Errors
    /// [`Code::LockTimeout`], [`Code::BadRecord`] for a record that cannot be read and is left in place, or what keeps
    /// the files from being removed.
    pub fn sweep(&self, id: Uuid) -> Result<bool, Problem> {
        let _lock = self.lock()?;
        let path = record_path(&self.dir, id);
        let Some(record) = scan::read(&path)? else { return Ok(true) };
        // Asked first, because a lease file that is missing or cannot be locked proves nothing by being taken.
        if scan::owner(&self.dir, &record)? == Owner::Alive {
            return Ok(false);
        }
        let cannot = |error: io::Error| Problem::from_io(&error, Code::BadRecord, "cannot sweep a dead record");
        let lease = Lease::acquire(&lease_path(&self.dir, id), LEASE_PATIENCE).map_err(cannot)?;
        let Some(lease) = lease else { return Ok(false) };
        std::fs::remove_file(&path).and_then(|()| lease.remove()).map_err(cannot)?;
        Ok(true)
    }

    fn lock(&self) -> Result<DirLock, Problem> {
        DirLock::acquire(&self.dir, lock::PATIENCE)
    }

    /// Takes the lease of this record's id; held by another, the same instance runs already.
    fn take_lease(&self, record: &Record) -> Result<Lease, Problem> {
        let path = lease_path(&self.dir, record.id);
        match Lease::acquire(&path, LEASE_PATIENCE) {
            Ok(Some(lease)) => Ok(lease),
            Ok(None) => Err(self.same_instance_runs(record)),
            Err(error) => Err(cannot_write(&error, "cannot take the lease", &path)),
        }
    }

    /// Writes a record whose name no other live instance has, and does `then` right before, under the lock. What may be
    /// slow, writing, is done without the lock: a disk that stalls must not stop the others.
    fn publish<T>(&self, record: &Record, then: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
        check(record)?;
        private_dir(&self.dir)?;
        let path = record_path(&self.dir, record.id);
        let unwritten = |error: io::Error| cannot_write(&error, "cannot write the record", &path);
        let json = serde_json::to_vec(record).map_err(|error| unwritten(error.into()))?;
        let file = Prepared::new(&path, &json).map_err(unwritten)?;
        let _lock = self.lock()?;
        let names = Names::read(&self.dir);
        let ids = self.ids().map_err(unwritten)?;
        self.refuse_taken(record, &ids, &names)?;
        let done = then()?;
        // Without this line the next one reads our record, which is no reason to fail.
        let _ = names.note(&self.dir, record.id, &record.name, ids.len());
        file.place().map_err(unwritten)?;
        Ok(done)
    }

    /// The ids that the files of the registry are named after.
    fn ids(&self) -> io::Result<Vec<Uuid>> {
        Ok(self.dir.read_dir()?.flatten().filter_map(|file| scan::id_of(Path::new(&file.file_name()))).collect())
    }

    /// Refuses a name that another live instance has, and to be the second life of an instance at one time.
    fn refuse_taken(&self, record: &Record, ids: &[Uuid], names: &Names) -> Result<(), Problem> {
        for id in ids.iter().filter(|id| !names.differs(**id, &record.name)) {
            let path = record_path(&self.dir, *id);
            let Ok(Some(other)) = scan::read(&path) else { continue };
            let ours = other.generation == record.generation;
            if !ours && other.name == record.name && scan::owner(&self.dir, &other)? == Owner::Alive {
                return Err(name_taken(&other, &path));
            }
        }
        Ok(())
    }

    /// The live instances of this name: at most one, except for a moment after the directory was lost.
    fn live_entries(&self, name: &str) -> io::Result<impl Iterator<Item = Entry>> {
        Ok(scan::records(&self.dir)?.filter_map(move |(path, record)| {
            let record = record.ok().filter(|record| record.name == name)?;
            let owner = scan::owner(&self.dir, &record).ok()?;
            (owner == Owner::Alive).then_some(Entry { record, owner, path })
        }))
    }

    fn same_instance_runs(&self, record: &Record) -> Problem {
        let path = record_path(&self.dir, record.id);
        match scan::read(&path) {
            Ok(Some(other)) => name_taken(&other, &path),
            // Its owner lives and its record is unreadable or gone: the lease still says who it is.
            Ok(None) | Err(_) => {
                let mut other = record.clone();
                if let Some(holder) = Lease::holder(&lease_path(&self.dir, record.id)) {
                    other.process = holder;
                }
                name_taken(&other, &path)
            }
        }
    }
}

/// Refuses a record that no reader would believe.
fn check(record: &Record) -> Result<(), Problem> {
    crate::name::check(&record.name)?;
    record.address().map(drop)
}

fn name_taken(other: &Record, path: &Path) -> Problem {
    let (name, pid) = (&other.name, other.process.pid);
    let command = command_line(pid).unwrap_or_else(|| other.process.executable.display().to_string());
    Problem::new(Code::NameTaken, format!("{name:?} is the name of an instance that runs"))
        .seen("name", name.clone())
        .seen("pid", pid)
        .seen("command", command)
        .seen("project", other.project_dir.display().to_string())
        .seen("since", other.registered_at.to_string())
        .seen("record", path.display().to_string())
        .next("linchpin run --take-over …    (stops that one and takes its place)")
        .next("linchpin run --alongside …    (runs beside it under another name)")
        .next(format!("linchpin status {name}    (or leave it as it is)"))
}
