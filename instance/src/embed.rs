//! The library: a program makes itself known to the hub.
//!
//! Two calls are enough. [`Builder::start`] listens, registers and serves in the background of the current tokio
//! runtime; [`Instance::stop`] undoes all of that. In between, the program is in the registry, even after the registry
//! was removed. The library never starts, stops or signals the program's own processes and does not listen for signals.

use crate::conflict::Conflict;
use crate::lifecycle::{Description, RegisteredListener, RunningInstance};
use crate::server::ServerState;
use crate::vitals_publisher::VitalsPublisher;
use linchpin_shared::home::Home;
use linchpin_shared::name;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::protocol::vitals::Transport;
use linchpin_shared::registry::record::{self, Record, Service};
use linchpin_shared::settings::Settings;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long another instance may take to stop when its name is taken over.
const TAKE_OVER_WITHIN: Duration = Duration::from_secs(15);

/// This program as an instance, until [`Instance::stop`].
///
/// The library does not listen for signals: a program that should shut down cleanly on SIGTERM, SIGINT (Ctrl-C) and
/// SIGHUP awaits them itself and then calls [`Instance::stop`], as `examples/embed.rs` does. When an instance is
/// dropped instead, it unregisters as far as it can and interrupts the calls in flight. When the program is killed, the
/// hub removes its record.
#[derive(Debug)]
pub struct Instance {
    running: RunningInstance,
}

impl Instance {
    /// Starts to describe an instance with this name (1 to 40 characters of `a-z`, `0-9` and `-`).
    pub fn builder(name: impl Into<String>) -> Builder {
        Builder {
            name: name.into(),
            home: None,
            project_dir: None,
            version: String::new(),
            services: Vec::new(),
            mcp_servers: BTreeMap::new(),
            labels: BTreeMap::new(),
            conflict: Conflict::Fail,
        }
    }

    /// Returns the record as it was registered.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.running.state.record
    }

    /// Resolves when the hub, on behalf of a person, asks this program to stop. The program decides what to do then.
    ///
    /// # Cancel safety
    /// It may be dropped and awaited again: the request is not lost.
    pub async fn stop_requested(&self) {
        self.running.state.stop_requested.cancelled().await;
    }

    /// Gives the calls in flight up to a second, unregisters and closes the hub's connections.
    ///
    /// # Errors
    /// When the record cannot be removed. The program is not served any more in any case.
    pub async fn stop(self) -> Result<(), Problem> {
        self.running.drain().await;
        self.running.close().await
    }
}

/// What a program states about itself before it becomes an instance.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    home: Option<Home>,
    project_dir: Option<PathBuf>,
    version: String,
    services: Vec<Service>,
    mcp_servers: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    conflict: Conflict,
}

impl Builder {
    /// Offers an HTTP service, for example `("web", "http://127.0.0.1:5173")`.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>, url: impl Into<String>) -> Self {
        self.services.push(Service { name: name.into(), url: url.into() });
        self
    }

    /// Offers an MCP server that listens at a URL: `http://`, or with the feature `tls` also `https://`.
    #[cfg(feature = "mcp")]
    #[must_use]
    pub fn mcp_server(mut self, name: impl Into<String>, url: impl Into<String>) -> Self {
        self.mcp_servers.insert(name.into(), url.into());
        self
    }

    /// Adds any other information about the program to its record.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Sets the version of the program.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Sets the project's directory, by default the current one. It identifies the instance together with the name.
    #[must_use]
    pub fn project_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.project_dir = Some(dir.into());
        self
    }

    /// Sets the home in whose registry the program registers, by default that of the environment.
    #[must_use]
    pub fn home(mut self, home: Home) -> Self {
        self.home = Some(home);
        self
    }

    /// Sets what to do when a live instance has the name already; by default, [`Builder::start`] fails.
    #[must_use]
    pub const fn on_conflict(mut self, conflict: Conflict) -> Self {
        self.conflict = conflict;
        self
    }

    /// Listens, registers and serves in the background of the current tokio runtime.
    ///
    /// # Errors
    /// A [`Problem`] that says what prevents it: a bad name or URL, a name that is taken, an unusable home.
    pub async fn start(self) -> Result<Instance, Problem> {
        let home = self.home.map_or_else(Home::from_env, Ok)?;
        let project_dir = self.project_dir.map_or_else(current_dir, Ok)?;
        for name in self.services.iter().map(|service| &service.name).chain(self.mcp_servers.keys()) {
            name::check(name)?;
        }
        let servers = self.mcp_servers.keys().map(|name| record::Server {
            name: name.clone(),
            transport: Transport::Http,
            url: None,
        });
        let description = Description {
            name: self.name,
            project_dir,
            version: self.version,
            services: self.services,
            servers: servers.collect(),
            labels: self.labels,
        };
        #[cfg(feature = "mcp")]
        let urls = mcp::parse(self.mcp_servers)?;
        let settings = Settings::load(&home)?;
        home.prepare()?;
        let listener = RegisteredListener::open(&home, description, self.conflict, TAKE_OVER_WITHIN).await?;
        let record = listener.record().clone();
        let vitals = Arc::new(VitalsPublisher::new(record.generation));
        #[cfg(feature = "mcp")]
        let servers = mcp::endpoints(&record, urls, &vitals, settings.gateway.max_message_bytes);
        #[cfg(not(feature = "mcp"))]
        let (servers, _) = (BTreeMap::new(), settings);
        Ok(Instance { running: listener.serve(ServerState::new(record, vitals, servers, BTreeMap::new())) })
    }
}

/// The MCP servers of a program that embeds the library.
#[cfg(feature = "mcp")]
mod mcp {
    use crate::mcp::ServerName;
    use crate::mcp::proxy::{ProxyEndpoint, ServerUrl};
    use crate::server::state::McpEndpoint;
    use crate::vitals_publisher::{ServerVitalsPublisher, VitalsPublisher};
    use linchpin_shared::problem::Problem;
    use linchpin_shared::protocol::vitals::Transport;
    use linchpin_shared::registry::record::Record;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    pub(super) fn parse(urls: BTreeMap<String, String>) -> Result<BTreeMap<String, ServerUrl>, Problem> {
        urls.into_iter().map(|(name, url)| Ok((name, ServerUrl::parse(&url)?))).collect()
    }

    pub(super) fn endpoints(
        record: &Record,
        urls: BTreeMap<String, ServerUrl>,
        vitals: &Arc<VitalsPublisher>,
        max_message: usize,
    ) -> BTreeMap<String, Box<dyn McpEndpoint>> {
        let endpoint = |(server, url): (String, ServerUrl)| {
            // No process of ours is behind it, so it counts as up, and in its first run.
            ServerVitalsPublisher::new(server.clone(), Transport::Http, Arc::clone(vitals)).publish(true, 1);
            let name = ServerName { instance: record.name.clone(), server: server.clone() };
            let endpoint: Box<dyn McpEndpoint> = Box::new(ProxyEndpoint::new(name, url, max_message));
            (server, endpoint)
        };
        urls.into_iter().map(endpoint).collect()
    }
}

fn current_dir() -> Result<PathBuf, Problem> {
    std::env::current_dir().map_err(|error| {
        Problem::from_io(&error, Code::BadRequest, "cannot determine the current directory")
            .next("cd to a directory that exists")
    })
}
