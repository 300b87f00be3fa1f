//! Disks that are full, lack inodes, or are read-only.

use crate::watching::{finds, states};
use anyhow::{Context, Result, ensure};
use linchpin_shared::process::{Identity, Signal};
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::disk::Lack;
use linchpin_tests::lab::namespace::{Changes, mount, mount_tmpfs, within};
use linchpin_tests::wait::{PATIENCE, until};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The size of the flood in bytes: more than the disk and more than the memory limit of an instance.
const FLOOD: u64 = 60_000_000;

/// The memory limit of an instance of this build, in kB.
const MEMORY_KB: u64 = 50_000;

/// The number of bad records, whose log lines need more bytes than a block has.
const JUNK: u32 = 50;

/// Fault 26.
#[test]
fn full_disk_stops_nothing_and_is_reported() -> Result<()> {
    within(Changes::Mounts, "storage::inner_full")
}

/// Fault 27.
#[test]
fn lack_of_inodes_stops_nothing_and_is_reported() -> Result<()> {
    within(Changes::Mounts, "storage::inner_no_inodes")
}

#[tokio::test]
#[ignore = "run by a test above, where it can mount a small disk"]
async fn inner_full() -> Result<()> {
    without_room(Lack::Bytes, "size=16m").await
}

#[tokio::test]
#[ignore = "run by a test above, where it can mount a small disk"]
async fn inner_no_inodes() -> Result<()> {
    without_room(Lack::Inodes, "size=200m,nr_inodes=200").await
}

async fn without_room(lack: Lack, options: &str) -> Result<()> {
    let lab = Lab::new()?;
    let home = lab.home();
    mount_tmpfs(&home, options)?;
    lab.serve("tool").await?;
    let (go, done) = (lab.state("go"), lab.state("done"));
    lab.launch(&["run", "--name", "talker", "--", "sh", "-c", &flood_script(&go, &done)])?;
    active(&lab, "talker").await?;
    let junk = |number: u32| home.join(format!("instances/junk-{number}.tmp"));
    (0..JUNK).try_for_each(|number| std::fs::write(junk(number), "{"))?;

    lack.fill(&home)?;
    works(&lab).await?;
    check_flood_is_dropped(&lab, &go, &done).await?;
    lack.fill(&home)?;
    check_instance_is_refused(&lab, lack).await?;
    // The log has no space for these lines once the rest of its last block is used up.
    (0..JUNK).try_for_each(|number| std::fs::rename(junk(number), junk(number).with_extension("json")))?;
    until("the hub's status shows all of them", PATIENCE, async || {
        let told = lab.json(&["status"]).await?["rejected"].as_array().map_or(0, Vec::len);
        ensure!(told >= JUNK as usize, "{told}");
        Ok(())
    })
    .await?;
    let record = lose_a_record(&lab, lack).await?;
    works(&lab).await?;

    Lack::empty(&home)?;
    until("the record is there again", PATIENCE, async || {
        serde_json::from_slice::<Value>(&std::fs::read(&record)?)?;
        Ok(())
    })
    .await?;
    finds(&lab).await?;
    check_logs_name_missing_lines(&home, lack).await?;
    check_hub_reports_no_space(&lab, lack).await?;
    lab.terminate().await
}

/// A script that prints a flood of lines as soon as `go` exists, creates `done`, and then prints a line now and then.
fn flood_script(go: &Path, done: &Path) -> String {
    format!(
        "until [ -e {} ]; do sleep 0.05; done; yes 'a line of the flood' | head -c {FLOOD}; touch {}; \
         while :; do echo a line; sleep 0.1; done",
        go.display(),
        done.display()
    )
}

