//! The command line: the shape of every `--json`, the exit codes, and what people read.

use anyhow::{Context, Result, ensure};
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::running::Running;
use serde_json::{Value, json};
use std::time::Duration;

async fn shop_lab() -> Result<(Lab, Running)> {
    let lab = Lab::new()?;
    let hub = lab.hub().await?;
    lab.detached("shop", &kit::echo("shop")?).await?;
    lab.usable("shop").await?;
    Ok((lab, hub))
}

fn has(value: &Value, fields: &[&str]) -> Result<()> {
    for field in fields {
        ensure!(value.get(field).is_some(), "no {field} in {value}");
    }
    Ok(())
}

#[tokio::test]
async fn status_json_has_its_documented_shape() -> Result<()> {
    let (lab, hub) = shop_lab().await?;
    let status = lab.status().await?;
    assert_eq!(status["schema_version"], 1);
    has(&status["hub"], &["url", "pid", "version", "uptime_seconds"])?;
    assert_eq!(status["hub"]["pid"], hub.pid());
    assert_eq!(status["rejected"], json!([]));
    let shop = &status["instances"][0];
    has(shop, &["id", "state", "since", "why", "generation", "pid", "project_dir", "endpoint", "attempts"])?;
    assert_eq!(shop["name"], "shop");
    assert_eq!(shop["project_dir"], lab.dir().display().to_string());
    let process = &shop["processes"][0];
    has(process, &["name", "pid", "restarts"])?;
    assert_eq!(process["state"], "running");
    let server = &shop["servers"][0];
    has(server, &["name", "epoch"])?;
    assert_eq!(
        (&server["transport"], &server["up"], &server["session"]),
        (&json!("stdio"), &json!(true), &json!("ready"))
    );
    assert_eq!(server["tools"], 1);
    let text = lab.verb(["status"]).await?.exits(0)?.stdout;
    for told in ["shop", "active", &lab.hub_facts()?.url] {
        ensure!(text.contains(told), "{told} is not in\n{text}");
    }
    lab.finish().await
}

