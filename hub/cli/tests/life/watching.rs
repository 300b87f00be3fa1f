//! What the hub hears of its registry: without watches, in a crowd, and when the registry goes.

use crate::within::{Changes, within};
use crate::world::{PATIENCE, World, remove_whole, throughout, until, until_within};
use anyhow::{Context, Result, ensure};
use linchpin_shared::home::Home;
use linchpin_shared::process::Identity;
use linchpin_shared::registry::record::{FORMAT, Protocol, Record, instance_id};
use linchpin_shared::registry::{Registration, Registry};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// A poll that does not come within a test: what is known was heard.
const NEVER: (&str, &str) = ("LINCHPIN_DISCOVERY_POLL_MS", "3600000");

const CROWD: u64 = 10_000;

/// The most memory that a hub of this build may take for the crowd, in bytes: 40 kB for each of them.
const MEMORY: u64 = 400 << 20;

/// A record of this process, which speaks HTTP/1.1: the hub lists it and does not connect.
pub(crate) fn record(name: &str) -> Result<Record> {
    Ok(Record {
        format: FORMAT,
        id: instance_id(Path::new("/project"), name),
        name: name.to_owned(),
        generation: Uuid::now_v7(),
        endpoint: String::from("http://127.0.0.1:9"),
        protocol: Protocol::Http1,
        process: Identity::current()?,
        project_dir: PathBuf::from("/project"),
        version: String::from("1"),
        secret: String::from("c2VjcmV0"),
        services: Vec::new(),
        servers: Vec::new(),
        labels: BTreeMap::new(),
        registered_at: jiff::Timestamp::now(),
        other: serde_json::Map::new(),
    })
}

pub(crate) fn register(world: &World, name: &str) -> Result<Registration> {
    Ok(Registry::new(&Home::at(world.home())).register(record(name)?)?)
}

/// The states of the instances of this name.
pub(crate) fn states(world: &World, name: &str) -> Result<Vec<String>> {
    let status = world.json(&["status"])?;
    let instances = status["instances"].as_array().context("no list")?.iter();
    Ok(instances.filter(|one| one["name"] == name).map(|one| one["state"].as_str().unwrap_or("?").to_owned()).collect())
}

/// Whoever registers is listed, and whoever unregisters is not.
pub(crate) fn finds(world: &World) -> Result<()> {
    let probe = register(world, "probe")?;
    until("the probe is listed", || {
        let seen = states(world, "probe")?;
        ensure!(seen.iter().any(|state| state != "gone"), "{seen:?}");
        Ok(())
    })?;
    probe.unregister()?;
    until("the probe is gone", || {
        let seen = states(world, "probe")?;
        ensure!(seen.iter().all(|state| state == "gone"), "{seen:?}");
        Ok(())
    })
}

/// What the hub says is wrong.
pub(crate) fn problems(world: &World) -> Result<Vec<Value>> {
    Ok(world.json(&["status"])?["hub"]["problems"].as_array().context("no problems")?.clone())
}

pub(crate) fn health(world: &World) -> Result<Value> {
    let (status, answer) = world.raw("GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    ensure!(status == 200, "{answer}");
    Ok(serde_json::from_str(answer.split_once("\r\n\r\n").context("no body")?.1)?)
}

/// How many watches the hub has.
fn watches(world: &World) -> Result<usize> {
    let files = std::fs::read_dir(format!("/proc/{}/fdinfo", world.hub()?.pid))?;
    let texts = files.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok());
    Ok(texts.map(|text| text.lines().filter(|line| line.starts_with("inotify ")).count()).sum())
}

/// Fault 25.
#[test]
fn without_file_watches_the_hub_polls_and_says_so_and_hears_again_later() -> Result<()> {
    within(Changes::Limits, "watching::inner_without_watches")
}

#[test]
#[ignore = "run by the test before it, in a user namespace"]
fn inner_without_watches() -> Result<()> {
    // Long enough that watches are asked for again, and refused again.
    for (limit, for_long) in [("instances", Duration::from_secs(6)), ("watches", Duration::ZERO)] {
        let allow = |number: u32| std::fs::write(format!("/proc/sys/user/max_inotify_{limit}"), number.to_string());
        allow(0)?;
        let world = World::new()?;
        let mut told = Vec::new();
        until("it is told", || {
            told = problems(&world)?;
            ensure!(told.len() == 1, "{told:?}");
            Ok(())
        })?;
        assert_eq!(told[0]["code"], "limit_reached", "{told:?}");
        assert!(told[0]["observed"][format!("max_user_{limit}")].is_u64(), "{told:?}");
        assert_eq!(health(&world)?["checks"]["watch"], "polling");
        let (_, doctor) = world.begin(&["--json", "doctor"])?.end()?;
        let checks = doctor["checks"].as_array().context("no checks")?;
        assert!(checks.iter().any(|check| check["name"] == "discovery" && check["level"] == "warning"), "{doctor:#}");
        finds(&world)?;
        throughout(for_long, || {
            ensure!(health(&world)?["checks"]["watch"] == "polling");
            Ok(())
        })?;
        allow(100)?;
        until("it hears again", || {
            ensure!(problems(&world)?.is_empty() && watches(&world)? == 2, "{} watches", watches(&world)?);
            Ok(())
        })?;
        finds(&world)?;
        let log = std::fs::read_to_string(world.home().join("logs/hub.log"))?;
        assert_eq!(log.matches("polling finds changes").count(), 1, "{log}");
        assert_eq!(log.matches("are heard again").count(), 1, "{log}");
    }
    Ok(())
}

