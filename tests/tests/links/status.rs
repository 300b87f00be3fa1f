//! Links to real instances as a person sees them: `linchpin status`, `explain` and the metrics.

use anyhow::{Context, Result, ensure};
use linchpin_shared::process::{Identity, Signal};
use linchpin_tests::agent::Agent;
use linchpin_tests::kit;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::ledger::Load;
use linchpin_tests::lab::witness::Witness;
use serde_json::{Value, json};

async fn identity(lab: &Lab, name: &str) -> Result<Identity> {
    Ok(serde_json::from_value(lab.instance_status(name).await?["process"].clone())?)
}

/// Fault 5: an instance that is stopped by a signal is unresponsive and not dead: its connection is kept, nothing is
/// restarted, calls to it fail with the reason, and everything continues when it does.
#[tokio::test]
async fn stopped_instance_is_unresponsive_and_keeps_its_link() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_GATEWAY_WAIT_MS", "500");
    let _hub = lab.hub().await?;
    for name in ["shop", "other"] {
        lab.detached(name, &kit::echo(name)?).await?;
    }
    let (shop, other) = (Witness::of(&lab, "shop").await?, Witness::of(&lab, "other").await?);
    let others = Load::start(&lab, "other__echo-other", 1).await?;
    let mut agent = lab.http("/mcp").await?;
    let process = identity(&lab, "shop").await?;
    ensure!(process.signal(Signal::STOP)?, "it runs");

    let instance = lab.shows("shop", "it is unresponsive", |instance| instance["state"] == "unresponsive").await?;
    ensure!(instance["why"].as_str().is_some_and(|why| why.contains("SIGSTOP")), "{instance}");
    let answer = agent.request("tools/call", json!({"name": "shop__echo-shop", "arguments": {"message": "x"}})).await?;
    let error = answer.error()?;
    ensure!(error.to_string().contains("unresponsive"), "{error}");
    let told = lab.verb(["explain", "shop"]).await?.exits(0)?.stdout;
    for line in ["shop is unresponsive", "breaker: closed", "quality: ", "suspect → unresponsive"] {
        ensure!(told.contains(line), "{line:?} is not in\n{told}");
    }
    let link = lab.link("shop").await?;
    ensure!(link["last_failure"].is_null() && link["connections"] == 1 && link["dials"] == 1, "{link}");
    others.continues(&lab, 20).await?;

    ensure!(process.signal(Signal::CONT)?, "the stopped process has ended");
    shop.untouched(&lab).await.with_context(|| lab.logs())?;
    let tool = json!({"message": "x"});
    agent.call("shop__echo-shop", tool).await?;
    let others = others.finish().await?;
    ensure!(others.interrupted == 0 && others.refused == 0, "{others:?}");
    other.untouched(&lab).await?;
    drop(agent);
    lab.finish().await
}

/// The value of a metric for this instance.
fn value(metrics: &Value, name: &str, instance: &str) -> Option<f64> {
    let samples = metrics["metrics"].as_array()?.iter();
    let mut found = samples.filter(|sample| sample["name"] == name && sample["labels"]["instance"] == instance);
    found.next()?["value"].as_f64()
}

#[tokio::test]
async fn link_metrics_count_and_a_healthy_link_dials_once() -> Result<()> {
    let lab = Lab::new()?;
    let _hub = lab.hub().await?;
    lab.detached("shop", &kit::echo("shop")?).await?;
    lab.usable("shop").await?;
    let calls = Load::start(&lab, "shop__echo-shop", 8).await?;
    calls.continues(&lab, 2000).await?;
    calls.finish().await?;

    let facts = lab.hub_facts()?;
    let client = reqwest::Client::new();
    let ask = || client.get(format!("{}/metrics", facts.url));
    ensure!(ask().send().await?.status() == 401, "without the token");
    let text = ask().bearer_auth(&facts.token).send().await?.error_for_status()?.text().await?;
    ensure!(text.contains("# TYPE linchpin_link_reconnect_seconds histogram") && text.ends_with("# EOF\n"), "{text}");
    let json = ask().bearer_auth(&facts.token).header("accept", "application/json").send().await?;
    let metrics: Value = json.error_for_status()?.json().await?;
    for (name, expected) in [
        ("linchpin_link_tcp_connections_total", 1.0),
        ("linchpin_link_connections_total", 1.0),
        ("linchpin_link_dials_total", 1.0),
        ("linchpin_link_retries_total", 0.0),
        ("linchpin_link_breaker_trips_total", 0.0),
    ] {
        ensure!(value(&metrics, name, "shop") == Some(expected), "{name}: {metrics}");
    }
    let spent =
        metrics["metrics"].as_array().context("metrics")?.iter().find(|sample| {
            sample["name"] == "linchpin_link_state_seconds_total" && sample["labels"]["state"] == "active"
        });
    ensure!(spent.is_some_and(|sample| sample["value"].as_f64() > Some(0.0)), "{metrics}");
    lab.finish().await
}
