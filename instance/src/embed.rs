//! The library: a program makes itself known to the hub.
//!
//! Owns [`Instance`] and its [`Builder`]. Two calls are enough: [`Builder::start`] listens, registers and serves in the
//! background of the current tokio runtime; [`Instance::stop`] takes all of that back.
//! Invariant: from the end of `start` to `stop` the program is in the registry, also after the registry was removed.
//! Never: starts, stops or signals a process, or listens to signals: what the program does is its own affair.

use crate::board::Board;
use crate::conflict::Conflict;
use crate::mcp::proxy::{self, Proxy, Target};
use crate::mcp::{self, Names};
use crate::presence::{Facts, Place, Presence};
use crate::server::App;
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
/// The library listens to no signals: a program that is to end well on SIGTERM, SIGINT (Ctrl-C) and SIGHUP awaits them
/// and then calls [`Instance::stop`], as `examples/embed.rs` does. Dropped without that, it unregisters as far as it can,
/// and takes no leave of calls under way; a program that is killed is removed by the hub.
#[derive(Debug)]
pub struct Instance {
    presence: Presence,
}

impl Instance {
    /// An instance of this name (1 to 40 characters of `a-z`, `0-9` and `-`).
    pub fn builder(name: impl Into<String>) -> Builder {
        Builder {
            name: name.into(),
            home: None,
            project_dir: None,
            version: String::new(),
            services: Vec::new(),
            mcp_servers: Vec::new(),
            labels: BTreeMap::new(),
            conflict: Conflict::Fail,
        }
    }

    /// The record as it stands in the registry.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.presence.app.record
    }

    /// Ends when the hub, on behalf of a person, asks this program to stop. What to do then is up to the program.
    pub async fn stop_requested(&self) {
        self.presence.app.stop_asked.cancelled().await;
    }

    /// Waits a moment for calls under way, unregisters and says goodbye to the hub.
    ///
    /// # Errors
    /// When the record could not be removed. The program is not served any more in any case.
    pub async fn stop(self) -> Result<(), Problem> {
        self.presence.drain().await;
        self.presence.leave().await
    }
}

/// What a program says of itself before it starts to be an instance.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    home: Option<Home>,
    project_dir: Option<PathBuf>,
    version: String,
    services: Vec<Service>,
    mcp_servers: Vec<(String, String)>,
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

    /// Offers an MCP server that listens at an `http://` URL.
    #[must_use]
    pub fn mcp_server(mut self, name: impl Into<String>, url: impl Into<String>) -> Self {
        self.mcp_servers.push((name.into(), url.into()));
        self
    }

    /// Says something else about the program.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// The version of the program.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// The directory of the project; the current one by default. With the name it makes the instance's identity.
    #[must_use]
    pub fn project_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.project_dir = Some(dir.into());
        self
    }

    /// The home to register in; that of the environment by default.
    #[must_use]
    pub fn home(mut self, home: Home) -> Self {
        self.home = Some(home);
        self
    }

    /// What to do when a live instance has the name already; by default, to fail.
    #[must_use]
    pub const fn on_conflict(mut self, conflict: Conflict) -> Self {
        self.conflict = conflict;
        self
    }

    /// Listens, registers and serves, in the background of the current tokio runtime.
    ///
    /// # Errors
    /// A [`Problem`] that says what is in the way: a bad name or URL, the name taken, the home unusable.
    pub async fn start(self) -> Result<Instance, Problem> {
        let home = self.home.map_or_else(Home::from_env, Ok)?;
        let project_dir = self.project_dir.map_or_else(current_dir, Ok)?;
        for name in self.services.iter().map(|service| &service.name).chain(self.mcp_servers.iter().map(|it| &it.0)) {
            name::check(name)?;
        }
        let targets = self.mcp_servers.iter().map(|(name, url)| Ok((name.clone(), Target::parse(url)?)));
        let targets = targets.collect::<Result<BTreeMap<_, _>, Problem>>()?;
        let settings = Settings::load(&home)?;
        home.prepare()?;
        let servers =
            targets.keys().map(|name| record::Server { name: name.clone(), transport: Transport::Http, url: None });
        let facts = Facts {
            name: self.name,
            project_dir,
            version: self.version,
            services: self.services,
            servers: servers.collect(),
            labels: self.labels,
        };
        let place = Place::take(&home, facts, self.conflict, TAKE_OVER_WITHIN).await?;
        let app = app(place.record(), targets, settings.gateway.max_message_bytes);
        Ok(Instance { presence: place.serve(app) })
    }
}

fn app(record: &Record, targets: BTreeMap<String, Target>, max_message: usize) -> App {
    let board = Arc::new(Board::new(record.generation));
    let server = |(server, target): (String, Target)| {
        // There is no process of ours behind it: it counts as up, in its one life.
        proxy::Plug { server: server.clone(), board: Arc::clone(&board) }.put_up(true, 1);
        let names = Names { instance: record.name.clone(), server: server.clone() };
        (server, mcp::Server::Url(Proxy::new(names, target, max_message)))
    };
    let servers = targets.into_iter().map(server).collect();
    App::new(record.clone(), board, servers, Vec::new())
}

fn current_dir() -> Result<PathBuf, Problem> {
    std::env::current_dir().map_err(|error| {
        Problem::from_io(&error, Code::BadRequest, "cannot tell the current directory")
            .next("cd to a directory that exists")
    })
}
