//! Starts in a crowd, stops, kills, and a home that is removed under a hub.

use crate::world::{Shim, World, remove_whole, throughout, until};
use anyhow::{Context, Result, ensure};
use linchpin_shared::process::Signal;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

const CROWD: usize = 20;

/// Waits until a child has ended.
fn reap(child: &mut Child) -> Result<Option<i32>> {
    let mut code = None;
    until("it ends", || {
        code = child.try_wait()?.with_context(|| format!("{} lives", child.id()))?.code();
        Ok(())
    })?;
    Ok(code)
}

#[test]
fn of_twenty_hubs_at_once_one_serves_and_the_others_say_so() -> Result<()> {
    let world = World::new()?;
    let start = |_| world.linchpin(&["hub", "--background"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut hubs = (0..CROWD).map(start).collect::<std::io::Result<Vec<Child>>>()?;
    let mut ready = Vec::new();
    for hub in &mut hubs {
        let mut line = String::new();
        BufReader::new(hub.stdout.take().context("no output")?).read_line(&mut line)?;
        if line.trim() == "\"ready\"" {
            ready.push(hub.id());
        } else {
            ensure!(line.contains("\"hub_running\""), "{line}");
            assert_eq!(reap(hub)?, Some(4), "{line}");
        }
    }
    assert_eq!(ready, [world.hub()?.pid], "exactly one, and hub.json names it");
    let (code, said) = world.begin(&["hub", "stop"])?.end()?;
    assert_eq!(code, Some(0), "{said}");
    let winner = hubs.iter_mut().find(|hub| ready.contains(&hub.id())).context("no winner")?;
    assert_eq!(reap(winner)?, Some(0), "stopped on purpose is a good end");
    Ok(())
}

#[test]
fn twenty_verbs_at_once_start_one_hub_and_all_get_it() -> Result<()> {
    let world = World::new()?;
    // Also over a hub that was killed: its file is there and names nobody.
    for round in 0..2 {
        let verbs = (0..CROWD).map(|_| world.begin(&["status", "--json"])).collect::<Result<Vec<_>>>()?;
        let mut pids = BTreeSet::new();
        for verb in verbs {
            let (code, said) = verb.end()?;
            assert_eq!(code, Some(0), "{said}");
            pids.insert(said["hub"]["pid"].to_string());
        }
        assert_eq!(pids, BTreeSet::from([world.hub()?.pid.to_string()]), "round {round}");
        until("one hub is left", || {
            ensure!(world.processes("hub").len() == 1, "{:?}", world.processes("hub"));
            Ok(())
        })?;
        world.kill_hub()?;
    }
    Ok(())
}

#[test]
fn token_and_port_outlive_kills_and_stops() -> Result<()> {
    let world = World::new()?;
    world.json(&["status"])?;
    let facts = || -> Result<_> { Ok((world.file()?["token"].clone(), world.file()?["port"].clone())) };
    let first = facts()?;
    world.kill_hub()?;
    let killed = world.hub()?;
    world.json(&["status"])?;
    assert_ne!(world.hub()?, killed);
    assert_eq!(facts()?, first, "after a kill");
    assert_eq!(world.json(&["hub", "stop"])?["stopped"], true);
    world.json(&["status"])?;
    assert_eq!(facts()?, first, "after a stop");
    Ok(())
}

#[test]
fn stopped_is_said_when_it_is_so_and_calls_under_way_end_well() -> Result<()> {
    let mut world = World::new()?;
    world.serve("slow")?;
    let hub = world.hub()?;
    let call = world.begin(&["call", "slow__late", r#"{"seconds": 1.5, "say": "done"}"#, "--json"])?;
    world.called("slow", "late", 1)?;
    // Two at once: both wait for the one stop.
    let stops = [world.begin(&["hub", "stop", "--json"])?, world.begin(&["hub", "stop", "--json"])?];
    until("it says that it stops", || {
        ensure!(!world.file()?["stopped_at"].is_null(), "{:?}", world.file()?.get("url"));
        Ok(())
    })?;
    assert!(hub.is_alive(), "it lets the call end");
    // Who needs a hub meanwhile waits for the old one's end and gets a new one.
    let next = world.begin(&["status", "--json"])?;
    let (code, said) = call.end()?;
    assert_eq!((code, &said["result"]["content"][0]["text"]), (Some(0), &json!("done")), "{said}");
    for stop in stops {
        let (code, said) = stop.end()?;
        assert_eq!((code, &said["stopped"], &said["pid"]), (Some(0), &json!(true), &json!(hub.pid)), "{said}");
        assert!(!hub.is_alive(), "said while it lived");
    }
    let (code, said) = next.end()?;
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(said["hub"]["pid"], hub.pid);
    Ok(())
}

#[test]
fn a_hub_whose_place_was_removed_makes_it_again() -> Result<()> {
    let world = World::new()?;
    world.json(&["status"])?;
    let (hub, token) = (world.hub()?, world.file()?["token"].clone());
    let there = || -> Result<()> {
        let file = world.file()?;
        ensure!(world.hub()? == hub && file["token"] == token, "{}", file["process"]);
        Ok(())
    };
    std::fs::remove_file(world.home().join("hub.json"))?;
    until("its file is there again", there)?;
    remove_whole(&world.home())?;
    until("all of it is there again", there)?;
    assert_eq!(world.json(&["status"])?["hub"]["pid"], hub.pid);
    assert_eq!(world.json(&["hub", "stop"])?["pid"], hub.pid);
    assert!(!hub.is_alive());
    Ok(())
}

#[test]
fn a_hub_whose_home_is_anothers_now_stops_and_leaves_its_file_alone() -> Result<()> {
    let world = World::new()?;
    world.json(&["status"])?;
    let first = world.hub()?;
    // Held still, so that the other one is surely faster.
    first.signal(Signal::STOP)?;
    remove_whole(&world.home())?;
    world.json(&["status"])?;
    let second = world.hub()?;
    assert_ne!(first, second);
    first.signal(Signal::CONT)?;
    until("the first one stops", || {
        ensure!(!first.is_alive(), "it lives");
        Ok(())
    })?;
    assert_eq!(world.hub()?, second);
    assert!(world.file()?["stopped_at"].is_null(), "the file is the second one's");
    Ok(())
}

#[test]
fn a_hub_stopped_on_purpose_stays_so_until_a_message_needs_it() -> Result<()> {
    let world = World::new()?;
    let mut shim = Shim::open(&world)?;
    shim.ping(1)?;
    let first = world.hub()?;
    assert_eq!(world.json(&["hub", "stop"])?["stopped"], true);
    // Longer than the shim's own looks are apart.
    throughout(Duration::from_millis(1500), || {
        ensure!(world.processes("hub").is_empty(), "nobody asked for it");
        Ok(())
    })?;
    shim.ping(2)?;
    assert_ne!(world.hub()?, first);
    // The session goes on there, so nothing is announced.
    shim.ping(3)?;
    let (_, rest) = shim.close()?;
    assert!(rest.iter().all(|message| message.get("id").is_none()), "{rest:?}");
    Ok(())
}

#[test]
fn a_followed_log_ends_with_the_hub() -> Result<()> {
    let mut world = World::new()?;
    world.json(&["status"])?;
    world.instance(&["run", "--name", "talker", "--", "sh", "-c", "echo spoken; exec sleep 300"])?;
    until("it has spoken", || {
        let (code, said) = world.begin(&["logs", "talker"])?.end()?;
        ensure!(code == Some(0) && said.to_string().contains("spoken"), "{said}");
        Ok(())
    })?;
    let mut follow = world.linchpin(&["logs", "-f", "talker"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("no output")?).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "spoken"));
    assert!(follow.try_wait()?.is_none(), "it goes on");
    world.json(&["hub", "stop"])?;
    assert_eq!(reap(&mut follow)?, Some(0), "a hub that is stopped is no failure");
    Ok(())
}
