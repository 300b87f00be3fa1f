//! Another user of this machine: reads nothing, plants nothing that is believed, and is never taken for one of us.

use crate::mallory::{MALLORY, Trap, as_mallory, below, may_be_others, set_mode, write};
use crate::world::{World, throughout, until};
use anyhow::{Context, Result, ensure};
use linchpin_shared::home::Home;
use linchpin_shared::process::{Identity, Signal};
use linchpin_shared::registry::record::{Protocol, Record, instance_id};
use linchpin_shared::registry::{Registration, Registry};
use rustix::fs::{CWD, RenameFlags};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

fn record(name: &str, port: u16) -> Result<Record> {
    Ok(Record {
        format: 1,
        id: instance_id(Path::new("/project"), name),
        name: name.to_owned(),
        generation: Uuid::now_v7(),
        endpoint: format!("http://127.0.0.1:{port}"),
        protocol: Protocol::H2c,
        process: Identity::current()?,
        project_dir: PathBuf::from("/project"),
        version: String::from("0.1.0"),
        secret: format!("planted-{name}-secret"),
        services: Vec::new(),
        servers: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        registered_at: jiff::Timestamp::now(),
        other: serde_json::Map::new(),
    })
}

fn token(world: &World) -> Result<String> {
    Ok(world.file()?["token"].as_str().context("no token")?.to_owned())
}

/// What the other user could do in this home, of all that would be bad.
fn deeds(home: &Path, files: &[PathBuf], hub: &Identity) -> Vec<String> {
    let registry = home.join("instances");
    let mut done = Vec::new();
    let mut tell = |what: String, worked: bool| {
        if worked {
            done.push(what);
        }
    };
    for path in files {
        tell(format!("read {}", path.display()), path.is_file() && File::open(path).is_ok());
        tell(format!("write {}", path.display()), OpenOptions::new().append(true).open(path).is_ok());
        tell(format!("open up {}", path.display()), set_mode(path, 0o777).is_ok());
        tell(format!("move {}", path.display()), std::fs::rename(path, home.with_file_name("taken")).is_ok());
    }
    for name in ["instances/a.json", "instances/a.lease", "instances/.new-1-1-x", "instances/quarantine/a.json.1.why"] {
        tell(format!("make {name}"), File::create(home.join(name)).is_ok());
        tell(format!("link {name}"), symlink("/etc/passwd", home.join(name)).is_ok());
        tell(format!("hard link {name}"), std::fs::hard_link("/etc/hostname", home.join(name)).is_ok());
        tell(format!("dir {name}"), std::fs::create_dir(home.join(name)).is_ok());
    }
    tell("remove the registry".to_owned(), std::fs::remove_dir_all(&registry).is_ok());
    for file in ["environ", "mem", "maps", "fd"] {
        let path = PathBuf::from(format!("/proc/{}/{file}", hub.pid));
        tell(format!("look into {}", path.display()), std::fs::read(&path).is_ok() || path.read_dir().is_ok());
    }
    tell("signal the hub".to_owned(), hub.signal(Signal::TERM).is_ok());
    done
}

/// Fault 66: by the home's mode, and were its directories open, by each file's own.
#[test]
fn another_user_reads_nothing_and_plants_nothing() -> Result<()> {
    if !may_be_others("others::another_user_reads_nothing_and_plants_nothing")? {
        return Ok(());
    }
    let mut world = World::new()?;
    world.serve("shop")?;
    let (home, hub, mut files) = (world.home(), world.hub()?, Vec::new());
    set_mode(home.parent().context("no parent")?, 0o755)?;
    below(&home, &mut files)?;
    for name in ["hub.json", "hub.lease", "hub.log", "main.log", ".lock"] {
        ensure!(files.iter().any(|path| path.ends_with(name)), "{name} is not in {files:?}");
    }
    let dirs: Vec<_> = files.iter().filter(|path| path.is_dir()).collect();
    for mode in [0o700, 0o755] {
        dirs.iter().try_for_each(|dir| set_mode(dir, mode))?;
        let done = as_mallory(|| deeds(&home, &files, &hub))?;
        dirs.iter().try_for_each(|dir| set_mode(dir, 0o700))?;
        assert!(done.is_empty(), "with directories of mode {mode:o}: {done:#?}");
    }
    // A command line is for all to see.
    for process in world.processes("") {
        let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let secrets = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        for file in secrets.map(std::fs::read).collect::<std::io::Result<Vec<_>>>()? {
            let file: Value = serde_json::from_slice(&file)?;
            for secret in [&file["token"], &file["secret"]].into_iter().filter_map(Value::as_str) {
                assert!(!line.contains(secret), "{line}");
            }
        }
    }
    assert!(hub.is_alive() && world.hub()? == hub);
    Ok(())
}

