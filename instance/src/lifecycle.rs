//! An instance's presence on this machine: it listens, is registered, and is served.
//!
//! Owns the order of a life (DESIGN 4.1): bind → register → serve → drain → unregister → close. The agent and the embed
//! library both live by it.
//! Invariant: the record names a port on which we listen already, and it is there for as long as anything of the
//! instance is; when it goes, nothing is left that it could have named.
//! Never: registers before it listens, or unregisters before the processes are gone.

use crate::conflict::{self, Conflict};
use crate::registrar::Registrar;
use crate::server::{self, App, Server};
use jiff::Timestamp;
use linchpin_shared::home::Home;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::Identity;
use linchpin_shared::protocol::hello;
use linchpin_shared::registry::record::{self, Protocol, Record, Service, instance_id};
use linchpin_shared::registry::{Registration, Registry};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use uuid::Uuid;

/// How long calls under way may take once the instance stops. Most take milliseconds; who wants all of them to end stops
/// an instance that is idle.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);

/// What an instance says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Its name.
    pub(crate) name: String,
    /// The directory of its project.
    pub(crate) project_dir: PathBuf,
    /// The version of the program.
    pub(crate) version: String,
    /// Its HTTP services.
    pub(crate) services: Vec<Service>,
    /// Its MCP servers.
    pub(crate) servers: Vec<record::Server>,
    /// Anything else.
    pub(crate) labels: BTreeMap<String, String>,
}

/// A place in the registry and a port, before anything is served.
#[derive(Debug)]
pub(crate) struct Place {
    listener: TcpListener,
    registration: Registration,
}

impl Place {
    /// Listens, then registers.
    pub(crate) async fn take(
        home: &Home,
        facts: Facts,
        conflict: Conflict,
        patience: Duration,
    ) -> Result<Self, Problem> {
        let (listener, endpoint) = server::bind().await?;
        let record = record(facts, endpoint)?;
        let registration = conflict::register(Registry::new(home), record, conflict, patience).await?;
        Ok(Self { listener, registration })
    }

    /// The record as it was registered.
    pub(crate) fn record(&self) -> &Record {
        self.registration.record()
    }

    /// From now on there are processes that may outlive us: if we end without a word, the record stays and tells so.
    pub(crate) fn outlived(mut self) -> Self {
        self.registration.take_back_when_dropped(false);
        self
    }

    /// Unregisters what was never served.
    pub(crate) async fn give_up(self) -> Result<(), Problem> {
        Registrar::start(self.registration).unregister().await
    }

    /// Begins to serve.
    pub(crate) fn serve(self, app: App) -> Presence {
        let app = Arc::new(app);
        let server = Server::start(self.listener, Arc::clone(&app));
        Presence { app, server, registrar: Registrar::start(self.registration) }
    }
}

/// An instance that is there.
#[derive(Debug)]
pub(crate) struct Presence {
    /// What it serves.
    pub(crate) app: Arc<App>,
    server: Server,
    registrar: Registrar,
}

impl Presence {
    /// Where to say which services the instance offers.
    pub(crate) fn services(&self) -> watch::Sender<Vec<Service>> {
        self.registrar.services()
    }

    /// Takes no more work, and gives what is under way a moment.
    pub(crate) async fn drain(&self) {
        self.app.draining.cancel();
        self.app.in_flight.close();
        if tokio::time::timeout(DRAIN_WITHIN, self.app.in_flight.wait()).await.is_err() {
            tracing::warn!(calls = self.app.in_flight.len(), "calls are interrupted: they were not answered in time");
        }
    }

    /// Unregisters, then says goodbye to whoever is connected.
    pub(crate) async fn leave(self) -> Result<(), Problem> {
        let unregistered = self.registrar.unregister().await;
        self.server.close().await;
        unregistered
    }
}

fn record(facts: Facts, endpoint: String) -> Result<Record, Problem> {
    let unknown = |error: std::io::Error| {
        Problem::from_io(&error, Code::Internal, "cannot tell who this process is").next("ls /proc/self")
    };
    let Facts { name, project_dir, version, services, servers, labels } = facts;
    Ok(Record {
        format: record::FORMAT,
        id: instance_id(&project_dir, &name),
        name,
        generation: Uuid::now_v7(),
        endpoint,
        protocol: Protocol::H2c,
        process: Identity::current().map_err(unknown)?,
        project_dir,
        version,
        secret: hello::random().map_err(unknown)?,
        services,
        servers,
        labels,
        registered_at: Timestamp::now(),
        other: serde_json::Map::new(),
    })
}
