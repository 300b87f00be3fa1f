//! What is started and what it inherits: the own executable, no descriptor and no secret of Linchpin.

use anyhow::{Context, Result, ensure};
use linchpin_tests::lab::{Lab, leftovers};
use linchpin_tests::wait::{PATIENCE, until};
use serde_json::Value;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Creates a program that notes that it was started.
fn trap(dir: &Path, name: &str, mark: &Path) -> Result<()> {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\necho {name} >> {}\nexit 1\n", mark.display()))?;
    Ok(std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?)
}

/// Fault 67: a verb starts the hub from its own executable, whatever `PATH` and the current directory contain.
#[tokio::test]
async fn hub_executable_is_never_searched_in_path() -> Result<()> {
    let lab = Lab::new()?;
    let dir = tempfile::tempdir()?;
    let mark = dir.path().join("mark");
    for name in ["linchpin", "hub", "sh", "env", "setsid", "nohup"] {
        trap(dir.path(), name, &mark)?;
    }
    for path in [dir.path().display().to_string(), ".".to_owned(), String::new()] {
        let mut verb = lab.linchpin(["status", "--json"]);
        let said = verb.env("PATH", &path).current_dir(dir.path()).output().await?;
        ensure!(said.status.success(), "PATH={path:?}: {}", String::from_utf8_lossy(&said.stdout));
        let hub = lab.hub_process()?;
        assert_eq!(hub.executable, lab.binary());
        assert_eq!(std::fs::read_link(format!("/proc/{}/cwd", hub.pid))?, Path::new("/"));
        lab.kill_hub().await?;
    }
    // Without an environment, except its home and the mark of the lab.
    let mut bare = lab.linchpin(["status", "--json"]);
    bare.env_clear().env("LINCHPIN_HOME", lab.home()).env("LINCHPIN_HUB_PORT", "0");
    let bare = bare.env(leftovers::VAR, lab.mark().value()).output().await?;
    assert!(bare.status.success(), "{}", String::from_utf8_lossy(&bare.stdout));
    assert!(!mark.exists(), "{} was started", std::fs::read_to_string(&mark)?);
    lab.terminate().await
}

/// Fault 67: a directory of the home that is a link is not used, wherever it leads.
#[tokio::test]
async fn home_directory_that_is_a_link_is_refused() -> Result<()> {
    for name in ["", "instances", "instances/quarantine", "logs"] {
        let lab = Lab::new()?;
        let elsewhere = lab.state("elsewhere");
        std::fs::create_dir(&elsewhere)?;
        std::fs::set_permissions(&elsewhere, PermissionsExt::from_mode(0o700))?;
        let place = lab.home().join(name);
        std::fs::create_dir_all(place.parent().context("no parent")?)?;
        for dir in [lab.home(), lab.home().join("instances")] {
            if dir.is_dir() {
                std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700))?;
            }
        }
        symlink(&elsewhere, if name.is_empty() { lab.home() } else { place })?;
        let (code, said) = lab.begin(&["status", "--json"])?.end().await?;
        assert_eq!((code, said["code"].as_str()), (1, Some("home_unusable")), "{name:?}: {said:#}");
        assert_eq!(elsewhere.read_dir()?.count(), 0, "{name:?}: nothing was written there");
        lab.terminate().await?;
    }
    Ok(())
}

/// The token of the hub and the secrets of all instances.
fn secrets(lab: &Lab) -> Result<Vec<Value>> {
    let mut secrets = vec![lab.hub_file()?["token"].clone()];
    for file in lab.home().join("instances").read_dir()? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            secrets.push(serde_json::from_slice::<Value>(&std::fs::read(path)?)?["secret"].clone());
        }
    }
    Ok(secrets)
}

/// Fault 67 and 68: a child has the environment and descriptors of the caller, no descriptors of Linchpin, and no
/// secret.
#[tokio::test]
async fn child_gets_no_secret_and_no_descriptor() -> Result<()> {
    let lab = Lab::new()?.with("CALLERS_OWN", "kept");
    lab.json(&["status"]).await?;
    let script =
        r#"{ tr '\0' '\n' < /proc/self/environ; ls -l /proc/$$/fd; } > "$0.new"; mv "$0.new" "$0"; exec sleep 300"#;
    let mut outputs = Vec::new();
    for (name, kind) in [("plain", &[][..]), ("server", &["--mcp"]), ("kept", &["--detach"])] {
        let out = lab.state(name).display().to_string();
        let arguments = [&["run", "--name", name], kind, &["--", "sh", "-c", script, &out]].concat();
        lab.launch(&arguments)?;
        until("the child has listed its environment", PATIENCE, async || {
            outputs.push(std::fs::read_to_string(&out)?);
            Ok(())
        })
        .await?;
    }
    let secrets = secrets(&lab)?;
    assert_eq!(secrets.len(), 4);
    for told in &outputs {
        for secret in secrets.iter().map(|secret| secret.as_str().context("no text")) {
            assert!(!told.contains(secret?), "{told}");
        }
        let names: Vec<&str> = told.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        let ours: Vec<&&str> = names.iter().filter(|name| name.starts_with("LINCHPIN_")).collect();
        for wanted in ["LINCHPIN_INSTANCE", "LINCHPIN_PROCESS", "LINCHPIN_HOME", "LINCHPIN_HUB_PORT", leftovers::VAR] {
            assert!(ours.contains(&&wanted), "{ours:?}");
        }
        assert_eq!(ours.len(), 5, "{ours:?}");
        assert!(told.contains("CALLERS_OWN=kept"), "{told}");
        let home = lab.home().display().to_string();
        let files: Vec<&str> = told.lines().filter(|line| line.contains(" -> ")).collect();
        let ours = |line: &&&str| line.contains(&home) || line.contains("socket:") || line.contains("anon_inode:");
        assert!(files.len() > 2 && files.iter().find(ours).is_none(), "{files:#?}");
    }
    lab.json(&["stop", "kept"]).await?;
    lab.terminate().await
}
