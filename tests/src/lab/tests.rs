//! The lab itself. These tests start programs of this workspace, so they need `make build`.

use super::Lab;
use super::leftovers::{Mark, VAR};
use crate::kit;
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

/// A daemon's trick: the process that was started ends, and what it leaves has another session and parent.
const DAEMON: &str = "setsid sleep 300 & setsid sh -c 'sleep 300' & exit 0";

#[tokio::test]
async fn dropped_lab_leaves_no_process_and_no_directory() -> Result<()> {
    let lab = Lab::new()?;
    ensure!(lab.command("sh").args(["-c", DAEMON]).status().await?.success());
    let (mark, dir) = (lab.mark().clone(), lab.dir().to_owned());
    lab.wait_for("the daemon's children run", async || {
        ensure!(mark.processes().len() >= 2);
        Ok(())
    })
    .await?;
    drop(lab);
    ensure!(mark.processes().is_empty() && !dir.exists(), "something is left in {}", dir.display());
    Ok(())
}

#[tokio::test]
async fn reaper_ends_what_a_killed_lab_started() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let home = dir.path().join("lab");
    std::fs::create_dir(&home)?;
    let mark = Mark::new(uuid::Uuid::new_v4().to_string());
    let mut reaper = Command::new(kit::program("lab-reaper")?)
        .args([mark.value().as_ref(), home.as_os_str()])
        .stdin(Stdio::piped())
        .spawn()?;
    Command::new("sh").args(["-c", DAEMON]).env(VAR, mark.value()).spawn()?.wait()?;
    ensure!(!mark.processes().is_empty() && home.exists(), "it waits for the lab's end");
    // All that a SIGKILL does to the lab's own process, as the reaper sees it.
    drop(reaper.stdin.take().context("no standard input")?);
    ensure!(reaper.wait()?.success());
    ensure!(mark.processes().is_empty() && !home.exists(), "something is left");
    Ok(())
}

#[test]
fn settings_of_the_user_do_not_reach_a_lab() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_GATEWAY_WAIT_MS", "1");
    let command = lab.command("true");
    let get = |name: &str| command.as_std().get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value);
    assert_eq!(get("LINCHPIN_HOME"), Some(lab.home().as_os_str()));
    assert_eq!(get("HOME"), Some(lab.dir().as_os_str()));
    assert_eq!(get("XDG_STATE_HOME"), None);
    assert_eq!(get("LINCHPIN_GATEWAY_WAIT_MS"), Some("1".as_ref()));
    ensure!(lab.port() != 7777);
    Ok(())
}

/// Which way the scenarios in network namespaces take is told, and when they have none, why.
#[test]
fn lab_netns_reports_how_it_gets_a_namespace() -> Result<()> {
    let program = kit::program("lab-netns")?;
    let output = Command::new(&program).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let ways = ["network namespaces: as root\n", "network namespaces: in a user namespace\n"];
    ensure!(output.status.success() && ways.contains(&said.as_ref()), "{output:?}");
    let none = Command::new(&program).env("LAB_NETNS_WAY", "magic").output()?;
    ensure!(!none.status.success() && String::from_utf8_lossy(&none.stderr).contains("magic"), "{none:?}");
    Ok(())
}
