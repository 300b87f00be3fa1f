//! What an agent is shown through the shim: filtered by flags, by search, and the builtin tools, also after the death
//! of the hub.

use anyhow::{Result, ensure};
use linchpin_tests::agent::Agent;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use serde_json::json;

async fn two_server_lab() -> Result<Lab> {
    let lab = Lab::new()?;
    let shown = lab.project("shown")?;
    std::fs::write(shown.join("note.txt"), "remember the milk")?;
    lab.detached("files", &kit::filesystem(&shown)?).await?;
    lab.detached("other", &kit::echo("other")?).await?;
    Ok(lab)
}

async fn both_are_usable(lab: &Lab) -> Result<()> {
    lab.hub_answers(None).await?;
    lab.usable("files").await?;
    lab.usable("other").await?;
    Ok(())
}

#[tokio::test]
async fn shim_filter_survives_the_death_of_the_hub() -> Result<()> {
    let lab = two_server_lab().await?;
    let mut agent = lab.shim(&["--only", "files", "--except", "files/*/write_*,linchpin/*/restart"]).await?;
    both_are_usable(&lab).await?;
    let before = agent.tools().await?;
    let own = |name: &&String| name.starts_with("linchpin__");
    ensure!(before.iter().filter(own).count() == 3, "{before:?}");
    ensure!(before.iter().all(|name| name.starts_with("files__") || own(&name)), "{before:?}");
    ensure!(!before.iter().any(|name| name.contains("write_")), "{before:?}");
    lab.kill_hub().await?;
    assert_eq!(agent.tools().await?, before, "the same session at the next hub");
    let hidden = agent.request("tools/call", json!({"name": "other__echo-other", "arguments": {}})).await?.error()?;
    ensure!(hidden["message"].as_str().is_some_and(|told| told.contains("only")), "{hidden}");
    let note = json!({"path": lab.dir().join("projects/shown/note.txt")});
    assert_eq!(agent.call("files__read_text_file", note).await?, "remember the milk");
    let told = agent.call("linchpin__status", json!({})).await?;
    ensure!(told.contains("files") && !told.contains("other"), "{told}");
    agent.close().await?;
    lab.finish().await
}

#[tokio::test]
async fn npm_server_tools_are_searched_through_the_shim() -> Result<()> {
    let lab = two_server_lab().await?;
    let mut agent = lab.shim(&["--tools", "search", "--project"]).await?;
    both_are_usable(&lab).await?;
    assert_eq!(agent.tools().await?.len(), 7, "not four built-in tools and three search tools");
    let found = agent.call("linchpin__search_tools", json!({"query": "read text file"})).await?;
    ensure!(found.contains("files__read_text_file"), "{found}");
    let described = agent.call("linchpin__describe_tool", json!({"name": "files__read_text_file"})).await?;
    ensure!(described.contains("inputSchema"), "{described}");
    let arguments = json!({"path": lab.dir().join("projects/shown/note.txt")});
    lab.kill_hub().await?;
    let call = json!({"name": "files__read_text_file", "arguments": arguments});
    assert_eq!(agent.call("linchpin__call_tool", call).await?, "remember the milk");
    agent.close().await?;
    lab.finish().await
}
