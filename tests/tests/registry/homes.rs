//! Homes in unusual places, and homes that cannot be used.

use crate::watching::{finds, states};
use anyhow::{Context, Result, ensure};
use linchpin_tests::lab::Lab;
use linchpin_tests::preload;
use linchpin_tests::wait::{PATIENCE, until};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Checks that an instance is found in this home, and that its log, the doctor and the health of the hub work.
async fn works(lab: Lab) -> Result<Lab> {
    lab.json(&["status"]).await?;
    lab.launch(&["run", "--name", "shop", "--", "sh", "-c", "echo spoken; exec sleep 300"])?;
    until("it is active and its log can be read", PATIENCE, async || {
        let seen = states(&lab, "shop").await?;
        ensure!(seen == ["active"], "{seen:?}");
        let (code, said) = lab.begin(&["logs", "shop"])?.end().await?;
        ensure!(code == 0 && said.to_string().contains("spoken"), "{said}");
        Ok(())
    })
    .await?;
    let (_, doctor) = lab.begin(&["--json", "doctor"])?.end().await?;
    ensure!(doctor["checks"].is_array(), "{doctor}");
    let (status, health) = lab.raw("GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").await?;
    ensure!(status == 200 && health.contains("data_path"), "{health}");
    Ok(lab)
}

/// Fault 33: too long for the path of a socket, too long for a line, and names that are not text.
#[tokio::test]
async fn home_may_have_any_name_and_length() -> Result<()> {
    let long = |parts: usize| move |dir: &Path| (0..parts).fold(dir.to_owned(), |path, _| path.join("x".repeat(100)));
    for place in [long(2), long(15)] {
        let lab = works(Lab::with_home(place)?).await?;
        finds(&lab).await?;
        lab.terminate().await?;
    }
    for name in [&b"with spaces and 'quotes'"[..], b"line\nbreak", b"not \xff\xfe text"] {
        works(Lab::with_home(|dir| dir.join(OsStr::from_bytes(name)))?).await?.terminate().await?;
    }
    Ok(())
}

/// Fault 33: a directory above the home may be a link.
#[tokio::test]
async fn home_below_a_link_works() -> Result<()> {
    let lab = Lab::with_home(|dir| dir.join("link/home"))?;
    std::fs::create_dir(lab.state("disk"))?;
    symlink(lab.state("disk"), lab.state("link"))?;
    works(lab).await?.terminate().await
}

/// Checks that `status` fails in this home with one of these codes and next steps, and creates nothing anywhere.
async fn refused(lab: &Lab, codes: &[&str], says: &str) -> Result<()> {
    // Without the capabilities of root, which may open everything.
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.arg("--bounding-set=-all");
    }
    let verb = lab.linchpin(["--json", "status"]).into_std();
    command.arg("--").arg(verb.get_program()).args(verb.get_args()).current_dir(lab.state("."));
    for (name, value) in verb.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let elsewhere = lab.state("elsewhere");
    std::fs::create_dir_all(&elsewhere)?;
    command.env("HOME", &elsewhere).env("XDG_STATE_HOME", elsewhere.join("state"));
    let output = command.output().context("setpriv (util-linux)")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let said: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    ensure!(output.status.code() == Some(1), "{text}");
    ensure!(codes.iter().any(|code| said["code"] == *code) && text.contains(says), "{said:#}");
    ensure!(said["observed"]["path"].is_string(), "{said:#}");
    ensure!(said["next_steps"].as_array().is_some_and(|steps| steps.len() >= 2), "{said:#}");
    ensure!(elsewhere.read_dir()?.count() == 0, "a second home was made");
    Ok(())
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?)
}

/// Fault 32.
#[tokio::test]
async fn unusable_home_is_refused_and_no_other_is_created() -> Result<()> {
    let unusable = &["home_unusable"];
    let lab = Lab::new()?;
    let home = lab.home();
    std::fs::create_dir(&home)?;
    for open in [0o777, 0o755, 0o710] {
        mode(&home, open)?;
        refused(&lab, unusable, "open to other users").await?;
        assert_eq!(home.metadata()?.permissions().mode() & 0o777, open, "never repaired silently");
    }
    mode(&home, 0o500)?;
    refused(&lab, &["permission_denied"], "Permission denied").await?;
    mode(&home, 0o700)?;
    std::fs::remove_dir(&home)?;
    std::fs::write(&home, "a file")?;
    refused(&lab, unusable, "is not a directory").await?;
    assert_eq!(std::fs::read(&home)?, b"a file");
    std::fs::remove_file(&home)?;
    symlink(lab.state("elsewhere"), &home)?;
    refused(&lab, unusable, "symbolic link").await?;
    std::fs::remove_file(&home)?;
    let closed = Lab::with_home(|dir| dir.join("closed/home"))?;
    std::fs::create_dir(closed.state("closed"))?;
    mode(&closed.state("closed"), 0o500)?;
    refused(&closed, &["permission_denied"], "Permission denied").await?;
    mode(&closed.state("closed"), 0o700)?;
    let endless = Lab::with_home(|dir| (0..50).fold(dir.to_owned(), |path, _| path.join("x".repeat(100))))?;
    refused(&endless, unusable, "too long").await?;
    for lab in [lab, closed, endless] {
        lab.terminate().await?;
    }
    Ok(())
}

/// Fault 32: files that a verb under sudo left, and a home that belongs to another user.
#[tokio::test]
async fn files_of_another_user_in_the_home_are_refused() -> Result<()> {
    let lab = Lab::new()?;
    if !rustix::process::geteuid().is_root() {
        // For an ordinary user, a directory of root is one of another user.
        let theirs = Lab::with_home(|_| PathBuf::from("/usr"))?;
        return refused(&theirs, &["home_unusable"], "belongs to user 0").await;
    }
    let home = lab.home();
    lab.json(&["status"]).await?;
    lab.json(&["hub", "stop"]).await?;
    let theirs = |path: &Path, owner| std::os::unix::fs::chown(path, Some(owner), None);
    let places = [("hub.lease", "sudo chown"), ("hub.json", "hub.json"), ("instances", "sudo chown")];
    for (place, says) in places {
        theirs(&home.join(place), 12345)?;
        refused(&lab, &["permission_denied", "home_unusable"], says).await?;
        theirs(&home.join(place), 0)?;
    }
    theirs(&home, 12345)?;
    refused(&lab, &["home_unusable"], "belongs to user 12345").await?;
    theirs(&home, 0)?;
    lab.json(&["status"]).await?;
    lab.terminate().await
}

/// Fault 33: a file system without locks, like some NFS mounts: every `flock` of every process fails.
#[tokio::test]
async fn file_system_without_locks_is_supported() -> Result<()> {
    let library = preload::library("deny")?;
    let lab = works(Lab::new()?.with("LD_PRELOAD", &library.display().to_string()).with("DENY", "flock")).await?;
    let hub = lab.hub_process()?;
    let (code, said) = lab.begin(&["--json", "hub"])?.end().await?;
    ensure!(code == 0 && said["pid"] == hub.pid, "a second hub: {said}");
    let (code, said) = lab.begin(&["--json", "run", "--name", "shop", "--", "sleep", "300"])?.end().await?;
    ensure!(code == 4 && said["code"] == "name_taken", "a second instance: {said}");
    lab.kill_hub().await?;
    until("the next hub lists it", PATIENCE, async || {
        let seen = states(&lab, "shop").await?;
        ensure!(seen == ["active"] && lab.hub_process()? != hub, "{seen:?}");
        Ok(())
    })
    .await?;
    lab.terminate().await
}