/// What is planted, and what is said of it.
const PLANTED: [(&str, &str); 6] = [
    ("theirs", "belongs to user 12345"),
    ("link", "symbolic link"),
    ("hard", "hard links"),
    ("open", "mode 0644"),
    ("writable", "mode 0666"),
    ("leased", "belongs to user 12345"),
];

/// Plants a record that is good but for one thing.
fn plant(world: &World, name: &str, port: u16) -> Result<PathBuf> {
    let record = record(name, port)?;
    let path = world.home().join(format!("instances/{}.json", record.id));
    let (text, outside) = (serde_json::to_string(&record)?, world.home().with_file_name(name));
    match name {
        "link" => {
            write(&outside, &text, 0o600)?;
            symlink(outside, &path)?;
        }
        "hard" => {
            write(&outside, &text, 0o600)?;
            std::fs::hard_link(outside, &path)?;
        }
        "open" => write(&path, &text, 0o644)?,
        "writable" => write(&path, &text, 0o666)?,
        _ => write(&path, &text, 0o600)?,
    }
    let lease = path.with_extension("lease");
    match name {
        "theirs" => chown(&path, Some(MALLORY), Some(MALLORY))?,
        "leased" => {
            write(&lease, "", 0o600)?;
            chown(lease, Some(MALLORY), Some(MALLORY))?;
        }
        _ => {}
    }
    Ok(path)
}

