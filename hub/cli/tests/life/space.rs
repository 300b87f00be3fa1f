//! Disks that are full, have no inodes, or may not be written.

use crate::watching::{finds, states};
use crate::within::{Changes, mount, mount_tmpfs, within};
use crate::world::{World, until};
use anyhow::{Context, Result, ensure};
use linchpin_shared::process::{Identity, Signal};
use serde_json::Value;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How much the flood prints, in bytes: more than the disk has, and than an instance may take of memory.
const FLOOD: u64 = 60_000_000;

/// The most memory that an instance of this build may take, in kB.
const MEMORY_KB: u64 = 50_000;

/// So many bad records are told of, in more bytes than a block has.
const JUNK: u32 = 50;

/// What runs out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lack {
    Bytes,
    Inodes,
}

impl Lack {
    /// Takes all that is left.
    pub(crate) fn fill(self, home: &Path) -> Result<()> {
        for number in 0.. {
            let path = home.join(format!("ballast-{number}"));
            let filled = match self {
                Self::Bytes => File::options().append(true).create(true).open(path).and_then(|mut file| {
                    loop {
                        file.write_all(&[0; 4096])?;
                    }
                }),
                Self::Inodes => File::create(path).map(drop),
            };
            match filled {
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                other => other?,
            }
        }
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn empty(home: &Path) -> Result<()> {
        for file in home.read_dir()?.flatten() {
            if file.file_name().to_string_lossy().starts_with("ballast-") {
                std::fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }
}

/// Fault 26.
#[test]
fn a_full_disk_stops_nobody_and_is_told() -> Result<()> {
    within(Changes::Mounts, "space::inner_full")
}

/// Fault 27.
#[test]
fn a_disk_without_inodes_stops_nobody_and_is_told() -> Result<()> {
    within(Changes::Mounts, "space::inner_no_inodes")
}

#[test]
#[ignore = "run by a test above, where it can mount a small disk"]
fn inner_full() -> Result<()> {
    without_room(Lack::Bytes, "size=16m")
}

#[test]
#[ignore = "run by a test above, where it can mount a small disk"]
fn inner_no_inodes() -> Result<()> {
    without_room(Lack::Inodes, "size=200m,nr_inodes=200")
}

fn without_room(lack: Lack, options: &str) -> Result<()> {
    let mut world = World::new()?;
    let home = world.home();
    mount_tmpfs(&home, options)?;
    world.serve("tool")?;
    let (go, done) = (world.state("go"), world.state("done"));
    let flood = format!(
        "until [ -e {} ]; do sleep 0.05; done; yes 'a line of the flood' | head -c {FLOOD}; touch {}; \
         while :; do echo a line; sleep 0.1; done",
        go.display(),
        done.display()
    );
    world.instance(&["run", "--name", "talker", "--", "sh", "-c", &flood])?;
    active(&world, "talker")?;
    let junk = |number: u32| home.join(format!("instances/junk-{number}.tmp"));
    (0..JUNK).try_for_each(|number| std::fs::write(junk(number), "{"))?;

    lack.fill(&home)?;
    works(&world)?;
    a_flood_is_lost_and_nothing_waits_for_it(&world, &go, &done)?;
    lack.fill(&home)?;
    a_new_instance_is_refused(&world, lack)?;
    // What the hub says of these has no room in its log, when the rest of its last block is used up.
    (0..JUNK).try_for_each(|number| std::fs::rename(junk(number), junk(number).with_extension("json")))?;
    until("the hub has told of all of them", || {
        let told = world.json(&["status"])?["rejected"].as_array().map_or(0, Vec::len);
        ensure!(told >= JUNK as usize, "{told}");
        Ok(())
    })?;
    let record = a_record_that_is_lost(&world, lack)?;
    works(&world)?;

    Lack::empty(&home)?;
    until("the record is there again", || {
        serde_json::from_slice::<Value>(&std::fs::read(&record)?)?;
        Ok(())
    })?;
    finds(&world)?;
    the_logs_say_what_is_missing(&home, lack)?;
    a_hub_that_has_no_room_says_so(&world, lack)
}

fn the_logs_say_what_is_missing(home: &Path, lack: Lack) -> Result<()> {
    until("the logs say what is missing", || {
        let logs = [home.join("logs/talker/main.log"), home.join("logs/hub.log")];
        let needed = match lack {
            Lack::Bytes => &logs[..],
            // A file that is there can grow.
            Lack::Inodes => &logs[..1],
        };
        for log in needed {
            let text = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
            let marks: Vec<&str> = text.lines().filter(|line| line.starts_with("[linchpin]")).collect();
            ensure!(marks.iter().any(|line| line.contains("are missing here")), "{}: {marks:?}", log.display());
            ensure!(!text.contains('\0'), "{} is torn", log.display());
        }
        Ok(())
    })
}

fn active(world: &World, name: &str) -> Result<()> {
    until("it is active", || {
        ensure!(states(world, name)? == ["active"], "{:?}", states(world, name));
        Ok(())
    })
}

/// The hub answers and routes.
fn works(world: &World) -> Result<()> {
    let said = world.json(&["call", "tool__late", r#"{"seconds": 0, "say": "done"}"#])?;
    ensure!(said["result"]["content"][0]["text"] == "done", "{said}");
    Ok(())
}

fn a_flood_is_lost_and_nothing_waits_for_it(world: &World, go: &Path, done: &Path) -> Result<()> {
    let talker = world.processes("talker");
    ensure!(talker.len() == 1, "{talker:?}");
    File::create(go)?;
    until("the child has printed all", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", talker[0].pid))?;
        let memory =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        assert!(memory < Some(MEMORY_KB), "{memory:?} kB");
        ensure!(done.exists(), "it has not");
        Ok(())
    })
}

fn a_new_instance_is_refused(world: &World, lack: Lack) -> Result<()> {
    let (code, said) = world.begin(&["--json", "run", "--name", "late", "--", "sleep", "300"])?.end()?;
    is_no_space(world, lack, code, &said)?;
    let left: Vec<PathBuf> = world.home().join("instances").read_dir()?.flatten().map(|file| file.path()).collect();
    let is_left = |path: &PathBuf| path.to_string_lossy().contains(".new-");
    ensure!(!left.iter().any(is_left), "{left:?}");
    ensure!(states(world, "late")?.is_empty(), "it is listed");
    Ok(())
}

/// The problem of a lack of room: with path, what is free, and steps.
fn is_no_space(world: &World, lack: Lack, code: Option<i32>, said: &Value) -> Result<()> {
    ensure!(code == Some(1) && said["code"] == "no_space", "{code:?} {said:#}");
    let observed = &said["observed"];
    let free = match lack {
        Lack::Bytes => &observed["free bytes"],
        Lack::Inodes => &observed["free inodes"],
    };
    ensure!(free == 0, "{said:#}");
    ensure!(
        observed["path"].as_str().is_some_and(|path| path.starts_with(&world.home().display().to_string())),
        "{said:#}"
    );
    ensure!(said["next_steps"].as_array().is_some_and(|steps| steps.len() >= 2), "{said:#}");
    Ok(())
}

/// Takes away the record of the server's instance, and the room that it had.
fn a_record_that_is_lost(world: &World, lack: Lack) -> Result<PathBuf> {
    let status = world.json(&["status"])?;
    let instances = status["instances"].as_array().context("no list")?;
    let tool = instances.iter().find(|one| one["name"] == "tool").context("no tool")?;
    let process: Identity = serde_json::from_value(tool["process"].clone())?;
    let record = world.home().join(format!("instances/{}.json", tool["id"].as_str().context("no id")?));
    // Held still, so that it cannot write it at once.
    process.signal(Signal::STOP)?;
    std::fs::remove_file(&record)?;
    lack.fill(&world.home())?;
    process.signal(Signal::CONT)?;
    Ok(record)
}

fn a_hub_that_has_no_room_says_so(world: &World, lack: Lack) -> Result<()> {
    world.json(&["hub", "stop"])?;
    std::fs::remove_file(world.home().join("hub.json"))?;
    lack.fill(&world.home())?;
    let (code, said) = world.begin(&["--json", "status"])?.end()?;
    is_no_space(world, lack, code, &said)?;
    Lack::empty(&world.home())?;
    active(world, "tool")?;
    works(world)
}

/// Fault 28: what is open can be written and nothing new, as far as that can be had without a disk that fails.
#[test]
fn a_read_only_home_stops_nobody_and_is_told() -> Result<()> {
    within(Changes::Mounts, "space::inner_read_only")
}

#[test]
#[ignore = "run by the test before it, where it can mount"]
fn inner_read_only() -> Result<()> {
    let mut world = World::new()?;
    let home = world.home();
    world.serve("tool")?;
    mount(&["--bind", &home.display().to_string()], &home)?;
    mount(&["-o", "remount,bind,ro"], &home)?;
    works(&world)?;
    let (code, said) = world.begin(&["--json", "run", "--name", "late", "--", "sleep", "300"])?.end()?;
    ensure!(code == Some(1) && said["code"] == "home_unusable", "{code:?} {said:#}");
    ensure!(said.to_string().contains("findmnt"), "{said:#}");
    let hub = world.hub()?;
    works(&world)?;
    ensure!(Command::new("umount").arg(&home).status()?.success(), "umount");
    finds(&world)?;
    ensure!(world.hub()? == hub, "another hub");
    works(&world)
}
