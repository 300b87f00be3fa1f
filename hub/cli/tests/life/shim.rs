//! The shim: exactly one answer to each request, whatever the line and whatever happens to the hub.

use crate::world::{Shim, World, until};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn bad_lines_and_requests_out_of_turn_are_answered_and_it_goes_on() -> Result<()> {
    let world = World::new()?;
    let mut shim = Shim::start(&world)?;
    shim.request(&json!("early"), "tools/list", &json!({}))?;
    let early = shim.answer(&json!("early"))?;
    assert!(early["error"]["message"].as_str().is_some_and(|text| text.contains("initialize")), "{early}");
    shim.initialize()?;
    for (number, line) in ["{", "\u{0}", "[1,", "nonsense", "{\"id\":}"].into_iter().enumerate() {
        shim.line(line)?;
        let error = shim.first("a parse error", |message| message["id"].is_null() && message.get("error").is_some())?;
        assert_eq!(error["error"]["code"], -32700, "{line}: {error}");
        shim.ping(number as u64)?;
    }
    // Each of these is a request, so each gets one answer, with its own id.
    let long = Value::String("x".repeat(1 << 20));
    shim.request(&long, "ping", &json!({}))?;
    let answer = shim.answer(&long)?;
    assert!(answer.get("result").is_some() || answer.get("error").is_some());
    for (id, line) in
        [(json!(70), r#"{"id":70,"method":"ping"}"#), (json!([7]), r#"{"jsonrpc":"2.0","id":[7],"method":"ping"}"#)]
    {
        shim.line(line)?;
        assert_eq!(shim.answer(&id)?["error"]["code"], -32600, "{line}");
    }
    shim.ping(99)?;
    let (_, rest) = shim.close()?;
    assert!(rest.iter().all(|message| message.get("id").is_none()), "answers that nobody asked for: {rest:?}");
    Ok(())
}

#[test]
fn what_the_hub_refuses_before_it_reads_the_id_is_an_answer_all_the_same() -> Result<()> {
    let world = World::with("LINCHPIN_GATEWAY_MAX_MESSAGE_BYTES", "65536")?;
    let mut shim = Shim::open(&world)?;
    shim.call(1, "none", &json!({"text": "x".repeat(1 << 17)}))?;
    let answer = shim.answer(&json!(1))?;
    assert_eq!(answer["error"]["data"]["code"], "too_large", "{answer}");
    shim.ping(2)
}

#[test]
fn a_call_under_way_when_the_hub_is_killed_is_interrupted_once() -> Result<()> {
    let mut world = World::new()?;
    world.serve("slow")?;
    let mut shim = Shim::open(&world)?;
    for round in 1..=2 {
        shim.call(round, "slow__late", &json!({"seconds": 20, "say": "never"}))?;
        world.called("slow", "late", usize::try_from(round)?)?;
        world.kill_hub()?;
        let answer = shim.answer(&json!(round))?;
        assert_eq!(answer["error"]["data"]["code"], "call_interrupted", "{answer}");
        shim.call(10 + round, "slow__echo", &json!({"text": "next"}))?;
        let answer = shim.answer(&json!(10 + round))?;
        assert_eq!(answer["result"]["content"][0]["text"], "slow: next", "{answer}");
        world.called("slow", "late", usize::try_from(round)?)?;
    }
    let (_, rest) = shim.close()?;
    assert!(rest.iter().all(|message| message.get("id").is_none()), "more than one answer: {rest:?}");
    Ok(())
}

#[test]
fn a_cancelled_request_has_no_answer_and_costs_no_session() -> Result<()> {
    let mut world = World::new()?;
    world.serve("slow")?;
    let mut shim = Shim::open(&world)?;
    shim.call(1, "slow__wait", &json!({"tag": "mine"}))?;
    world.called("slow", "wait", 1)?;
    shim.line(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#)?;
    let path = world.state("slow").join("cancelled");
    until("the server hears of it", || {
        ensure!(path.exists(), "{:?}", std::fs::read_dir(world.state("slow"))?.collect::<Vec<_>>());
        Ok(())
    })?;
    shim.ping(2)?;
    let (_, rest) = shim.close()?;
    assert!(rest.iter().all(|message| message.get("id").is_none()), "{rest:?}");
    Ok(())
}

#[test]
fn it_goes_with_its_agent_and_leaves_no_session() -> Result<()> {
    let world = World::with("LINCHPIN_LOG", "linchpin_hub=debug")?;
    let mut shim = Shim::open(&world)?;
    shim.ping(1)?;
    // Once more from the beginning, as some agents do: the shim then listens once, not twice.
    shim.initialize()?;
    shim.ping(2)?;
    let (took, rest) = shim.close()?;
    assert!(took < Duration::from_secs(4), "it stayed for {took:?}");
    assert!(rest.is_empty(), "{rest:?}");
    Ok(())
}
