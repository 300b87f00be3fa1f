//! A hub in this process and instances in processes of their own, in a private home.

use anyhow::{Context, Result, ensure};
use linchpin_hub::internals::{
    ApiParts, ApiState, Discovery, Gateway, Guard, Journal, Links, Network, Recovery, SessionKey, SessionState,
    mcp_routes,
};
use linchpin_instance::Conflict;
use linchpin_instance::agent::{self, LaunchOptions, PortChoice, RunOptions};
use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::process::Identity;
use linchpin_shared::registry::Registry;
use linchpin_shared::settings::Settings;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::{Agent, PATIENCE};

/// The variable by which this test program knows that it is to be an instance.
const ROLE: &str = "LINCHPIN_TEST_INSTANCE";

/// A private home, a hub and some instances.
pub(crate) struct World {
    dir: tempfile::TempDir,
    settings: Settings,
    hub: Hub,
    instances: Vec<Instance>,
}

/// A hub in this process.
pub(crate) struct Hub {
    /// Its gateway.
    pub(crate) gateway: Arc<Gateway>,
    url: String,
    /// Its own, so that it can end like a process.
    runtime: Option<tokio::runtime::Runtime>,
}

/// An instance in a process of its own.
pub(crate) struct Instance {
    name: String,
    process: Child,
}

impl Hub {
    async fn start(home: &Home, settings: &Settings) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (home, settings) = (home.clone(), settings.clone());
        let (gateway, url) = runtime.spawn(async move { serve(&home, &settings).await }).await??;
        Ok(Self { gateway, url, runtime: Some(runtime) })
    }

    /// Ends it as a kill would: nothing is said to anybody, and every connection breaks.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(home: &Home, settings: &Settings) -> Result<(Arc<Gateway>, String)> {
    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    let discovery = Discovery::start(Registry::new(home), settings.into(), cancel.clone(), &tasks);
    let links = Links::start(&discovery, &settings.link, cancel.clone(), &tasks);
    let network = Network::start(&links, cancel.clone(), &tasks);
    let recovery = Recovery::start(&links, network.watch(), cancel.clone(), &tasks);
    let journal = Journal::none();
    let key = SessionKey::from_token("test");
    let gateway = Gateway::start(&links, &settings.gateway, key, &journal, cancel.clone(), &tasks);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let url = format!("http://127.0.0.1:{port}");
    let file = HubFile {
        format: 1,
        url: url.clone(),
        port,
        process: Identity::current()?,
        version: String::from("test"),
        token: String::from("test"),
        started_at: jiff::Timestamp::now(),
        stopped_at: None,
    };
    let (_, declared) = tokio::sync::watch::channel(None);
    let (serving, journal) = (Arc::clone(&gateway), journal.status());
    let rooms = ApiParts { discovery, links, declared, network, recovery, gateway: serving, journal };
    let api = ApiState::new(home.clone(), file, Guard { port, token: None }, rooms, cancel).serving_builtin();
    let app = mcp_routes().serve(Arc::clone(&gateway));
    tokio::spawn(async move {
        let _asked = api;
        axum::serve(listener, app).await
    });
    Ok((gateway, url))
}

impl World {
    /// A hub without instances.
    pub(crate) async fn new() -> Result<Self> {
        Self::with(|_| {}).await
    }

