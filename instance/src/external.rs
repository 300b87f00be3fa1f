//! An external program, which knows nothing of Linchpin and is registered on its behalf: `linchpin register`.
//!
//! This process holds the lease; the record names the external process by its identity, not by its pid alone. The
//! program is registered only while that process runs, and it is unregistered before [`register`] returns. The process
//! is never signalled, and a process of another user is not registered.

use crate::agent::{MAIN, Signals, TAKE_OVER_EXTRA};
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

/// The version in the record of a program whose version is not known.
const UNKNOWN_VERSION: &str = "unknown";

/// An external program to register.
#[derive(Debug, Clone)]
pub struct ExternalProgram {
    /// The name of the instance.
    pub name: String,
    /// The pid of its process.
    pub pid: u32,
    /// Where it listens: `http://`, a loopback address and a port.
    pub url: String,
    /// Where it speaks MCP over Streamable HTTP, if it does: a path, or a URL under `url`.
    pub mcp_url: Option<String>,
    /// The directory of its project.
    pub project_dir: PathBuf,
    /// Any other information for its record.
    pub labels: BTreeMap<String, String>,
}

/// Why an external program is not registered any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unregistered {
    /// Its process ended.
    ProcessEnded,
    /// This signal asked the registering process to end.
    Stopped(&'static str),
}

/// Registers an external program until it ends or this process is asked to end. `ready` is called once it is
/// registered.
///
/// # Errors
/// A [`Problem`] for a bad name, a pid without a process or of another user's, a URL that is not on this machine, a
/// name that is taken, or a registry that cannot be written.
pub async fn register(
    home: &Home,
    program: ExternalProgram,
    conflict: Conflict,
    ready: impl FnOnce(&Record),
) -> Result<Unregistered, Problem> {
    let record = record(program)?;
    let process = record.process.clone();
    let patience = Settings::load(home)?.instance.stop_timeout + TAKE_OVER_EXTRA;
    panics::heed();
    let mut signals = Signals::listen()?;
    let registering = Box::pin(conflict::register(Registry::new(home), record, conflict, patience));
    let registering = panics::unless("registering", signals.or_signal(registering));
    let registration = match registering.await.ok_or_else(panics::problem)? {
        Ok(registration) => registration?,
        Err(signal) => return Ok(Unregistered::Stopped(signal)),
    };
    ready(registration.record());
    let registrar = Registrar::start(registration);
    let waiting = async {
        tokio::select! {
            () = exited(&process) => Unregistered::ProcessEnded,
            signal = signals.next() => Unregistered::Stopped(signal),
        }
    };
    let ended = panics::unless("registrar", waiting).await;
    registrar.unregister().await?;
    ended.ok_or_else(panics::problem)
}