async fn check_logs_name_missing_lines(home: &Path, lack: Lack) -> Result<()> {
    until("the logs name the missing lines", PATIENCE, async || {
        let logs = [home.join("logs/talker/main.log"), home.join("logs/hub.log")];
        let needed = match lack {
            Lack::Bytes => &logs[..],
            // An existing file can still grow.
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
    .await
}

async fn active(lab: &Lab, name: &str) -> Result<()> {
    until("it is active", PATIENCE, async || {
        let seen = states(lab, name).await?;
        ensure!(seen == ["active"], "{seen:?}");
        Ok(())
    })
    .await
}

/// Checks that the hub answers and routes a call.
async fn works(lab: &Lab) -> Result<()> {
    let said = lab.json(&["call", "tool__late", r#"{"seconds": 0, "say": "done"}"#]).await?;
    ensure!(said["result"]["content"][0]["text"] == "done", "{said}");
    Ok(())
}

async fn check_flood_is_dropped(lab: &Lab, go: &Path, done: &Path) -> Result<()> {
    let talker = lab.processes("talker");
    ensure!(talker.len() == 1, "{talker:?}");
    File::create(go)?;
    until("the child has printed all", PATIENCE, async || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", talker[0].pid))?;
        let memory =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        assert!(memory < Some(MEMORY_KB), "{memory:?} kB");
        ensure!(done.exists(), "it has not");
        Ok(())
    })
    .await
}

async fn check_instance_is_refused(lab: &Lab, lack: Lack) -> Result<()> {
    let (code, said) = lab.begin(&["--json", "run", "--name", "late", "--", "sleep", "300"])?.end().await?;
    is_no_space(lab, lack, code, &said)?;
    let left: Vec<PathBuf> = lab.home().join("instances").read_dir()?.flatten().map(|file| file.path()).collect();
    let is_left = |path: &PathBuf| path.to_string_lossy().contains(".new-");
    ensure!(!left.iter().any(is_left), "{left:?}");
    ensure!(states(lab, "late").await?.is_empty(), "it is listed");
    Ok(())
}

/// Checks the problem of a lack of space: it has the path, the free space and next steps.
fn is_no_space(lab: &Lab, lack: Lack, code: i32, said: &Value) -> Result<()> {
    ensure!(code == 1 && said["code"] == "no_space", "{code:?} {said:#}");
    let observed = &said["observed"];
    let free = match lack {
        Lack::Bytes => &observed["free bytes"],
        Lack::Inodes => &observed["free inodes"],
    };
    ensure!(free == 0, "{said:#}");
    ensure!(
        observed["path"].as_str().is_some_and(|path| path.starts_with(&lab.home().display().to_string())),
        "{said:#}"
    );
    ensure!(said["next_steps"].as_array().is_some_and(|steps| steps.len() >= 2), "{said:#}");
    Ok(())
}

/// Removes the record of the instance, and fills the space that it had.
async fn lose_a_record(lab: &Lab, lack: Lack) -> Result<PathBuf> {
    let status = lab.json(&["status"]).await?;
    let instances = status["instances"].as_array().context("no list")?;
    let tool = instances.iter().find(|one| one["name"] == "tool").context("no tool")?;
    let process: Identity = serde_json::from_value(tool["process"].clone())?;
    let record = lab.home().join(format!("instances/{}.json", tool["id"].as_str().context("no id")?));
    // Stopped, so that it cannot write the record at once.
    process.signal(Signal::STOP)?;
    std::fs::remove_file(&record)?;
    lack.fill(&lab.home())?;
    process.signal(Signal::CONT)?;
    Ok(record)
}

async fn check_hub_reports_no_space(lab: &Lab, lack: Lack) -> Result<()> {
    lab.json(&["hub", "stop"]).await?;
    std::fs::remove_file(lab.home().join("hub.json"))?;
    lack.fill(&lab.home())?;
    let (code, said) = lab.begin(&["--json", "status"])?.end().await?;
    is_no_space(lab, lack, code, &said)?;
    Lack::empty(&lab.home())?;
    active(lab, "tool").await?;
    works(lab).await
}

/// Fault 28: open files stay writable and nothing new can be created, which is the closest to a failing disk.
#[test]
fn read_only_home_stops_nothing_and_is_reported() -> Result<()> {
    within(Changes::Mounts, "storage::inner_read_only")
}

#[tokio::test]
#[ignore = "run by the test before it, where it can mount"]
async fn inner_read_only() -> Result<()> {
    let lab = Lab::new()?;
    let home = lab.home();
    lab.serve("tool").await?;
    mount(&["--bind", &home.display().to_string()], &home)?;
    mount(&["-o", "remount,bind,ro"], &home)?;
    works(&lab).await?;
    let (code, said) = lab.begin(&["--json", "run", "--name", "late", "--", "sleep", "300"])?.end().await?;
    ensure!(code == 1 && said["code"] == "home_unusable", "{code:?} {said:#}");
    ensure!(said.to_string().contains("findmnt"), "{said:#}");
    let hub = lab.hub_process()?;
    works(&lab).await?;
    ensure!(Command::new("umount").arg(&home).status()?.success(), "umount");
    finds(&lab).await?;
    ensure!(lab.hub_process()? == hub, "another hub");
    works(&lab).await?;
    lab.terminate().await
}
