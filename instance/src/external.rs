//! A program that knows nothing of Linchpin, made known on its behalf: `linchpin register`.
//!
//! Owns the checks of what is said about it, and its place in the registry for as long as it runs. The lease is held by
//! this process; the record names the foreign one, by its identity and not by its pid alone.
//! Invariant: it is registered only while its very process runs, and unregistered before [`register`] comes back.
//! Never: signals the process that it registers, or makes known a process of another user.

use crate::agent::TAKE_OVER_EXTRA;
use crate::agent::signals::Signals;
use crate::conflict::{self, Conflict};
use crate::registrar::Registrar;
use jiff::Timestamp;
use linchpin_shared::home::Home;
use linchpin_shared::name;
use linchpin_shared::panics;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::{Identity, command_line, exited};
use linchpin_shared::protocol::hello;
use linchpin_shared::protocol::vitals::Transport;
use linchpin_shared::registry::Registry;
use linchpin_shared::registry::record::{FORMAT, Protocol, Record, Server, instance_id};
use linchpin_shared::settings::Settings;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use uuid::Uuid;

/// The name of a foreign program's MCP server, as of our own instances'.
const MCP: &str = "main";

/// The version in the record of a program that has not told one.
const UNKNOWN_VERSION: &str = "unknown";

/// What is said about a foreign program.
#[derive(Debug, Clone)]
pub struct Foreign {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Where it listens: `http://`, a loopback address and a port.
    pub url: String,
    /// Where it speaks MCP over Streamable HTTP, if it does: a path, or an address under `url`.
    pub mcp_url: Option<String>,
    /// The directory of its project.
    pub project_dir: PathBuf,
    /// Anything else that is to be known of it.
    pub labels: BTreeMap<String, String>,
}

/// Why a foreign program is not registered any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its process ended.
    Process,
    /// This process was asked to end by this signal.
    Stopped(&'static str),
}

/// Makes a foreign program known until it ends or this process is asked to end. `ready` is called once it is registered.
///
/// # Errors
/// A [`Problem`] for a bad name, a pid that is nobody's or another user's, a URL that is not of this machine, a name that
/// is taken, or a registry that cannot be written.
pub async fn register(
    home: &Home,
    foreign: Foreign,
    conflict: Conflict,
    ready: impl FnOnce(&Record),
) -> Result<Ended, Problem> {
    let record = record(foreign)?;
    let process = record.process.clone();
    let patience = Settings::load(home)?.instance.stop_timeout + TAKE_OVER_EXTRA;
    panics::heed();
    let mut signals = Signals::listen()?;
    let registering = Box::pin(conflict::register(Registry::new(home), record, conflict, patience));
    let registering = panics::unless("registering", signals.unless_heard(registering));
    let registration = match registering.await.ok_or_else(panics::problem)? {
        Ok(registration) => registration?,
        Err(signal) => return Ok(Ended::Stopped(signal)),
    };
    ready(registration.record());
    let registrar = Registrar::start(registration);
    let waiting = async {
        tokio::select! {
            () = exited(&process) => Ended::Process,
            signal = signals.next() => Ended::Stopped(signal),
        }
    };
    let ended = panics::unless("registrar", waiting).await;
    registrar.unregister().await?;
    ended.ok_or_else(panics::problem)
}

fn record(foreign: Foreign) -> Result<Record, Problem> {
    let Foreign { name, pid, url, mcp_url, project_dir, labels } = foreign;
    name::check(&name)?;
    let process = our_process(pid)?;
    let secret = hello::random().map_err(|error| {
        Problem::from_io(&error, Code::Internal, "the system gives no random numbers").next("try again")
    })?;
    let record = Record {
        format: FORMAT,
        id: instance_id(&project_dir, &name),
        name,
        generation: Uuid::now_v7(),
        endpoint: url.trim_end_matches('/').to_owned(),
        protocol: Protocol::Http1,
        process,
        project_dir,
        version: UNKNOWN_VERSION.to_owned(),
        secret,
        services: Vec::new(),
        servers: mcp_url.into_iter().map(server).collect(),
        labels,
        registered_at: Timestamp::now(),
        other: serde_json::Map::new(),
    };
    record.address().map_err(|_| not_here(&url))?;
    if let Some(server) = record.servers.iter().find(|server| record.server_path(&server.name).is_none()) {
        return Err(not_under(&url, server));
    }
    Ok(record)
}

fn server(url: String) -> Server {
    Server { name: MCP.to_owned(), transport: Transport::Http, url: Some(url) }
}

fn not_under(url: &str, server: &Server) -> Problem {
    Problem::new(Code::BadRequest, "the MCP server is not at the address of the program")
        .seen("url", url)
        .seen("mcp_url", server.url.clone())
        .next("--mcp-url /mcp, or the whole address with the same host and port as --url")
}

fn not_here(url: &str) -> Problem {
    Problem::new(Code::BadRequest, "the URL is not http:// with a loopback address and a port, and nothing after that")
        .seen("url", url)
        .next("--url http://127.0.0.1:PORT, or --url http://[::1]:PORT")
        .next("ss -ltnp    (shows where your programs listen)")
}

