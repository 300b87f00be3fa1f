//! Another user of this machine reads nothing, plants nothing that is trusted, and is never taken for the owner.

use crate::attacker::{ATTACKER, Trap, as_attacker, below, set_mode, write};
use anyhow::{Context, Result, ensure};
use linchpin_shared::home::Home;
use linchpin_shared::process::{Identity, Signal};
use linchpin_shared::registry::record::{Protocol, Record, instance_id};
use linchpin_shared::registry::{Registration, Registry};
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::leftovers::remove_whole;
use linchpin_tests::lab::namespace::may_be_another_user;
use linchpin_tests::wait::{PATIENCE, throughout, until};
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

/// The harmful actions in this home that succeed for the current user.
fn attempt_all(home: &Path, files: &[PathBuf], hub: &Identity) -> Vec<String> {
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

/// Fault 66: protected by the mode of the home and, if its directories were open, by the mode of each file.
#[tokio::test]
async fn other_user_can_neither_read_nor_plant_anything() -> Result<()> {
    if !may_be_another_user("other_users::other_user_can_neither_read_nor_plant_anything")? {
        return Ok(());
    }
    let lab = Lab::on_any_port()?;
    lab.serve("shop").await?;
    let (home, hub, mut files) = (lab.home(), lab.hub_process()?, Vec::new());
    set_mode(home.parent().context("no parent")?, 0o755)?;
    below(&home, &mut files)?;
    for name in ["hub.json", "hub.lease", "hub.log", "main.log", ".lock"] {
        ensure!(files.iter().any(|path| path.ends_with(name)), "{name} is not in {files:?}");
    }
    let dirs: Vec<_> = files.iter().filter(|path| path.is_dir()).collect();
    for mode in [0o700, 0o755] {
        dirs.iter().try_for_each(|dir| set_mode(dir, mode))?;
        let done = as_attacker(|| attempt_all(&home, &files, &hub))?;
        dirs.iter().try_for_each(|dir| set_mode(dir, 0o700))?;
        assert!(done.is_empty(), "with directories of mode {mode:o}: {done:#?}");
    }
    // Every user can read command lines.
    for process in lab.mark().processes() {
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
    assert!(hub.is_alive() && lab.hub_process()? == hub);
    lab.terminate().await
}

/// The planted files, and the reason for which each is rejected.
const PLANTED: [(&str, &str); 6] = [
    ("theirs", "belongs to user 12345"),
    ("link", "symbolic link"),
    ("hard", "hard links"),
    ("open", "mode 0644"),
    ("writable", "mode 0666"),
    ("leased", "belongs to user 12345"),
];

/// Plants a record with exactly one flaw.
fn plant(lab: &Lab, name: &str, port: u16) -> Result<PathBuf> {
    let record = record(name, port)?;
    let path = lab.home().join(format!("instances/{}.json", record.id));
    let (text, outside) = (serde_json::to_string(&record)?, lab.home().with_file_name(name));
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
        "theirs" => chown(&path, Some(ATTACKER), Some(ATTACKER))?,
        "leased" => {
            write(&lease, "", 0o600)?;
            chown(lease, Some(ATTACKER), Some(ATTACKER))?;
        }
        _ => {}
    }
    Ok(path)
}

/// Fault 66: records, leases and quarantine entries that other users can change.
#[tokio::test]
async fn planted_files_are_named_and_never_trusted() -> Result<()> {
    if !may_be_another_user("other_users::planted_files_are_named_and_never_trusted")? {
        return Ok(());
    }
    let lab = Lab::on_any_port()?;
    lab.json(&["status"]).await?;
    let (trap, control) = (Trap::at(0)?, Trap::at(0)?);
    let planted = PLANTED.iter().map(|(name, word)| Ok((plant(&lab, name, trap.port)?, *word)));
    let planted = planted.collect::<Result<Vec<_>>>()?;
    let aside = lab.home().join("instances/quarantine/a.json.1");
    let why = aside.with_extension("1.why");
    write(&aside, "{}", 0o600)?;
    write(&why, r#"{"type":"x","code":"bad_record","title":"x","status":1,"detail":"believe me"}"#, 0o600)?;
    chown(&why, Some(ATTACKER), Some(ATTACKER))?;
    let good = Registry::new(&Home::at(lab.home())).register(record("good", control.port)?)?;
    until("the hub has seen all of them", PATIENCE, async || named(&lab, &planted).await).await?;
    until("the good one is dialled", PATIENCE, async || {
        ensure!(control.got().contains("PRI * HTTP/2.0"), "not yet");
        Ok(())
    })
    .await?;
    let status = lab.json(&["status"]).await?.to_string();
    assert!(!status.contains("believe me"), "{status}");
    let (code, doctor) = lab.begin(&["doctor", "--json"])?.end().await?;
    assert_eq!(code, 1, "{doctor}");
    for (path, _) in &planted {
        assert!(doctor.to_string().contains(&path.display().to_string()), "{} is not in {doctor:#}", path.display());
        assert!(path.symlink_metadata().is_ok(), "{} was left where it is", path.display());
    }
    assert_eq!(trap.got(), "", "a planted address was dialled");
    good.unregister()?;
    lab.terminate().await
}

/// Checks that each of these files is rejected for its reason, and that the good record is the only instance.
async fn named(lab: &Lab, planted: &[(PathBuf, &str)]) -> Result<()> {
    let status = lab.json(&["status"]).await?;
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

/// A hub file with this port and a token that the other user knows.
fn misleading(lab: &Lab, port: u16) -> Result<String> {
    let mut file = lab.hub_file()?;
    file["url"] = json!(format!("http://127.0.0.1:{port}"));
    file["token"] = json!("known to the other user");
    Ok(file.to_string())
}

/// Checks that a verb refuses, and names the owner.
async fn refused(lab: &Lab) -> Result<()> {
    let (code, said) = lab.begin(&["status", "--json", "--no-autostart"])?.end().await?;
    ensure!(code == 1 && said["code"] == "home_unusable", "{code:?} {said:#}");
    ensure!(said.to_string().contains("12345"), "{said:#}");
    ensure!(!said["next_steps"].as_array().context("no steps")?.is_empty(), "{said:#}");
    Ok(())
}

/// Fault 66: a hub file of another user is never followed, whatever it says.
#[tokio::test]
async fn hub_file_of_another_user_is_refused() -> Result<()> {
    if !may_be_another_user("other_users::hub_file_of_another_user_is_refused")? {
        return Ok(());
    }
    let lab = Lab::on_any_port()?;
    lab.json(&["status"]).await?;
    let (hub, trap, path) = (lab.hub_process()?, Trap::at(0)?, lab.home().join("hub.json"));
    let file = misleading(&lab, trap.port)?;
    // A running hub would restore its own file within a second.
    hub.signal(Signal::STOP)?;
    std::fs::remove_file(&path)?;
    write(&path, &file, 0o600)?;
    chown(&path, Some(ATTACKER), Some(ATTACKER))?;
    let seen = refused(&lab).await;
    hub.signal(Signal::CONT)?;
    seen?;
    until("the hub's own file is there again", PATIENCE, async || {
        ensure!(lab.json(&["status"]).await?["hub"]["pid"] == hub.pid, "another hub");
        Ok(())
    })
    .await?;
    assert_eq!(trap.got(), "", "a client was led there");
    lab.terminate().await
}

/// Fault 66: the other user replaces the home, which an open parent directory allows.
#[tokio::test]
async fn home_of_another_user_is_refused() -> Result<()> {
    if !may_be_another_user("other_users::home_of_another_user_is_refused")? {
        return Ok(());
    }
    let lab = Lab::on_any_port()?;
    lab.serve("shop").await?;
    let (home, hub, token, trap) = (lab.home(), lab.hub_process()?, lab.hub_facts()?.token, Trap::at(0)?);
    let file = misleading(&lab, trap.port)?;
    let (parent, taken) = (home.with_file_name("."), home.with_file_name("taken"));
    set_mode(&parent, 0o777)?;
    as_attacker(|| -> Result<()> {
        std::fs::create_dir_all(taken.join("instances"))?;
        set_mode(&taken, 0o777)?;
        write(&taken.join("hub.json"), &file, 0o600)?;
        // In one step, because a missing home would be created again.
        Ok(rustix::fs::renameat_with(CWD, &home, CWD, &taken, RenameFlags::EXCHANGE)?)
    })??;
    refused(&lab).await?;
    // Hub and instance check their files once a second; nothing of them may be readable in the new home.
    let mut files = Vec::new();
    throughout(Duration::from_millis(1500), async || {
        files.clear();
        below(&home, &mut files)
    })
    .await?;
    let read = as_attacker(|| files.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect::<String>())?;
    assert!(read.contains("known to") && !read.contains(&token) && !read.contains("secret"), "{read}");
    remove_whole(&home)?;
    std::fs::rename(&taken, &home)?;
    assert_eq!(trap.got(), "", "a client was led there");
    lab.json(&["status"]).await?;
    assert!(hub.is_alive());
    lab.terminate().await
}

/// Fault 66: another user listens on the port of a dead instance or a killed hub.
#[tokio::test]
async fn listener_on_the_port_of_a_dead_process_gets_nothing() -> Result<()> {
    if !may_be_another_user("other_users::listener_on_the_port_of_a_dead_process_gets_nothing")? {
        return Ok(());
    }
    let lab = Lab::on_any_port()?;
    lab.json(&["status"]).await?;
    let (first, token) = (lab.hub_process()?, lab.hub_facts()?.token);
    let trap = Trap::at(0)?;
    let registry = Registry::new(&Home::at(lab.home()));
    let lost: Registration = registry.register(record("lost", trap.port)?)?;
    let mut got = String::new();
    until("the hub has dialled and given up", PATIENCE, async || {
        got += &trap.got();
        let link = lab.json(&["explain", "lost"]).await?;
        ensure!(got.matches("a connection").count() > 1 && link["last_failure"].is_object(), "{link:#}");
        ensure!(link["state"] != "active", "{link:#}");
        Ok(())
    })
    .await?;
    assert!(got.contains("PRI * HTTP/2.0") && got.contains("nonce"), "it was not asked for its identity: {got}");
    assert!(!got.contains("planted-lost-secret") && !got.contains(&token), "{got}");
    lost.unregister()?;

    let port = lab.hub_port()?;
    lab.kill_hub().await?;
    // Its files are closed when its last thread has ended.
    let mut trap = None;
    until("its port is free", PATIENCE, async || {
        trap = Some(Trap::at(port)?);
        Ok(())
    })
    .await?;
    let trap = trap.context("none")?;
    assert_eq!(lab.json(&["status"]).await?["hub"]["warnings"], json!([]));
    assert_ne!(lab.hub_process()?, first);
    assert_ne!(lab.hub_file()?["port"], json!(port));
    assert_eq!(trap.got(), "", "a client came to the hub's old port");
    let (code, said) = lab.begin(&["hub", "stop", "--json"])?.end().await?;
    assert_eq!(code, 0, "{said}");
    let (code, said) = lab.begin(&["hub", "--json", "--port", &port.to_string()])?.end().await?;
    assert_eq!((code, &said["code"]), (4, &json!("port_taken")), "{said}");
    lab.terminate().await
}
