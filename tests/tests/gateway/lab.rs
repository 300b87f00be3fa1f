//! The lab for tests of the gateway: a hub in this process, whose settings and rooms a test can reach, and instances in
//! processes of their own. The hub has no journal and demands no token.

use anyhow::{Context, Result, ensure};
use linchpin_hub::internals::{
    ApiParts, ApiState, Discovery, Gateway, Guard, Journal, Links, Network, Recovery, SessionKey, SessionState,
    mcp_routes,
};
use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::process::{Identity, Signal};
use linchpin_shared::registry::Registry;
use linchpin_shared::settings::Settings;
use linchpin_tests::agent::Dialect;
use linchpin_tests::agent::http::Http;
use linchpin_tests::agent::stream::PATIENCE;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::running::Running;
use linchpin_tests::wait::until;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A lab with a hub in this process.
pub(crate) struct GatewayLab {
    lab: Lab,
    settings: Settings,
    hub: Hub,
    instances: Vec<(String, Running)>,
}

/// A hub in this process.
struct Hub {
    gateway: Arc<Gateway>,
    url: String,
    /// Its own runtime, so that it can end like a process.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Hub {
    async fn start(home: &Home, settings: &Settings) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (home, settings) = (home.clone(), settings.clone());
        let (gateway, url) = runtime.spawn(async move { serve(&home, &settings).await }).await??;
        Ok(Self { gateway, url, runtime: Some(runtime) })
    }

    /// Ends it as a kill would: no message is sent to anybody, and every connection breaks.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
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

impl GatewayLab {
    /// A hub without instances.
    pub(crate) async fn new() -> Result<Self> {
        Self::with(|_| {}).await
    }

    /// A hub with other settings.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Result<Self> {
        let lab = Lab::new()?;
        let home = Home::at(lab.home());
        home.prepare().map_err(anyhow::Error::from)?;
        let mut settings = Settings::load(&home).map_err(anyhow::Error::from)?;
        // Most tests are about what instances offer.
        settings.gateway.own_tools = false;
        change(&mut settings);
        let hub = Hub::start(&home, &settings).await?;
        Ok(Self { lab, settings, hub, instances: Vec::new() })
    }

    pub(crate) fn home(&self) -> Home {
        Home::at(self.lab.home())
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        &self.hub.gateway
    }

    /// The URL of a path of the hub.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.hub.url)
    }

    /// A client at this path that has sent nothing yet.
    pub(crate) fn client(&self, path: &str) -> Http {
        Http::at(self.url(path), "")
    }

    /// A client of the stateless dialect, which can be asked.
    pub(crate) fn stateless(&self, path: &str) -> Http {
        self.client(path).speaking(Dialect::Stateless).with_capabilities(json!({"elicitation": {}}))
    }

    /// A session at this path.
    pub(crate) async fn agent(&self, path: &str) -> Result<Http> {
        self.client(path).begin().await
    }

    /// A session of a client with these capabilities.
    pub(crate) async fn agent_with(&self, path: &str, capabilities: Value) -> Result<Http> {
        self.client(path).with_capabilities(capabilities).begin().await
    }

    /// Kills the hub and starts another one, at another port.
    pub(crate) async fn restart_hub(&mut self) -> Result<()> {
        self.hub.kill();
        self.hub = Hub::start(&self.home(), &self.settings).await?;
        Ok(())
    }

    /// Where the server of an instance keeps what outlives it.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.lab.state(name)
    }

    /// The lines of a file that the server of an instance keeps.
    pub(crate) fn noted(&self, name: &str, file: &str) -> Vec<String> {
        self.lab.noted(name, file)
    }

    /// Starts an instance with the server of the fixtures, and waits until the hub has a session with it.
    pub(crate) async fn start(&mut self, name: &str) -> Result<()> {
        self.launch(name)?;
        self.ready(name).await
    }

    /// Starts an instance with the server of the fixtures, in a project of its own.
    pub(crate) fn launch(&mut self, name: &str) -> Result<()> {
        let state = self.state(name);
        std::fs::create_dir_all(&state)?;
        let mut command = self.lab.linchpin(["--no-autostart", "run", "--name", name, "--mcp", "--"]);
        command.args(kit::fixture(name, &state)?).current_dir(&state);
        let instance = Running::start(command, self.lab.dir().join(format!("out/{name}.log")))?;
        self.instances.push((name.to_owned(), instance));
        Ok(())
    }

    /// Waits until the hub has a session with the server of an instance, and all its lists.
    pub(crate) async fn ready(&self, name: &str) -> Result<()> {
        until(&format!("{name} is ready"), PATIENCE, async || {
            let catalog = self.hub.gateway.servers();
            let ready = catalog.iter().any(|server| {
                server.instance == name
                    && server.session == SessionState::Ready
                    && server.resources > 0
                    && !server.tools.is_empty()
            });
            ensure!(ready, "{catalog:?}\n{}", self.lab.logs());
            Ok(())
        })
        .await
    }

    /// Waits until so many servers are listed with their tools.
    pub(crate) async fn lists(&self, servers: usize) -> Result<()> {
        until("the servers are listed", PATIENCE, async || {
            let catalog = self.hub.gateway.servers();
            let listed = catalog.iter().filter(|server| !server.tools.is_empty()).count();
            ensure!(listed == servers, "{catalog:?}");
            Ok(())
        })
        .await
    }

    /// Kills the agent of an instance.
    pub(crate) async fn kill(&mut self, name: &str) -> Result<()> {
        self.take(name)?.kill_9().await
    }

    /// Stops an instance properly.
    pub(crate) async fn stop(&mut self, name: &str) -> Result<()> {
        let mut instance = self.take(name)?;
        instance.signal(Signal::TERM)?;
        instance.exit(PATIENCE).await.map(drop)
    }

    fn take(&mut self, name: &str) -> Result<Running> {
        let at = self.instances.iter().position(|(known, _)| known == name).context("no such instance")?;
        Ok(self.instances.remove(at).1)
    }
}
