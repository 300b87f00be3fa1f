//! The process of the hub: how it starts, serves, drains and ends.
//!
//! To become the hub is to take the hub's lease. Only then the port is bound, and only then `hub.json` is written, so a
//! process that finds the file finds a hub that listens. Of any number of hubs that start at once, exactly one gets the
//! lease, and the others report that one. A stop is first noted in the file; then the hub accepts no more connections
//! and lets requests finish within a time limit. A second signal skips the waiting. What requests need ends after them.
//! No instance is stopped.

pub mod bind;
mod logging;
mod registration;
mod stop;

use crate::api::{self, ApiParts, ApiState};
use crate::discovery::Discovery;
use crate::gateway::mcp::{Gateway, SessionKey};
use crate::http::guard::Guard;
use crate::http::server::{self, ConnectionLimits};
use crate::journal::Journal;
use crate::launcher::{DeclaredLauncher, LaunchEnv};
use crate::link::Links;
use crate::network::Network;
use crate::recovery::Recovery;
use bind::PortChoice;
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
use registration::HubRegistration;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use stop::StopTokens;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long requests may continue after the hub was told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the hub's own tasks may take to end. They have nothing to wait for.
const TASKS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for a hub that holds the lease, until it has written its file or has ended. This is longer than a
/// stop takes.
const OTHER_HUB_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of open files that the hub needs beside its clients' connections: its own, and one for each of a few
/// hundred links.
const OWN_FILES: usize = 512;

/// How the hub is started.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// The home that it serves.
    pub home: Home,
    /// The port that was asked for.
    pub port: Option<u16>,
    /// Whether a person watches its standard error.
    pub foreground: bool,
    /// The path of this program, which also starts instances.
    pub executable: PathBuf,
}

/// Runs the hub until it is stopped. `ready` is called once, when it serves.
///
/// # Errors
/// [`Code::HubRunning`] if another hub serves this home; a problem with the home, the settings or the port; or that a
/// part of the hub panicked, in which case it has released everything in the same way as a stopped one.
pub async fn run(options: HubOptions, ready: impl FnOnce(&HubFile)) -> Result<(), Problem> {
    options.home.prepare()?;
    let mut settings = Settings::load(&options.home)?;
    let lease = take_lease(&options.home).await?;
    logging::start(&options.home, &settings.log, options.foreground)?;
    let HubOptions { home, executable, .. } = options.clone();
    let launch_env = LaunchEnv { home, executable, open_files: raise_file_limit() };
    fit_to_file_limit(&mut settings);
    panics::heed();
    let stop = StopTokens::on_signals()?;
    tokio::spawn(stop.clone().on_panic());
    let before = HubFile::read(&options.home)?;
    let choice = options.port.map_or(PortChoice::From(settings.hub.port), PortChoice::Exactly);
    let listener = bind::bind(&options.home, choice, before.as_ref().map(|file| file.port)).await?;
    let port = listener.local_addr().map_err(|error| Problem::from_io(&error, Code::Internal, "no address"))?.port();
    let file = describe(port, before)?;
    let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
    let journal = Journal::start(&options.home).await;
    let api = open_rooms(launch_env, &settings, &file, &journal, &stop, &end, &tasks)?;
    file.write(&options.home)?;
    tracing::info!(url = file.url, pid = file.process.pid, "the hub serves");
    ready(&file);
    let registration = HubRegistration { home: options.home, file, lease };
    // The file is updated before the port is closed, so that a client that cannot connect finds the reason there.
    let close = CancellationToken::new();
    let leaving = async {
        let registration = registration.maintain(&stop.token()).await;
        close.cancel();
        registration
    };
    let limits = ConnectionLimits::from(&settings.hub);
    let serving = server::serve(listener, api::router(api), limits, &close, stop.force(), DRAIN_TIMEOUT);
    let ((), registration) = tokio::join!(serving, leaving);
    end.cancel();
    tasks.close();
    let ended = tokio::time::timeout(TASKS_TIMEOUT, tasks.wait()).await.is_ok();
    journal.close().await;
    tracing::info!(all_tasks_ended = ended, "the hub has stopped");
    drop(registration);
    if panics::happened() { Err(panics::problem()) } else { Ok(()) }
}

/// Takes the lease of the hub, or reports the hub that has it.
async fn take_lease(home: &Home) -> Result<Lease, Problem> {
    let path = home.hub_lease();
    let deadline = Instant::now() + OTHER_HUB_TIMEOUT;
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
        // The other hub has taken its lease and is about to write its file, which takes milliseconds; or it lets its
        // last requests finish.
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
        None => problem.next(format!(
            "it holds {} but does not serve; this shows which process it is: fuser -v {0}",
            home.hub_lease().display()
        )),
    }
}

/// Describes the hub for its file. It keeps the token of the last hub, with which agents were configured.
fn describe(port: u16, before: Option<HubFile>) -> Result<HubFile, Problem> {
    let no_random = |error: std::io::Error| Problem::from_io(&error, Code::Internal, "cannot generate a token");
    let token = before.map_or_else(|| hello::random().map_err(no_random), |file| Ok(file.token))?;
    let process = Identity::current()
        .map_err(|error| Problem::from_io(&error, Code::Internal, "cannot read the identity of this process"))?;
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

/// Starts the rooms in the order in which information flows.
fn open_rooms(
    launch_env: LaunchEnv,
    settings: &Settings,
    file: &HubFile,
    journal: &Journal,
    stop: &StopTokens,
    end: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<Arc<ApiState>, Problem> {
    let home = launch_env.home.clone();
    let discovery = Discovery::start(Registry::new(&home), settings.into(), end.clone(), tasks);
    let launcher = DeclaredLauncher::start(launch_env, &discovery, end.clone(), tasks);
    let links = Links::with_declared(&discovery, Arc::new(launcher.clone()), &settings.link, end.clone(), tasks);
    let network = Network::start(&links, end.clone(), tasks);
    let recovery = Recovery::start(&links, network.watch(), end.clone(), tasks);
    let key = SessionKey::from_token(&file.token);
    let gateway = Gateway::start(&links, &settings.gateway, key, journal, stop.token(), tasks);
    let token = settings.hub.token_required.then(|| file.token.clone());
    if token.is_none() {
        tracing::warn!("the token is switched off by the settings: every program on this machine can use the hub");
    }
    let guard = Guard { port: file.port, token };
    let (declared, journal) = (launcher.list_problem(), journal.status());
    let parts = ApiParts { discovery, links, declared, network, recovery, gateway, journal };
    Ok(ApiState::new(home, file.clone(), guard, parts, stop.token()).serving_builtin())
}

/// Raises the limit of open files to what the system allows; the usual soft limit of 1,024 is meant for programs that
/// use select(2). Returns the old limit, which children should have.
fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    limit.current
}

/// Lowers the settings to what the limit of open files allows. Otherwise connections without a file descriptor would
/// wait forever.
fn fit_to_file_limit(settings: &mut Settings) {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    let most = files.saturating_sub(OWN_FILES).max(files / 2).max(4);
    if most < settings.hub.max_connections {
        tracing::warn!(files, connections = most, "the limit of open files allows fewer connections than the settings");
        settings.hub.max_connections = most;
    }
    settings.gateway.max_streams = settings.gateway.max_streams.min(settings.hub.max_connections / 4 * 3).max(1);
}