#[tokio::test]
async fn tools_are_listed_and_called() -> Result<()> {
    let (lab, _hub) = shop_lab().await?;
    let tools = lab.verb(["tools", "--json"]).await?.json()?;
    assert_eq!(tools["schema_version"], 1);
    let list = tools["tools"].as_array().context("a list of tools")?;
    let echo = list.iter().find(|tool| tool["name"] == "shop__echo-shop").with_context(|| tools.to_string())?;
    has(echo, &["description", "inputSchema"])?;
    let said = lab.verb(["call", "shop__echo-shop", r#"{"message": "hello"}"#, "--json"]).await?.json()?;
    assert_eq!(said["schema_version"], 1);
    assert_eq!(said["result"]["content"][0]["text"], "hello");
    let text = lab.verb(["call", "shop__echo-shop", r#"{"message": "plain words"}"#]).await?.exits(0)?.stdout;
    ensure!(text.contains("plain words"), "{text}");
    let text = lab.verb(["tools"]).await?.exits(0)?.stdout;
    ensure!(text.contains("shop__echo-shop"), "{text}");
    lab.finish().await
}

#[tokio::test]
async fn explain_shows_the_transitions_of_a_link() -> Result<()> {
    let (lab, _hub) = shop_lab().await?;
    let explained = lab.verb(["explain", "shop", "--json"]).await?.json()?;
    assert_eq!(explained["schema_version"], 1);
    let text = explained.to_string();
    for told in ["discovered", "connecting", "active"] {
        ensure!(text.contains(told), "{told} is not in {text}");
    }
    ensure!(lab.verb(["explain", "shop"]).await?.exits(0)?.stdout.contains("active"));
    lab.finish().await
}

#[tokio::test]
async fn logs_are_kept_and_followed() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    // It prints a line whenever the file grows, so the test decides when.
    let cue = lab.dir().join("cue");
    std::fs::write(&cue, "line-0\n")?;
    let follow = ["tail".to_owned(), "-n".into(), "+1".into(), "-f".into(), cue.display().to_string()];
    let mut arguments = vec!["run", "--name", "talker", "--detach", "--"];
    arguments.extend(follow.iter().map(String::as_str));
    lab.verb(arguments).await?.exits(0)?;
    let logs = async |more: &[&str]| -> Result<String> {
        Ok(lab.verb([&["logs", "talker"], more].concat()).await?.exits(0)?.stdout)
    };
    lab.wait_for("the first line is logged", async || {
        let text = logs(&[]).await?;
        ensure!(text.contains("line-0"), "{text:?}");
        Ok(())
    })
    .await?;

    let following = lab.run_in_front("following", ["logs", "talker", "-f"])?;
    lab.wait_for("the follower shows the existing lines", async || {
        ensure!(following.printed().contains("line-0"), "{:?}", following.printed());
        Ok(())
    })
    .await?;
    let more: String = (1..=50).map(|number| format!("line-{number}\n")).collect();
    std::io::Write::write_all(&mut std::fs::File::options().append(true).open(&cue)?, more.as_bytes())?;
    lab.wait_for("the follower shows new lines", async || {
        ensure!(following.printed().contains("line-50\n"), "{:?}", following.printed());
        Ok(())
    })
    .await?;
    assert_eq!(logs(&["-n", "2"]).await?.lines().filter(|line| line.contains("line-")).count(), 2);
    following.signal(linchpin_shared::process::Signal::INT)?;
    lab.finish().await
}

#[tokio::test]
async fn restart_and_stop_act_on_the_named_process() -> Result<()> {
    let (lab, _hub) = shop_lab().await?;
    let before = lab.usable("shop").await?;
    let process = before["processes"][0]["name"].as_str().context("a process has a name")?;
    lab.verb(["restart", &format!("shop/{process}")]).await?.exits(0)?;
    let old = before["processes"][0]["pid"].clone();
    let after = lab
        .shows("shop", "its process is another", |instance| {
            let pid = &instance["processes"][0]["pid"];
            pid.is_u64() && *pid != old && instance["servers"][0]["session"] == "ready"
        })
        .await?;
    assert_eq!(after["pid"], before["pid"], "the instance itself stays");
    lab.verb(["restart", "shop/nothing", "--json"]).await?.problem(3)?;

    lab.verb(["stop", "shop"]).await?.exits(0)?;
    lab.wait_for("its processes are gone", async || {
        let left = lab.mark().processes();
        ensure!(left.len() == 1, "only the hub stays:\n{}", linchpin_tests::lab::leftovers::describe(&left));
        Ok(())
    })
    .await?;
    lab.finish().await
}

#[tokio::test]
async fn hub_stops_on_request_and_on_signals() -> Result<()> {
    let lab = Lab::new()?;
    let mut hub = lab.hub().await?;
    let token = lab.verb(["token"]).await?.exits(0)?.stdout;
    assert_eq!(token.trim(), lab.hub_facts()?.token);
    lab.verb(["hub", "stop"]).await?.exits(0)?;
    ensure!(hub.exit(Duration::from_secs(10)).await?.success(), "{}", hub.printed());

    for signal in [linchpin_shared::process::Signal::TERM, linchpin_shared::process::Signal::INT] {
        let mut hub = lab.hub().await?;
        hub.signal(signal)?;
        let status = hub.exit(Duration::from_secs(10)).await?;
        ensure!(status.success(), "{signal:?}: {status} {}", hub.printed());
    }
    lab.nothing_is_left().await
}

#[tokio::test]
async fn status_starts_the_hub_in_the_background() -> Result<()> {
    let lab = Lab::new()?;
    let output = linchpin_tests::lab::verb::Output::of(lab.linchpin(["status", "--json"])).await?;
    let pid = output.json()?["hub"]["pid"].clone();
    assert_eq!(lab.hub_answers(None).await?.pid, pid);
    lab.finish().await
}

#[tokio::test]
async fn every_verb_has_a_help_text() -> Result<()> {
    let lab = Lab::new()?;
    let help = lab.verb(["--help"]).await?.exits(0)?.stdout;
    for verb in ["hub", "run", "mcp", "status", "tools", "call", "explain", "logs", "token", "stop", "restart"] {
        ensure!(help.contains(verb), "{verb} is not in\n{help}");
        let own = lab.verb([verb, "--help"]).await?.exits(0)?.stdout;
        ensure!(own.contains("Usage"), "{own}");
    }
    ensure!(lab.verb(["--version"]).await?.exits(0)?.stdout.contains(env!("CARGO_PKG_VERSION")));
    lab.nothing_is_left().await
}