fn record(program: ExternalProgram) -> Result<Record, Problem> {
    let ExternalProgram { name, pid, url, mcp_url, project_dir, labels } = program;
    name::check(&name)?;
    let process = own_process(pid)?;
    let secret = hello::random().map_err(|error| {
        Problem::from_io(&error, Code::Internal, "the system provides no random numbers").next("try again")
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
    record.address().map_err(|_| not_local(&url))?;
    if let Some(server) = record.servers.iter().find(|server| record.server_path(&server.name).is_none()) {
        return Err(not_under(&url, server));
    }
    Ok(record)
}

fn server(url: String) -> Server {
    Server { name: MAIN.to_owned(), transport: Transport::Http, url: Some(url) }
}

fn not_under(url: &str, server: &Server) -> Problem {
    Problem::new(Code::BadRequest, "the MCP server is not at the address of the program")
        .seen("url", url)
        .seen("mcp_url", server.url.clone())
        .next("--mcp-url /mcp, or the whole address with the same host and port as --url")
}

fn not_local(url: &str) -> Problem {
    Problem::new(Code::BadRequest, "the URL is not http:// with a loopback address and a port, and nothing after that")
        .seen("url", url)
        .next("--url http://127.0.0.1:PORT, or --url http://[::1]:PORT")
        .next("ss -ltnp    (shows where your programs listen)")
}

/// Returns the process with this pid, if it runs and belongs to our user.
fn own_process(pid: u32) -> Result<Identity, Problem> {
    let cannot = |error: io::Error| {
        let gone = error.kind() == io::ErrorKind::NotFound;
        let problem = if gone {
            Problem::new(Code::ProcessNotFound, format!("no process has the pid {pid}"))
        } else {
            Problem::from_io(&error, Code::Internal, format!("cannot inspect the process {pid}"))
        };
        problem.seen("pid", pid).next(format!("ps -p {pid}")).next("start the program, and register its new pid")
    };
    let process = Identity::of(pid).map_err(cannot)?;
    let (owner, us) = (user_of(pid).map_err(cannot)?, rustix::process::geteuid().as_raw());
    // The order matters: if it is still the same process now, the user that was read is its user.
    if !process.is_alive() {
        return Err(cannot(io::ErrorKind::NotFound.into()));
    }
    if owner == us {
        return Ok(process);
    }
    Err(Problem::new(Code::PermissionDenied, format!("the process {pid} belongs to another user"))
        .seen("pid", pid)
        .seen("command", command_line(pid).unwrap_or_default())
        .seen("owner", owner)
        .seen("we are", us)
        .next(format!("ps -o pid,user,args -p {pid}"))
        .next("register it as that user: each user has a hub and a registry of their own"))
}

/// Returns the effective user of a process: the second number of `Uid:` in `/proc/PID/status`. The owner of `/proc/PID`
/// would be root for every process that may not be inspected.
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
    use tokio::process::{Child, Command};

    const URL: &str = "http://127.0.0.1:3000";

    /// A process that is killed when it is dropped.
    fn sleeping(command: &mut Command) -> Child {
        command.arg("600").kill_on_drop(true).spawn().unwrap()
    }

    fn external(pid: u32, url: &str) -> ExternalProgram {
        ExternalProgram {
            name: String::from("shop"),
            pid,
            url: url.to_owned(),
            mcp_url: None,
            project_dir: PathBuf::from("/project"),
            labels: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn the_record_names_the_external_process() {
        let child = sleeping(&mut Command::new("sleep"));
        let pid = child.id().unwrap();
        let record = record(external(pid, "http://[::1]:3000/")).unwrap();
        assert_eq!(record.process, Identity::of(pid).unwrap());
        assert_eq!((record.protocol, record.endpoint.as_str()), (Protocol::Http1, "http://[::1]:3000"));
    }

    #[tokio::test]
    async fn a_dead_pid_is_refused() {
        let mut child = sleeping(&mut Command::new("sleep"));
        let pid = child.id().unwrap();
        child.start_kill().unwrap();
        // It is dead at once, although it is not reaped yet.
        while Identity::of(pid).is_ok() {
            std::thread::yield_now();
        }
        let problem = record(external(pid, URL)).unwrap_err();
        assert_eq!(problem.code, Code::ProcessNotFound, "{problem}");
        assert_eq!(record(external(0, URL)).unwrap_err().code, Code::ProcessNotFound);
    }

    #[tokio::test]
    async fn a_process_of_another_user_is_refused() {
        // Process 1 is root's; where the tests run as root, a process that is given away.
        let child = rustix::process::geteuid().is_root().then(|| sleeping(Command::new("sleep").uid(12345)));
        let pid = child.as_ref().map_or(1, |child| child.id().unwrap());
        let problem = record(external(pid, URL)).unwrap_err();
        assert_eq!(problem.code, Code::PermissionDenied, "{problem}");
        assert!(problem.observed["owner"] != problem.observed["we are"], "{problem}");
    }

    #[test]
    fn the_mcp_server_is_at_the_address_of_the_program() {
        let with = |mcp_url: &str| {
            record(ExternalProgram { mcp_url: Some(mcp_url.to_owned()), ..external(std::process::id(), URL) })
        };
        assert_eq!(with("/mcp").unwrap().server_path("main"), Some("/mcp"));
        assert_eq!(with("http://127.0.0.1:3000/mcp").unwrap().server_path("main"), Some("/mcp"));
        assert_eq!(with("http://127.0.0.1:3001/mcp").unwrap_err().code, Code::BadRequest);
    }

    #[test]
    fn only_an_address_of_this_machine_is_accepted() {
        for url in ["http://10.0.0.1:80", "https://127.0.0.1:1", "http://localhost:1", "http://127.0.0.1", "x", ""] {
            let problem = record(external(std::process::id(), url)).unwrap_err();
            assert_eq!(problem.code, Code::BadRequest, "{url}: {problem}");
        }
        assert_eq!(record(external(std::process::id(), "http://127.0.0.1:1/app")).unwrap_err().code, Code::BadRequest);
    }
}
