//! A broken stream is resumed where it was, by `Last-Event-ID`.

use crate::lab::GatewayLab;
use anyhow::{Context, Result, ensure};
use linchpin_tests::agent::stream::Stream;
use serde_json::json;

#[tokio::test]
async fn broken_call_stream_is_resumed_without_a_second_call() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let (agent, other) = (lab.agent("/i/a/mcp").await?, lab.agent("/i/a/mcp").await?);
    let params = json!({"name": "progress", "arguments": {"steps": 3, "say": "s", "seconds": 0.5}, "_meta": {"progressToken": "p"}});
    let message = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params});
    let mut stream = Stream::of(agent.send(&message).await?);
    let first = stream.next().await?.context("nothing came")?;
    assert_eq!(first["params"]["progress"], 1);
    let id = stream.last_id().to_owned();
    ensure!(!id.is_empty(), "an event has an id");
    drop(stream);

    for time in 0..2 {
        let mut again = agent.resume(&id).await?;
        let mut seen = Vec::new();
        while let Some(message) = again.next().await? {
            seen.push(message);
        }
        assert_eq!(seen.len(), 3, "time {time}: {seen:?}");
        assert_eq!((&seen[0]["params"]["progress"], &seen[1]["params"]["progress"]), (&json!(2), &json!(3)));
        assert_eq!((&seen[2]["id"], &seen[2]["result"]["content"][0]["text"]), (&json!(5), &json!("s")));
        assert_eq!(again.last_id().rsplit_once('-').map(|(stream, _)| stream), id.rsplit_once('-').map(|(it, _)| it));
    }
    assert_eq!(lab.noted("a", "calls"), ["progress"], "the call was executed more than once");

    let mut elsewhere = other.resume(&id).await?;
    other.try_call("grow", json!({"name": "more"})).await?.text()?;
    let heard = elsewhere.next().await?.context("nothing came")?;
    assert_eq!(
        heard["method"], "notifications/tools/list_changed",
        "an event id of another session was accepted: {heard}"
    );
    Ok(())
}

#[tokio::test]
async fn client_stream_resumes_after_the_last_read_event() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let agent = lab.agent("/i/a/mcp").await?;
    for uri in ["fix://a/1", "fix://a/2"] {
        agent.exchange(json!(1), "resources/subscribe", json!({"uri": uri})).await?.result()?;
    }
    let mut stream = agent.listen().await?;
    agent.try_call("touch", json!({"uri": "fix://a/1"})).await?.text()?;
    stream.wait_for("notifications/resources/updated").await?;
    let first = stream.last_id().to_owned();
    agent.try_call("touch", json!({"uri": "fix://a/2"})).await?.text()?;
    let lost = stream.wait_for("notifications/resources/updated").await?;
    let last = stream.last_id().to_owned();
    drop(stream);

    let mut again = agent.resume(&first).await?;
    assert_eq!(again.wait_for("notifications/resources/updated").await?, lost);
    assert_eq!(again.last_id(), last, "the same event");
    agent.try_call("touch", json!({"uri": "fix://a/1"})).await?.text()?;
    again.wait_for("notifications/resources/updated").await?;
    ensure!(again.last_id() != last, "ids are not used twice");
    Ok(())
}

#[tokio::test]
async fn older_client_gets_no_event_without_data() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let params = json!({"name": "progress", "arguments": {"steps": 1, "say": "s"}, "_meta": {"progressToken": "p"}});
    let message = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params});
    for (version, primed) in [("2025-06-18", false), ("2025-11-25", true)] {
        let agent = lab.client("/mcp").begin_as(version).await?;
        let named = message.to_string().replace("progress\",\"arguments", "a__progress\",\"arguments");
        let text = agent.post(named).send().await?.text().await?;
        assert_eq!(text.contains("retry: ") && text.contains("data: \n\n"), primed, "{version}: {text}");
        ensure!(text.contains("id: "), "{text}");
    }
    Ok(())
}

/// Fault 2: the answer to a call that was in flight when the hub died is lost. A client that resumes its stream is
/// told so, instead of waiting.
#[tokio::test]
async fn resuming_a_call_of_a_dead_hub_reports_interruption() -> Result<()> {
    let mut lab = GatewayLab::new().await?;
    lab.start("a").await?;
    let agent = lab.agent("/i/a/mcp").await?;
    let params = json!({"name": "progress", "arguments": {"steps": 1, "say": "s", "seconds": 60}, "_meta": {"progressToken": "p"}});
    let message = json!({"jsonrpc": "2.0", "id": "mine", "method": "tools/call", "params": params});
    let mut stream = Stream::of(agent.send(&message).await?);
    stream.next().await?.context("nothing came")?;
    lab.restart_hub().await?;

    let agent = agent.elsewhere(lab.url("/i/a/mcp"));
    let mut again = agent.resume(stream.last_id()).await?;
    let told = again.next().await?.context("nothing came")?;
    assert_eq!((&told["id"], &told["error"]["data"]["code"]), (&json!("mine"), &json!("call_interrupted")), "{told}");
    assert_eq!(again.next().await?, None);
    assert_eq!(lab.noted("a", "calls"), ["progress"], "the call was executed again");
    Ok(())
}
