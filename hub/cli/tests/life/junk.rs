//! Files in the registry that are no records.

use crate::watching::{finds, health, record, states};
use crate::within::{Changes, mount, within};
use crate::world::{World, until};
use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The most memory that a hub of this build may take, in bytes; 100 MB of junk would show in it.
const MEMORY: u64 = 90 << 20;

/// A private file of this size, most of it not there.
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
fn junk_of_every_kind_concerns_nobody_else() -> Result<()> {
    within(Changes::Mounts, "junk::inner_junk")
}

/// Fault 20: what earlier hubs put aside, and this one, is kept within bounds.
#[test]
fn the_quarantine_cannot_fill_the_disk() -> Result<()> {
    let world = World::new()?;
    let quarantine = world.home().join("instances/quarantine");
    world.json(&["status"])?;
    world.json(&["hub", "stop"])?;
    for number in 0..150 {
        let aside = quarantine.join(format!("old.json.{}", 1000 + number));
        file(&aside, b"x", 0)?;
        file(&aside.with_extension(format!("{}.why", 1000 + number)), b"{}", 0)?;
    }
    world.json(&["status"])?;
    until("the newest are left", || {
        let left = quarantine.read_dir()?.count();
        ensure!(left == 40, "{left} files");
        ensure!(health(&world)?["metrics"]["quarantined"] == 20, "{}", health(&world)?);
        Ok(())
    })
}

#[test]
#[ignore = "run by the first test, where it can make a device"]
fn inner_junk() -> Result<()> {
    let mut world = World::new()?;
    world.json(&["status"])?;
    world.instance(&["run", "--name", "shop", "--", "sleep", "300"])?;
    until("it is active", || active(&world))?;
    let instances = world.home().join("instances");
    let movable = plant_files(&instances)?;
    let others = plant_others(&instances)?;
    until("what can be moved is in the quarantine, and the rest is named", || {
        let status = world.json(&["status"])?;
        let told = |path: &PathBuf| {
            let rejected = status["rejected"].as_array().into_iter().flatten();
            rejected.filter(|one| one["path"] == path.display().to_string()).count() == 1
        };
        ensure!(others.iter().all(told), "{:#}", status["rejected"]);
        ensure!(status["quarantine"]["files"] == movable.len(), "{:#}", status["rejected"]);
        ensure!(status["quarantine"]["since"].is_string(), "{}", status["quarantine"]);
        Ok(())
    })?;
    assert!(movable.iter().all(|path| !path.exists()));
    why_is_told(&world, movable.len())?;
    active(&world)?;
    finds(&world)?;
    let seen = health(&world)?;
    assert_eq!(seen["metrics"]["quarantined"], movable.len());
    assert!(seen["metrics"]["memory_bytes"].as_u64() < Some(MEMORY), "it was read whole: {seen}");
    let (_, text) = world.begin(&["status"])?.end()?;
    assert!(text.as_str().is_some_and(|text| text.contains("in the quarantine: ")), "{text}");
    // Nor does it keep a hub from starting.
    world.kill_hub()?;
    until("it is active again", || active(&world))?;
    finds(&world)
}

fn active(world: &World) -> Result<()> {
    let seen = states(world, "shop")?;
    ensure!(seen == ["active"], "{seen:?}");
    Ok(())
}

fn place(instances: &Path) -> PathBuf {
    instances.join(format!("{}.json", Uuid::now_v7()))
}

/// What is no file of ours, and so is not moved.
fn plant_others(instances: &Path) -> Result<Vec<PathBuf>> {
    let [fifo, dir, device] = [(); 3].map(|()| place(instances));
    pipe(&fifo)?;
    std::fs::create_dir(&dir)?;
    file(&device, b"", 0)?;
    mount(&["--bind", "/dev/zero"], &device)?;
    // A record whose lease is a pipe: nobody can tell whether its owner lives.
    let record = record("odd")?;
    let odd = instances.join(format!("{}.json", record.id));
    file(&odd, &serde_json::to_vec(&record)?, 0)?;
    pipe(&odd.with_extension("lease"))?;
    Ok(vec![fifo, dir, device, odd])
}

/// Files that are ours and no records.
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

/// Each file in the quarantine has its reason beside it.
fn why_is_told(world: &World, number: usize) -> Result<()> {
    let quarantine = world.home().join("instances/quarantine");
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
