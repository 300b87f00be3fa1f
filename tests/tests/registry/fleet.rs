//! Many instances at once, and bad records beside good ones (fault 20).

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use linchpin_tests::agent::Agent;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use serde_json::json;
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

#[tokio::test]
async fn twenty_instances_start_together_and_all_stop() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    let names: Vec<String> = (0..20).map(|number| format!("fleet-{number}")).collect();
    let starts = names.iter().map(async |name| lab.detached(name, &kit::echo(name)?).await);
    try_join_all(starts).await?;

    let mut agent = lab.http("/mcp").await?;
    let wanted: BTreeSet<String> = names.iter().map(|name| format!("{name}__echo-{name}")).collect();
    lab.wait_for("all twenty tools are listed", async || {
        let tools: BTreeSet<String> =
            agent.tools().await?.into_iter().filter(|tool| tool.starts_with("fleet-")).collect();
        ensure!(tools == wanted, "{tools:?}");
        Ok(())
    })
    .await?;
    for (name, tool) in names.iter().zip(names.iter().map(|name| format!("{name}__echo-{name}"))) {
        assert_eq!(agent.call(&tool, json!({"message": name})).await?, *name, "each call reaches its own instance");
    }
    agent.close().await?;
    lab.finish().await
}

/// Puts every kind of bad record into the registry, and returns the names of their files.
fn spoil(registry: &Path, good: &Path) -> Result<Vec<String>> {
    let record = std::fs::read(good)?;
    let torn = record.get(..record.len() / 2).context("an empty record")?;
    let large = [b"{\"format\":1,\"x\":\"".as_slice(), &vec![b'x'; 2 << 20], b"\"}"].concat();
    let cases: [(&str, &[u8]); 5] =
        [("torn", torn), ("empty", b""), ("binary", &[0, 255, 128, 10]), ("large", &large), ("other", b"[1, 2, 3]")];
    let mut names = Vec::new();
    for (number, (_, bytes)) in cases.iter().enumerate() {
        let name = format!("{:08x}-0000-5000-8000-000000000000.json", number + 1);
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(registry.join(&name))?;
        std::io::Write::write_all(&mut file, bytes)?;
        names.push(name);
    }
    let link = "0000000a-0000-5000-8000-000000000000.json";
    symlink(good, registry.join(link))?;
    names.push(link.to_owned());
    Ok(names)
}

fn only_record(registry: &Path) -> Result<std::path::PathBuf> {
    let entries = std::fs::read_dir(registry)?.flatten().map(|entry| entry.path());
    entries.into_iter().find(|path| path.extension().is_some_and(|end| end == "json")).context("no record")
}

#[tokio::test]
async fn bad_records_are_reported_and_affect_no_other() -> Result<()> {
    let lab = Lab::new()?;
    let hub = lab.hub().await?;
    lab.detached("good", &kit::echo("good")?).await?;
    lab.usable("good").await?;
    let mut agent = lab.http("/mcp").await?;
    let registry = lab.home().join("instances");
    let bad = spoil(&registry, &only_record(&registry)?)?;
    // A file name that is not text must not prevent the report of the others.
    let unspeakable = registry.join(std::ffi::OsStr::from_bytes(b"\xff.json"));
    std::fs::write(&unspeakable, "x")?;

    let status = lab
        .wait_for("all bad records are reported", async || {
            let status = lab.status().await?;
            let rejected = status["rejected"].to_string();
            ensure!(bad.iter().all(|name| rejected.contains(name.as_str())), "{rejected}");
            Ok(status)
        })
        .await?;
    for rejected in status["rejected"].as_array().context("a list")? {
        ensure!(rejected["problem"]["code"].is_string(), "{rejected}");
    }
    assert_eq!(agent.call("good__echo-good", json!({"message": "still"})).await?, "still");
    lab.detached("better", &kit::echo("better")?).await?;
    lab.usable("better").await?;
    assert_eq!(lab.hub_facts()?.pid, hub.pid(), "the same hub");
    agent.close().await?;

    let _ = std::fs::remove_file(unspeakable);
    for name in bad {
        // The hub may have quarantined some already.
        let _ = std::fs::remove_file(registry.join(name));
    }
    lab.finish().await
}
