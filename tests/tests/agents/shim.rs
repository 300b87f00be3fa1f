//! The shim: each request gets exactly one answer, whatever is sent and whatever happens to the hub.

use anyhow::{Result, ensure};
use linchpin_tests::agent::ANSWER;
use linchpin_tests::lab::Lab;
use linchpin_tests::wait::{PATIENCE, until};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn invalid_lines_and_early_requests_are_answered() -> Result<()> {
    let lab = Lab::new()?;
    let mut shim = lab.bare_shim()?;
    shim.send_as(&json!("early"), "tools/list", json!({})).await?;
    let early = shim.response(&json!("early")).await?;
    assert!(early["error"]["message"].as_str().is_some_and(|text| text.contains("initialize")), "{early}");
    shim.initialize(&json!({})).await?;
    for line in ["{", "\u{0}", "[1,", "nonsense", "{\"id\":}"] {
        shim.line(line).await?;
        let parse_error = |message: &Value| message["id"].is_null() && message.get("error").is_some();
        let error = shim.first("a parse error", ANSWER, parse_error).await?;
        assert_eq!(error["error"]["code"], -32700, "{line}: {error}");
        shim.ping().await?;
    }
    // Each of these is a request, so it gets one answer with its own id.
    let long = Value::String("x".repeat(1 << 20));
    shim.send_as(&long, "ping", json!({})).await?;
    let answer = shim.response(&long).await?;
    assert!(answer.get("result").is_some() || answer.get("error").is_some());
    for (id, line) in
        [(json!(70), r#"{"id":70,"method":"ping"}"#), (json!([7]), r#"{"jsonrpc":"2.0","id":[7],"method":"ping"}"#)]
    {
        shim.line(line).await?;
        assert_eq!(shim.response(&id).await?["error"]["code"], -32600, "{line}");
    }
    shim.ping().await?;
    let (_, rest) = shim.leave().await?;
    assert!(rest.iter().all(|message| message.get("id").is_none()), "responses without a request: {rest:?}");
    lab.terminate().await
}

#[tokio::test]
async fn request_refused_before_its_id_is_read_is_answered() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_GATEWAY_MAX_MESSAGE_BYTES", "65536");
    let mut shim = lab.shim(&[]).await?;
    let id = shim.send("tools/call", json!({"name": "none", "arguments": {"text": "x".repeat(1 << 17)}})).await?;
    let answer = shim.response(&json!(id)).await?;
    assert_eq!(answer["error"]["data"]["code"], "too_large", "{answer}");
    shim.ping().await?;
    shim.close().await?;
    lab.terminate().await
}

#[tokio::test]
async fn call_in_flight_is_interrupted_once_by_a_killed_hub() -> Result<()> {
    let lab = Lab::new()?;
    lab.serve("slow").await?;
    let mut shim = lab.shim(&[]).await?;
    for round in 1..=2_usize {
        let id = shim
            .send("tools/call", json!({"name": "slow__late", "arguments": {"seconds": 20, "say": "never"}}))
            .await?;
        lab.called("slow", "late", round).await?;
        lab.kill_hub().await?;
        let answer = shim.response(&json!(id)).await?;
        assert_eq!(answer["error"]["data"]["code"], "call_interrupted", "{answer}");
        let id = shim.send("tools/call", json!({"name": "slow__echo", "arguments": {"text": "next"}})).await?;
        let answer = shim.response(&json!(id)).await?;
        assert_eq!(answer["result"]["content"][0]["text"], "slow: next", "{answer}");
        lab.called("slow", "late", round).await?;
    }
    let (_, rest) = shim.leave().await?;
    assert!(rest.iter().all(|message| message.get("id").is_none()), "more than one answer: {rest:?}");
    lab.terminate().await
}

#[tokio::test]
async fn cancelled_request_gets_no_answer_and_ends_no_session() -> Result<()> {
    let lab = Lab::new()?;
    lab.serve("slow").await?;
    let mut shim = lab.shim(&[]).await?;
    let id = shim.send("tools/call", json!({"name": "slow__wait", "arguments": {"tag": "mine"}})).await?;
    lab.called("slow", "wait", 1).await?;
    shim.notify("notifications/cancelled", json!({"requestId": id})).await?;
    let path = lab.state("slow").join("cancelled");
    until("the server receives the cancellation", PATIENCE, async || {
        ensure!(path.exists(), "{:?}", std::fs::read_dir(lab.state("slow"))?.collect::<Vec<_>>());
        Ok(())
    })
    .await?;
    shim.ping().await?;
    let (_, rest) = shim.leave().await?;
    assert!(rest.iter().all(|message| message.get("id").is_none()), "{rest:?}");
    lab.terminate().await
}

#[tokio::test]
async fn shim_ends_with_its_agent() -> Result<()> {
    let lab = Lab::new()?.with("LINCHPIN_LOG", "linchpin_hub=debug");
    let mut shim = lab.shim(&[]).await?;
    shim.ping().await?;
    // Some agents initialize twice; the shim must still listen only once.
    shim.initialize(&json!({})).await?;
    shim.ping().await?;
    let (took, rest) = shim.leave().await?;
    assert!(took < Duration::from_secs(4), "it stayed for {took:?}");
    assert!(rest.is_empty(), "{rest:?}");
    lab.terminate().await
}
