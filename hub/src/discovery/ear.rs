//! What the kernel tells of the registry directory and of the home above it.
//!
//! Owns one inotify queue and which of its events matter. Invariant: an event that was lost (the queue was full), and the
//! end of a watch, count as one that matters. Our own looks open every file, and the hub's other files in the home change
//! all the time: neither is asked for, so that a look causes no event and a large registry does not fill the queue. (Why
//! not the crate notify: version 8 always asks for IN_OPEN, so that each look at some 8,000 records overflows the kernel's
//! queue of 16,384 events, which causes the next look.)
//! Never: follows a link in the place of the directory, or reads a file. Only Linux tells; elsewhere nothing is heard.

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What is asked for in the registry: records that come, change or go, and leases that go.
const REGISTRY: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(ITSELF);

/// What is asked for in the home: whether the registry comes or goes.
const HOME: WatchFlags = WatchFlags::CREATE.union(WatchFlags::DELETE).union(WatchFlags::MOVE).union(ITSELF);

/// Of both: that the directory itself goes. Only a directory is watched.
const ITSELF: WatchFlags = WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF).union(WatchFlags::ONLYDIR);

/// The end of a watch, or of hearing everything.
const LOST: ReadFlags = ReadFlags::QUEUE_OVERFLOW
    .union(ReadFlags::IGNORED)
    .union(ReadFlags::UNMOUNT)
    .union(ReadFlags::DELETE_SELF)
    .union(ReadFlags::MOVE_SELF);

/// A buffer for some dozens of events. An event with the longest name needs 272 bytes (inotify(7)).
const BUFFER: usize = 8 << 10;

/// The queue of events of one registry.
#[derive(Debug)]
pub(super) struct Ear {
    queue: AsyncFd<OwnedFd>,
    dir: PathBuf,
    registry: Option<i32>,
}

impl Ear {
    /// Listens to the directory and to the one above it, as far as they are there.
    ///
    /// # Errors
    /// When the system refuses: no watches left, for example.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        if let Some(home) = dir.parent() {
            watch(&queue, home, HOME)?;
        }
        let registry = watch(&queue, dir, REGISTRY | WatchFlags::DONT_FOLLOW)?;
        #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps all that it asks for")]
        let queue = AsyncFd::with_interest(queue, Interest::READABLE)?;
        Ok(Self { queue, dir: dir.to_owned(), registry })
    }

    /// Returns once something happened that can change what a look shows.
    pub(super) async fn heard(&self) {
        loop {
            let Ok(mut ready) = self.queue.readable().await else { return std::future::pending().await };
            if self.take_all() {
                return;
            }
            ready.clear_ready();
        }
    }

    /// Takes every event that is there, so that a crowd of them causes one look; whether one matters.
    fn take_all(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = inotify::Reader::new(self.queue.get_ref(), &mut buffer);
        let mut matters = false;
        loop {
            match reader.next() {
                Ok(event) => matters |= self.matters(&event),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return matters,
                // It cannot be told what was missed.
                Err(_) => return true,
            }
        }
    }

    fn matters(&self, event: &inotify::Event<'_>) -> bool {
        let (what, name) = (event.events(), event.file_name().map_or(&b""[..], CStr::to_bytes));
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            tracing::debug!("more happened in the registry than the kernel remembers; it is read whole");
        }
        if what.intersects(LOST) {
            return true;
        }
        if Some(event.wd()) != self.registry {
            return self.dir.file_name().is_some_and(|dir| dir == OsStr::from_bytes(name));
        }
        name.ends_with(b".json")
            || (name.ends_with(b".lease") && what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM))
    }
}

/// Adds a watch; `None` where there is no directory, which the next look will tell.
fn watch(queue: &OwnedFd, dir: &Path, what: WatchFlags) -> io::Result<Option<i32>> {
    match inotify::add_watch(queue, dir, what) {
        Ok(watch) => Ok(Some(watch)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
