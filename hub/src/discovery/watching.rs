//! Hearing of changes in the registry directory.
//!
//! Owns the file system watch and making it anew. Invariant: what is heard only ever asks for a look; a watch that is
//! deaf, refused or full costs time, never a fact. A directory that is removed and made again is watched again.
//! Never: looks by itself, or watches the home above: the hub's own files there change all the time.

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long after a refusal (no watches left, say) another watch is asked for.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// The watch on one directory.
#[derive(Debug)]
pub(super) struct Watching {
    dir: PathBuf,
    nudged: Arc<Notify>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Asked for and made.
    Watching { _watcher: RecommendedWatcher },
    /// Not asked for yet, or the directory is another one now.
    Unwatched,
    /// Refused; asked for again at this time. Only the first refusal is told.
    Refused(Instant),
    /// Never asked for.
    #[cfg(test)]
    Off,
}

impl Watching {
    pub(super) fn new(dir: &Path, nudged: Arc<Notify>) -> Self {
        Self { dir: dir.to_owned(), nudged, state: State::Unwatched }
    }

    /// A watch that hears nothing, so that polling alone is left.
    #[cfg(test)]
    pub(super) fn off(dir: &Path, nudged: Arc<Notify>) -> Self {
        Self { state: State::Off, ..Self::new(dir, nudged) }
    }

    /// Watches the directory if it is not watched. Whatever happened before this returns was not heard.
    pub(super) fn arm(&mut self, now: Instant) {
        let told = match &self.state {
            State::Watching { .. } => return,
            State::Unwatched => false,
            State::Refused(again) if now < *again => return,
            State::Refused(_) => true,
            #[cfg(test)]
            State::Off => return,
        };
        self.state = match watch(&self.dir, Arc::clone(&self.nudged)) {
            Ok(watcher) => State::Watching { _watcher: watcher },
            Err(error) => {
                if !told {
                    tracing::warn!(dir = %self.dir.display(), %error, "cannot watch the registry; polling finds changes");
                }
                State::Refused(now + ASK_AGAIN)
            }
        };
    }

    /// The directory is another one than that which is watched.
    pub(super) fn disarm(&mut self) {
        match self.state {
            State::Watching { .. } | State::Unwatched => self.state = State::Unwatched,
            State::Refused(_) => {}
            #[cfg(test)]
            State::Off => {}
        }
    }
}

fn watch(dir: &Path, nudged: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let watched = dir.to_owned();
    let heard = move |event: notify::Result<Event>| {
        if event.as_ref().map_or(true, |event| matters(event, &watched)) {
            nudged.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(heard)?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Whether an event can change what a look would show. Our own looks open files, which is an event too.
fn matters(event: &Event, dir: &Path) -> bool {
    let has = |path: &Path, extension: &str| path.extension().is_some_and(|seen| seen == extension);
    let concerns = |path: &PathBuf| path == dir || has(path, "json") || (has(path, "lease") && event.kind.is_remove());
    event.need_rescan() || (!event.kind.is_access() && event.paths.iter().any(concerns))
}
