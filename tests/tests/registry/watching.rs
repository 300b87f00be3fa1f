//! How the hub notices changes of its registry: without watches, with many records, and when the registry is removed.

use anyhow::{Context, Result, ensure};
use linchpin_shared::home::Home;
use linchpin_shared::process::Identity;
use linchpin_shared::registry::record::{FORMAT, Protocol, Record, instance_id};
use linchpin_shared::registry::{Registration, Registry};
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::leftovers::remove_whole;
use linchpin_tests::lab::namespace::{Changes, within};
use linchpin_tests::wait::{PATIENCE, throughout, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// An interval of polling longer than a test, so that changes can only be noticed by the watch.
const NEVER: (&str, &str) = ("LINCHPIN_DISCOVERY_POLL_MS", "3600000");

const CROWD: u64 = 10_000;

/// The memory limit of a hub of this build with all these records, in bytes: 40 kB for each.
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

pub(crate) fn register(lab: &Lab, name: &str) -> Result<Registration> {
    Ok(Registry::new(&Home::at(lab.home())).register(record(name)?)?)
}

/// The states of the instances of this name.
pub(crate) async fn states(lab: &Lab, name: &str) -> Result<Vec<String>> {
    let status = lab.json(&["status"]).await?;
    let instances = status["instances"].as_array().context("no list")?.iter();
    Ok(instances.filter(|one| one["name"] == name).map(|one| one["state"].as_str().unwrap_or("?").to_owned()).collect())
}

/// Checks that a registration is noticed, and its end.
pub(crate) async fn finds(lab: &Lab) -> Result<()> {
    let probe = register(lab, "probe")?;
    until("the probe is listed", PATIENCE, async || {
        let seen = states(lab, "probe").await?;
        ensure!(seen.iter().any(|state| state != "gone"), "{seen:?}");
        Ok(())
    })
    .await?;
    probe.unregister()?;
    until("the probe is gone", PATIENCE, async || {
        let seen = states(lab, "probe").await?;
        ensure!(seen.iter().all(|state| state == "gone"), "{seen:?}");
        Ok(())
    })
    .await
}

/// The problems that the hub reports.
pub(crate) async fn problems(lab: &Lab) -> Result<Vec<Value>> {
    Ok(lab.json(&["status"]).await?["hub"]["problems"].as_array().context("no problems")?.clone())
}

pub(crate) async fn health(lab: &Lab) -> Result<Value> {
    let (status, answer) = lab.raw("GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").await?;
    ensure!(status == 200, "{answer}");
    Ok(serde_json::from_str(answer.split_once("\r\n\r\n").context("no body")?.1)?)
}

/// The number of watches of the hub.
fn watches(lab: &Lab) -> Result<usize> {
    let files = std::fs::read_dir(format!("/proc/{}/fdinfo", lab.hub_process()?.pid))?;
    let texts = files.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok());
    Ok(texts.map(|text| text.lines().filter(|line| line.starts_with("inotify ")).count()).sum())
}

/// Fault 25.
#[test]
fn hub_without_file_watches_polls_reports_it_and_recovers() -> Result<()> {
    within(Changes::Limits, "watching::inner_without_watches")
}

#[tokio::test]
#[ignore = "run by the test before it, in a user namespace"]
async fn inner_without_watches() -> Result<()> {
    // The first time is long enough for the hub to try the watches again and fail again.
    for (limit, for_long) in [("instances", Duration::from_secs(6)), ("watches", Duration::ZERO)] {
        let allow = |number: u32| std::fs::write(format!("/proc/sys/user/max_inotify_{limit}"), number.to_string());
        allow(0)?;
        let lab = Lab::new()?;
        let mut told = Vec::new();
        until("the status reports it", PATIENCE, async || {
            told = problems(&lab).await?;
            ensure!(told.len() == 1, "{told:?}");
            Ok(())
        })
        .await?;
        assert_eq!(told[0]["code"], "limit_reached", "{told:?}");
        assert!(told[0]["observed"][format!("max_user_{limit}")].is_u64(), "{told:?}");
        assert_eq!(health(&lab).await?["checks"]["watch"], "polling");
        let (_, doctor) = lab.begin(&["--json", "doctor"])?.end().await?;
        let checks = doctor["checks"].as_array().context("no checks")?;
        assert!(checks.iter().any(|check| check["name"] == "discovery" && check["level"] == "warning"), "{doctor:#}");
        finds(&lab).await?;
        throughout(for_long, async || {
            ensure!(health(&lab).await?["checks"]["watch"] == "polling");
            Ok(())
        })
        .await?;
        allow(100)?;
        until("the watcher works again", PATIENCE, async || {
            ensure!(problems(&lab).await?.is_empty() && watches(&lab)? == 2, "{} watches", watches(&lab)?);
            Ok(())
        })
        .await?;
        finds(&lab).await?;
        let log = std::fs::read_to_string(lab.home().join("logs/hub.log"))?;
        assert_eq!(log.matches("polling finds changes").count(), 1, "{log}");
        assert_eq!(log.matches("are heard again").count(), 1, "{log}");
        lab.terminate().await?;
    }
    Ok(())
}