    /// A hub with other settings.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let home = Home::at(dir.path().join("home"));
        home.prepare().map_err(anyhow::Error::from)?;
        let mut settings = Settings::load(&home).map_err(anyhow::Error::from)?;
        // Most tests are about what instances offer.
        settings.gateway.own_tools = false;
        change(&mut settings);
        let hub = Hub::start(&home, &settings).await?;
        Ok(Self { dir, settings, hub, instances: Vec::new() })
    }

    /// The home.
    pub(crate) fn home(&self) -> Home {
        Home::at(self.dir.path().join("home"))
    }

    /// The hub.
    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// An address of the gateway.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.hub.url)
    }

    /// A session at an address of the gateway.
    pub(crate) async fn agent(&self, path: &str) -> Result<Agent> {
        Agent::begin(self.url(path)).await
    }

    /// Kills the hub and starts another one, at another port.
    pub(crate) async fn restart_hub(&mut self) -> Result<()> {
        self.hub.kill();
        self.hub = Hub::start(&self.home(), &self.settings).await?;
        Ok(())
    }

    /// Where the server of an instance keeps what outlives it.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The lines of a file that the server of an instance keeps.
    pub(crate) fn noted(&self, name: &str, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.state(name).join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Starts an instance with the test server, and waits until the hub has a session with it.
    pub(crate) async fn start(&mut self, name: &str) -> Result<()> {
        self.launch(name)?;
        self.ready(name).await
    }

    /// Starts an instance with the test server.
    pub(crate) fn launch(&mut self, name: &str) -> Result<()> {
        let state = self.state(name);
        std::fs::create_dir_all(&state)?;
        let process = Command::new(std::env::current_exe()?)
            .args(["--exact", "an_instance", "--nocapture", "--test-threads=1"])
            .env(ROLE, name)
            .env("LINCHPIN_HOME", self.home().root())
            .env("LINCHPIN_TEST_STATE", &state)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(state.join("stderr"))?)
            .spawn()?;
        self.instances.push(Instance { name: name.to_owned(), process });
        Ok(())
    }

    /// Waits until the hub has a session with the server of an instance, and all its lists.
    pub(crate) async fn ready(&self, name: &str) -> Result<()> {
        until(&format!("{name} is ready"), || {
            let catalog = self.hub.gateway.servers();
            let ready = catalog.iter().any(|server| {
                server.instance == name
                    && server.session == SessionState::Ready
                    && server.resources > 0
                    && !server.tools.is_empty()
            });
            ensure!(
                ready,
                "{catalog:?}, {}",
                std::fs::read_to_string(self.state(name).join("stderr")).unwrap_or_default()
            );
            Ok(())
        })
        .await
    }

    /// Kills an instance, agent and server, with SIGKILL.
    pub(crate) fn kill(&mut self, name: &str) -> Result<()> {
        let at = self.instances.iter().position(|instance| instance.name == name).context("no such instance")?;
        let mut instance = self.instances.remove(at);
        instance.process.kill()?;
        instance.process.wait()?;
        Ok(())
    }

    /// Stops an instance properly.
    pub(crate) fn stop(&mut self, name: &str) -> Result<()> {
        let at = self.instances.iter().position(|instance| instance.name == name).context("no such instance")?;
        let mut instance = self.instances.remove(at);
        terminate(&instance.process)?;
        instance.process.wait()?;
        Ok(())
    }
}

impl Drop for World {
    /// Properly, so that nothing of a server is left either.
    fn drop(&mut self) {
        for instance in &mut self.instances {
            if terminate(&instance.process).is_ok() {
                let _ = instance.process.wait();
            }
        }
        self.hub.kill();
    }
}

fn terminate(process: &Child) -> Result<()> {
    let pid = rustix::process::Pid::from_child(process);
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
}

/// Looks until it is so, and tells what was seen last when it does not come.
pub(crate) async fn until(what: &str, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(()) => return Ok(()),
            Err(seen) if tokio::time::Instant::now() > deadline => return Err(seen.context(what.to_owned())),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// When started by [`World::launch`], this test program is an instance.
#[expect(clippy::print_stderr, reason = "read by the test that waits for it")]
pub(crate) fn be_an_instance() {
    let (Ok(name), Some(state)) = (std::env::var(ROLE), std::env::var_os("LINCHPIN_TEST_STATE").map(PathBuf::from))
    else {
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mcp_server.py");
    let options = RunOptions {
        name: Some(name.clone()),
        project_dir: state.clone(),
        command: ["python3".into(), script.into(), name.into(), state.into()].to_vec(),
        kind: agent::Kind::McpStdio,
        port: PortChoice::Default,
        conflict: Conflict::Fail,
        pass_through: false,
        launch: LaunchOptions::default(),
    };
    let lived = || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(agent::run(&Home::from_env()?, options, |_| {}))?;
        Ok(())
    };
    if let Err(error) = lived() {
        eprintln!("{error:?}");
    }
}
