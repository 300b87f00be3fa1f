//! Hearing of changes in the registry.
//!
//! Owns the [`Ear`] and asking for it anew. Invariant: what is heard only ever asks for a look; an ear that is refused or
//! overrun costs time, never a fact. A refusal is told once, and so is its end.
//! Never: looks by itself.

use super::ear::Ear;
use linchpin_shared::problem::{Code, Problem};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// How long after a refusal (no watches left, say) is asked again. It costs two system calls.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Where Linux says how many watches a user may have.
const LIMITS: &str = "/proc/sys/fs/inotify";

/// The watch on one registry.
#[derive(Debug)]
pub(super) struct Watching {
    dir: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Asked for and made.
    Hearing(Ear),
    /// Not asked for yet, or the directory is another one now.
    Unwatched,
    /// Refused, and why; asked for again at this time.
    Refused(Instant, Problem),
    /// Never asked for.
    #[cfg(test)]
    Off,
}

impl Watching {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), state: State::Unwatched }
    }

    /// A watch that hears nothing, so that polling alone is left.
    #[cfg(test)]
    pub(super) fn off(dir: &Path) -> Self {
        Self { state: State::Off, ..Self::new(dir) }
    }

    /// Listens if it does not. Whatever happened before this returns was not heard.
    pub(super) fn arm(&mut self, now: Instant) {
        let told = match &self.state {
            State::Hearing(_) => return,
            State::Unwatched => false,
            State::Refused(again, _) if now < *again => return,
            State::Refused(..) => true,
            #[cfg(test)]
            State::Off => return,
        };
        self.state = match Ear::open(&self.dir) {
            Ok(ear) => {
                if told {
                    tracing::info!(dir = %self.dir.display(), "changes of the registry are heard again");
                }
                State::Hearing(ear)
            }
            Err(error) => {
                let problem = refused(&self.dir, &error);
                if !told {
                    tracing::warn!(%problem, "polling finds changes of the registry");
                }
                State::Refused(now + ASK_AGAIN, problem)
            }
        };
    }

    /// The directory is another one than that which is watched.
    pub(super) fn disarm(&mut self) {
        match self.state {
            State::Hearing(_) | State::Unwatched => self.state = State::Unwatched,
            State::Refused(..) => {}
            #[cfg(test)]
            State::Off => {}
        }
    }

    /// Returns once something was heard; never where nothing can be.
    pub(super) async fn heard(&self) {
        match &self.state {
            State::Hearing(ear) => ear.heard().await,
            State::Unwatched | State::Refused(..) => std::future::pending().await,
            #[cfg(test)]
            State::Off => std::future::pending().await,
        }
    }

    /// Whether changes are heard.
    pub(super) const fn hears(&self) -> bool {
        matches!(self.state, State::Hearing(_))
    }

    /// Why nothing is heard.
    pub(super) const fn trouble(&self) -> Option<&Problem> {
        match &self.state {
            State::Refused(_, problem) => Some(problem),
            State::Hearing(_) | State::Unwatched => None,
            #[cfg(test)]
            State::Off => None,
        }
    }
}

/// inotify(7): EMFILE, no instances (or files) left; ENOSPC, no watches left.
fn refused(dir: &Path, error: &io::Error) -> Problem {
    use rustix::io::Errno;
    let (what, name) = match Errno::from_io_error(error) {
        Some(Errno::MFILE) => ("no inotify instances are left", "max_user_instances"),
        Some(Errno::NOSPC) => ("no inotify watches are left", "max_user_watches"),
        _ => ("the system refuses to watch it", ""),
    };
    let code = if name.is_empty() { Code::HomeUnusable } else { Code::LimitReached };
    let mut problem =
        Problem::new(code, format!("{what}, so changes of the registry are found by polling only: {error}"))
            .seen("path", dir.display().to_string());
    if let Some(limit) = limit(name) {
        problem = problem
            .seen(name, limit)
            .next(format!("sudo sysctl fs.inotify.{name}={}", limit.saturating_mul(4).max(512)))
            .next("or end programs that watch many files: editors, file synchronisers, other development servers");
    }
    problem.next("linchpin doctor    (how many are in use; the hub asks again by itself)")
}

fn limit(name: &str) -> Option<u64> {
    std::fs::read_to_string(Path::new(LIMITS).join(name)).ok()?.trim().parse().ok()
}
