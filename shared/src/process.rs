//! Who a process is, whether it is alive, and signalling it without hitting another.
//!
//! Owns [`Identity`]: boot id, pid and start ticks, which together name one process for ever.
//! Invariant: a signal is sent only after the identity was checked again, through a pidfd where the kernel has them.
//! Never: acts on a pid alone, or takes a reused pid for the process that had it before.

mod sentry;

pub use rustix::process::Signal;
pub use sentry::Sentry;

use crate::redact;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How often a process is looked at where there is no pidfd to wait for.
const POLL: Duration = Duration::from_millis(100);

/// The longest command line that is shown, in characters.
const COMMAND_LINE_LEN: usize = 200;

/// The argument of our own background processes after which the words stand with which a person started them.
pub const ON_BEHALF: &str = "--on-behalf-of";

/// Set in the environment of a process that an instance supervises and, unless they change it, of all its descendants:
/// whose they are, as `INSTANCE-ID/AGENT-PID-AGENT-TICKS/PROCESS`.
pub const OWNER: &str = "LINCHPIN_PROCESS";

/// Names one process for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
    /// Which boot of the machine (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Its executable, for people.
    pub executable: PathBuf,
}

impl Identity {
    /// This process.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current() -> io::Result<Self> {
        static CURRENT: OnceLock<Identity> = OnceLock::new();
        let pid = std::process::id();
        // A fork without exec has the memory of its parent, but not its pid.
        if let Some(current) = CURRENT.get().filter(|current| current.pid == pid) {
            return Ok(current.clone());
        }
        let current = Self::of(pid)?;
        let _ = CURRENT.set(current.clone());
        Ok(current)
    }

    /// The process that has this pid now.
    ///
    /// # Errors
    /// `NotFound` when there is none (one that ended but was not waited for counts as none), or when `/proc` cannot be
    /// read.
    pub fn of(pid: u32) -> io::Result<Self> {
        let start_ticks = running_since(pid)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let executable = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        Ok(Self { pid, start_ticks, boot_id: boot_id()?.to_owned(), executable })
    }

    /// Whether this very process runs. One that ended but was not waited for does not. When that cannot be told (no
    /// descriptor is left to look with, say) the answer is yes: "cannot tell" is not "gone".
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.verify().unwrap_or(true)
    }

    fn verify(&self) -> io::Result<bool> {
        Ok(boot_id()? == self.boot_id && running_since(self.pid)? == Some(self.start_ticks))
    }

    /// Sends a signal to this very process; `false` when it is gone.
    ///
    /// # Errors
    /// When the system refuses, for example because the process belongs to another user.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(pid) = self.raw_pid() else { return Ok(false) };
        let sent = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            // Checked after opening: a descriptor that was opened for an earlier owner of the pid is then one of a
            // process that has ended, and does no harm.
            Ok(pidfd) if self.verify()? => rustix::process::pidfd_send_signal(pidfd, signal),
            Ok(_) => return Ok(false),
            Err(Errno::NOSYS | Errno::PERM) => return self.signal_by_pid(signal),
            Err(error) => Err(error),
        };
        gone_is_false(sent)
    }

    /// For kernels and sandboxes without pidfds: the pid can be reused only between the check and the signal.
    fn signal_by_pid(&self, signal: Signal) -> io::Result<bool> {
        match self.raw_pid() {
            Some(pid) if self.verify()? => gone_is_false(rustix::process::kill_process(pid, signal)),
            Some(_) | None => Ok(false),
        }
    }

    /// A descriptor that becomes readable when this very process ends; `None` where it is gone or cannot be had.
    fn watch(&self) -> Option<AsyncFd<OwnedFd>> {
        let pidfd = rustix::process::pidfd_open(self.raw_pid()?, PidfdFlags::NONBLOCK).ok()?;
        if !self.verify().ok()? {
            return None;
        }
        #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps all that it asks for")]
        let watched = AsyncFd::with_interest(pidfd, Interest::READABLE);
        watched.ok()
    }

    fn raw_pid(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }
}