/// A lab whose hub never polls, with a real instance.
async fn watched_lab() -> Result<Lab> {
    let lab = Lab::new()?.with(NEVER.0, NEVER.1);
    lab.json(&["status"]).await?;
    lab.launch(&["run", "--name", "shop", "--", "sleep", "300"])?;
    whole(&lab).await?;
    Ok(lab)
}

async fn active(lab: &Lab) -> Result<()> {
    let seen = states(lab, "shop").await?;
    ensure!(seen == ["active"], "{seen:?}");
    Ok(())
}

/// Waits until its record is the only one, and checks that other changes are noticed.
async fn whole(lab: &Lab) -> Result<()> {
    until("its record is there", PATIENCE, async || {
        let files = lab.home().join("instances").read_dir()?.flatten();
        let records = files.filter(|file| file.path().extension().is_some_and(|end| end == "json")).count();
        ensure!(records == 1, "{records} records");
        active(lab).await
    })
    .await?;
    finds(lab).await
}

/// Faults 23, 32: the registry is removed, then the whole home; the instance is always visible.
#[tokio::test]
async fn removed_registry_is_created_again_by_live_instances() -> Result<()> {
    let lab = watched_lab().await?;
    let (home, instances, aside) = (lab.home(), lab.home().join("instances"), lab.state("aside"));
    remove_whole(&instances)?;
    whole(&lab).await?;
    std::fs::rename(&instances, &aside)?;
    whole(&lab).await?;
    std::fs::remove_dir_all(&aside)?;
    std::fs::rename(&home, &aside)?;
    whole(&lab).await?;
    std::fs::remove_dir_all(&aside)?;
    remove_whole(&home)?;
    whole(&lab).await?;
    let log = std::fs::read_to_string(home.join("logs/hub.log"))?;
    assert!(log.contains("instance found"), "the log goes on where it can be read: {log}");
    // The journal may have failed in the half removed home; it tries again after a second.
    until("nothing is wrong any more", PATIENCE, async || {
        let told = problems(&lab).await?;
        ensure!(told.is_empty(), "{told:?}");
        Ok(())
    })
    .await?;
    lab.terminate().await
}

/// Fault 23: a link in place of the registry is refused and reported until it is gone.
#[tokio::test]
async fn registry_replaced_by_a_link_is_not_read() -> Result<()> {
    let lab = watched_lab().await?;
    let (instances, aside) = (lab.home().join("instances"), lab.state("aside"));
    std::fs::rename(&instances, &aside)?;
    std::os::unix::fs::symlink(&aside, &instances)?;
    until("the status reports the link", PATIENCE, async || {
        let told = problems(&lab).await?;
        let is_link =
            |problem: &Value| problem["detail"].as_str().is_some_and(|detail| detail.contains("symbolic link"));
        ensure!(told.iter().any(is_link), "{told:?}");
        Ok(())
    })
    .await?;
    assert!(register(&lab, "late").is_err(), "a registration through the link succeeded");
    active(&lab).await?;
    std::fs::remove_file(&instances)?;
    whole(&lab).await?;
    assert_eq!(problems(&lab).await?, [] as [Value; 0]);
    lab.terminate().await
}

/// Writes a record as fast as possible, without a lease: its process shows that its owner is alive.
fn put(instances: &Path, name: &str) -> Result<()> {
    let record = record(name)?;
    let (new, path) = (instances.join(format!(".{name}.tmp")), instances.join(format!("{}.json", record.id)));
    std::fs::write(&new, serde_json::to_vec(&record)?)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    Ok(std::fs::rename(&new, &path)?)
}

/// The number of instances that the hub lists; also checks its memory.
async fn listed(lab: &Lab) -> Result<u64> {
    let health = health(lab).await?;
    ensure!(health["metrics"]["memory_bytes"].as_u64() < Some(MEMORY), "too much memory: {health}");
    health["metrics"]["instances"].as_u64().context("no number")
}

async fn all_are_listed(lab: &Lab, number: u64) -> Result<()> {
    until("all are listed", 3 * PATIENCE, async || {
        let listed = listed(lab).await?;
        ensure!(listed == number, "{listed}");
        Ok(())
    })
    .await
}

/// Fault 24: 10,000 records at once, while the hub answers.
#[tokio::test]
async fn ten_thousand_records_at_once_are_all_found() -> Result<()> {
    let lab = Lab::new()?.with(NEVER.0, NEVER.1);
    lab.json(&["status"]).await?;
    let instances = lab.home().join("instances");
    for number in 0..CROWD {
        put(&instances, &format!("crowd-{number}"))?;
        if number % 1000 == 0 {
            listed(&lab).await?;
        }
    }
    all_are_listed(&lab, CROWD).await?;
    // The orderly end of ten thousand links takes long on a busy machine and is not tested here.
    lab.kill_hub().await?;
    lab.terminate().await
}
