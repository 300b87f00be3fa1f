//! This version reads a home of version 0.1.0. The fixture's `README.md` describes its files.
//!
//! A test here fails when a serialized field, a setting or a column is renamed without a migration or an alias.

use crate::declared::{ServerEndpoint, ServerList};
use crate::journal::{self, Journal, SavedTask};
use linchpin_shared::home::Home;
use linchpin_shared::hub_file::HubFile;
use linchpin_shared::protocol::vitals::Transport;
use linchpin_shared::registry::record::{Protocol, Record, Service, instance_id};
use linchpin_shared::registry::{Owner, Registry};
use linchpin_shared::settings::{Origin, Settings, ToolListing};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/home-0.1.0");

/// Copies the fixture into a private directory, with the modes that git does not keep.
fn home() -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path().join("home"));
    home.prepare().unwrap();
    copy(Path::new(FIXTURE), home.root());
    (dir, home)
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
            fs::set_permissions(&to, Permissions::from_mode(0o600)).unwrap();
        }
    }
}

fn records(home: &Home) -> BTreeMap<String, Record> {
    let files = fs::read_dir(home.instances()).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let records = files.map(|path| Record::parse(&fs::read(path).unwrap()).unwrap());
    records.map(|record| (record.name.clone(), record)).collect()
}

