//! Homes that are odd, and homes that cannot be used.

use crate::watching::{finds, states};
use crate::world::{World, until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An instance comes, is found, and goes with its hub.
fn lives(world: &mut World) -> Result<()> {
    world.json(&["status"])?;
    world.instance(&["run", "--name", "shop", "--", "sh", "-c", "echo spoken; exec sleep 300"])?;
    until("it is active and its log can be read", || {
        ensure!(states(world, "shop")? == ["active"], "{:?}", states(world, "shop"));
        let (code, said) = world.begin(&["logs", "shop"])?.end()?;
        ensure!(code == Some(0) && said.to_string().contains("spoken"), "{said}");
        Ok(())
    })?;
    let (_, doctor) = world.begin(&["--json", "doctor"])?.end()?;
    ensure!(doctor["checks"].is_array(), "{doctor}");
    let (status, health) = world.raw("GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    ensure!(status == 200 && health.contains("data_path"), "{health}");
    Ok(())
}

/// Fault 33: long for a socket's path, long for a line, and names that no text has.
#[test]
fn a_home_may_have_any_name() -> Result<()> {
    let long = |parts: usize| move |dir: &Path| (0..parts).fold(dir.to_owned(), |path, _| path.join("x".repeat(100)));
    for place in [long(2), long(15)] {
        let mut world = World::in_home(place)?;
        lives(&mut world)?;
        finds(&world)?;
    }
    for name in [&b"with spaces and 'quotes'"[..], b"line\nbreak", b"not \xff\xfe text"] {
        lives(&mut World::in_home(|dir| dir.join(OsStr::from_bytes(name)))?)?;
    }
    Ok(())
}

/// Fault 33: what a link in the path names may move, and the home is where it is.
#[test]
fn a_home_below_a_link_is_fine() -> Result<()> {
    let mut world = World::in_home(|dir| dir.join("link/home"))?;
    std::fs::create_dir(world.state("disk"))?;
    symlink(world.state("disk"), world.state("link"))?;
    lives(&mut world)
}

/// What `status` says in this home: it fails with a code of these, steps, and nothing made anywhere.
fn refused(world: &World, codes: &[&str], says: &str) -> Result<()> {
    // Without the right of root to open everything: for others nothing changes.
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.arg("--bounding-set=-all");
    }
    let verb = world.linchpin(&["--json", "status"]);
    command.arg("--").arg(verb.get_program()).args(verb.get_args()).current_dir(world.state("."));
    for (name, value) in verb.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let elsewhere = world.state("elsewhere");
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
#[test]
fn a_home_that_cannot_be_used_is_refused_and_nothing_is_made_elsewhere() -> Result<()> {
    let unusable = &["home_unusable"];
    let world = World::new()?;
    let home = world.home();
    std::fs::create_dir(&home)?;
    for open in [0o777, 0o755, 0o710] {
        mode(&home, open)?;
        refused(&world, unusable, "open to other users")?;
        assert_eq!(home.metadata()?.permissions().mode() & 0o777, open, "never repaired silently");
    }
    mode(&home, 0o500)?;
    refused(&world, &["permission_denied"], "Permission denied")?;
    mode(&home, 0o700)?;
    std::fs::remove_dir(&home)?;
    std::fs::write(&home, "a file")?;
    refused(&world, unusable, "is not a directory")?;
    assert_eq!(std::fs::read(&home)?, b"a file");
    std::fs::remove_file(&home)?;
    symlink(world.state("elsewhere"), &home)?;
    refused(&world, unusable, "symbolic link")?;
    std::fs::remove_file(&home)?;
    let closed = World::in_home(|dir| dir.join("closed/home"))?;
    std::fs::create_dir(closed.state("closed"))?;
    mode(&closed.state("closed"), 0o500)?;
    refused(&closed, &["permission_denied"], "Permission denied")?;
    mode(&closed.state("closed"), 0o700)?;
    let endless = World::in_home(|dir| (0..50).fold(dir.to_owned(), |path, _| path.join("x".repeat(100))))?;
    refused(&endless, unusable, "too long")
}

/// Fault 32: what a verb under sudo leaves, and a home that is another user's.
#[test]
fn what_belongs_to_another_user_is_refused() -> Result<()> {
    let world = World::new()?;
    if !rustix::process::geteuid().is_root() {
        // What an ordinary user has of others is what root has.
        let theirs = World::in_home(|_| PathBuf::from("/usr"))?;
        return refused(&theirs, &["home_unusable"], "belongs to user 0");
    }
    let home = world.home();
    world.json(&["status"])?;
    world.json(&["hub", "stop"])?;
    let theirs = |path: &Path, owner| std::os::unix::fs::chown(path, Some(owner), None);
    let places = [("hub.lease", "sudo chown"), ("hub.json", "hub.json"), ("instances", "sudo chown")];
    for (place, says) in places {
        theirs(&home.join(place), 12345)?;
        refused(&world, &["permission_denied", "home_unusable"], says)?;
        theirs(&home.join(place), 0)?;
    }
    theirs(&home, 12345)?;
    refused(&world, &["home_unusable"], "belongs to user 12345")?;
    theirs(&home, 0)?;
    world.json(&["status"])?;
    Ok(())
}

/// Fault 33: a file system without locks, as NFS may be: every `flock` of every process fails.
#[test]
fn a_file_system_without_locks_is_lived_on() -> Result<()> {
    let mut world = World::new()?;
    let (source, library) = (world.state("nolock.c"), world.state("nolock.so"));
    std::fs::write(&source, "#include <errno.h>\nint flock(int fd, int op) { errno = ENOLCK; return -1; }\n")?;
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().context("cc")?;
    ensure!(built.success(), "cc");
    world.set("LD_PRELOAD", &library.display().to_string());
    lives(&mut world)?;
    let hub = world.hub()?;
    let (code, said) = world.begin(&["--json", "hub"])?.end()?;
    ensure!(code == Some(0) && said["pid"] == hub.pid, "a second hub: {said}");
    let (code, said) = world.begin(&["--json", "run", "--name", "shop", "--", "sleep", "300"])?.end()?;
    ensure!(code == Some(4) && said["code"] == "name_taken", "a second instance: {said}");
    world.kill_hub()?;
    until("the next hub has it", || {
        ensure!(states(&world, "shop")? == ["active"] && world.hub()? != hub, "{:?}", states(&world, "shop"));
        Ok(())
    })
}