/// A world whose hub never polls, with a real instance.
fn world_with_a_shop() -> Result<World> {
    let mut world = World::with(NEVER.0, NEVER.1)?;
    world.json(&["status"])?;
    world.instance(&["run", "--name", "shop", "--", "sleep", "300"])?;
    whole(&world)?;
    Ok(world)
}

fn active(world: &World) -> Result<()> {
    let seen = states(world, "shop")?;
    ensure!(seen == ["active"], "{seen:?}");
    Ok(())
}

/// Waits until its record is there, the only one, and whoever else comes and goes is heard.
fn whole(world: &World) -> Result<()> {
    until("its record is there", || {
        let files = world.home().join("instances").read_dir()?.flatten();
        let records = files.filter(|file| file.path().extension().is_some_and(|end| end == "json")).count();
        ensure!(records == 1, "{records} records");
        active(world)
    })?;
    finds(world)
}

/// Faults 23, 32: the registry goes, then all of the home; the instance is never lost from sight.
#[test]
fn a_registry_that_goes_is_made_again_by_who_lives() -> Result<()> {
    let world = world_with_a_shop()?;
    let (home, instances, aside) = (world.home(), world.home().join("instances"), world.state("aside"));
    remove_whole(&instances)?;
    whole(&world)?;
    std::fs::rename(&instances, &aside)?;
    whole(&world)?;
    std::fs::remove_dir_all(&aside)?;
    std::fs::rename(&home, &aside)?;
    whole(&world)?;
    std::fs::remove_dir_all(&aside)?;
    remove_whole(&home)?;
    whole(&world)?;
    let log = std::fs::read_to_string(home.join("logs/hub.log"))?;
    assert!(log.contains("instance found"), "the log goes on where it can be read: {log}");
    // The journal may have met the home half removed; it tries again after a second.
    until("nothing is wrong any more", || {
        let told = problems(&world)?;
        ensure!(told.is_empty(), "{told:?}");
        Ok(())
    })
}

/// Fault 23: a link in the place of the registry is refused and told, until it is gone.
#[test]
fn a_registry_that_became_a_link_is_not_read() -> Result<()> {
    let world = world_with_a_shop()?;
    let (instances, aside) = (world.home().join("instances"), world.state("aside"));
    std::fs::rename(&instances, &aside)?;
    std::os::unix::fs::symlink(&aside, &instances)?;
    until("the link is told", || {
        let told = problems(&world)?;
        let is_link =
            |problem: &Value| problem["detail"].as_str().is_some_and(|detail| detail.contains("symbolic link"));
        ensure!(told.iter().any(is_link), "{told:?}");
        Ok(())
    })?;
    assert!(register(&world, "late").is_err(), "nobody registers through it");
    active(&world)?;
    std::fs::remove_file(&instances)?;
    whole(&world)?;
    assert_eq!(problems(&world)?, [] as [Value; 0]);
    Ok(())
}

/// Puts a record in its place as fast as it can be done, without a lease: its process tells that its owner lives.
fn put(instances: &Path, name: &str) -> Result<()> {
    let record = record(name)?;
    let (new, path) = (instances.join(format!(".{name}.tmp")), instances.join(format!("{}.json", record.id)));
    std::fs::write(&new, serde_json::to_vec(&record)?)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    Ok(std::fs::rename(&new, &path)?)
}

/// How many instances the hub lists; it answers, and its memory is bounded.
fn listed(world: &World) -> Result<u64> {
    let health = health(world)?;
    ensure!(health["metrics"]["memory_bytes"].as_u64() < Some(MEMORY), "too much memory: {health}");
    health["metrics"]["instances"].as_u64().context("no number")
}

fn all_are_listed(world: &World, number: u64) -> Result<()> {
    until_within(3 * PATIENCE, "all are listed", || {
        let listed = listed(world)?;
        ensure!(listed == number, "{listed}");
        Ok(())
    })
}

/// Fault 24: 10,000 at once, while the hub answers.
#[test]
fn ten_thousand_at_once_are_all_found() -> Result<()> {
    let world = World::with(NEVER.0, NEVER.1)?;
    world.json(&["status"])?;
    let instances = world.home().join("instances");
    for number in 0..CROWD {
        put(&instances, &format!("crowd-{number}"))?;
        if number % 1000 == 0 {
            listed(&world)?;
        }
    }
    all_are_listed(&world, CROWD)?;
    // How long ten thousand links take to end on a busy machine is not of interest here.
    world.kill_hub()
}