/// Ends when this very process has ended. The process need not be our child.
///
/// It must be awaited in a tokio runtime with I/O and time. Where there is no pidfd, the process is looked at ten times
/// a second.
pub fn exited(identity: &Identity) -> impl Future<Output = ()> + Send + 'static {
    let identity = identity.clone();
    async move {
        if let Some(pidfd) = identity.watch()
            && pidfd.readable().await.is_ok()
        {
            return;
        }
        while identity.is_alive() {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The command line of a process, shortened, on one line and without secrets, for people. `None` when there is none to see.
///
/// What runs behind a detached instance shows the words with which a person started it, see [`ON_BEHALF`].
#[must_use]
pub fn command_line(pid: u32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(bytes.strip_suffix(b"\0").unwrap_or(&bytes)).into_owned();
    let text = match text.split_once(&format!("\0{ON_BEHALF}\0")) {
        Some((_, said)) => format!("linchpin\0{said}"),
        None => text,
    };
    let words = redact::words(text.split('\0')).join(" ");
    let shown: String =
        words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(COMMAND_LINE_LEN).collect::<String>();
    (!shown.trim().is_empty()).then_some(shown)
}

/// A variable of the environment that a process was started with; `None` when it has none or cannot be read.
#[must_use]
pub fn variable(pid: u32, name: &str) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The physical memory that a process uses, in bytes; `None` when it is gone.
#[must_use]
pub fn resident_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_ascii_whitespace().next()?.parse().ok());
    // A process that is about to end has no memory any more.
    Some(kib.unwrap_or(0_u64).saturating_mul(1024))
}

fn gone_is_false(sent: Result<(), Errno>) -> io::Result<bool> {
    match sent {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The id of this boot of the machine. It cannot change while we run, so it is read once.
fn boot_id() -> io::Result<&'static str> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT_ID.get() {
        return Ok(id);
    }
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(BOOT_ID.get_or_init(|| id.trim().to_owned()))
}

