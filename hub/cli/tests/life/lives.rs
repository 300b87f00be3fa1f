//! What an agent asked for through the shim, over the hub's death: it is the same session.

use crate::journal::{URI, is_kept};
use crate::world::{Shim, World, until};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

fn asks(shim: &mut Shim, method: &str, params: &Value) -> Result<Value> {
    shim.request(&json!(method), method, params)?;
    let answer = shim.answer(&json!(method))?;
    ensure!(answer.get("result").is_some(), "{answer}");
    Ok(answer)
}

/// What the server was last asked to log.
fn level(world: &World, wanted: &str) -> Result<()> {
    let path = world.state("tool").join("levels");
    until("the server is asked for this level", || {
        let levels = std::fs::read_to_string(&path).unwrap_or_default();
        ensure!(levels.lines().last() == Some(wanted), "{levels:?}");
        Ok(())
    })
}

/// Fault 2: the session that an agent has through the shim keeps its level, its subscriptions and what it knows, and it
/// is told of nothing that did not change.
#[test]
fn level_subscriptions_and_lists_outlive_the_hub_through_the_shim() -> Result<()> {
    let mut world = World::new()?;
    world.serve("tool")?;
    let mut shim = Shim::open(&world)?;
    for method in ["tools/list", "prompts/list", "resources/list"] {
        asks(&mut shim, method, &json!({}))?;
    }
    asks(&mut shim, "logging/setLevel", &json!({"level": "error"}))?;
    asks(&mut shim, "resources/subscribe", &json!({"uri": URI}))?;
    is_kept(&world, "error")?;
    world.kill_hub()?;
    shim.ping(1)?;
    shim.call(2, "tool__touch", &json!({"uri": URI}))?;
    shim.answer(&json!(2))?;
    shim.first("word of the resource", |message| message["method"] == "notifications/resources/updated")?;
    // Somebody else wants to see everything, so the server sends it.
    let mut other = Shim::open(&world)?;
    asks(&mut other, "logging/setLevel", &json!({"level": "debug"}))?;
    level(&world, "debug")?;
    shim.call(3, "tool__log", &json!({"tag": "x"}))?;
    let first = shim.first("word of the log", |message| message["method"] == "notifications/message")?;
    ensure!(first["params"]["level"] == "error", "{first}");
    other.close()?;
    let (_, rest) = shim.close()?;
    ensure!(!json!(rest).to_string().contains("list_changed"), "no list changed: {rest:?}");
    Ok(())
}
