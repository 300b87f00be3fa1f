//! Simulated instances: the real registry, lease, hello and messages, up to a thousand in one process.
//!
//! [`Sim`] is one registered instance with one MCP server `echo`, whose tool is `echo`. It may register the address of
//! a proxy in front of it, because the proof of the hello covers the address that the hub dials. All its messages are
//! types of `linchpin_shared`. It supervises no process.

mod serve;

use anyhow::{Context, Result};
use linchpin_shared::home::Home;
use linchpin_shared::process::Identity;
use linchpin_shared::protocol::hello;
use linchpin_shared::registry::record::{Record, instance_id};
use linchpin_shared::registry::{Registration, Registry};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use uuid::Uuid;

/// A simulated instance. Dropping it looks like its death; [`Sim::leave`] unregisters it.
#[derive(Debug)]
pub struct Sim {
    registration: Registration,
    accepting: AbortHandle,
    /// Each change ends all connections.
    cut: watch::Sender<()>,
    accepted: Arc<AtomicUsize>,
}

impl Sim {
    /// Listens on any port of 127.0.0.1 and registers.
    ///
    /// # Errors
    /// If binding or registering fails.
    pub async fn start(home: &Home, name: &str) -> Result<Self> {
        Self::start_at(home, name, Ipv4Addr::LOCALHOST.into()).await
    }

    /// Listens on any port of this address and registers.
    ///
    /// # Errors
    /// If binding or registering fails.
    pub async fn start_at(home: &Home, name: &str, address: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let endpoint = listener.local_addr()?;
        Self::behind(home, name, listener, endpoint)
    }

    /// Serves on this listener and registers as listening at `endpoint`.
    ///
    /// # Errors
    /// If binding or registering fails.
    pub fn behind(home: &Home, name: &str, listener: TcpListener, endpoint: SocketAddr) -> Result<Self> {
        let registry = Registry::new(home);
        let registration =
            registry.register(record(name, endpoint)?).map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let (cut, _) = watch::channel(());
        let accepted = Arc::new(AtomicUsize::new(0));
        let us = Arc::new(registration.record().clone());
        let accepting = tokio::spawn(serve::accept(listener, us, cut.clone(), Arc::clone(&accepted))).abort_handle();
        Ok(Self { registration, accepting, cut, accepted })
    }

    /// The record as it is registered.
    #[must_use]
    pub fn record(&self) -> &Record {
        self.registration.record()
    }

    /// How many connections it accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Resets every connection that is open.
    pub fn cut(&self) {
        self.cut.send_replace(());
    }

    /// Unregisters and ends all connections.
    ///
    /// # Errors
    /// If the record cannot be removed.
    pub fn leave(self) -> Result<()> {
        self.accepting.abort();
        let left = self.registration.unregister().map_err(|problem| anyhow::anyhow!("{problem}"));
        self.cut.send_replace(());
        left
    }
}

fn record(name: &str, endpoint: SocketAddr) -> Result<Record> {
    let project = Path::new("/");
    let record = json!({
        "format": 1, "id": instance_id(project, name), "name": name, "generation": Uuid::now_v7(),
        "endpoint": format!("http://{endpoint}"), "protocol": "h2c", "secret": hello::random()?,
        "process": Identity::current()?, "project_dir": project, "version": "1",
        "servers": [{"name": "echo", "transport": "stdio"}], "registered_at": "2026-11-20T10:00:00Z"
    });
    serde_json::from_value(record).context("not a record")
}
