//! Many starts at once, stops, kills, and a home that is removed under a running hub.

use anyhow::{Context, Result, ensure};
use linchpin_shared::process::Signal;
use linchpin_tests::lab::Lab;
use linchpin_tests::lab::leftovers::remove_whole;
use linchpin_tests::wait::{PATIENCE, throughout, until};
use serde_json::json;
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

const CROWD: usize = 20;

/// Waits until a child has ended, and returns its exit code.
async fn reap(child: &mut Child) -> Result<Option<i32>> {
    let status = timeout(PATIENCE, child.wait()).await.with_context(|| format!("{:?} still runs", child.id()))?;
    Ok(status?.code())
}

#[tokio::test]
async fn twenty_background_hubs_leave_one_serving() -> Result<()> {
    let lab = Lab::on_any_port()?;
    let start = |_| lab.linchpin(["hub", "--background"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut hubs = (0..CROWD).map(start).collect::<std::io::Result<Vec<Child>>>()?;
    let mut ready = Vec::new();
    for hub in &mut hubs {
        let mut line = String::new();
        BufReader::new(hub.stdout.take().context("no output")?).read_line(&mut line).await?;
        if line.trim() == "\"ready\"" {
            ready.extend(hub.id());
        } else {
            ensure!(line.contains("\"hub_running\""), "{line}");
            assert_eq!(reap(hub).await?, Some(4), "{line}");
        }
    }
    assert_eq!(ready, [lab.hub_process()?.pid], "one hub runs, and hub.json names it");
    let (code, said) = lab.begin(&["hub", "stop"])?.end().await?;
    assert_eq!(code, 0, "{said}");
    let winner = hubs.iter_mut().find(|hub| hub.id().is_some_and(|pid| ready.contains(&pid))).context("no winner")?;
    assert_eq!(reap(winner).await?, Some(0), "a hub that is asked to stop did not end with success");
    lab.terminate().await
}

#[tokio::test]
async fn twenty_verbs_at_once_share_one_new_hub() -> Result<()> {
    let lab = Lab::on_any_port()?;
    // The second round follows a killed hub, whose file names a dead process.
    for round in 0..2 {
        let verbs = (0..CROWD).map(|_| lab.begin(&["status", "--json"])).collect::<Result<Vec<_>>>()?;
        let mut pids = BTreeSet::new();
        for verb in verbs {
            let (code, said) = verb.end().await?;
            assert_eq!(code, 0, "{said}");
            pids.insert(said["hub"]["pid"].to_string());
        }
        assert_eq!(pids, BTreeSet::from([lab.hub_process()?.pid.to_string()]), "round {round}");
        until("one hub is left", PATIENCE, async || {
            ensure!(lab.processes("hub").len() == 1, "{:?}", lab.processes("hub"));
            Ok(())
        })
        .await?;
        lab.kill_hub().await?;
    }
    lab.terminate().await
}

#[tokio::test]
async fn token_and_port_survive_kills_and_stops() -> Result<()> {
    let lab = Lab::on_any_port()?;
    lab.json(&["status"]).await?;
    let facts = || -> Result<_> { Ok((lab.hub_file()?["token"].clone(), lab.hub_file()?["port"].clone())) };
    let first = facts()?;
    lab.kill_hub().await?;
    let killed = lab.hub_process()?;
    lab.json(&["status"]).await?;
    assert_ne!(lab.hub_process()?, killed);
    assert_eq!(facts()?, first, "after a kill");
    assert_eq!(lab.json(&["hub", "stop"]).await?["stopped"], true);
    lab.json(&["status"]).await?;
    assert_eq!(facts()?, first, "after a stop");
    lab.terminate().await
}

#[tokio::test]
async fn hub_stop_returns_after_calls_in_flight_have_ended() -> Result<()> {
    let lab = Lab::on_any_port()?;
    lab.serve("slow").await?;
    let hub = lab.hub_process()?;
    let call = lab.begin(&["call", "slow__late", r#"{"seconds": 1.5, "say": "done"}"#, "--json"])?;
    lab.called("slow", "late", 1).await?;
    // Two verbs at once wait for the same stop.
    let stops = [lab.begin(&["hub", "stop", "--json"])?, lab.begin(&["hub", "stop", "--json"])?];
    until("it says that it stops", PATIENCE, async || {
        ensure!(!lab.hub_file()?["stopped_at"].is_null(), "{:?}", lab.hub_file()?.get("url"));
        Ok(())
    })
    .await?;
    assert!(hub.is_alive(), "it waits for the call");
    // A verb that needs a hub in the meantime waits for the end of the old one and starts another.
    let next = lab.begin(&["status", "--json"])?;
    let (code, said) = call.end().await?;
    assert_eq!((code, &said["result"]["content"][0]["text"]), (0, &json!("done")), "{said}");
    for stop in stops {
        let (code, said) = stop.end().await?;
        assert_eq!((code, &said["stopped"], &said["pid"]), (0, &json!(true), &json!(hub.pid)), "{said}");
        assert!(!hub.is_alive(), "said while it lived");
    }
    let (code, said) = next.end().await?;
    assert_eq!(code, 0, "{said}");
    assert_ne!(said["hub"]["pid"], hub.pid);
    lab.terminate().await
}

#[tokio::test]
async fn hub_creates_its_removed_home_again() -> Result<()> {
    let lab = Lab::on_any_port()?;
    lab.json(&["status"]).await?;
    let (hub, token) = (lab.hub_process()?, lab.hub_file()?["token"].clone());
    let there = async || -> Result<()> {
        let file = lab.hub_file()?;
        ensure!(lab.hub_process()? == hub && file["token"] == token, "{}", file["process"]);
        Ok(())
    };
    std::fs::remove_file(lab.home().join("hub.json"))?;
    until("its file is there again", PATIENCE, &there).await?;
    remove_whole(&lab.home())?;
    until("all of it is there again", PATIENCE, &there).await?;
    assert_eq!(lab.json(&["status"]).await?["hub"]["pid"], hub.pid);
    assert_eq!(lab.json(&["hub", "stop"]).await?["pid"], hub.pid);
    assert!(!hub.is_alive());
    lab.terminate().await
}

#[tokio::test]
async fn hub_that_lost_its_home_to_another_hub_stops() -> Result<()> {
    let lab = Lab::on_any_port()?;
    lab.json(&["status"]).await?;
    let first = lab.hub_process()?;
    // Stopped, so that the other one is certainly faster.
    first.signal(Signal::STOP)?;
    remove_whole(&lab.home())?;
    lab.json(&["status"]).await?;
    let second = lab.hub_process()?;
    assert_ne!(first, second);
    first.signal(Signal::CONT)?;
    until("the first one stops", PATIENCE, async || {
        ensure!(!first.is_alive(), "it lives");
        Ok(())
    })
    .await?;
    assert_eq!(lab.hub_process()?, second);
    assert!(lab.hub_file()?["stopped_at"].is_null(), "the file is the second one's");
    lab.terminate().await
}

#[tokio::test]
async fn stopped_hub_stays_stopped_until_a_message_needs_it() -> Result<()> {
    let lab = Lab::on_any_port()?;
    let mut shim = lab.shim(&[]).await?;
    shim.ping().await?;
    let first = lab.hub_process()?;
    assert_eq!(lab.json(&["hub", "stop"]).await?["stopped"], true);
    // Longer than the interval in which the shim checks the hub.
    throughout(Duration::from_millis(1500), async || {
        ensure!(lab.processes("hub").is_empty(), "a hub was started without a request");
        Ok(())
    })
    .await?;
    shim.ping().await?;
    assert_ne!(lab.hub_process()?, first);
    // The session continues there, so nothing is announced.
    shim.ping().await?;
    let (_, rest) = shim.leave().await?;
    assert!(rest.iter().all(|message| message.get("id").is_none()), "{rest:?}");
    lab.terminate().await
}

#[tokio::test]
async fn followed_log_ends_with_the_hub() -> Result<()> {
    let lab = Lab::on_any_port()?;
    lab.json(&["status"]).await?;
    lab.launch(&["run", "--name", "talker", "--", "sh", "-c", "echo spoken; exec sleep 300"])?;
    until("it has spoken", PATIENCE, async || {
        let (code, said) = lab.begin(&["logs", "talker"])?.end().await?;
        ensure!(code == 0 && said.to_string().contains("spoken"), "{said}");
        Ok(())
    })
    .await?;
    let mut follow = lab.linchpin(["logs", "-f", "talker"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("no output")?).lines();
    while lines.next_line().await?.context("it ended")? != "spoken" {}
    assert!(follow.try_wait()?.is_none(), "it goes on");
    lab.json(&["hub", "stop"]).await?;
    assert_eq!(reap(&mut follow).await?, Some(0), "a hub that is stopped counts as a failure");
    lab.terminate().await
}
