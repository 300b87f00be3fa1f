//! A panic anywhere in a process of ours ends that process as a failure, in good order.
//!
//! Owns the hook that hears every panic, and [`unless`], under which a process does its work. A panic is a defect of ours:
//! what went on would be half a process. Who hears of it here lets go of everything and ends with exit code 1, and
//! whoever needs the process starts it again.
//! Invariant: from the first panic on the process has [`AT_LATEST`]; then it ends, whatever it waits for.
//! Never: belongs into a library inside another's program, or shows what looks like a secret.

use crate::problem::{Code, Exit, Problem};
use crate::redact;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::pin;
use std::sync::{LazyLock, Once};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::watch;

/// How long a process may take to end after it panicked.
const AT_LATEST: Duration = Duration::from_secs(30);

static PANICKED: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// Hears every panic of this process from now on.
pub fn heed() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Made now: in the midst of a panic as little as possible shall happen.
        PANICKED.send_replace(false);
        std::panic::set_hook(Box::new(hear));
    });
}

/// Says it, in this order: whoever logs may be who panicked, and then the log is locked.
fn hear(info: &PanicHookInfo<'_>) {
    if !PANICKED.send_replace(true) {
        // Where no thread can be started, the process ends by itself all the same, or by its keeper.
        let _ = std::thread::Builder::new().name("panicked".to_owned()).spawn(end_at_last);
    }
    let at = info.location().map(ToString::to_string).unwrap_or_default();
    let what = info.payload_as_str().map(redact::text).unwrap_or_default();
    tracing::error!(at, what, "a defect of Linchpin: a task panicked, and the process ends");
}

#[expect(clippy::disallowed_methods, reason = "what is still awaited after this time may never come")]
fn end_at_last() {
    std::thread::sleep(AT_LATEST);
    tracing::error!(after_s = AT_LATEST.as_secs(), "it could not end in good order");
    std::process::exit(Exit::Failed as i32);
}

/// Whether something of this process has panicked.
#[must_use]
pub fn happened() -> bool {
    *PANICKED.borrow()
}

/// Does `work`, unless it or anything else of this process panics: then it is dropped at once, and there is no result.
/// `place` names it for [`demanded`].
pub async fn unless<T>(place: &str, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(async {
        tokio::select! {
            biased;
            () = demanded(place) => None,
            done = work => Some(done),
        }
    });
    let caught = poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(done)) => Poll::Ready(done),
        Err(_panic) => Poll::Ready(None),
    });
    let mut panicked = PANICKED.subscribe();
    tokio::select! {
        biased;
        // The sender is static, so this never fails.
        _ = panicked.wait_for(|panicked| *panicked) => None,
        done = caught => done,
    }
}

/// What to tell of a panic.
#[must_use]
pub fn problem() -> Problem {
    Problem::new(Code::Internal, "a part of Linchpin panicked, so this process ended what was its own, and itself")
        .next("run it again, with LINCHPIN_LOG=debug if it happens again")
        .next("report this with the lines of the log that say where it panicked")
}

/// Never, except in debug builds: panics on SIGUSR2 if `LINCHPIN_PANIC` is this place, so that tests can cause it.
#[cfg(not(debug_assertions))]
pub async fn demanded(_place: &str) {
    std::future::pending().await
}

/// Panics on SIGUSR2 if `LINCHPIN_PANIC` is this place: tests cause it so. In release builds there is no such thing.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "this is what tests ask for")]
pub async fn demanded(place: &str) {
    use tokio::signal::unix::{SignalKind, signal};
    let asked = std::env::var("LINCHPIN_PANIC").unwrap_or_default();
    let by_a_task = asked.strip_suffix("-task") == Some(place);
    if asked != place && !by_a_task {
        return std::future::pending().await;
    }
    let Ok(mut demand) = signal(SignalKind::user_defined2()) else { return std::future::pending().await };
    demand.recv().await;
    if by_a_task {
        tokio::spawn(async { panic!("a task was asked to; API_TOKEN=hunter2") });
        return std::future::pending().await;
    }
    panic!("it was asked to; API_TOKEN=hunter2")
}