/// When the process of this pid started; `None` when there is none or it has ended.
fn running_since(pid: u32) -> io::Result<Option<u64>> {
    match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => parse_stat(&stat),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // The process ended between opening and reading.
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Start ticks (field 22) of `/proc/PID/stat`, if by state and number of threads (fields 3 and 20) the process runs: one
/// whose first thread ended (pthread_exit(3)) looks dead while others go on. The name in field 2 may hold spaces and
/// parentheses, so fields are counted from the last closing one.
fn parse_stat(stat: &[u8]) -> io::Result<Option<u64>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed /proc/PID/stat");
    let name_end = stat.iter().rposition(|&byte| byte == b')').ok_or_else(malformed)?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).map_err(|_| malformed())?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().ok_or_else(malformed)?;
    let threads: u64 = fields.nth(16).and_then(|threads| threads.parse().ok()).ok_or_else(malformed)?;
    let ticks = fields.nth(1).and_then(|ticks| ticks.parse().ok()).ok_or_else(malformed)?;
    Ok((!matches!(state, "Z" | "X" | "x") || threads > 1).then_some(ticks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::{Child, Command, Stdio};

    /// A real process that is killed and waited for when the test ends, however it ends.
    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap())
        }

        fn identity(&self) -> Identity {
            Identity::of(self.0.id()).unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn we_are_alive_and_ourselves() {
        let me = Identity::current().unwrap();
        assert!(me.is_alive());
        assert_eq!(me.executable, std::env::current_exe().unwrap());
        assert_eq!(me, Identity::current().unwrap());
    }

    #[test]
    fn another_start_or_another_boot_is_another_process() {
        let sleeper = Sleeper::start();
        let real = sleeper.identity();
        let reused_pid = Identity { start_ticks: real.start_ticks - 1, ..real.clone() };
        let last_boot = Identity { boot_id: String::from("earlier"), ..real.clone() };
        for other in [reused_pid, last_boot] {
            assert!(!other.is_alive());
            assert!(!other.signal(Signal::KILL).unwrap());
            assert!(!other.signal_by_pid(Signal::KILL).unwrap());
        }
        assert!(real.is_alive());
    }

    #[test]
    fn a_signal_reaches_it_once_and_a_zombie_is_dead() {
        let mut sleeper = Sleeper::start();
        let identity = sleeper.identity();
        assert!(identity.signal(Signal::TERM).unwrap());
        let waiting = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        let pid = Pid::from_child(&sleeper.0);
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), waiting).unwrap();
        assert!(!identity.is_alive(), "ended, not waited for");
        assert!(Identity::of(identity.pid).is_err());
        sleeper.0.wait().unwrap();
        assert!(!identity.signal(Signal::TERM).unwrap());
    }

    #[test]
    fn a_signal_by_pid_works_as_well() {
        let mut sleeper = Sleeper::start();
        assert!(sleeper.identity().signal_by_pid(Signal::TERM).unwrap());
        sleeper.0.wait().unwrap();
    }

    #[test]
    fn impossible_pids_are_nobody() {
        let me = Identity::current().unwrap();
        for pid in [0, u32::MAX] {
            let nobody = Identity { pid, ..me.clone() };
            assert!(!nobody.is_alive());
            assert!(!nobody.signal(Signal::KILL).unwrap());
        }
    }

    #[tokio::test]
    async fn the_end_is_seen_at_once_and_afterwards() {
        let mut sleeper = Sleeper::start();
        let identity = sleeper.identity();
        let end = tokio::spawn(exited(&identity));
        sleeper.0.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(5), end).await.unwrap().unwrap();
        sleeper.0.wait().unwrap();
        tokio::time::timeout(Duration::from_secs(5), exited(&identity)).await.unwrap();
    }

    #[tokio::test]
    async fn a_reused_pid_has_exited() {
        let mut identity = Identity::current().unwrap();
        identity.start_ticks += 1;
        tokio::time::timeout(Duration::from_secs(5), exited(&identity)).await.unwrap();
    }

    /// Fault 68: secrets in arguments.
    #[test]
    fn a_command_line_is_shown_without_its_secrets() {
        let secrets = ["--token", "hunter2 x", "--api-key=hunter2", "DB_PASS=hunter2", "http://me:hunter2@localhost/"];
        // A compound command, so that the shell does not become it and drop its own arguments.
        let mut shell = Command::new("sh");
        shell.args(["-c", "read line; exit"]).args(secrets).stdin(Stdio::piped());
        let sleeper = Sleeper(shell.spawn().unwrap());
        let shown = |pid| command_line(pid).filter(|line| line.starts_with("sh -c"));
        let line = (0..1_000_000).find_map(|_| shown(sleeper.0.id())).unwrap();
        assert!(
            line.ends_with("--token [removed] --api-key=[removed] DB_PASS=[removed] http://me:[removed]@localhost/"),
            "{line}"
        );
    }

    #[test]
    fn the_command_line_is_readable() {
        let sleeper = Sleeper::start();
        // A spawn returns while the program is being loaded; until that is done there is no command line to see.
        let line = (0..1_000_000).find_map(|_| command_line(sleeper.0.id()));
        assert_eq!(line.as_deref(), Some("sleep 600"));
        assert_eq!(command_line(u32::MAX), None);
    }

    #[test]
    fn what_runs_on_behalf_of_a_person_shows_the_persons_words() {
        let words = ["-c", "read line", "agent", "shop", ON_BEHALF, "run", "--name", "shop", "--", "serve"];
        let shell = Sleeper(Command::new("sh").args(words).stdin(Stdio::piped()).spawn().unwrap());
        // A spawn returns while the program is being loaded; until that is done there is no command line to see.
        let line = (0..1_000_000).find_map(|_| command_line(shell.0.id()));
        assert_eq!(line.as_deref(), Some("linchpin run --name shop -- serve"));
        assert!(resident_memory(shell.0.id()).is_some());
        assert_eq!(resident_memory(u32::MAX), None);
    }

    proptest! {
        #[test]
        fn any_process_name_leaves_the_fields_in_place(name in "[^\0]{0,15}", ticks: u64) {
            let zeros = "0 ".repeat(18);
            let stat = format!("42 ({name}) S {zeros}{ticks} 0 0");
            prop_assert_eq!(parse_stat(stat.as_bytes()).unwrap(), Some(ticks));
        }

        #[test]
        fn a_process_runs_as_long_as_a_thread_of_it_does(threads in 0_u64..5) {
            let zeros = "0 ".repeat(16);
            let stat = format!("42 (x) Z {zeros}{threads} 0 7 0 0");
            prop_assert_eq!(parse_stat(stat.as_bytes()).unwrap().is_some(), threads > 1);
        }

        #[test]
        fn junk_never_panics(junk: Vec<u8>) {
            let _ = parse_stat(&junk);
        }
    }
}
