//! Another user of this machine: a thread with another uid, because the kernel checks the uid of a thread and not that
//! of its process.

use anyhow::{Result, ensure};
use rustix::fs::{Gid, Uid};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

/// The other user.
pub(crate) const ATTACKER: u32 = 12345;

/// Runs this as the other user.
pub(crate) fn as_attacker<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| -> Result<T> {
            let (uid, gid) = (Uid::from_raw(ATTACKER), Gid::from_raw(ATTACKER));
            rustix::thread::set_thread_groups(&[])?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
            ensure!(File::open("/etc/shadow").is_err(), "the thread is still root");
            Ok(work())
        });
        other.join().map_err(|_| anyhow::anyhow!("the other user's thread panicked"))?
    })
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    Ok(std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?)
}

/// Collects all files and directories below this one, including itself.
pub(crate) fn below(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    found.push(dir.to_owned());
    for entry in dir.read_dir()? {
        let path = entry?.path();
        if path.is_dir() { below(&path, found)? } else { found.push(path) }
    }
    Ok(())
}

pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    set_mode(path, mode)
}

/// A port on which the other user listens, and what arrives there.
pub(crate) struct Trap {
    pub(crate) port: u16,
    got: mpsc::Receiver<String>,
}

impl Trap {
    pub(crate) fn at(port: u16) -> Result<Self> {
        let listener = as_attacker(|| TcpListener::bind(("127.0.0.1", port)))??;
        let port = listener.local_addr()?.port();
        let (keep, got) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = keep.send(String::from("a connection "));
                let keep = keep.clone();
                std::thread::spawn(move || listen(stream, &keep));
            }
        });
        Ok(Self { port, got })
    }

    /// What has arrived since the last call.
    pub(crate) fn got(&self) -> String {
        self.got.try_iter().collect()
    }
}

fn listen(mut stream: TcpStream, keep: &mpsc::Sender<String>) {
    let mut part = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut part) {
        let _ = keep.send(String::from_utf8_lossy(&part[..length]).into_owned());
    }
}
