//! The life of an instance on this machine: bind → register → serve → drain → unregister → close.
//!
//! The agent and the embed library share this order. The record names a port on which the instance listens already, and
//! it exists for as long as anything of the instance does: registration follows the bind, and an agent's processes are
//! gone before it unregisters.

use crate::conflict::{self, Conflict};
use crate::registrar::Registrar;
use crate::server::{self, Server, ServerState};
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

/// How long calls in flight may take once the instance stops. Most take milliseconds; to lose none, stop an instance
/// that is idle.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);

/// What an instance states about itself in its record.
#[derive(Debug, Clone)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) project_dir: PathBuf,
    /// The version of the program.
    pub(crate) version: String,
    /// The HTTP services that it offers.
    pub(crate) services: Vec<Service>,
    /// The MCP servers that it offers.
    pub(crate) servers: Vec<record::Server>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// A listener whose port is registered, before anything is served on it.
#[derive(Debug)]
pub(crate) struct RegisteredListener {
    listener: TcpListener,
    registration: Registration,
}

impl RegisteredListener {
    /// Binds, then registers. `patience` bounds the wait for an instance that is taken over.
    pub(crate) async fn open(
        home: &Home,
        description: Description,
        conflict: Conflict,
        patience: Duration,
    ) -> Result<Self, Problem> {
        let (listener, endpoint) = server::bind().await?;
        let record = record(description, endpoint)?;
        let registration = conflict::register(Registry::new(home), record, conflict, patience).await?;
        Ok(Self { listener, registration })
    }

    /// The record as it was registered.
    pub(crate) fn record(&self) -> &Record {
        self.registration.record()
    }

    /// From now on processes may outlive this one: if it ends unexpectedly, the record stays as evidence of that.
    pub(crate) fn keep_record_on_drop(mut self) -> Self {
        self.registration.take_back_when_dropped(false);
        self
    }

    /// Unregisters an instance that was never served.
    pub(crate) async fn unregister(self) -> Result<(), Problem> {
        Registrar::start(self.registration).unregister().await
    }

    /// Starts to serve in the background.
    pub(crate) fn serve(self, state: ServerState) -> RunningInstance {
        let state = Arc::new(state);
        let server = Server::start(self.listener, Arc::clone(&state));
        RunningInstance { state, server, registrar: Registrar::start(self.registration) }
    }
}

/// An instance that is registered and served.
#[derive(Debug)]
pub(crate) struct RunningInstance {
    /// What it serves.
    pub(crate) state: Arc<ServerState>,
    server: Server,
    registrar: Registrar,
}

impl RunningInstance {
    /// The services in the record: a value that is sent here is written to it.
    pub(crate) fn services(&self) -> watch::Sender<Vec<Service>> {
        self.registrar.services()
    }

    /// Accepts no new calls and gives those in flight some time.
    pub(crate) async fn drain(&self) {
        self.state.draining.cancel();
        self.state.in_flight.close();
        if tokio::time::timeout(DRAIN_WITHIN, self.state.in_flight.wait()).await.is_err() {
            tracing::warn!(calls = self.state.in_flight.len(), "calls were not answered in time and are interrupted");
        }
    }

    /// Unregisters, then closes every connection with a GOAWAY.
    pub(crate) async fn close(self) -> Result<(), Problem> {
        let unregistered = self.registrar.unregister().await;
        self.server.close().await;
        unregistered
    }
}

fn record(description: Description, endpoint: String) -> Result<Record, Problem> {
    let unknown = |error: std::io::Error| {
        Problem::from_io(&error, Code::Internal, "cannot identify this process").next("ls /proc/self")
    };
    let Description { name, project_dir, version, services, servers, labels } = description;
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
