//! What the list of declared servers says, now and whenever it is edited.
//!
//! Owns the looks at the file and the records that links get of what does not run. Invariant: a server that stays keeps
//! what is known of starting it; a list that cannot be used changes nothing but what is told of it.
//! Never: takes part in a start, which reads the file itself.

use super::Inner;
use crate::link::{Sleeper, Sleepers, Start};
use jiff::Timestamp;
use linchpin_instance::agent::MAIN;
use linchpin_shared::declared::{Declared, How, Server};
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

/// How often the file is looked at. A look costs one call of the system; who edits it waits no longer.
const LOOK: Duration = Duration::from_millis(500);

/// The endpoint in the record of what does not run: nobody listens at port 0.
const FORGOTTEN: &str = "http://127.0.0.1:0";

/// Which file it is, and in which state: device, inode, size, and when it was changed last.
type Print = Option<(u64, u64, u64, i64, i64)>;

fn print(path: &Path) -> Print {
    let facts = std::fs::symlink_metadata(path).ok()?;
    Some((facts.dev(), facts.ino(), facts.size(), facts.ctime(), facts.ctime_nsec()))
}

/// Follows the file until cancelled.
pub(super) async fn follow(inner: Arc<Inner>, tell: watch::Sender<Option<Problem>>) {
    let mut seen: Option<Print> = None;
    loop {
        let path = inner.means.home.declared_file();
        let now = print(&path);
        if seen != Some(now) {
            seen = Some(now);
            let home = inner.means.home.clone();
            let Ok(list) = tokio::task::spawn_blocking(move || Declared::read(&home)).await else { return };
            take(&inner, list, &tell);
        }
        if inner.cancel.run_until_cancelled(sleep(LOOK)).await.is_none() {
            return;
        }
    }
}

fn take(inner: &Inner, list: Result<Declared, Problem>, tell: &watch::Sender<Option<Problem>>) {
    let list = match list {
        Ok(list) => list,
        Err(problem) => {
            tracing::warn!(%problem, "the list of declared servers cannot be used; what was known of it stays");
            tell.send_replace(Some(problem));
            return;
        }
    };
    tell.send_replace(None);
    inner.sleepers.send_if_modified(|known| {
        let after = sleepers(&list, known);
        let changed = after != **known;
        if changed {
            tracing::info!(servers = after.len(), "the list of declared servers was read");
            *known = Arc::new(after);
        }
        changed
    });
}

fn sleepers(list: &Declared, known: &Sleepers) -> BTreeMap<Uuid, Sleeper> {
    let sleeper = |(name, server): (&String, &Server)| {
        let id = instance_id(&server.project_dir, name);
        let record = record(id, name, server);
        let sleeper = match known.get(&id) {
            Some(known) if known.record.servers == record.servers => Sleeper {
                record: Arc::clone(&known.record),
                // Somebody edited the list: what failed may have been mended.
                start: if known.start == Start::Starting { Start::Starting } else { Start::Idle },
            },
            Some(_) | None => Sleeper { record: Arc::new(record), start: Start::Idle },
        };
        (id, sleeper)
    };
    list.servers.iter().map(sleeper).collect()
}

/// What is known of an instance that does not run.
fn record(id: Uuid, name: &str, server: &Server) -> Record {
    let transport = match &server.how {
        How::Stdio { .. } => Transport::Stdio,
        How::Url { .. } => Transport::Http,
    };
    Record {
        format: record::FORMAT,
        id,
        name: name.to_owned(),
        generation: Uuid::nil(),
        endpoint: FORGOTTEN.to_owned(),
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