/// Fault 66: records, leases and quarantine entries that are not ours alone.
#[test]
fn what_another_user_planted_is_named_and_never_believed() -> Result<()> {
    if !may_be_others("others::what_another_user_planted_is_named_and_never_believed")? {
        return Ok(());
    }
    let world = World::new()?;
    world.json(&["status"])?;
    let (trap, control) = (Trap::at(0)?, Trap::at(0)?);
    let planted = PLANTED.iter().map(|(name, word)| Ok((plant(&world, name, trap.port)?, *word)));
    let planted = planted.collect::<Result<Vec<_>>>()?;
    let aside = world.home().join("instances/quarantine/a.json.1");
    let why = aside.with_extension("1.why");
    write(&aside, "{}", 0o600)?;
    write(&why, r#"{"type":"x","code":"bad_record","title":"x","status":1,"detail":"believe me"}"#, 0o600)?;
    chown(&why, Some(MALLORY), Some(MALLORY))?;
    let good = Registry::new(&Home::at(world.home())).register(record("good", control.port)?)?;
    until("the hub has seen all of them", || named(&world, &planted))?;
    until("the good one is dialled", || {
        ensure!(control.got().contains("PRI * HTTP/2.0"), "not yet");
        Ok(())
    })?;
    let status = world.json(&["status"])?.to_string();
    assert!(!status.contains("believe me"), "{status}");
    let (code, doctor) = world.begin(&["doctor", "--json"])?.end()?;
    assert_eq!(code, Some(1), "{doctor}");
    for (path, _) in &planted {
        assert!(doctor.to_string().contains(&path.display().to_string()), "{} is not in {doctor:#}", path.display());
        assert!(path.symlink_metadata().is_ok(), "{} was left where it is", path.display());
    }
    assert_eq!(trap.got(), "", "nobody ever dialled what was planted");
    Ok(good.unregister()?)
}

/// Each of these files is rejected, with this in its reason, and the good one is the only instance.
fn named(world: &World, planted: &[(PathBuf, &str)]) -> Result<()> {
    let status = world.json(&["status"])?;
    let rejected = status["rejected"].as_array().context("no list")?;
    for (path, word) in planted {
        let told = rejected.iter().find(|told| told["path"] == json!(path.display().to_string()));
        let problem = &told.with_context(|| format!("{} is not in {status:#}", path.display()))?["problem"];
        ensure!(problem["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{word}: {problem:#}");
        ensure!(problem["next_steps"].as_array().is_some_and(|steps| !steps.is_empty()), "{problem:#}");
    }
    let names: Vec<_> = status["instances"].as_array().into_iter().flatten().map(|found| &found["name"]).collect();
    ensure!(names == ["good"], "{names:?}");
    Ok(())
}

/// A hub file that leads to this port, with a token that the other user knows.
fn misleading(world: &World, port: u16) -> Result<String> {
    let mut file = world.file()?;
    file["url"] = json!(format!("http://127.0.0.1:{port}"));
    file["token"] = json!("known to the other user");
    Ok(file.to_string())
}

/// Verbs refuse to go on, and say whose it is.
fn refused(world: &World) -> Result<()> {
    let (code, said) = world.begin(&["status", "--json", "--no-autostart"])?.end()?;
    ensure!(code == Some(1) && said["code"] == "home_unusable", "{code:?} {said:#}");
    ensure!(said.to_string().contains("12345"), "{said:#}");
    ensure!(!said["next_steps"].as_array().context("no steps")?.is_empty(), "{said:#}");
    Ok(())
}

/// Fault 66: whatever it says, a hub file of another user leads nobody to that user.
#[test]
fn a_hub_file_of_another_user_is_refused() -> Result<()> {
    if !may_be_others("others::a_hub_file_of_another_user_is_refused")? {
        return Ok(());
    }
    let world = World::new()?;
    world.json(&["status"])?;
    let (hub, trap, path) = (world.hub()?, Trap::at(0)?, world.home().join("hub.json"));
    let file = misleading(&world, trap.port)?;
    // The hub that runs puts its own in that place within a second.
    hub.signal(Signal::STOP)?;
    std::fs::remove_file(&path)?;
    write(&path, &file, 0o600)?;
    chown(&path, Some(MALLORY), Some(MALLORY))?;
    let seen = refused(&world);
    hub.signal(Signal::CONT)?;
    seen?;
    until("the hub's own file is there again", || {
        ensure!(world.json(&["status"])?["hub"]["pid"] == hub.pid, "another hub");
        Ok(())
    })?;
    assert_eq!(trap.got(), "", "nobody was led there");
    Ok(())
}

/// Fault 66: a home that the other user put into the place of ours, which an open parent allows.
#[test]
fn a_home_of_another_user_is_refused() -> Result<()> {
    if !may_be_others("others::a_home_of_another_user_is_refused")? {
        return Ok(());
    }
    let mut world = World::new()?;
    world.serve("shop")?;
    let (home, hub, token, trap) = (world.home(), world.hub()?, token(&world)?, Trap::at(0)?);
    let file = misleading(&world, trap.port)?;
    let (parent, taken) = (home.with_file_name("."), home.with_file_name("taken"));
    set_mode(&parent, 0o777)?;
    as_mallory(|| -> Result<()> {
        std::fs::create_dir_all(taken.join("instances"))?;
        set_mode(&taken, 0o777)?;
        write(&taken.join("hub.json"), &file, 0o600)?;
        // At once: who misses the home makes it again.
        Ok(rustix::fs::renameat_with(CWD, &home, CWD, &taken, RenameFlags::EXCHANGE)?)
    })??;
    refused(&world)?;
    // Hub and instance look after their places once a second; nothing of them can be read in the new one.
    let mut files = Vec::new();
    throughout(Duration::from_millis(1500), || {
        files.clear();
        below(&home, &mut files)
    })?;
    let read = as_mallory(|| files.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect::<String>())?;
    assert!(read.contains("known to") && !read.contains(&token) && !read.contains("secret"), "{read}");
    crate::world::remove_whole(&home)?;
    std::fs::rename(&taken, &home)?;
    assert_eq!(trap.got(), "", "nobody was led there");
    world.json(&["status"])?;
    assert!(hub.is_alive());
    Ok(())
}

/// Fault 66: another user listens where an instance, or a hub that was killed, used to.
#[test]
fn who_listens_in_the_place_of_a_dead_one_gets_nothing() -> Result<()> {
    if !may_be_others("others::who_listens_in_the_place_of_a_dead_one_gets_nothing")? {
        return Ok(());
    }
    let world = World::new()?;
    world.json(&["status"])?;
    let (first, token) = (world.hub()?, token(&world)?);
    let trap = Trap::at(0)?;
    let registry = Registry::new(&Home::at(world.home()));
    let lost: Registration = registry.register(record("lost", trap.port)?)?;
    let mut got = String::new();
    until("the hub has dialled and given up", || {
        got += &trap.got();
        let link = world.json(&["explain", "lost"])?;
        ensure!(got.matches("a connection").count() > 1 && link["last_failure"].is_object(), "{link:#}");
        ensure!(link["state"] != "active", "{link:#}");
        Ok(())
    })?;
    assert!(got.contains("PRI * HTTP/2.0") && got.contains("nonce"), "it was asked who it is: {got}");
    assert!(!got.contains("planted-lost-secret") && !got.contains(&token), "{got}");
    lost.unregister()?;

    let port = u16::try_from(world.file()?["port"].as_u64().context("no port")?)?;
    world.kill_hub()?;
    // Its last thread closes its files.
    let mut trap = None;
    until("its port is free", || {
        trap = Some(Trap::at(port)?);
        Ok(())
    })?;
    let trap = trap.context("none")?;
    assert_eq!(world.json(&["status"])?["hub"]["warnings"], json!([]));
    assert_ne!(world.hub()?, first);
    assert_ne!(world.file()?["port"], json!(port));
    assert_eq!(trap.got(), "", "nobody came to where the hub used to be");
    let (code, said) = world.begin(&["hub", "stop", "--json"])?.end()?;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = world.begin(&["hub", "--json", "--port", &port.to_string()])?.end()?;
    assert_eq!((code, &said["code"]), (Some(4), &json!("port_taken")), "{said}");
    Ok(())
}
