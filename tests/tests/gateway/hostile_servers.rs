//! MCP servers that lie, flood and print garbage: their callers get an error, and no other agent is affected.

use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::Agent;
use linchpin_tests::agent::http::Http;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::running::peak_memory;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// More memory than hub or instance ever need here, in the development profile.
const MEMORY: u64 = 200 << 20;

/// A hub with a server that behaves, `calm`, and one that misbehaves, `hostile`.
async fn hostile_lab(mode: &str) -> Result<Lab> {
    hostile_in(Lab::new()?, mode).await
}

async fn hostile_in(lab: Lab, mode: &str) -> Result<Lab> {
    lab.hub().await.map(drop)?;
    lab.echo_instances(&["calm"]).await?;
    lab.detached("hostile", &kit::hostile(mode, &starts(&lab))?).await?;
    Ok(lab)
}

fn starts(lab: &Lab) -> std::path::PathBuf {
    lab.dir().join("starts")
}

/// How often the hostile server was started.
fn started(lab: &Lab) -> usize {
    std::fs::read_to_string(starts(lab)).unwrap_or_default().lines().count()
}

async fn calm_answers(agent: &mut Http, times: usize) -> Result<()> {
    for n in 0..times {
        let said = agent.call("calm__echo-calm", json!({"message": n.to_string()})).await?;
        ensure!(said == n.to_string(), "{said}");
    }
    Ok(())
}

/// Lets it misbehave, and returns what the caller gets.
async fn act(agent: &mut Http, what: &str) -> Result<linchpin_tests::agent::Reply> {
    agent.request("tools/call", json!({"name": "hostile__act", "arguments": {"do": what}})).await
}

/// Fault 61 and 63: garbage between messages, unrelated answers, duplicate answers, and invalid answers.
#[tokio::test]
async fn invalid_answers_are_reported_and_strays_are_dropped() -> Result<()> {
    let lab = hostile_lab("plain").await?;
    lab.usable("hostile").await?;
    let mut agent = lab.http("/mcp").await?;
    for what in ["garbage", "ids"] {
        for _ in 0..3 {
            let result = act(&mut agent, what).await?.result()?;
            assert_eq!(result["content"][0]["text"], "right", "{what}: {result}");
        }
    }
    for (what, word) in [
        ("neither", "exactly one of result and error"),
        ("both", "exactly one of result and error"),
        ("deep", "deeper than 128"),
        ("twice", "stands there twice"),
        ("bytes", "what is no text"),
        ("half", "ended before it answered"),
    ] {
        let error = act(&mut agent, what).await?.error()?;
        assert_eq!(error["data"]["code"], "call_interrupted", "{what}: {error}");
        ensure!(error["message"].as_str().is_some_and(|message| message.contains(word)), "{what}: {error}");
    }
    calm_answers(&mut agent, 1).await?;
    let said = lab
        .wait_for("its tools are listed again", async || agent.call("hostile__echo", json!({"text": "still"})).await);
    assert_eq!(said.await?, "still");
    lab.finish().await
}

/// Fault 63: floods of everything that a server may send on its own. Their cost is bounded, and other servers work.
#[tokio::test]
async fn server_flood_affects_no_other_server() -> Result<()> {
    let lab = hostile_lab("plain").await?;
    let instance = lab.usable("hostile").await?;
    let (mut flooded, mut agent) = (lab.http("/mcp").await?, lab.http("/mcp").await?);
    let _reader = agent.listen().await?;
    for with in ["log", "progress", "strange", "changed", "updated", "ping", "ask", "unknown"] {
        let arguments = json!({"do": "flood", "with": with, "times": 20_000});
        let call = json!({"name": "hostile__act", "arguments": arguments, "_meta": {"progressToken": "t"}});
        let flood = flooded.request("tools/call", call);
        let (flood, calm) = tokio::join!(flood, calm_answers(&mut agent, 20));
        calm.context(with)?;
        let result = flood.context(with)?.result().context(with)?;
        assert_eq!(result["content"][0]["text"], "right", "{with}: {result}");
    }
    let pid = instance["pid"].as_u64().context("no pid")?;
    for (who, pid) in [("hub", lab.hub_facts()?.pid), ("instance", u32::try_from(pid)?)] {
        ensure!(peak_memory(pid)? < MEMORY, "{who}: {}", peak_memory(pid)?);
    }
    ensure!(started(&lab) == 1, "it is the same process");
    lab.finish().await
}

