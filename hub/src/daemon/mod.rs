//! The life of the hub: become the one, open the rooms, serve, drain, let go.
//!
//! Owns the order. Becoming the hub is taking the hub's lease; only then is the port bound, and only then `hub.json`
//! written, so who finds the file finds a hub that listens. Invariant: of any number of hubs started at once exactly one
//! gets past the lease, and every other one learns of it. A stop is first written down, accepts no more, lets requests
//! end within a bound, and happens once; a second signal skips the waiting. What requests need ends after them.
//! Never: stops an instance.

pub mod bind;
mod logging;
mod presence;
mod stop;

use crate::api::{self, Api, Rooms};
use crate::discovery::Discovery;
use crate::gateway::mcp::{Gateway, SessionKey};
use crate::http::guard::Guard;
use crate::http::server::{self, Bounds};
use crate::journal::Journal;
use crate::launcher::{Means, OnDemand};
use crate::link::Links;
use crate::network::Network;
use crate::recovery::Recovery;
use bind::Wanted;
use jiff::Timestamp;
use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::panics;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::Identity;
use linchpin_shared::protocol::hello;
use linchpin_shared::registry::{Lease, Registry};
use linchpin_shared::settings::Settings;
use linchpin_shared::space::cannot_write;
use presence::Presence;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use stop::Stop;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long requests may go on after the hub was told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the hub's own tasks may take to notice that they are done. They have nothing to wait for.
const TASKS_END: Duration = Duration::from_secs(2);

/// How long to wait for a hub that holds the lease: to say where it is, or to end. Longer than a stop takes.
const OTHER_HUB: Duration = Duration::from_secs(10);

/// Open files that the hub has beside its clients' connections: its own, and one for each of a few hundred links.
const OWN_FILES: usize = 512;

/// How the hub is started.
#[derive(Debug, Clone)]
pub struct Start {
    /// Whose hub it is.
    pub home: Home,
    /// The port that was asked for.
    pub port: Option<u16>,
    /// Whether a person watches its standard error.
    pub foreground: bool,
    /// This program, for starting instances.
    pub executable: PathBuf,
}

/// Runs the hub until it is stopped. `ready` is called once, when it serves.
///
/// # Errors
/// [`Code::HubRunning`] when another hub serves this home; what is wrong with home, settings or port; that a part of the
/// hub panicked, after which it has let go of everything like one that was stopped.
pub async fn run(start: Start, ready: impl FnOnce(&HubFile)) -> Result<(), Problem> {
    start.home.prepare()?;
    let mut settings = Settings::load(&start.home)?;
    let lease = take_lease(&start.home).await?;
    logging::start(&start.home, &settings.log, start.foreground)?;
    let Start { home, executable, .. } = start.clone();
    let means = Means { home, executable, open_files: raise_file_limit() };
    fit(&mut settings);
    panics::heed();
    let stop = Stop::on_signals()?;
    tokio::spawn(stop.clone().heed_panics());
    let before = HubFile::read(&start.home)?;
    let wanted = start.port.map_or(Wanted::From(settings.hub.port), Wanted::Exactly);
    let listener = bind::bind(&start.home, wanted, before.as_ref().map(|file| file.port)).await?;
    let port = listener.local_addr().map_err(|error| Problem::from_io(&error, Code::Internal, "no address"))?.port();
    let file = describe(port, before)?;
    let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
    let journal = Journal::start(&start.home).await;
    let api = open(means, &settings, &file, &journal, &stop, &end, &tasks)?;
    file.write(&start.home)?;
    tracing::info!(url = file.url, pid = file.process.pid, "the hub serves");
    ready(&file);
    let presence = Presence { home: start.home, file, lease };
    // Who finds the door closed finds the reason in the file.
    let close = CancellationToken::new();
    let leaving = async {
        let presence = presence.keep(&stop.token()).await;
        close.cancel();
        presence
    };
    let bounds = Bounds { most: settings.hub.max_connections, unread: settings.hub.unread_timeout };
    let serving = server::serve(listener, api::router(api), bounds, &close, stop.hurry(), DRAIN);
    let ((), presence) = tokio::join!(serving, leaving);
    end.cancel();
    tasks.close();
    let ended = tokio::time::timeout(TASKS_END, tasks.wait()).await.is_ok();
    journal.close().await;
    tracing::info!(all_tasks_ended = ended, "the hub has stopped");
    drop(presence);
    if panics::happened() { Err(panics::problem()) } else { Ok(()) }
}