#[test]
fn records_of_0_1_0_are_read_with_every_field() {
    let (_dir, home) = home();
    let records = records(&home);
    let [embed, foreign, research] = ["embed", "foreign", "research"].map(|name| &records[name]);
    for (name, record) in &records {
        assert_eq!((record.format, record.id), (1, instance_id(Path::new("/home/dev/shop"), name)));
        assert!(record.other.is_empty(), "unknown fields of {name}: {:?}", record.other);
        assert!(record.address().unwrap().ip().is_loopback() && record.secret.len() == 44, "{name}");
        assert_eq!(record.process.boot_id, "5f0c1d2e-3b4a-4c5d-8e6f-708192a3b4c5");
    }
    assert_eq!(research.generation.to_string(), "01a22e86-1f98-763c-8b4b-8ca505b7849a");
    assert_eq!((research.process.pid, research.process.start_ticks), (24197, 222_390));
    assert_eq!((research.protocol, research.version.as_str()), (Protocol::H2c, "0.1.0"));
    assert_eq!(research.registered_at.to_string(), "2026-11-30T22:14:31.576896711Z");
    let server = &research.servers[0];
    assert_eq!((server.name.as_str(), server.transport, &server.url), ("main", Transport::Stdio, &None));
    let web = Service { name: String::from("web"), url: String::from("http://127.0.0.1:39423") };
    assert_eq!(embed.services, [web]);
    assert_eq!((foreign.protocol, foreign.server_path("main")), (Protocol::Http1, Some("/mcp")));
    assert_eq!(foreign.labels, [("health", "/"), ("team", "shop")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}

#[test]
fn the_registry_of_0_1_0_is_read_with_its_leases() {
    let (_dir, home) = home();
    let scan = Registry::new(&home).scan().unwrap();
    let owners: Vec<_> = scan.entries.iter().map(|entry| (entry.record.name.as_str(), entry.owner)).collect();
    assert_eq!(owners.len(), 3, "{owners:?}");
    assert!(owners.iter().all(|(_, owner)| *owner == Owner::Dead), "no process holds these leases: {owners:?}");
}

#[test]
fn the_hub_file_of_0_1_0_is_read_with_every_field() {
    let (_dir, home) = home();
    let file = HubFile::read(&home).unwrap().unwrap();
    assert_eq!((file.format, file.url.as_str(), file.port), (1, "http://127.0.0.1:7777", 7777));
    assert_eq!((file.process.pid, file.version.as_str()), (24200, "0.1.0"));
    assert_eq!(file.token, "ZXhhbXBsZSBleGFtcGxlIGV4YW1wbGUgZXhhbXBsZSE=");
    assert_eq!(file.started_at.to_string(), "2026-11-30T22:14:31.601619549Z");
    assert_eq!(file.stopped_at.unwrap().to_string(), "2026-11-30T22:14:41.036058359Z");
    assert!(HubFile::current(&home).unwrap().is_none(), "that hub was stopped");
}

#[test]
fn every_setting_of_0_1_0_is_read() {
    let (_dir, home) = home();
    let path = home.settings_file();
    let text = fs::read_to_string(path).unwrap();
    let settings = Settings::from_layers(Some((path, &text)), []).unwrap();
    let file: toml::Table = text.parse().unwrap();
    let keys = file
        .iter()
        .flat_map(|(section, keys)| keys.as_table().unwrap().keys().map(move |key| format!("{section}.{key}")));
    let keys: Vec<String> = keys.collect();
    assert_eq!(keys.len(), 44, "the fixture was changed");
    for key in keys {
        assert_eq!(settings.origin(&key), Some(&Origin::File(path.to_owned())), "{key}");
    }
    assert_eq!((settings.hub.port, settings.hub.token_required), (7778, false));
    assert_eq!((settings.link.breaker_failures, settings.link.backoff_min.as_millis()), (6, 51));
    assert_eq!((settings.gateway.tools, settings.gateway.allow.len()), (ToolListing::Search, 2));
    assert_eq!((settings.instance.give_port, settings.log.keep), (false, 6));
}

#[test]
fn the_declared_servers_of_0_1_0_are_read_with_every_field() {
    let (_dir, home) = home();
    let list = ServerList::read(&home).unwrap();
    assert!(list.other.is_empty() && list.servers.values().all(|server| server.other.is_empty()), "unknown fields");
    let ServerEndpoint::Stdio { command, args, env } = &list.servers["notes"].endpoint else { panic!("{list:?}") };
    assert_eq!((command.as_str(), args.as_slice()), ("node", &["notes.js".to_owned(), "--verbose".to_owned()][..]));
    assert_eq!(env["NOTES_TOKEN"], "example-token");
    let ServerEndpoint::Url { url, headers } = &list.servers["web"].endpoint else { panic!("{list:?}") };
    assert_eq!((url.as_str(), headers["Authorization"].as_str()), ("http://127.0.0.1:9/mcp", "Bearer example-token"));
    assert_eq!(list.servers["web"].from, ["/home/dev/shop/.mcp.json"]);
    let import = &list.imports[0];
    assert_eq!(import.file, PathBuf::from("/home/dev/shop/.mcp.json"));
    assert_eq!(import.paths, [["mcpServers"]]);
    assert_eq!(import.servers, ["notes", "web"]);
    assert!(
        import.after.starts_with("cca0071f") && import.backup.ends_with(".mcp.json.linchpin-backup-20261130T221431Z")
    );
    assert_eq!(import.at.to_string(), "2026-11-30T22:14:31.547752982Z");
}

#[tokio::test]
async fn the_journal_of_0_1_0_is_recalled_with_every_field() {
    let (_dir, home) = home();
    let dump = fs::read_to_string(home.root().join("journal.sql")).unwrap();
    rusqlite::Connection::open(journal::path(&home)).unwrap().execute_batch(&dump).unwrap();
    let journal = Journal::start(&home).await;
    let mut status = journal.status();
    let opened = status.wait_for(|status| status.opened > 0 || status.problem.is_some()).await.unwrap().clone();
    assert_eq!((opened.problem, opened.corrupt), (None, None));
    let recall = journal.recall().unwrap();

    let [session] = recall.sessions.as_slice() else { panic!("{recall:?}") };
    assert_eq!(session.id, "2.2025-11-25.60.eGQBaxYoCevEMdBjTJWBmw.WR_rHUhRsCUCC5neOr6Xe0gwy_DhlcffRdZLu-aKbcc");
    assert_eq!((session.scope.as_str(), session.version.as_str()), ("/mcp", "2025-11-25"));
    assert!(session.initialize.as_deref().unwrap().contains(r#""clientInfo": {"name": "fixture""#), "{session:?}");
    assert_eq!(session.level.as_deref(), Some("error"));
    assert!(session.fetched.iter().all(Option::is_some), "{:?}", session.fetched);
    assert_eq!(session.used_at.as_millisecond(), 1_796_076_878_926);
    let [subscription] = session.subscriptions.as_slice() else { panic!("{session:?}") };
    assert_eq!((subscription.instance.as_str(), subscription.server.as_str()), ("research", "main"));
    assert_eq!((subscription.project.as_str(), subscription.session_kind.as_str()), ("/home/dev/shop", "shared"));
    assert_eq!(subscription.uri, "demo://resource/dynamic/text/1");
    let [SavedTask { number: 1, of }] = session.tasks.as_slice() else { panic!("{session:?}") };
    assert_eq!((of.instance.as_str(), of.uri.as_str()), ("research", "7c814058df7d201ba98a8e89cc171051"));

    let kinds = ["about", "prompts/list", "resources/list", "resources/templates/list", "tools/list"];
    let mut lists: Vec<_> = recall.lists.iter().map(|list| list.kind.as_str()).collect();
    lists.sort_unstable();
    assert_eq!(lists, kinds);
    let tools = recall.lists.iter().find(|list| list.kind == "tools/list").unwrap();
    assert_eq!((tools.server.as_str(), tools.session_kind.as_str()), ("main", "shared"));
    assert!(tools.instance.starts_with("3e1255f3-") && tools.items.contains(r#""name":"echo""#), "{tools:?}");
    journal.close().await;
}
