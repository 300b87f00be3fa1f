//! Files in the registry that are not records.

use crate::watching::{finds, health, record, states};
use anyhow::{Context, Result, ensure};
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::namespace::{Changes, mount, within};
use linchpin_tests::wait::{PATIENCE, until};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The memory limit of a hub of this build, in bytes; reading 100 MB of junk would exceed it.
const MEMORY: u64 = 90 << 20;

/// Creates a private, sparse file of this size.
fn file(path: &Path, bytes: &[u8], size: u64) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    std::io::Write::write_all(&mut file, bytes)?;
    Ok(file.set_len(size.max(bytes.len() as u64))?)
}

fn pipe(path: &Path) -> Result<()> {
    Ok(mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?)
}

/// Fault 20.
#[test]
fn bad_files_of_every_kind_affect_no_other_instance() -> Result<()> {
    within(Changes::Mounts, "bad_files::inner_bad_files")
}

/// Fault 20: the quarantine of earlier hubs and of this one stays within its limits.
#[tokio::test]
async fn quarantine_stays_within_its_bounds() -> Result<()> {
    let lab = Lab::new()?;
    let quarantine = lab.home().join("instances/quarantine");
    lab.json(&["status"]).await?;
    lab.json(&["hub", "stop"]).await?;
    for number in 0..150 {
        let aside = quarantine.join(format!("old.json.{}", 1000 + number));
        file(&aside, b"x", 0)?;
        file(&aside.with_extension(format!("{}.why", 1000 + number)), b"{}", 0)?;
    }
    lab.json(&["status"]).await?;
    until("the newest are left", PATIENCE, async || {
        let left = quarantine.read_dir()?.count();
        ensure!(left == 40, "{left} files");
        let seen = health(&lab).await?;
        ensure!(seen["metrics"]["quarantined"] == 20, "{seen}");
        Ok(())
    })
    .await?;
    lab.terminate().await
}

#[tokio::test]
#[ignore = "run by the first test, where it can make a device"]
async fn inner_bad_files() -> Result<()> {
    let lab = Lab::new()?;
    lab.json(&["status"]).await?;
    lab.launch(&["run", "--name", "shop", "--", "sleep", "300"])?;
    until("it is active", PATIENCE, async || active(&lab).await).await?;
    let instances = lab.home().join("instances");
    let movable = plant_files(&instances)?;
    let others = plant_others(&instances)?;
    until("movable files are in the quarantine, the others are reported", PATIENCE, async || {
        let status = lab.json(&["status"]).await?;
        let told = |path: &PathBuf| {
            let rejected = status["rejected"].as_array().into_iter().flatten();
            rejected.filter(|one| one["path"] == path.display().to_string()).count() == 1
        };
        ensure!(others.iter().all(told), "{:#}", status["rejected"]);
        ensure!(status["quarantine"]["files"] == movable.len(), "{:#}", status["rejected"]);
        ensure!(status["quarantine"]["since"].is_string(), "{}", status["quarantine"]);
        Ok(())
    })
    .await?;
    assert!(movable.iter().all(|path| !path.exists()));
    check_reasons(&lab, movable.len())?;
    active(&lab).await?;
    finds(&lab).await?;
    let seen = health(&lab).await?;
    assert_eq!(seen["metrics"]["quarantined"], movable.len());
    assert!(seen["metrics"]["memory_bytes"].as_u64() < Some(MEMORY), "it was read whole: {seen}");
    let (_, text) = lab.begin(&["status"])?.end().await?;
    assert!(text.as_str().is_some_and(|text| text.contains("in the quarantine: ")), "{text}");
    // Bad files do not prevent the start of a hub either.
    lab.kill_hub().await?;
    until("it is active again", PATIENCE, async || active(&lab).await).await?;
    finds(&lab).await?;
    lab.terminate().await
}

async fn active(lab: &Lab) -> Result<()> {
    let seen = states(lab, "shop").await?;
    ensure!(seen == ["active"], "{seen:?}");
    Ok(())
}

fn place(instances: &Path) -> PathBuf {
    instances.join(format!("{}.json", Uuid::now_v7()))
}

/// Plants what is not a regular file of this user, and is therefore not moved.
fn plant_others(instances: &Path) -> Result<Vec<PathBuf>> {
    let [fifo, dir, device] = [(); 3].map(|()| place(instances));
    pipe(&fifo)?;
    std::fs::create_dir(&dir)?;
    file(&device, b"", 0)?;
    mount(&["--bind", "/dev/zero"], &device)?;
    // The lease of this record is a pipe, so it is unknown whether its owner is alive.
    let record = record("odd")?;
    let odd = instances.join(format!("{}.json", record.id));
    file(&odd, &serde_json::to_vec(&record)?, 0)?;
    pipe(&odd.with_extension("lease"))?;
    Ok(vec![fifo, dir, device, odd])
}

/// Plants regular files of this user that are not records.
fn plant_files(instances: &Path) -> Result<Vec<PathBuf>> {
    let whole = &serde_json::to_vec(&record("junk")?)?[..];
    let kinds: [(&[u8], u64); 7] = [
        (b"", 0),
        (&whole[..whole.len() / 2], 0),
        (&[0, 159, 146, 150, 255], 0),
        (whole, 0),
        (whole, 1 << 20),
        (&vec![b' '; 100 << 20], 0),
        (b"{", 10 << 30),
    ];
    kinds
        .into_iter()
        .map(|(bytes, size)| {
            let path = place(instances);
            file(&path, bytes, size)?;
            Ok(path)
        })
        .collect()
}

/// Checks that each file in the quarantine has its reason beside it.
fn check_reasons(lab: &Lab, number: usize) -> Result<()> {
    let quarantine = lab.home().join("instances/quarantine");
    let paths: Vec<PathBuf> = quarantine.read_dir()?.flatten().map(|file| file.path()).collect();
    let reasons: Vec<&PathBuf> = paths.iter().filter(|path| path.extension().is_some_and(|end| end == "why")).collect();
    assert_eq!((paths.len(), reasons.len()), (2 * number, number), "{paths:?}");
    for why in reasons {
        let why: serde_json::Value = serde_json::from_slice(&std::fs::read(why)?)?;
        assert_eq!(why["code"], "bad_record");
        let steps = why["next_steps"].as_array().context("no steps")?;
        assert!(steps.len() == 2 && why["observed"]["put_aside_at"].is_string(), "{why:#}");
    }
    Ok(())
}