/// Takes the hub's lease, or reports the hub that has it.
async fn take_lease(home: &Home) -> Result<Lease, Problem> {
    let path = home.hub_lease();
    let deadline = Instant::now() + OTHER_HUB;
    loop {
        let taken = Lease::acquire(&path, Duration::ZERO)
            .map_err(|error| cannot_write(&error, format!("cannot lock {}", path.display()), &path))?;
        if let Some(lease) = taken {
            return Ok(lease);
        }
        let running = HubFile::current(home)?;
        if running.is_some() || Instant::now() > deadline {
            return Err(hub_running(home, running.as_ref()));
        }
        // The other one is between its lease and its file, a matter of milliseconds; or it lets its last requests end.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn hub_running(home: &Home, running: Option<&HubFile>) -> Problem {
    let problem =
        Problem::new(Code::HubRunning, "another hub serves this home").seen("home", home.root().display().to_string());
    match running {
        Some(file) => problem
            .seen("url", file.url.clone())
            .seen("pid", file.process.pid)
            .seen("since", file.started_at.to_string())
            .next("use it: linchpin status")
            .next("or stop it first: linchpin hub stop"),
        None => problem
            .next(format!("it holds {} but does not serve; see who it is: fuser -v {0}", home.hub_lease().display())),
    }
}

/// What others are told. The token of the hub before is kept: agents were configured with it.
fn describe(port: u16, before: Option<HubFile>) -> Result<HubFile, Problem> {
    let no_random = |error: std::io::Error| Problem::from_io(&error, Code::Internal, "no randomness for the token");
    let token = before.map_or_else(|| hello::random().map_err(no_random), |file| Ok(file.token))?;
    let process = Identity::current()
        .map_err(|error| Problem::from_io(&error, Code::Internal, "cannot read our own identity"))?;
    Ok(HubFile {
        format: 1,
        url: format!("http://127.0.0.1:{port}"),
        port,
        process,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        token,
        started_at: Timestamp::now(),
        stopped_at: None,
    })
}

/// Opens the rooms in the order in which facts flow.
fn open(
    means: Means,
    settings: &Settings,
    file: &HubFile,
    journal: &Journal,
    stop: &Stop,
    end: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<Arc<Api>, Problem> {
    let home = means.home.clone();
    let discovery = Discovery::start(Registry::new(&home), settings.into(), end.clone(), tasks);
    let ondemand = OnDemand::start(means, &discovery, end.clone(), tasks);
    let starter = Arc::new(ondemand.clone());
    let links = Links::with_declared(&discovery, starter, &settings.link, end.clone(), tasks);
    let network = Network::start(&links, end.clone(), tasks);
    let recovery = Recovery::start(&links, network.watch(), end.clone(), tasks);
    let key = SessionKey::from_token(&file.token);
    let gateway = Gateway::start(&links, &settings.gateway, key, journal, stop.token(), tasks);
    let token = settings.hub.token_required.then(|| file.token.clone());
    if token.is_none() {
        tracing::warn!("the token is switched off by the settings: every program of this machine may use the hub");
    }
    let guard = Guard { port: file.port, token };
    let (declared, journal) = (ondemand.trouble(), journal.facts());
    let rooms = Rooms { discovery, links, declared, network, recovery, gateway, journal };
    Ok(Api::new(home, file.clone(), guard, rooms, stop.token()).answering())
}

/// Asks for as many open files as the system allows; the usual soft limit of 1,024 is for programs that use select(2).
/// Says how many they were: that is what children are to have.
fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    limit.current
}

/// Makes no promise that the limit of open files would break: connections without a descriptor would wait for ever.
fn fit(settings: &mut Settings) {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    let most = files.saturating_sub(OWN_FILES).max(files / 2).max(4);
    if most < settings.hub.max_connections {
        tracing::warn!(files, connections = most, "the limit of open files allows fewer connections than the settings");
        settings.hub.max_connections = most;
    }
    settings.gateway.max_streams = settings.gateway.max_streams.min(settings.hub.max_connections / 4 * 3).max(1);
}