/// Fault 63: a list that changes whenever it is fetched, so that notifications and fetches never end.
#[tokio::test]
async fn constantly_changing_list_is_fetched_at_a_bounded_rate() -> Result<()> {
    let lab = hostile_lab("flaps").await?;
    lab.usable("hostile").await?;
    let mut agent = lab.http("/mcp").await?;
    let (begun, before) = (Instant::now(), lists(&mut agent).await?);
    for _ in 0..20 {
        calm_answers(&mut agent, 1).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let fetched = lists(&mut agent).await? - before;
    ensure!(fetched > 1, "it is fetched again");
    // Without a limit there would be thousands.
    let most = begun.elapsed().as_secs_f64() * 10.0 + 2.0;
    ensure!(fetched as f64 <= most, "fetched {fetched} times in {:?}", begun.elapsed());
    lab.finish().await
}

/// How often the list of the hostile server was fetched.
async fn lists(agent: &mut Http) -> Result<u64> {
    let stats: Value = serde_json::from_str(&agent.call("hostile__stats", json!({})).await?)?;
    stats["lists"].as_u64().context("no number")
}

/// Fault 63: a line without an end.
#[tokio::test]
async fn endless_line_is_cut_off_and_the_server_restarted() -> Result<()> {
    let lab = hostile_in(Lab::new()?.with("LINCHPIN_INSTANCE_MAX_LINE_BYTES", "4194304"), "plain").await?;
    let instance = lab.usable("hostile").await?;
    let mut agent = lab.http("/mcp").await?;
    let error = act(&mut agent, "line").await?.error()?;
    ensure!(error["message"].as_str().is_some_and(|it| it.contains("longer line than allowed")), "{error}");
    calm_answers(&mut agent, 1).await?;
    let said = lab
        .wait_for("its tools are listed again", async || agent.call("hostile__echo", json!({"text": "still"})).await);
    assert_eq!(said.await?, "still");
    let pid = u32::try_from(instance["pid"].as_u64().context("no pid")?)?;
    ensure!(peak_memory(pid)? < MEMORY, "{}", peak_memory(pid)?);
    lab.finish().await
}

/// Fault 63: lists without end, in circles, with invalid names, and refused lists.
#[tokio::test]
async fn invalid_lists_are_left_out_and_a_huge_one_is_shown() -> Result<()> {
    let lab = hostile_lab("names").await?;
    for mode in ["circle", "endless", "refused"] {
        lab.detached(mode, &kit::hostile(mode, &starts(&lab))?).await?;
        lab.shows(mode, "it has a session", |instance| instance["servers"][0]["session"] == "ready").await?;
    }
    lab.usable("hostile").await?;
    let mut agent = lab.http("/mcp").await?;
    let tools = agent.tools().await?;
    let ours: Vec<_> = tools.iter().filter(|name| name.starts_with("hostile__")).collect();
    // Tools without a name, or with the name of an earlier one, are left out.
    assert_eq!(ours.len(), 11, "{ours:?}");
    for name in &tools {
        ensure!(
            name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)),
            "{name:?}"
        );
        ensure!(tools.iter().filter(|other| *other == name).count() == 1, "{name} is there twice");
    }
    for name in ours.iter().filter(|name| !name.contains("act") && !name.contains("stats")) {
        assert_eq!(agent.call(name, json!({"text": "x"})).await?, "x", "{name}");
    }
    for mode in ["circle", "endless", "refused"] {
        ensure!(!tools.iter().any(|name| name.starts_with(mode)), "{tools:?}");
        // At the path of one instance, the server itself is asked.
        let mut alone = lab.http(&format!("/i/{mode}/mcp")).await?;
        assert_eq!(alone.call("echo", json!({"text": mode})).await?, mode);
        let asked = alone.call("stats", json!({})).await?;
        let asked = serde_json::from_str::<Value>(&asked)?["lists"].as_u64().context("no number")?;
        ensure!(asked < if mode == "endless" { 2001 } else { 20 }, "{mode} was asked {asked} times");
    }
    lab.detached("huge", &kit::hostile("huge", &starts(&lab))?).await?;
    lab.usable("huge").await?;
    assert_eq!(agent.tools().await?.len(), tools.len() + 100_003);
    assert_eq!(agent.call("huge__tool-77777", json!({"text": "x"})).await?, "x");
    calm_answers(&mut agent, 1).await?;
    ensure!(peak_memory(lab.hub_facts()?.pid)? < 3 * MEMORY, "{}", peak_memory(lab.hub_facts()?.pid)?);
    lab.finish().await
}

/// Fault 63: a server that never answers `initialize`, and one that answers and exits, again and again.
#[tokio::test]
async fn server_that_ends_at_once_is_restarted_with_backoff() -> Result<()> {
    let lab = hostile_in(Lab::new()?.with("LINCHPIN_GATEWAY_WAIT_MS", "500"), "leaves").await?;
    lab.detached("silent", &kit::hostile("silent", &lab.dir().join("silent"))?).await?;
    let mut agent = lab.http("/mcp").await?;
    for name in ["hostile", "silent"] {
        let error = agent.request("tools/call", json!({"name": format!("{name}__echo")})).await?.error()?;
        ensure!(error["data"]["detail"].as_str().is_some_and(|detail| detail.contains(name)), "{error}");
    }
    // Restarts at 0.1, 0.2, 0.4 … s: seven within 13 s. Without backoff there would be a hundred a second.
    let before = started(&lab);
    for _ in 0..50 {
        calm_answers(&mut agent, 1).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(started(&lab) - before < 10, "{} starts in 10 s", started(&lab) - before);
    ensure!(started(&lab) > 1, "it is started again");
    lab.finish().await
}

/// Fault 64: the hub is a server of its own instance, through the shim and by a URL.
#[tokio::test]
async fn hub_as_its_own_server_is_refused_as_a_loop() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_HUB_TOKEN_REQUIRED", "false").with("LINCHPIN_GATEWAY_WAIT_MS", "500");
    lab.hub().await.map(drop)?;
    lab.echo_instances(&["calm"]).await?;
    let mut agent = lab.http("/mcp").await?;
    let tools = agent.tools().await?;
    let shim = [lab.binary().display().to_string(), String::from("mcp")];
    lab.detached("shim", &shim).await?;
    let url = format!("{}/mcp", lab.hub_facts()?.url);
    let _url = lab.run_in_front("url", ["run", "--name", "url", "--mcp-url", &url, "--", "sleep", "600"])?;
    for name in ["shim", "url"] {
        lab.shows(name, "the status shows the loop", |instance| {
            instance["servers"][0].to_string().contains("leads back to this hub")
        })
        .await?;
        let error = agent.request("tools/call", json!({"name": format!("{name}__calm__echo-calm")})).await?.error()?;
        ensure!(error.to_string().contains("leads back to this hub"), "{error}");
    }
    assert_eq!(agent.tools().await?, tools, "a tool is listed twice");
    calm_answers(&mut agent, 3).await?;
    lab.finish().await
}
