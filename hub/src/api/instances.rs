//! `GET /status` and `GET /v1/instances…`: what the hub knows about its instances.
//!
//! The JSON of an instance has the status of its link, its own vitals, and the gateway's sessions. It has the same form
//! in the list and alone. Fields may be added, but never change their meaning. It never contains the secret of a
//! record.

use super::ApiState;
use crate::gateway::mcp::{ServerStatus, SessionState};
use crate::http::answer;
use crate::link::failure::Failure;
use crate::link::{LinkHandle, LinkState, LinkStatus};
use axum::extract::{self, Path};
use axum::response::Response;
use jiff::Timestamp;
use linchpin_shared::problem::{Code, Problem};
use linchpin_shared::process::Identity;
use linchpin_shared::protocol::vitals::{self, Transport};
use linchpin_shared::registry::record::{self, Service};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;
use std::sync::Arc;
use uuid::Uuid;

/// An instance in the API.
#[derive(Serialize)]
struct InstanceJson<'a> {
    id: Uuid,
    name: &'a str,
    state: &'a str,
    since: Timestamp,
    why: &'a str,
    generation: Uuid,
    /// Null while nothing of it is running.
    pid: Option<u32>,
    process: &'a Identity,
    project_dir: &'a FilePath,
    endpoint: &'a str,
    version: &'a str,
    registered_at: Timestamp,
    attempts: u32,
    next_try: Option<Timestamp>,
    last_failure: Option<&'a Failure>,
    processes: &'a [vitals::ProcessVitals],
    servers: &'a [ServerView],
    services: &'a [Service],
}

/// What is needed to show an instance, held while it is serialized. As JSON values, a thousand instances would take ten
/// megabytes more.
struct InstanceView {
    link: LinkHandle,
    status: Arc<LinkStatus>,
    vitals: Option<Arc<vitals::Vitals>>,
    servers: Vec<ServerView>,
}

/// The list of instances.
#[derive(Serialize)]
struct InstanceList {
    instances: Vec<InstanceView>,
}

/// The answer to `GET /status`.
#[derive(Serialize)]
struct HubStatus {
    hub: Value,
    #[serde(flatten)]
    all: InstanceList,
    rejected: Vec<Value>,
    quarantine: Value,
}

/// An MCP server of an instance: what the instance reports about it, and the state of the gateway's session with it.
#[derive(Serialize)]
struct ServerView {
    name: String,
    transport: Transport,
    up: bool,
    epoch: u64,
    session: SessionState,
    /// When the session entered its state.
    session_since: Option<Timestamp>,
    /// Why there is no session.
    session_why: Option<String>,
    tools: usize,
}

pub(super) async fn status(extract::State(api): extract::State<Arc<ApiState>>) -> Response {
    answer::json(&overview(&api))
}

/// Returns the hub and all instances.
pub(super) fn overview(api: &ApiState) -> impl Serialize + use<> {
    let mut warnings = Vec::new();
    if api.guard.token.is_none() {
        warnings.push(String::from("the token is switched off: every program on this machine can use the hub"));
    }
    let senses = api.discovery.senses.borrow().clone();
    let journal = api.journal.borrow().clone();
    let undeclared = api.declared.borrow().clone();
    let problems =
        senses.blind.into_iter().chain(senses.deaf).chain(journal.problem).chain(journal.corrupt).chain(undeclared);
    let problems: Vec<Problem> = problems.collect();
    warnings.extend(problems.iter().map(|problem| problem.detail.clone()));
    let snapshot = api.discovery.snapshot.borrow().clone();
    let rejected: Vec<Value> = snapshot
        .rejected
        .iter()
        .map(|rejected| json!({"path": rejected.path.display().to_string(), "problem": rejected.problem}))
        .collect();
    HubStatus {
        hub: json!({
            "url": api.hub.url,
            "pid": api.hub.process.pid,
            "version": api.hub.version,
            "home": api.home.root().display().to_string(),
            "started_at": api.hub.started_at,
            "uptime_seconds": api.started.elapsed().as_secs(),
            "warnings": warnings,
            "problems": problems,
            "network": *api.network.watch().borrow(),
            "hold": *api.recovery.hold().borrow(),
        }),
        all: list(api),
        rejected,
        quarantine: json!({"files": snapshot.aside.files, "since": snapshot.aside.since}),
    }
}

pub(super) async fn all(extract::State(api): extract::State<Arc<ApiState>>) -> Response {
    answer::json(&list(&api))
}

pub(super) async fn one(extract::State(api): extract::State<Arc<ApiState>>, Path(name): Path<String>) -> Response {
    match instance(&api, &name) {
        Ok(instance) => answer::json(&instance),
        Err(problem) => answer::problem(&problem),
    }
}

