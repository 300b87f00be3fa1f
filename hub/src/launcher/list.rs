//! Follows the list of declared servers.
//!
//! It polls the file, and derives the records that links get for servers that are not running. A server that stays in
//! the list keeps what is known about starting it. A list that cannot be used changes nothing, and is reported. A start
//! reads the file itself.

use super::LauncherState;
use crate::declared::{ServerEndpoint, ServerList, ServerSpec};
use crate::link::{DeclaredServer, DeclaredServers, LaunchState};
use jiff::Timestamp;
use linchpin_instance::agent::MAIN;
use linchpin_shared::problem::Problem;
use linchpin_shared::process::Identity;
use linchpin_shared::protocol::vitals::Transport;
use linchpin_shared::registry::record::{self, Protocol, Record, instance_id};
use serde_json::Map;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use uuid::Uuid;

/// How often the file is checked. A check is one system call, and a change takes effect no later than this.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The endpoint in the record of an instance that is not running. Nothing can listen at port 0.
const NO_ENDPOINT: &str = "http://127.0.0.1:0";

/// Identifies a file and its state: device, inode, size, and the time of the last change.
type FileStamp = Option<(u64, u64, u64, i64, i64)>;

fn file_stamp(path: &Path) -> FileStamp {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec()))
}

/// Follows the file until it is cancelled.
pub(super) async fn follow(state: Arc<LauncherState>, problems: watch::Sender<Option<Problem>>) {
    let mut seen: Option<FileStamp> = None;
    loop {
        let path = state.env.home.declared_file();
        let now = file_stamp(&path);
        if seen != Some(now) {
            seen = Some(now);
            let home = state.env.home.clone();
            let Ok(list) = tokio::task::spawn_blocking(move || ServerList::read(&home)).await else { return };
            update(&state, list, &problems);
        }
        if state.cancel.run_until_cancelled(sleep(POLL_INTERVAL)).await.is_none() {
            return;
        }
    }
}

fn update(state: &LauncherState, list: Result<ServerList, Problem>, problems: &watch::Sender<Option<Problem>>) {
    let list = match list {
        Ok(list) => list,
        Err(problem) => {
            tracing::warn!(%problem, "the list of declared servers cannot be used; its last content stays in force");
            problems.send_replace(Some(problem));
            return;
        }
    };
    problems.send_replace(None);
    state.sleepers.send_if_modified(|known| {
        let after = sleepers(&list, known);
        let changed = after != **known;
        if changed {
            tracing::info!(servers = after.len(), "the list of declared servers was read");
            *known = Arc::new(after);
        }
        changed
    });
}

fn sleepers(list: &ServerList, known: &DeclaredServers) -> BTreeMap<Uuid, DeclaredServer> {
    let sleeper = |(name, server): (&String, &ServerSpec)| {
        let id = instance_id(&server.project_dir, name);
        let record = record(id, name, server);
        let sleeper = match known.get(&id) {
            Some(known) if known.record.servers == record.servers => DeclaredServer {
                record: Arc::clone(&known.record),
                // The list was edited, so the reason of an earlier failure may be gone.
                start: if known.start == LaunchState::Starting { LaunchState::Starting } else { LaunchState::Idle },
            },
            Some(_) | None => DeclaredServer { record: Arc::new(record), start: LaunchState::Idle },
        };
        (id, sleeper)
    };
    list.servers.iter().map(sleeper).collect()
}

/// Returns what is known about an instance that is not running.
fn record(id: Uuid, name: &str, server: &ServerSpec) -> Record {
    let transport = match &server.endpoint {
        ServerEndpoint::Stdio { .. } => Transport::Stdio,
        ServerEndpoint::Url { .. } => Transport::Http,
    };
    Record {
        format: record::FORMAT,
        id,
        name: name.to_owned(),
        generation: Uuid::nil(),
        endpoint: NO_ENDPOINT.to_owned(),
        protocol: Protocol::H2c,
        process: Identity { pid: 0, start_ticks: 0, boot_id: String::new(), executable: std::path::PathBuf::new() },
        project_dir: server.project_dir.clone(),
        version: String::new(),
        secret: String::new(),
        services: Vec::new(),
        servers: vec![record::Server { name: MAIN.to_owned(), transport, url: None }],
        labels: BTreeMap::new(),
        registered_at: Timestamp::now(),
        other: Map::new(),
    }
}