/// The process of this pid, if it runs and is ours.
fn our_process(pid: u32) -> Result<Identity, Problem> {
    let cannot = |error: io::Error| {
        let gone = error.kind() == io::ErrorKind::NotFound;
        let problem = if gone {
            Problem::new(Code::ProcessNotFound, format!("no process has the pid {pid}"))
        } else {
            Problem::from_io(&error, Code::Internal, format!("cannot look at the process {pid}"))
        };
        problem.seen("pid", pid).next(format!("ps -p {pid}")).next("start the program, and register its new pid")
    };
    let process = Identity::of(pid).map_err(cannot)?;
    let (owner, ours) = (user_of(pid).map_err(cannot)?, rustix::process::geteuid().as_raw());
    // Asked in this order: if it is still the same process now, the user is its user.
    if !process.is_alive() {
        return Err(cannot(io::ErrorKind::NotFound.into()));
    }
    if owner == ours {
        return Ok(process);
    }
    Err(Problem::new(Code::PermissionDenied, format!("the process {pid} belongs to another user"))
        .seen("pid", pid)
        .seen("command", command_line(pid).unwrap_or_default())
        .seen("owner", owner)
        .seen("we are", ours)
        .next(format!("ps -o pid,user,args -p {pid}"))
        .next("register it as that user: each user has a hub and a registry of their own"))
}

/// The user as whom a process acts: the second number of `Uid:` in `/proc/PID/status`. The owner of `/proc/PID` would be
/// root for every process that may not be looked into.
fn user_of(pid: u32) -> io::Result<u32> {
    let status = std::fs::read(format!("/proc/{pid}/status"))?;
    String::from_utf8_lossy(&status)
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed /proc/PID/status"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    /// Killed when dropped.
    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn foreign(pid: u32, url: &str) -> Foreign {
        let (name, url) = (String::from("shop"), url.to_owned());
        let mcp_url = None;
        Foreign { name, pid, url, mcp_url, project_dir: PathBuf::from("/project"), labels: BTreeMap::new() }
    }

    const HERE: &str = "http://127.0.0.1:3000";

    #[test]
    fn the_record_names_the_foreign_process() {
        let sleeper = Sleeper(Command::new("sleep").arg("600").spawn().unwrap());
        let record = record(foreign(sleeper.0.id(), "http://[::1]:3000/")).unwrap();
        assert_eq!(record.process, Identity::of(sleeper.0.id()).unwrap());
        assert_eq!((record.protocol, record.endpoint.as_str()), (Protocol::Http1, "http://[::1]:3000"));
    }

    #[test]
    fn a_dead_pid_is_refused() {
        let mut sleeper = Sleeper(Command::new("sleep").arg("600").spawn().unwrap());
        sleeper.0.kill().unwrap();
        let pid = sleeper.0.id();
        // Dead at once, though nobody has waited for it yet.
        while Identity::of(pid).is_ok() {
            std::thread::yield_now();
        }
        let problem = record(foreign(pid, HERE)).unwrap_err();
        assert_eq!(problem.code, Code::ProcessNotFound, "{problem}");
        assert_eq!(record(foreign(0, HERE)).unwrap_err().code, Code::ProcessNotFound);
    }

    #[test]
    fn a_process_of_another_user_is_refused() {
        // Process 1 is root's; where the tests run as root, one that is given away.
        let sleeper = rustix::process::geteuid()
            .is_root()
            .then(|| Sleeper(Command::new("sleep").arg("600").uid(12345).spawn().unwrap()));
        let problem = record(foreign(sleeper.as_ref().map_or(1, |sleeper| sleeper.0.id()), HERE)).unwrap_err();
        assert_eq!(problem.code, Code::PermissionDenied, "{problem}");
        assert!(problem.observed["owner"] != problem.observed["we are"], "{problem}");
    }

    #[test]
    fn its_mcp_server_is_at_its_own_address() {
        let with =
            |mcp_url: &str| record(Foreign { mcp_url: Some(mcp_url.to_owned()), ..foreign(std::process::id(), HERE) });
        assert_eq!(with("/mcp").unwrap().server_path("main"), Some("/mcp"));
        assert_eq!(with("http://127.0.0.1:3000/mcp").unwrap().server_path("main"), Some("/mcp"));
        assert_eq!(with("http://127.0.0.1:3001/mcp").unwrap_err().code, Code::BadRequest);
    }

    #[test]
    fn only_an_address_of_this_machine_will_do() {
        for url in ["http://10.0.0.1:80", "https://127.0.0.1:1", "http://localhost:1", "http://127.0.0.1", "x", ""] {
            let problem = record(foreign(std::process::id(), url)).unwrap_err();
            assert_eq!(problem.code, Code::BadRequest, "{url}: {problem}");
        }
        assert_eq!(record(foreign(std::process::id(), "http://127.0.0.1:1/app")).unwrap_err().code, Code::BadRequest);
    }
}