/// Returns the instance with this name.
pub(super) fn instance(api: &ApiState, name: &str) -> Result<Value, Problem> {
    find(api, name).map(|link| json!(view(&sessions(&api.gateway.servers()), &link)))
}

/// Returns the status of the link and its last transitions.
pub(super) async fn link(extract::State(api): extract::State<Arc<ApiState>>, Path(name): Path<String>) -> Response {
    match link_history(&api, &name).await {
        Ok(history) => answer::json(&history),
        Err(problem) => answer::problem(&problem),
    }
}

/// Returns the status and the last transitions of the link with this name.
pub(super) async fn link_history(api: &ApiState, name: &str) -> Result<Value, Problem> {
    let link = find(api, name)?;
    let status = link.status().borrow().clone();
    let transitions = link.transitions().await;
    let mut history = json!(*status);
    history["name"] = json!(link.name());
    history["processes"] = json!(link.vitals().borrow().as_deref().map(|vitals| &vitals.processes));
    history["transitions"] = json!(transitions);
    Ok(history)
}

/// Returns the link with this name.
pub(super) fn find(api: &ApiState, name: &str) -> Result<LinkHandle, Problem> {
    api.links.get(name).ok_or_else(|| {
        let links = api.links.watch().borrow().clone();
        let known: Vec<&str> = links.iter().map(LinkHandle::name).collect();
        let problem = Problem::new(Code::InstanceNotFound, format!("there is no instance named {name:?}"));
        problem.seen("instances", known).next("linchpin status").next(format!("linchpin run --name {name} -- COMMAND"))
    })
}

/// Returns all instances, except gone or dormant ones whose name a live instance has taken.
fn list(api: &ApiState) -> InstanceList {
    let links = api.links.watch().borrow().clone();
    let live: BTreeSet<&str> = links.iter().filter(|link| !is_absent(link)).map(LinkHandle::name).collect();
    let listed = links.iter().filter(|link| !(is_absent(link) && live.contains(link.name())));
    let catalog = api.gateway.servers();
    let sessions = sessions(&catalog);
    InstanceList { instances: listed.map(|link| view(&sessions, link)).collect() }
}

/// The gateway's sessions by instance and server.
type Sessions<'a> = BTreeMap<(&'a str, &'a str), &'a ServerStatus>;

fn sessions(catalog: &[ServerStatus]) -> Sessions<'_> {
    catalog.iter().map(|known| ((known.instance.as_str(), known.server.as_str()), known)).collect()
}

fn is_absent(link: &LinkHandle) -> bool {
    link.status().borrow().state.is_absent()
}

fn view(sessions: &Sessions<'_>, link: &LinkHandle) -> InstanceView {
    let vitals = link.vitals().borrow().clone();
    let servers = servers(sessions, link, vitals.as_deref());
    InstanceView { link: link.clone(), status: link.status().borrow().clone(), vitals, servers }
}

impl Serialize for InstanceView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (status, record) = (&self.status, &self.status.record);
        let view = InstanceJson {
            id: self.link.id(),
            name: self.link.name(),
            state: status.state.as_str(),
            since: status.since,
            why: &status.why,
            generation: record.generation,
            pid: Some(record.process.pid).filter(|_| status.state != LinkState::Dormant),
            process: &record.process,
            project_dir: &record.project_dir,
            endpoint: &record.endpoint,
            version: &record.version,
            registered_at: record.registered_at,
            attempts: status.attempts,
            next_try: status.next_try,
            last_failure: status.last_failure.as_ref(),
            processes: self.vitals.as_deref().map_or(&[], |vitals| vitals.processes.as_slice()),
            servers: &self.servers,
            services: &record.services,
        };
        view.serialize(serializer)
    }
}

fn servers(sessions: &Sessions<'_>, link: &LinkHandle, vitals: Option<&vitals::Vitals>) -> Vec<ServerView> {
    let of = |server: &vitals::ServerVitals| {
        let session = sessions.get(&(link.name(), server.name.as_str()));
        ServerView {
            name: server.name.clone(),
            transport: server.transport,
            up: server.up,
            epoch: server.epoch,
            session: session.map_or(SessionState::Starting, |known| known.session),
            session_since: session.map(|known| known.since),
            session_why: session.and_then(|known| known.why.clone()),
            tools: session.map_or(0, |known| known.tools.len()),
        }
    };
    if let Some(vitals) = vitals {
        return vitals.servers.iter().map(of).collect();
    }
    let status = link.status().borrow().clone();
    if status.state != LinkState::Dormant {
        return Vec::new();
    }
    let dormant = |server: &record::Server| {
        of(&vitals::ServerVitals { name: server.name.clone(), transport: server.transport, up: false, epoch: 0 })
    };
    status.record.servers.iter().map(dormant).collect()
}
